"""The whole reproduction at its smallest, from nothing: `supclust figures --profile quick` into an empty folder."""

import json
import subprocess
import sys

import pytest

from supclust import kept

FIGURES = [f"figure_{number}" for number in range(1, 7)]
FIGURES += ["figure_5_fsl", "figure_6_fsl", "win_matrix", "class_coverage", "claims", "sensitivity", "encoders", "simclr"]


@pytest.mark.slow
def test_the_quick_profile_runs_from_nothing(tmp_path):
    command = [sys.executable, "-m", "supclust", "figures", "--profile", "quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    check_reports(tmp_path / "reports" / "quick")
    check_figures(tmp_path / "figures" / "quick")


def check_reports(folder):
    """An executed copy and a page of every notebook, and an entry that says it went well."""
    names = sorted(file.stem for file in kept.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    provenance = json.loads((folder / "provenance.json").read_text())
    entries = provenance["notebooks"]
    assert len(provenance["features"]["digits"]) == 64
    assert list(entries) == names
    assert all((folder / f"{name}.csv").stat().st_size > 0 for name in ("curves", "evidence", "sensitivity", "encoders", "quality"))
    assert (folder / "claims.md").read_text().count("## ") == 9  # eight claims, and how verdicts are made
    assert {entry["status"] for entry in entries.values()} == {"ok"}
    assert all((folder / f"{name}.{suffix}").stat().st_size > 0 for name in names for suffix in ("ipynb", "html"))


def check_figures(folder):
    """Every figure of the paper as PDF and PNG, the animation, and each of them on the index page."""
    page = (folder.parents[1] / "reports" / "quick" / "index.html").read_text()
    for name in FIGURES:
        pictures = sorted(folder.glob(f"{name}*.png"))
        assert pictures, name
        assert all(picture.with_suffix(".pdf").exists() for picture in pictures)
    shown = [*folder.glob("*.png"), *folder.glob("*.gif")]
    assert any(picture.suffix == ".gif" for picture in shown)
    assert all(f'src="../../figures/quick/{picture.name}"' in page for picture in shown)
    assert "None of the notebooks wrote them" not in page
