"""The page of suggested labels: clusters whose images may have one label, and the images of which that is the most doubtful."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from supclust.images.files import THREADS
from supclust.label import contact_sheet, results
from supclust.label.contact_sheet import NEIGHBOR, PICK, Guess, Sheet

if TYPE_CHECKING:
    from supclust.label.sources import Source
    from supclust.label.suggesting import Group, Suggested

SUGGESTION_SHEET = "suggestions.html"
MOST = 200  # clusters, and doubtful images, in the page: it stays below 15 MB
SHOWN = 12  # images of a cluster


def html(source: Source, suggested: Suggested, groups: Sequence[Group]) -> str:
    """The page, for images of a source; the doubtful ones are in none of its clusters."""
    doubtful = suggested.table.sort_values("confidence", kind="stable")[:MOST]
    apart, shown = set(doubtful.index), []
    for group in groups[:MOST]:
        if points := [point for point in group.points if point not in apart]:
            caption = f"{group.label}: suggested for {group.share:.0%} of the cluster, mean confidence {group.confidence:.0%}"
            shown.append((points, group.label, f"{len(points):,} images of cluster {group.cluster}", caption))
    for row in doubtful.itertuples():
        caption = f"confidence {row.confidence:.0%}; nearest label: {row.nearest}"
        shown.append(([row.Index], row.label, source.ids[row.Index], caption))

    def guess(points: list[int], *texts: str) -> Guess:
        tiles = (results.tile(source, point, NEIGHBOR if len(points) > 1 else PICK) for point in points[:SHOWN])
        return Guess(tuple(source.ids[point] for point in points), tuple(tiles), *texts)

    with ThreadPoolExecutor(THREADS) as threads:
        guesses = [*threads.map(lambda one: guess(*one), shown)]
    facts = {"Without a label": f"{len(suggested.table):,} of {len(source.ids):,}", "Classes": f"{len(suggested.classes):,}"}
    title = f"Suggested labels, for images of {source.about['name']}"
    return contact_sheet.html(Sheet(title, facts, (), suggested.classes, guesses))
