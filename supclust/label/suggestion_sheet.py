"""The page of suggested labels: clusters whose images may have one label, and the images of which that is the most doubtful."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from supclust.images.files import THREADS
from supclust.label import contact_sheet, results
from supclust.label.annotations import counted
from supclust.label.contact_sheet import NEIGHBOR, PICK, Guess, Sheet

if TYPE_CHECKING:
    from supclust.label.sources import Source
    from supclust.label.suggesting import Suggested

SUGGESTION_SHEET = "suggestions.html"
MOST = 200  # clusters, and doubtful images, in the page: it stays below 15 MB
SHOWN = 12  # images of a cluster


def html(source: Source, suggested: Suggested) -> str:
    """The page: clusters, the largest first, without the images that follow them one by one, the most doubtful first."""
    table, shown = suggested.table.sort_values("confidence", kind="stable"), []
    doubtful = table[: min(MOST, math.ceil(len(table) / 10))]
    clusters = table.drop(index=doubtful.index).groupby("cluster")
    for cluster, rows in sorted(clusters, key=lambda one: -len(one[1]))[:MOST]:
        label, share = next(rows["label"].value_counts(normalize=True).items())
        caption = f"{label}: suggested for {share:.0%} of them, mean confidence {rows['confidence'].mean():.0%}"
        points = rows.sort_values("typicality", ascending=False, kind="stable").index.tolist()
        shown.append((points, label, f"{counted(len(points), 'image')} of cluster {cluster}", caption))
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
