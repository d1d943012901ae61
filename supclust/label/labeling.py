"""Picks images of one's own to label: check, source, embed, pick, write, in that order."""

import logging
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
from filelock import FileLock

from supclust import kept, strategies
from supclust.label import annotations, columns, copies, duplicates, matching, results, sources, typed
from supclust.label.annotations import Columns, Label, counted, listing
from supclust.label.matching import Matched
from supclust.label.request import EncoderOptions, Request
from supclust.label.results import HANDED_OUT, RESULTS, SHEET
from supclust.label.rounds import Pick, Round
from supclust.label.sources import Source

__all__ = ["RESULTS", "SHEET", "EncoderOptions", "Pick", "Request", "Round", "run"]

log = logging.getLogger(__name__)


def run(request: Request) -> Round:
    """Pick, and write the results into request.out.

    Raises ValueError and FileNotFoundError, with a sentence that says what to do, for whatever cannot be used; nothing is written
    then, except an encoder that was trained. Nothing is written outside of out, except weights that are downloaded, and a note of
    the picks in the first round of the chain.
    """
    with ExitStack() as held:
        copies.check(request.copy, request.source, request.out)
        folder = held.enter_context(results.writing(request))
        given, source = read_labels(request), sources.read(request)
        copies.check(request.copy, source.folder, request.out)
        if source.first and os.access(source.first, os.W_OK):
            held.enter_context(FileLock(source.first / f".{HANDED_OUT}.lock"))  # rounds of one chain wait for each other
        others = _picked_by_others(request, source)
        matched, labels = match(request, source, given, others)
        if source.first:
            source = replace(source, earlier=(*source.earlier, *others))
        labeled, candidates = _divided(source, matched, labels, request.budget)
        if (embedded := source.embedded(request.out)).ids != source.ids:  # some cannot be read
            matched, labels = match(request, embedded, given, others)
            labeled, candidates = _divided(embedded, matched, labels, request.budget)
        source = embedded
        _log_skipped(source)
        strategy = request.strategy_for(labels)
        if request.per_class_min:
            _warn_of_unknown(labels, (*request.classes, *source.classes))
        settings = strategies.Settings(**strategies.parse(strategy)[1])
        try:
            pool = strategies.Pool(source.features, labeled, request.seed, settings, candidates=candidates)
        except ValueError as error:
            raise ValueError(f"{source.about['name']}: {error}") from error
        group = duplicates.find(pool, request.budget, source.about["encoder"])
        facts = duplicates.facts(pool, group)
        if not request.keep_duplicates:
            pool = duplicates.one_of_each(pool, group, request.budget)
        points, wanted = query(pool, labels, strategy, request.budget, request.per_class_min)
        if len(set(labels.values())) > 1:
            from supclust.label import progress  # scikit-learn takes seconds to import

            known, learned = progress.report(pool.points, labels, source.known, request.budget)
            source, facts = replace(source, known=known), learned | facts
        for name, fact in facts.items():
            log.info("%s: %s", name, fact)
        found = Round(request, source, pool, points, group, labels, matched.problems, wanted, facts)
        results.write(found, folder)
        if request.copy:
            copies.copy_by_label([(source.ids[point], source.files[point], "", "") for point in points], request.copy)
        _hand_out(found, others)
    _tell_of_same(found)
    return found


def _log_skipped(source: Source) -> None:
    reasons = Counter(reason.partition(":")[0].partition(" as ")[0] for reason in source.skipped.values())
    if reasons:
        listed = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(5))
        log.warning("%s left out (see %s): %s", counted(len(source.skipped), "file"), results.SKIPPED, listed)


# -- other rounds --------------------------------------------------------------------------------------------------------------


def _picked_by_others(request: Request, source: Source) -> dict[str, str]:
    """What other rounds picked of the same images, and their folders: those of the chain, or for a first round those beside out."""
    if source.first:
        found, own = kept.read(source.first / HANDED_OUT), results.relative(request.out, source.first)
        return {pick: name for pick, name in (found[0] if found else {}).items() if name != own}
    picked = {}
    name = "folder" if source.kept is None else "embeddings"
    for other, record in sources.beside(request.out):
        same = (other / (record[name] or "")).resolve() == (source.kept or source.folder).resolve()
        if same and other.resolve() != request.out.resolve():
            picked |= dict.fromkeys(record["picks"], other.name)
    return picked


def _hand_out(found: Round, others: Mapping[str, str]) -> None:
    """Note the picks in the first round of the chain."""
    if first := found.source.first:
        picks, own = [found.source.ids[point] for point in found.points], results.relative(found.request.out, first)
        try:
            kept.write(first / HANDED_OUT, {**others, **dict.fromkeys(picks, own)}, None)
        except OSError as error:
            log.warning("other rounds may pick the same: %s cannot be written (%s)", first / HANDED_OUT, error.strerror)


def _tell_of_same(found: Round) -> None:
    """Say which rounds picked the same. This one is in its place by now, so that of two at once, the later one sees the other."""
    others = _picked_by_others(found.request, found.source)
    same = [others[name] for name in (found.source.ids[point] for point in found.points) if name in others]
    for name, number in Counter(same).items():
        log.info("%s picked %s of these, too: go on from there to get others", name, counted(number, "image"))


# -- labels --------------------------------------------------------------------------------------------------------------------


def read_labels(request: Request) -> list[Label]:
    """What the files of a request say; about other images, what was typed in the pages of the rounds."""
    given = []
    for path in request.labeled:
        labels = annotations.read(path, Columns(request.id_column, request.label_column, request.classes))
        if not any(one.label for one in labels):
            log.warning("%s has no labels (it lists %s)", path, counted(len({one.id for one in labels}), "image"))
        given += labels
    named = {one.id for one in given}
    return [*given, *(one for one in typed.of_chain(request.source) if one.id not in named)]


def match(request: Request, source: Source, given: Sequence[Label], picked: Collection[str] = ()) -> tuple[Matched, dict[int, str]]:
    """Which images the given labels mean, and all labels by point, those of earlier rounds first; ValueError if no image is meant.

    picked: ids that are done if they are listed, even without a label.
    """
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
        number = counted(len(found.problems), "image has", "images have")
        log.warning("%s no single label (see %s): %s", number, results.SKIPPED, some)
    earlier = {point: source.labels[name] for point, name in enumerate(source.ids) if name in source.labels}
    labels = earlier | found.labels
    if changed := sum(labels[point] != label for point, label in earlier.items()):
        log.warning("%s replaced", counted(changed, "label of an earlier round is", "labels of earlier rounds are"))
    if labels:
        _log_classes(Counter(labels.values()), len(earlier), (*request.classes, *source.classes))
    return found, labels


def _log_classes(counts: Counter[str], earlier: int, named: Collection[str]) -> None:
    listed = ", ".join(f"{label} {count}" for label, count in counts.most_common())
    of_earlier = f", {earlier} of them of earlier rounds" if earlier else ""
    log.info("%s%s; classes: %s", counted(counts.total(), "label"), of_earlier, listed)
    alike: dict[str, list[str]] = {}
    for label in dict.fromkeys([*counts, *named]):
        alike.setdefault(annotations.plain_number(columns.plain(label) or label), []).append(label)
    if pairs := [names for names in alike.values() if len(names) > 1]:
        log.warning("classes that differ in case, blanks or signs only: %s. Are they meant to be one?", listing(pairs))


# -- picks ---------------------------------------------------------------------------------------------------------------------


def _divided(source: Source, matched: Matched, labels: Mapping[int, str], budget: int) -> tuple[np.ndarray, np.ndarray]:
    """The points that are done: labelled, picked or skipped in some round; and of the others, those whose image is still there."""
    points = {name: point for point, name in enumerate(source.ids)}
    done = {*labels, *matched.done, *(points[name] for name in source.earlier if name in points)}
    if without := len(done) - len(labels):
        log.warning("%s without a label, picked or skipped in some round: not picked again", counted(without, "image"))
    left = np.array([file is None or os.path.isfile(file) for file in source.files])
    if not left.all():
        log.warning("%s no longer there, and not picked", counted(np.count_nonzero(~left), "image is", "images are"))
    left[[*done]] = False
    if budget > (number := np.count_nonzero(left)):
        already = f", of which {len(done)} labelled or picked already" if done else ""
        most = f"at most --budget {number}" if number else "nothing is left to pick"
        raise ValueError(f"the budget is {budget}, but the pool has {counted(len(left), 'image')}{already}: {most}")
    return np.array(sorted(done), dtype=np.int64), np.flatnonzero(left)


def query(
    pool: strategies.Pool, labels: Mapping[int, str], strategy: str, budget: int, per_class_min: int | None = None
) -> tuple[np.ndarray, dict[int, str]]:
    """Points (budget,) in the order of the queries, and the class of those that are picked for one with too few labels.

    With labels, strategies that ask a model get a linear layer on the features, and so do classes of fewer than per_class_min
    labels: up to half of the budget, as in rare.likeliest.
    """
    (name, _), wanted = strategies.parse(strategy), {}
    if labels and (per_class_min or name in strategies.MODEL_BASED | strategies.MODEL_AIDED):
        from supclust import active, learners  # scikit-learn takes seconds to import

        points, classes = sorted(labels), sorted(set(labels.values()))
        numbers = np.array([classes.index(labels[point]) for point in points])
        head = learners.fit_linear_head(pool.points[points], numbers, len(classes))
        pool = pool.with_labeled(pool.labeled, active.Outputs(head, lambda: pool.points, learned=False))
        if per_class_min and len(classes) > 1:
            from supclust.label import rare

            likeliest = rare.likeliest(pool, np.bincount(numbers), per_class_min, budget // 2)
            wanted = {point: classes[number] for point, number in likeliest.items()}
            pool = pool.with_labeled(np.array([*pool.labeled, *wanted]), pool.model)
    rest = strategies.query(name, pool, budget - len(wanted), np.random.default_rng(pool.seed))
    return np.array([*wanted, *rest]), wanted


def _warn_of_unknown(labels: Mapping[int, str], named: Collection[str]) -> None:
    """Say for which classes nothing can be picked, although they have few labels."""
    seen = set(labels.values())
    if len(seen) < 2:
        log.warning("picks for classes with few labels begin once labels show two classes")
    if missing := [name for name in dict.fromkeys(named) if name not in seen]:
        log.warning("nothing can be picked for classes without any label: %s", listing(missing))
