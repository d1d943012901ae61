"""README and docs: the README is short, every link leads somewhere, every figure has its finding, and the Python shown runs."""

import functools
import html
import re
from pathlib import Path

import numpy as np
import pytest

from supclust import kept, strategies
from tests.conftest import check_picks, make_blobs

README, DOCS = kept.REPOSITORY / "README.md", kept.REPOSITORY / "docs"
PAGES = [README, *(kept.REPOSITORY / f"{name}.md" for name in ("CONTRIBUTING", "CHANGELOG")), *DOCS.glob("*.md")]
PAGES.append(kept.SHIPPED / "README.md")
CODE = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
LINK = re.compile(r'\]\(([^)\s]+)\)|src="([^"]+)"')


@functools.cache
def prose(page: Path) -> str:
    return CODE.sub("", page.read_text(encoding="utf-8"))


@functools.cache
def anchors(page: Path) -> set[str]:
    """The names by which GitHub knows the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def python_of(page: Path) -> list[str]:
    return [text for language, text in CODE.findall(page.read_text(encoding="utf-8")) if language == "python"]


def test_the_readme_has_at_most_a_thousand_words():
    shown = re.sub(r"\]\([^)]*\)|<[^>]*>", " ", prose(README))  # neither addresses nor tags are words
    assert len(re.findall(r"\S*\w\S*", shown)) <= 1_000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(kept.REPOSITORY).as_posix())
def test_links_lead_to_files_and_headings(page):
    links = [link for pair in LINK.findall(prose(page)) for link in pair if link and not link.startswith("https://")]
    wrong = []
    for link in links:
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert not wrong


def test_every_page_of_docs_is_linked_from_the_readme():
    assert {f"docs/{page.name}" for page in DOCS.glob("*.md")} <= {link for link, _ in LINK.findall(prose(README))}


def test_every_committed_figure_is_shown_with_its_finding():
    figures = {path.name for path in (kept.REPOSITORY / "figures" / "laptop").iterdir() if path.suffix in (".png", ".gif")}
    rows = re.findall(r"\]\(../figures/laptop/([\w.]+)\) \|.*\| (.+)\. \|$", (DOCS / "figures.md").read_text(), re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(figures)


def test_the_committed_page_of_figures_is_small_and_has_the_findings_of_the_docs():
    page = (kept.REPOSITORY / "reports" / "laptop" / "index.html").read_text(encoding="utf-8")
    findings = re.findall(r"\| ([^|]+\.) \|$", (DOCS / "figures.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(page) < 1_000_000
    assert re.findall(r"<strong>(.+)</strong>", html.unescape(page)) == findings


@pytest.mark.parametrize("page", [README, DOCS / "python.md", DOCS / "data.md"], ids=lambda page: page.name)
def test_the_python_shown_runs(page, tmp_path, monkeypatch):
    np.save(tmp_path / "embeddings.npy", features := make_blobs(10, 30, 16, spread=0.2))
    monkeypatch.chdir(tmp_path)
    world = {"labels_of_first": np.arange(50) % 10}
    for block in python_of(page):
        if "skactiveml" not in block:  # see test_skactiveml
            exec(block, world)
    if "more" in world:
        check_picks(world["more"], 50, strategies.Pool(features, labeled=world["first"]))


def test_the_strategy_of_ones_own_that_is_shown_asks_for_points_without_a_label():
    exec(python_of(DOCS / "compare.md")[0], world := {})
    pool = strategies.Pool(make_blobs(10, 30, 16), labeled=np.arange(5))
    check_picks(world["mine"](pool, 7, np.random.default_rng(0)), 7, pool)
