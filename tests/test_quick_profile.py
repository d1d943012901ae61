"""The whole reproduction, from nothing: `supclust figures --profile smoke` into an empty folder; at night, of profile quick."""

import json
import os
import subprocess
import sys

import pytest

from supclust import kept

NOTEBOOKS = sorted(file.stem for file in kept.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
FIGURES = ["figure_2", "figure_3", "figure_5", "figure_6", "figure_6_fsl", "simclr"]
FIGURES += ["claims", "sensitivity", "budgets", "increments", "criteria"]
FIGURES += ["benchmark", "critical_difference", "benchmark_wins"]
# Those that a trained encoder or a sweep of one's own makes no difference to: nbval has executed them.
OTHERS, OTHER_FIGURES = {"00", "04", "08", "09"}, ["figure_1", "figure_4", "classes_found", "speed_training"]


@pytest.mark.slow
def test_the_smoke_profile_runs_from_nothing(tmp_path):
    names = [name for name in NOTEBOOKS if name[:2] not in OTHERS]
    run("smoke", names, tmp_path)
    check_reports(tmp_path / "reports" / "smoke", names)
    check_figures(tmp_path / "figures" / "smoke", FIGURES)


@pytest.mark.night
def test_the_quick_profile_runs_from_nothing(tmp_path):
    run("quick", [], tmp_path, LOKY_MAX_CPU_COUNT="2")
    check_reports(tmp_path / "reports" / "quick", NOTEBOOKS)
    check_figures(tmp_path / "figures" / "quick", FIGURES + OTHER_FIGURES)


def run(profile, names, out, **environment):
    command = [sys.executable, "-m", "supclust", "figures", *names, "--profile", profile, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, env=os.environ | environment)
    assert done.returncode == 0, done.stderr


def check_reports(folder, names):
    """An executed copy and a page of every notebook, and an entry that says it went well."""
    provenance = json.loads((folder / "provenance.json").read_text())
    entries = provenance["notebooks"]
    assert len(provenance["features"]["digits"]) == 64
    assert list(entries) == names
    tables = ("curves", "evidence", "sensitivity", "encoders", "quality", "budgets", "later", "pretrained", "benchmark")
    assert all((folder / f"{name}.csv").stat().st_size > 0 for name in tables)
    assert (folder / "claims.md").read_text().count("## ") == 9  # eight claims, and how verdicts are made
    assert {entry["status"] for entry in entries.values()} == {"ok"}
    assert all((folder / f"{name}.{suffix}").stat().st_size > 0 for name in names for suffix in ("ipynb", "html"))


def check_figures(folder, names):
    """Every figure as PDF and PNG, the animation, and each of them on the index page."""
    page = (folder.parents[1] / "reports" / folder.name / "index.html").read_text()
    for name in names:
        pictures = sorted(folder.glob(f"{name}*.png"))
        assert pictures, name
        assert all(picture.with_suffix(".pdf").exists() for picture in pictures)
    shown = [*folder.glob("*.png"), *folder.glob("*.gif")]
    assert any(picture.suffix == ".gif" for picture in shown)
    assert all(f'href="../../figures/{folder.name}/{picture.name}"><img src="data:' in page for picture in shown)
    assert "None of the notebooks wrote them" not in page
