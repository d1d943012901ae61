"""Picks images of one's own to label: check, source, embed, pick, write, in that order."""

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from supclust import strategies
from supclust.label import annotations, results, sources
from supclust.label.annotations import Label
from supclust.label.request import EncoderOptions, Request
from supclust.label.results import RESULTS, SHEET
from supclust.label.rounds import Pick, Round, describe, explain
from supclust.label.sources import Source

__all__ = ["RESULTS", "SHEET", "EncoderOptions", "Pick", "Request", "Round", "explain", "run"]

log = logging.getLogger(__name__)


def run(request: Request) -> Round:
    """Pick, and write the results into request.out.

    Raises ValueError and FileNotFoundError, with a sentence that says what to do, for whatever cannot be used; nothing is written
    then, but for an encoder that was trained. Nothing is written outside of out, unless weights are to be downloaded.
    """
    results.check(request)
    given = [label for path in request.labeled for label in annotations.read(path)]
    source = sources.read(request)
    results.check_stays(request, [source.kept, *request.labeled])
    _log_skipped(source)
    labels, labeled = _known(source, given)
    candidates = _candidates(source, labeled, request.budget)
    source = source.embedded(request.out)
    strategy = request.strategy_for(labels)
    pool = _pool(source, labeled, candidates, strategy, request.seed)
    picks = describe(pool, _query(pool, labels, strategy, request.budget), request.budget)
    found = Round(request, source, pool, picks, labels)
    results.write(found)
    return found


def _log_skipped(source: Source) -> None:
    reasons = Counter(reason.partition(":")[0].partition(" as ")[0] for reason in source.skipped.values())
    if reasons:
        listed = "; ".join(f"{count} {reason}" for reason, count in reasons.most_common(5))
        log.warning("%d files are left out, they are listed in %s: %s", len(source.skipped), results.SKIPPED, listed)


def _known(source: Source, given: Sequence[Label]) -> tuple[dict[int, str], np.ndarray]:
    """Labels by point, and all the points that are done: labelled, listed in a file of labels, or picked in earlier rounds."""
    labels, unlabeled, unknown = annotations.match(given, source.ids, source.copies)
    files = ", ".join(dict.fromkeys(label.file for label in given))
    if unknown and not labels and not unlabeled:
        here = f"the first is {unknown[0]!r}, and ids here look like {source.ids[0]!r}"
        raise ValueError(f"none of the ids in {files} is known: {here}")
    if unknown:
        log.warning("%d ids of %s are not among the images and left out: %s", len(unknown), files, annotations.listing(unknown))
    earlier = set(source.earlier)
    done = {*unlabeled, *(point for point, name in enumerate(source.ids) if name in earlier)} - set(labels)
    if done:
        log.warning("%d images that were picked or listed have no label; they count as done and are not picked again", len(done))
    return labels, np.array(sorted({*labels, *done}), dtype=np.int64)


def _candidates(source: Source, labeled: np.ndarray, budget: int) -> np.ndarray:
    """The points that may be picked: not done, and where images are looked at, with an image that is still there."""
    n, there = len(source.ids), np.array([file is None or os.path.isfile(file) for file in source.files])
    if not there.all():
        log.warning("%d images are no longer where they were, and are not picked", np.count_nonzero(~there))
    there[labeled] = False
    left = np.count_nonzero(there)
    if left == 0:
        raise ValueError(f"all {n} images are labelled or picked already: nothing is left to pick")
    if budget > left:
        done = f", of which {len(labeled)} are labelled or picked already" if len(labeled) else ""
        raise ValueError(f"the budget is {budget}, but there are {n} images{done}: at most --budget {left}")
    return np.flatnonzero(there)


def _pool(source: Source, labeled: np.ndarray, candidates: np.ndarray, strategy: str, seed: int) -> strategies.Pool:
    settings = strategies.Settings(**strategies.parse(strategy)[1])
    try:
        return strategies.Pool(source.features, labeled, seed, settings, candidates=candidates)
    except ValueError as error:
        raise ValueError(f"{source.about['name']}: {error}") from error


def _query(pool: strategies.Pool, labels: Mapping[int, str], strategy: str, budget: int) -> np.ndarray:
    """Points (budget,) in the order of the queries. With labels, strategies that ask a model get a linear layer on the features."""
    name, _ = strategies.parse(strategy)
    if name in strategies.MODEL_BASED | strategies.MODEL_AIDED and labels:
        from supclust import active, learners  # PyTorch takes seconds to import

        points, classes = sorted(labels), sorted(set(labels.values()))
        numbers = np.array([classes.index(labels[point]) for point in points])
        head = learners.fit_linear_head(pool.points[points], numbers, len(classes))
        pool = pool.with_labeled(pool.labeled, active.Outputs(head, lambda: pool.points, learned=False))
    return strategies.query(name, pool, budget, np.random.default_rng(pool.seed))
