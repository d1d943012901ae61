"""One page of all figures: reports/<profile>/index.html."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
from papermill.execute import ERROR_MARKER_TAG
from PIL import Image

from supclust import kept

PICTURES = (".png", ".gif")
FIGURES = (*PICTURES, ".pdf")


def write(profile: str, record: dict[str, Any], notebooks: Sequence[Path]) -> None:
    """Write reports/<profile>/index.html: every figure of the profile, under the one of the notebooks that wrote it.

    record: what provenance.json says.
    """
    entries = record["notebooks"]
    owned = {name for entry in entries.values() for name in entry["figures"]}
    others = [name for name in figure_stamps(profile) if name not in owned]
    page = kept.template(Path(__file__).with_name("index.html.j2")).render(
        record=record,
        sections=[_section(file, profile, entries.get(file.stem)) for file in notebooks],
        others=_pictures(profile, others),
        minutes=sum(entry["seconds"] for entry in entries.values()) / 60,
    )
    kept.write_text(kept.reports(profile) / "index.html", page)


def _section(file: Path, profile: str, entry: dict[str, Any] | None) -> dict[str, Any]:
    title, summary = read_opening(nbformat.read(file, as_version=4), file.stem)
    page = kept.reports(profile) / f"{file.stem}.html"
    return {
        "name": file.stem,
        "title": title,
        "summary": summary,
        "entry": entry,
        "page": _link(page, profile) if page.exists() else None,
        "pictures": _pictures(profile, entry["figures"] if entry else ()),
    }


def _pictures(profile: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """Of those files, the pictures a page can show, each with its size in pixels and its PDF where there is one."""
    folder = kept.figures(profile)
    shown = [folder / name for name in sorted(names) if Path(name).suffix in PICTURES and (folder / name).exists()]
    return [
        {
            "caption": file.stem.replace("_", " "),
            "size": _size(file),
            "image": _link(file, profile),
            "pdf": _link(file.with_suffix(".pdf"), profile) if file.with_suffix(".pdf").exists() else None,
        }
        for file in shown
    ]


def _size(picture: Path) -> tuple[int, int] | None:
    """Width and height, so that the page does not jump while it loads; None for a file that is no picture."""
    try:
        with Image.open(picture) as opened:
            return opened.size
    except OSError:
        return None


def _link(target: Path, profile: str) -> str:
    """From the index page to a file, as a URL."""
    return quote(os.path.relpath(target, kept.reports(profile)).replace(os.sep, "/"))


def figure_stamps(profile: str) -> dict[str, tuple[int, int]]:
    """Every file of the figures folder with what tells whether it has been written since."""
    folder = kept.figures(profile)
    found = [file for file in folder.glob("[!.]*") if file.suffix in FIGURES]
    stats = {file.name: file.stat() for file in sorted(found)}
    return {name: (stat.st_mtime_ns, stat.st_size) for name, stat in stats.items()}


def read_opening(notebook: nbformat.NotebookNode, default: str) -> tuple[str, str]:
    """The first heading of a notebook and the paragraph below it, as plain text."""
    markdown = (cell for cell in notebook.cells if cell.cell_type == "markdown")
    prose = "\n\n".join(cell.source for cell in markdown if ERROR_MARKER_TAG not in cell.metadata.get("tags", []))
    found = re.search(r"^#+[ \t]+(.+?)[ \t#]*$\s*((?:^(?!#).+\n?)*)", prose, re.MULTILINE)
    return (_plain(found[1]), _plain(found[2])) if found else (default, "")


def _plain(markdown: str) -> str:
    """Markdown without its marks: links become their text, emphasis, code and mathematics what stands between the signs."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", markdown)
    return " ".join(re.sub(r"\*+|`|\$", "", text).split())
