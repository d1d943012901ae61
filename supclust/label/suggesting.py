"""Suggested labels for the images that have none: a linear layer on the features, and the nearest labelled image as a check.

Their page shows clusters whose images may have one label, and the images of which that is the most doubtful.
"""

import logging
import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from supclust import kept, learners, method
from supclust.images import files as images
from supclust.label import contact_sheet, copies, labeling, results, sources
from supclust.label.annotations import CONTROL, counted
from supclust.label.contact_sheet import NEIGHBOR, PICK, Guess, Sheet
from supclust.label.request import Request
from supclust.pool import Pool

log = logging.getLogger(__name__)

SUGGESTIONS, SUGGESTION_SHEET = "suggestions.csv", "suggestions.html"
FILES = (SUGGESTIONS, results.TASKS, results.CONFIG, results.SKIPPED, SUGGESTION_SHEET)
FOLDS, FEWEST = 10, 10  # of the cross-validation, and the fewest labels for one
MOST = 200  # clusters, and doubtful images, in the page: it stays below 15 MB
SHOWN = 12  # images of a cluster


@dataclass(frozen=True, eq=False)
class Suggested:
    """What the labelled points of a pool say about the others.

    table: a row for each point without a label, and its number as the index, in ascending order. Columns: label, confidence
    (probability of the label, from 0 to 1), nearest (the label of the labelled point with the largest cosine), agrees (whether
    that is the same label), cluster, typicality (Eq. 1; inf for one of many copies).
    """

    table: pd.DataFrame
    classes: tuple[str, ...]  # that labels have shown, sorted
    temperature: float | None  # that calibrates the confidence; None: there were too few labels to find one


def suggest(pool: Pool, labels: Mapping[int, str]) -> Suggested:
    """Labels for the points of a pool that have none, from those of the others.

    A linear layer is fitted to the labels, as in the experiment, and its logits are divided by a temperature (Guo et al. 2017).
    Raises ValueError for labels of fewer than two classes, and where all points have one.
    """
    labeled, n = np.array(sorted(labels), dtype=np.int64), len(pool.features)
    classes, numbers = np.unique([labels[point] for point in labeled.tolist()], return_inverse=True)
    if len(classes) < 2:
        there = f"all labels are {str(classes[0])!r}" if labels else "there are no labels"
        raise ValueError(f"{there}: suggestions need labels of two classes at least. Name files of labels: --labeled labels.csv")
    if len(labels) == n:
        raise ValueError(f"all {n} images have labels: there is nothing left to suggest")
    known = pool.points[labeled]
    temperature = _temperature(known, numbers)
    head = learners.fit_linear_head(known, numbers, len(classes))
    head = replace(head, weights=head.weights / (temperature or 1), biases=head.biases / (temperature or 1))
    probabilities = np.exp(head.log_probabilities(pool.points))
    label, nearest = probabilities.argmax(axis=1), numbers[(pool.points @ known.T).argmax(axis=1)]
    clusters = pool.clusters(min(n, max(2 * len(classes), math.isqrt(n))))
    table = pd.DataFrame({"label": classes[label], "confidence": probabilities.max(axis=1), "nearest": classes[nearest]})
    table["agrees"], table["cluster"] = label == nearest, clusters.assignments
    table["typicality"] = method.typicality_in(pool, clusters)
    return Suggested(table.drop(index=labeled), tuple(classes.tolist()), temperature)


def _temperature(points: np.ndarray, numbers: np.ndarray) -> float | None:
    """The best temperature in a cross-validation of labelled points (l, d) with classes (l,); None if there are too few of them.

    Its log loss counts one miss more than there were, as in Platt (1999). A class with a single label is left out.
    """
    several = np.bincount(numbers)[numbers] > 1
    points, (classes, numbers) = points[several], np.unique(numbers[several], return_inverse=True)
    if len(points) < FEWEST or len(classes) < 2:
        return None
    folds, logits = np.empty(len(points), dtype=int), np.empty((len(points), len(classes)))
    folds[np.argsort(numbers, kind="stable")] = np.arange(len(points)) % FOLDS  # each has its share of every class
    for held in (folds == fold for fold in range(FOLDS)):
        head = learners.fit_linear_head(points[~held], numbers[~held], len(classes))
        logits[held] = head.log_probabilities(points[held])
    miss = 1 / (len(points) + 2)

    def loss(logarithm: float) -> float:
        found = log_softmax(logits / math.exp(logarithm), axis=1)
        return -np.mean((1 - miss) * found[np.arange(len(found)), numbers] + miss * found.mean(axis=1))

    return math.exp(minimize_scalar(loss, bounds=(-5, 5), method="bounded").x)


def run(request: Request) -> Suggested:
    """Write suggestions for the images of a round, or of embeddings, into request.out; errors are those of `labeling.run`."""
    if request.source.is_dir() and not images.is_round(request.source):
        raise ValueError(f"{request.source} is not the folder of a round: supclust label {request.source} --out ROUND makes one")
    copies.check(request.copy, request.source, request.out)
    with results.writing(request, FILES) as folder:
        source = sources.read(request)
        copies.check(request.copy, source.folder, request.out)
        matched, labels = labeling.match(request, source, labeling.read_labels(request))
        suggested = suggest(Pool(source.features, np.array(sorted(labels), dtype=np.int64)), labels)
        table = suggested.table.sort_values("confidence", kind="stable")
        counts = ", ".join(f"{label} {count}" for label, count in table["label"].value_counts().items())
        sure = np.count_nonzero(table["confidence"] >= 0.9)
        log.info("%d suggestions, %d of them with a confidence of 0.9 or more; classes: %s", len(table), sure, counts)
        if suggested.temperature is None:
            log.warning("the confidence is not calibrated: this takes %d labels, of two classes with several", FEWEST)
        rows = [_row(source, one) for one in table.itertuples()]
        results.write_csv(folder / SUGGESTIONS, rows)
        results.write_skipped(folder, matched.problems)
        kept.write_text(folder / SUGGESTION_SHEET, _page(source, suggested))
        there = [row for row in rows if os.path.isfile(row["path"])]
        if gone := sum(row["path"] != "" for row in rows) - len(there):
            number = counted(gone, "image is no longer where it was", "images are no longer where they were")
            log.warning("%s: %s has no tasks for such images", number, results.TASKS)
        if there:
            results.write_tasks(folder, [_task(row, source.folder) for row in there], suggested.classes)
        if request.copy:
            least = math.inf if request.min_confidence is None else request.min_confidence
            sure = table.loc[table["confidence"] >= least, "label"].to_dict()
            named = [(point, label, "") for point, label in labels.items()] + [(point, "", label) for point, label in sure.items()]
            copies.copy_by_label([(source.ids[point], source.files[point], *texts) for point, *texts in named], request.copy)
    return suggested


def _row(source: sources.Source, one: Any) -> dict[str, Any]:
    """A line of the table, whose column of labels is empty: nobody has confirmed the suggestion."""
    names = {"id": source.ids[one.Index], "label": "", "suggestion": one.label, "confidence": round(one.confidence, 4)}
    path = images.printable(str(source.files[one.Index] or ""))
    return names | {"nearest": one.nearest, "agrees": one.agrees, "cluster": one.cluster, "path": path}


def _task(row: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A task of Label Studio, with a prediction. A supclust_id would mark its image as a pick."""
    image = results.label_studio_image(row["path"], folder)
    choice = {"from_name": CONTROL, "to_name": "image", "type": "choices", "value": {"choices": [row["suggestion"]]}}
    prediction = {"model_version": "supclust", "score": row["confidence"], "result": [choice]}
    return {"data": {"image": image, "filename": row["id"], "nearest": row["nearest"]}, "predictions": [prediction]}


def _page(source: sources.Source, suggested: Suggested) -> str:
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

    with ThreadPoolExecutor(images.THREADS) as threads:
        guesses = [*threads.map(lambda one: guess(*one), shown)]
    facts = {"Without a label": f"{len(suggested.table):,} of {len(source.ids):,}", "Classes": f"{len(suggested.classes):,}"}
    title = f"Suggested labels, for images of {source.about['name']}"
    return contact_sheet.html(Sheet(title, facts, (), suggested.classes, guesses))
