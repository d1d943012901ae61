"""One page of all figures: reports/<profile>/index.html."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat

from supclust import kept


def write(profile: str, record: dict[str, Any], notebooks: Sequence[Path]) -> None:
    """Write reports/<profile>/index.html: a table of the notebooks, with links to their pages, then every figure, by name.

    record: what provenance.json says.
    """
    reports, figures = kept.reports(profile), sorted(kept.figures(profile).glob("[!.]*"))
    page = kept.template(Path(__file__).with_name("index.html.j2")).render(
        record=record,
        notebooks=[(file.stem, title(file), (reports / f"{file.stem}.html").exists()) for file in notebooks],
        pictures=[file for file in figures if file.suffix in (".png", ".gif")],
        pdfs=[file.stem for file in figures if file.suffix == ".pdf"],
    )
    kept.write_text(reports / "index.html", page)


def title(notebook: Path) -> str:
    """The heading that a notebook opens with."""
    return nbformat.read(notebook, as_version=4).cells[0].source.partition("\n")[0].lstrip("# ")
