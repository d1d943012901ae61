"""Picks images of one's own to label: check, source, embed, pick, write, in that order."""

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from filelock import FileLock

from supclust import kept, strategies
from supclust.images.files import MARKER
from supclust.label import annotations, columns, duplicates, matching, results, sources
from supclust.label.annotations import Columns, Label, listing
from supclust.label.matching import Matched
from supclust.label.request import EncoderOptions, Request
from supclust.label.results import RESULTS, SHEET
from supclust.label.rounds import Pick, Round, describe, explain
from supclust.label.sources import Source

__all__ = ["RESULTS", "SHEET", "EncoderOptions", "Pick", "Request", "Round", "explain", "run"]

log = logging.getLogger(__name__)

HANDED_OUT = "handed_out.json"  # lies in the first round of a chain, and lists what the others picked


def run(request: Request) -> Round:
    """Pick, and write the results into request.out.

    Raises ValueError and FileNotFoundError, with a sentence that says what to do, for whatever cannot be used; nothing is written
    then, except an encoder that was trained. Nothing is written outside of out, except weights that are downloaded, and a note of
    the picks in the first round of the chain.
    """
    results.check(request)
    first = sources.first_round(request.source)
    with ExitStack() as held:
        held.enter_context(results.held(request.out))
        results.check(request)  # again, as another run may have ended meanwhile
        if first and os.access(first, os.W_OK):
            held.enter_context(FileLock(first / f".{HANDED_OUT}.lock"))  # rounds of one chain wait for each other
        given = list(_read_labels(request))
        source = _without_handed_out(sources.read(request), request, first)
        results.check_stays(request, [source.kept, *request.labeled])
        _log_skipped(source)
        beside = {} if first else _beside(request, source)
        matched = _match(source, given, set().union(*beside.values()))
        labels, labeled = _known(source, matched, (*request.classes, *source.classes))
        candidates = _candidates(source, labeled, request.budget)
        source = source.embedded(request.out)
        strategy = request.strategy_for(labels)
        pool = _pool(source, labeled, candidates, strategy, request.seed)
        group = duplicates.find(pool, request.budget, source.about)
        alike = duplicates.facts(pool, group)
        for fact in alike.values():
            log.warning("%s", fact)
        if not request.keep_duplicates:
            pool = duplicates.one_of_each(pool, group, request.budget)
        picks = describe(pool, _query(pool, labels, strategy, request.budget), request.budget, group)
        found = Round(request, source, pool, picks, labels, first, matched.problems, alike)
        results.write(found)
        _hand_out(found, beside)
    return found


def _log_skipped(source: Source) -> None:
    reasons = Counter(reason.partition(":")[0].partition(" as ")[0] for reason in source.skipped.values())
    if reasons:
        listed = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(5))
        log.warning("%d files are left out, they are listed in %s: %s", len(source.skipped), results.SKIPPED, listed)


# -- rounds that go on from one ------------------------------------------------------------------------------------------------


def _handed_out(request: Request, first: Path | None) -> dict[str, str]:
    """What the other rounds of a chain picked, and where: their folders relative to the first one."""
    found = kept.read(first / HANDED_OUT) if first else None
    return {pick: name for pick, name in (found[0] if found else {}).items() if name != results.relative(request.out, first)}


def _without_handed_out(source: Source, request: Request, first: Path | None) -> Source:
    """The source, of which nothing is picked again that another round of the chain has picked, as long as enough is left."""
    earlier = set(source.earlier)
    others = {pick: name for pick, name in _handed_out(request, first).items() if pick not in earlier}
    enough = len(source.ids) - len(earlier) - len(others) >= request.budget
    if others:
        again = "are not picked again" if enough else "may be picked again, as too few others are left"
        log.warning("%d images were handed out in %s, and %s", len(others), listing(dict.fromkeys(others.values())), again)
    return replace(source, earlier=(*source.earlier, *others)) if enough else source


def _hand_out(found: Round, beside: Mapping[str, set[str]]) -> None:
    """Note the picks in the first round of the chain; where this is the first, say which ones beside it picked the same."""
    out, picks = found.request.out, [found.source.ids[pick.point] for pick in found.picks]
    if found.first:
        handed_out = _handed_out(found.request, found.first) | dict.fromkeys(picks, results.relative(out, found.first))
        try:
            kept.write(found.first / HANDED_OUT, handed_out, None)
        except OSError as error:
            log.warning("other rounds may pick the same: %s cannot be written (%s)", found.first / HANDED_OUT, error.strerror)
        return
    (out / HANDED_OUT).unlink(missing_ok=True)  # it belongs to results that are overwritten
    for name, others in beside.items():
        if same := others.intersection(picks):
            log.info("%s picked %d of these images, too: go on from there to get others", name, len(same))


def _beside(request: Request, source: Source) -> dict[str, set[str]]:
    """What rounds in the folder around out have picked from the same images or embeddings, by the names of their folders."""
    found = {}
    for round_ in sorted(marker.parent for marker in request.out.absolute().parent.glob(f"*/{MARKER}")):
        with suppress(ValueError):  # a damaged record counts for nothing
            record, name = sources.read_record(round_ / MARKER), "folder" if source.kept is None else "embeddings"
            same = (round_ / (record[name] or "")).resolve() == (source.kept or source.folder).resolve()
            if same and round_.resolve() != request.out.resolve():
                found[round_.name] = set(record["picks"])
    return found


# -- labels --------------------------------------------------------------------------------------------------------------------


def labels_of(source: Source, request: Request) -> tuple[Matched, dict[int, str]]:
    """What the files of a request say about the images, and the labels by point, with those of earlier rounds."""
    matched = _match(source, list(_read_labels(request)), ())
    return matched, _known(source, matched, (*request.classes, *source.classes))[0]


def _read_labels(request: Request) -> Iterator[Label]:
    for path in request.labeled:
        given = annotations.read(path, Columns(request.id_column, request.label_column, request.classes))
        if not any(one.label for one in given):
            log.warning("%s has no labels (%d images are listed)", path, len({one.id for one in given}))
        yield from given


def _match(source: Source, given: Sequence[Label], picked: Collection[str]) -> Matched:
    """Which images the labels mean; ValueError if none."""
    around = source.folder if source.about.get("kind") == "images" else None
    found = matching.match(given, source.ids, source.copies, around, picked)
    files = ", ".join(dict.fromkeys(label.file for label in given))
    if found.unknown and len(found.unknown) == len({one.id for one in given}):
        name, reason = next(iter(found.unknown.items()))
        here = f"the first is {name!r}, and ids here look like {source.ids[0]!r}: they are {reason}"
        raise ValueError(f"none of the ids in {files} is known: {here}")
    for reason in dict.fromkeys(found.unknown.values()):
        names = [name for name, why in found.unknown.items() if why == reason]
        log.warning("%s: %d left out, %s: %s", files, len(names), reason, listing(names))
    if found.by_name:
        some = listing(f"{name} is {image}" for name, image in found.by_name.items())
        log.warning("%s: %d found by a part of the name: %s", files, len(found.by_name), some)
    if found.problems:
        some = listing((f"{image}: {problem}" for image, problem in found.problems.items()), str)
        log.warning("%d images have no single label, they are listed in %s: %s", len(found.problems), results.SKIPPED, some)
    return found


def _known(source: Source, matched: Matched, classes: Collection[str]) -> tuple[dict[int, str], np.ndarray]:
    """Labels by point, and all the points that are done: labelled, picked in earlier rounds, or skipped by an annotator."""
    points = {name: point for point, name in enumerate(source.ids)}
    earlier = {points[name]: label for name, label in source.labels.items() if name in points}
    labels = earlier | matched.labels
    if changed := sum(labels[point] != label for point, label in earlier.items()):
        log.warning("%d labels of earlier rounds are replaced", changed)
    done = {*matched.done, *(points[name] for name in source.earlier if name in points)} - set(labels)
    if done:
        log.warning(
            "%d images that were picked or skipped before have no label; they count as done and are not picked again", len(done)
        )
    if labels:
        _log_classes(Counter(labels.values()), len(earlier), classes)
    return labels, np.array(sorted({*labels, *done}), dtype=np.int64)


def _log_classes(counts: Counter[str], earlier: int, named: Collection[str]) -> None:
    listed = ", ".join(f"{label} {count}" for label, count in counts.most_common())
    of_earlier = f", {earlier} of them of earlier rounds" if earlier else ""
    log.info("%d labels%s; classes: %s", counts.total(), of_earlier, listed)
    alike: dict[str, list[str]] = {}
    for label in dict.fromkeys([*counts, *named]):
        alike.setdefault(annotations.plain_number(columns.plain(label) or label), []).append(label)
    if pairs := [names for names in alike.values() if len(names) > 1]:
        log.warning("classes that differ in case, blanks or signs only: %s. Are they meant to be one?", listing(pairs))


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
