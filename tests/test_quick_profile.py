"""The whole reproduction, from nothing: `supclust figures --profile smoke` into an empty folder; at night, of profile quick."""

import json
import os
import subprocess
import sys

import pytest

from supclust import kept

FIGURES = [f"figure_{number}" for number in range(1, 7)]
FIGURES += ["figure_5_fsl", "figure_6_fsl", "win_matrix", "class_coverage", "claims", "sensitivity", "encoders", "simclr"]


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["smoke", pytest.param("quick", marks=pytest.mark.night)])
def test_a_profile_runs_from_nothing(tmp_path, profile):
    """Smoke in one process: the start of others is a fifth of its time."""
    command = [sys.executable, "-m", "supclust", "figures", "--profile", profile, "--out", str(tmp_path)]
    environment = os.environ | ({"LOKY_MAX_CPU_COUNT": "1"} if profile == "smoke" else {})
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, env=environment)
    assert done.returncode == 0, done.stderr
    check_reports(tmp_path / "reports" / profile)
    check_figures(tmp_path / "figures" / profile)


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
    page = (folder.parents[1] / "reports" / folder.name / "index.html").read_text()
    for name in FIGURES:
        pictures = sorted(folder.glob(f"{name}*.png"))
        assert pictures, name
        assert all(picture.with_suffix(".pdf").exists() for picture in pictures)
    shown = [*folder.glob("*.png"), *folder.glob("*.gif")]
    assert any(picture.suffix == ".gif" for picture in shown)
    assert all(f'src="../../figures/{folder.name}/{picture.name}"' in page for picture in shown)
    assert "None of the notebooks wrote them" not in page
