"""Suggested labels for the images that have none: a linear layer on the features, and the nearest labelled image as a check."""

import json
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from supclust import kept, learners, method
from supclust.engine import geometry
from supclust.images import files as images
from supclust.label import labeling, results, sources
from supclust.label.annotations import CONTROL
from supclust.label.request import Request
from supclust.label.sources import Source
from supclust.pool import Pool

log = logging.getLogger(__name__)

SUGGESTIONS = "suggestions.csv"
FILES = (SUGGESTIONS, results.TASKS, results.CONFIG, results.SKIPPED)
FOLDS, FEWEST = 10, 10  # of the cross-validation, and the fewest labels that it takes
ROWS = 1024  # points that are looked at together


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


@dataclass(frozen=True, eq=False)
class Group:
    """The points of a cluster that have no label, and what is suggested for most of them."""

    cluster: int
    points: tuple[int, ...]  # the most typical first
    label: str
    share: float  # of the points, that get this label
    confidence: float  # mean over all of the points


def suggest(pool: Pool, labels: Mapping[int, str]) -> Suggested:
    """Labels for the points of a pool that have none, from those of the others.

    A linear layer is fitted to the labels, as in the experiment, and its logits are divided by a temperature (Guo et al. 2017).
    Raises ValueError for labels of fewer than two classes, and where all points have one.
    """
    labeled, n = np.array(sorted(labels), dtype=np.int64), len(pool.features)
    classes, numbers = np.unique([labels[point] for point in labeled.tolist()], return_inverse=True)
    if len(classes) < 2:
        there = f"all {len(labels)} labels are {classes[0]!r}" if labels else "there are no labels"
        raise ValueError(f"{there}: suggestions need labels of two classes at least. Name files of labels: --labeled labels.csv")
    if len(labels) == n:
        raise ValueError(f"all {n} images have labels: there is nothing left to suggest")
    known = pool.points[labeled]
    temperature = _temperature(known, numbers)
    head = learners.fit_linear_head(known, numbers, len(classes))
    head = replace(head, weights=head.weights / (temperature or 1), biases=head.biases / (temperature or 1))
    parts = []
    for part in geometry.slices(n, ROWS):
        probabilities = np.exp(head.log_probabilities(pool.points[part]))
        nearest = numbers[(pool.points[part] @ known.T).argmax(axis=1)]
        parts.append(np.stack([probabilities.argmax(axis=1), probabilities.max(axis=1), nearest]))
    label, confidence, nearest = np.concatenate(parts, axis=1)
    clusters = pool.clusters(min(n, max(2 * len(classes), math.isqrt(n))))
    table = pd.DataFrame(
        {
            "label": classes[label.astype(int)],
            "confidence": confidence,
            "nearest": classes[nearest.astype(int)],
            "agrees": label == nearest,
            "cluster": clusters.assignments,
            "typicality": method.typicality_in(pool, clusters),
        }
    )
    return Suggested(table.drop(index=labeled), tuple(classes.tolist()), temperature)


def _temperature(points: np.ndarray, numbers: np.ndarray) -> float | None:
    """The temperature with the least log loss in a cross-validation of points (l, d) with classes (l,); None for fewer than FEWEST.

    Each fold has its share of every class. The only label of a class cannot be found from the others and does not count.
    """
    counts = np.bincount(numbers)
    tested = np.flatnonzero(counts[numbers] > 1)
    if len(tested) < FEWEST:
        return None
    folds, logits = np.empty(len(points), dtype=int), np.empty((len(points), len(counts)))
    folds[np.argsort(numbers, kind="stable")] = np.arange(len(points)) % FOLDS
    for fold in range(FOLDS):
        held = folds == fold
        head = learners.fit_linear_head(points[~held], numbers[~held], len(counts))
        logits[held] = head.log_probabilities(points[held])

    def loss(logarithm: float) -> float:
        return -log_softmax(logits[tested] / math.exp(logarithm), axis=1)[np.arange(len(tested)), numbers[tested]].mean()

    return math.exp(minimize_scalar(loss, bounds=(-5, 5), method="bounded").x)


def groups(suggested: Suggested) -> list[Group]:
    """The clusters that have points without a label, the one with the most of them first."""
    found = []
    for cluster, rows in suggested.table.groupby("cluster"):
        label, share = next(rows["label"].value_counts(normalize=True).items())
        points = rows.sort_values("typicality", ascending=False, kind="stable").index
        found.append(Group(int(cluster), tuple(points), label, share, rows["confidence"].mean()))
    return sorted(found, key=lambda group: -len(group.points))


# -- the command ---------------------------------------------------------------------------------------------------------------


def run(request: Request) -> Suggested:
    """Write suggestions for what a round, or a file of embeddings, holds without a label, into request.out.

    Raises ValueError and FileNotFoundError, with a sentence that says what to do, for whatever cannot be used; nothing is written
    then.
    """
    if request.source.is_dir() and sources.first_round(request.source) is None:
        raise ValueError(f"{request.source} is not the folder of a round: supclust label {request.source} --out ROUND makes one")
    results.check(request, FILES)
    with results.held(request.out):
        source = sources.read(request)
        matched, labels = labeling.labels_of(source, request)
        suggested = suggest(Pool(source.features, np.array(sorted(labels), dtype=np.int64)), labels)
        _log(suggested)
        with results.whole(request.out, FILES) as folder:
            rows = [_row(source, one) for one in suggested.table.sort_values("confidence", kind="stable").itertuples()]
            results.write_csv(folder / SUGGESTIONS, rows)
            if matched.problems:
                results.write_csv(
                    folder / results.SKIPPED, [{"path": name, "reason": why} for name, why in matched.problems.items()]
                )
            tasks = [_task(row, source.folder) for row in rows if row["path"] and os.path.isfile(row["path"])]
            if tasks:
                kept.write_text(folder / results.TASKS, json.dumps(tasks, indent=1) + "\n")
                kept.write_text(folder / results.CONFIG, results.label_studio_config(suggested.classes))
    return suggested


def _log(suggested: Suggested) -> None:
    confidence = suggested.table["confidence"]
    counts = ", ".join(f"{label} {count}" for label, count in suggested.table["label"].value_counts().items())
    log.info("%d suggestions, %d of them with a confidence of 0.9 or more: %s", len(confidence), (confidence >= 0.9).sum(), counts)
    if suggested.temperature is None:
        log.warning("fewer than %d labels are in classes of several: the confidence is not calibrated", FEWEST)


def _row(source: Source, one: Any) -> dict[str, Any]:
    file = source.files[one.Index]
    return {
        "id": source.ids[one.Index],
        "label": "",  # for whoever wants to give one
        "suggestion": one.label,
        "confidence": round(one.confidence, 4),
        "nearest": one.nearest,
        "agrees": one.agrees,
        "cluster": one.cluster,
        "path": "" if file is None else images.printable(str(file)),
    }


def _task(row: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A task of Label Studio with a prediction. What an image is called is not its supclust_id, which marks picks."""
    facts = {"filename": row["id"], "cluster": row["cluster"], "nearest": row["nearest"]}
    choice = {"from_name": CONTROL, "to_name": "image", "type": "choices", "value": {"choices": [row["suggestion"]]}}
    return {
        "data": {"image": results.label_studio_image(results.relative(Path(row["path"]), folder), folder)} | facts,
        "predictions": [{"model_version": "supclust", "score": row["confidence"], "result": [choice]}],
    }
