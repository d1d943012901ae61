"""Picks images of one's own to label, and writes the picks, a contact sheet, tasks for Label Studio, and what was done."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shlex
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from supclust import __version__, kept, strategies
from supclust.images import files as images
from supclust.images.files import MARKER
from supclust.label import annotations, contact_sheet, exports, matching, sources
from supclust.label.annotations import Labels
from supclust.label.contact_sheet import Card, Sheet, Tile
from supclust.label.rounds import Pick, Request, Round, describe, explain
from supclust.label.sources import Source

log = logging.getLogger(__name__)

PICKS, SKIPPED, ABOUT = "picks.csv", "skipped.csv", "about.md"
SHEET, SHEET_PICTURE = "contact_sheet.html", "contact_sheet.png"
TASKS, CONFIG = "label_studio.json", "label_studio.xml"
RESULTS = (PICKS, SKIPPED, ABOUT, SHEET, SHEET_PICTURE, TASKS, CONFIG, sources.EMBEDDINGS, MARKER)
PART = ".part-"  # begins the name of the folder in which results are made
LARGE, SMALL = 256, 128  # pixels of pictures of picks, and of the others


def run(request: Request) -> Round:
    """Pick, and write the results into request.out.

    Raises ValueError and FileNotFoundError, with a sentence that says what to do, for whatever cannot be used; nothing is written
    then, but for an encoder that was trained. Nothing is written outside of out, unless weights are to be downloaded.
    """
    _check_request(request)
    _check_out(request)
    given = annotations.merge([annotations.read(path) for path in request.labeled])
    source = sources.of(request.source, request.out, partial(_embedder, request), request.pictures)
    _check_sources_stay(request, source)
    _log_skipped(source)
    labels, taken = _known(source, given)
    candidates = _candidates(source, taken)
    _check_budget(request, len(source.ids), len(taken), len(candidates))
    pool = _pool(source, taken, candidates, request)
    found = _query(pool, labels, request)
    picked = Round(request, source, pool, tuple(describe(pool, found, request.budget)), labels)
    _write(picked)
    return picked


# -- checks, before anything that takes long -----------------------------------------------------------------------------------


def _check_request(request: Request) -> None:
    name, _ = strategies.parse(request.strategy)
    if name not in strategies.NAMES:
        raise ValueError(f"{name} sees labels that nobody has: one of {', '.join(strategies.NAMES)}")
    if request.budget < 1:
        raise ValueError(f"the budget must be a whole number of at least 1, not {request.budget}")
    if request.seed < 0:
        raise ValueError(f"the seed must be a whole number of at least 0, not {request.seed}")
    if request.classes:
        exports.label_studio_config(request.classes)  # raises for names that nobody can choose


def _check_out(request: Request) -> None:
    """Neither the source nor results of another run may be overwritten."""
    out = request.out
    if os.path.lexists(out) and not out.is_dir():
        raise ValueError(f"{out} is a file or a link to nothing: name a folder for the results, as in --out picks")
    nearest = next(one for one in (out.absolute(), *out.absolute().parents) if one.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"cannot write into {nearest}: name another folder for the results")
    if request.source.exists() and request.source.is_dir() and out.exists() and out.samefile(request.source):
        raise ValueError(f"the results cannot go into {request.source} itself: name another folder, as in --out picks-2")
    there = [name for name in RESULTS if (out / name).exists()]
    if there and not request.force:
        raise ValueError(f"{out} holds results already ({', '.join(there)}): name another folder, or overwrite them with --force")
    if typed := _typed_labels(out / PICKS):
        raise ValueError(f"{out / PICKS} holds {typed} labels that somebody typed: move it away before it is overwritten")
    if folders := [name for name in there if (out / name).is_dir()]:
        raise ValueError(f"{out / folders[0]} is a folder, in the place of a file: move it away")


def _typed_labels(picks: Path) -> int:
    try:
        return len(annotations.read(picks).labels) if picks.exists() else 0
    except ValueError:  # no table of this tool's
        return 0


def _check_sources_stay(request: Request, source: Source) -> None:
    """--force must not overwrite what this round, or a later one of another chain, is read from."""
    results = {(request.out / name).resolve() for name in RESULTS}
    if source.kept is not None and source.kept.resolve() in results:
        raise ValueError(
            f"{source.kept} is read from and would be overwritten: name another folder than {request.out} for the results"
        )
    for path in request.labeled:
        if path.resolve() in results:
            raise ValueError(
                f"{path} is read from and would be overwritten: name another folder than {request.out} for the results"
            )


def _check_budget(request: Request, n: int, taken: int, left: int) -> None:
    if left == 0:
        raise ValueError(f"all {n} images are labelled or picked already: nothing is left to pick")
    if request.budget > left:
        done = f", of which {taken} are labelled or picked already" if taken else ""
        raise ValueError(f"the budget is {request.budget}, but there are {n} images{done}: at most --budget {left}")


def _embedder(request: Request) -> Any:
    from supclust.label import embedders  # PyTorch takes seconds to import, and those who bring embeddings do not need it

    names = ("minutes", "epochs", "scratch", "download", "seed")
    return embedders.of(request.encoder, **{name: getattr(request, name) for name in names}, replace=request.force)


def _log_skipped(source: Source) -> None:
    reasons = Counter(one.reason.partition(":")[0].partition(" as ")[0] for one in source.skipped)
    if reasons:
        listed = "; ".join(f"{count} {reason}" for reason, count in reasons.most_common(5))
        log.warning("%d files are left out, they are listed in %s: %s", len(source.skipped), SKIPPED, listed)


def _known(source: Source, given: Labels) -> tuple[dict[int, str], np.ndarray]:
    """Labels by point, and all the points that are done: labelled, listed in a file of labels, or picked in earlier rounds."""
    labels, unlabeled, unknown = matching.match(given, source.ids, source.copies)
    unknown, names = [contact_sheet.visible(name) for name in unknown], given.source
    if unknown and not labels and not unlabeled:
        here = f"the first is {unknown[0]!r}, and ids here look like {source.ids[0]!r}"
        raise ValueError(f"none of the ids in {names} is known: {here}")
    if unknown:
        log.warning("%d ids of %s are not among the images and left out: %s", len(unknown), names, ", ".join(unknown[:5]))
    picked = sources.positions(source.ids, source.earlier)
    if missing := len({*picked, *unlabeled} - set(labels)):
        log.warning("%d images that were picked or listed have no label; they count as done and are not picked again", missing)
    return labels, np.array(sorted({*labels, *unlabeled, *picked}), dtype=np.int64)


# -- the query -----------------------------------------------------------------------------------------------------------------


def _candidates(source: Source, taken: np.ndarray) -> np.ndarray:
    """The points that may be picked: not done, and where images are looked at, with an image that is still there."""
    there = np.array([file is None or os.path.isfile(file) for file in source.files])
    if not there.all():
        log.warning("%d images are no longer where they were, and are not picked", np.count_nonzero(~there))
    there[taken] = False
    return np.flatnonzero(there)


def _pool(source: Source, taken: np.ndarray, candidates: np.ndarray, request: Request) -> strategies.Pool:
    settings = strategies.Settings(**strategies.parse(request.strategy)[1])
    some = candidates if len(candidates) + len(taken) < len(source.ids) else None
    try:
        return strategies.Pool(source.features(), taken, request.seed, settings, candidates=some)
    except ValueError as error:
        raise ValueError(f"{source.about['name']}: {error}") from error


def _query(pool: strategies.Pool, labels: Mapping[int, str], request: Request) -> np.ndarray:
    name, _ = strategies.parse(request.strategy)
    if name in strategies.MODEL_BASED and labels:
        pool = pool.with_labeled(pool.labeled, _model(pool, labels))
    return strategies.query(name, pool, request.budget, np.random.default_rng(request.seed))


def _model(pool: strategies.Pool, labels: Mapping[int, str]) -> Any:
    """A linear layer on the features of the labelled points: what strategies ask that go by a model."""
    from supclust import active, learners  # PyTorch takes seconds to import

    points, classes = sorted(labels), sorted(set(labels.values()))
    numbers = np.array([classes.index(labels[point]) for point in points])
    head = learners.fit_linear_head(pool.points[points], numbers, len(classes))
    return active.Outputs(head, lambda: pool.points, learned=False)


# -- the results ---------------------------------------------------------------------------------------------------------------


def _write(found: Round) -> None:
    """All results, or none: they are made in a folder beside them, then moved; the record, which makes a round of them, last."""
    out = found.request.out
    try:
        out.mkdir(parents=True, exist_ok=True)
        for left_over in out.glob(f"{PART}*"):  # of a run that was killed in here
            shutil.rmtree(left_over)
        part = Path(tempfile.mkdtemp(prefix=PART, dir=out))
    except OSError as error:
        raise ValueError(f"cannot write into {out}: {error.strerror}") from error
    try:
        _write_into(found, part)
        for name in RESULTS:
            if (part / name).exists():
                os.replace(part / name, out / name)
            else:
                (out / name).unlink(missing_ok=True)  # of the run that is overwritten
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_into(found: Round, folder: Path) -> None:
    source, request = found.source, found.request
    where = sources.keep(source, np.asarray(found.pool.features), folder, request.out)
    exports.write_csv(folder / PICKS, _table(found))
    if source.skipped:
        rows = {"path": [one.name for one in source.skipped], "reason": [one.reason for one in source.skipped]}
        exports.write_csv(folder / SKIPPED, rows)
    sheet = _sheet(found)
    kept.write_text(folder / SHEET, contact_sheet.html(sheet))
    contact_sheet.png(sheet).save(folder / SHEET_PICTURE, optimize=True)
    _write_tasks(found, folder)
    kept.write_text(folder / ABOUT, _about(found))
    kept.write_text(folder / MARKER, json.dumps(_record(found, where), indent=1, ensure_ascii=False))


def _table(found: Round) -> dict[str, list]:
    picks, source = found.picks, found.source
    return {
        "id": [source.ids[pick.point] for pick in picks],
        "path": [_path(source.files[pick.point]) for pick in picks],
        "cluster": [pick.cluster for pick in picks],
        "cluster_size": [pick.cluster_size for pick in picks],
        "typicality": [_rounded(pick.typicality) for pick in picks],
        "sup": [_rounded(pick.sup) for pick in picks],
        "order": [pick.order for pick in picks],
        "label": [""] * len(picks),
    }


def _rounded(value: float) -> float:
    """To the digits that float32 knows."""
    return float(f"{value:.6g}")


def _path(file: Path | None) -> str:
    return "" if file is None else images.printable(str(file))


def _write_tasks(found: Round, folder: Path) -> None:
    """For Label Studio, where there are images; the interface too, as soon as classes are known."""
    root, table = found.source.folder, _table(found)
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True) if row[1]]
    if root is None or not rows:
        return
    rows = [row | {"path": sources.relative_to(Path(row["path"]), root).as_posix()} for row in rows]
    exports.write_tasks(folder / TASKS, exports.label_studio_tasks(rows, exports.local_files(root)))
    if found.classes:
        _write_config(found, folder)


def _write_config(found: Round, folder: Path) -> None:
    try:
        kept.write_text(folder / CONFIG, exports.label_studio_config(found.classes))
    except ValueError as error:  # of labels that somebody typed: no reason to lose a round
        log.warning("%s is left out: %s", CONFIG, error)


def _record(found: Round, embeddings: Path) -> dict[str, Any]:
    """For the next round, and for whoever wants to know in a year."""
    request, source = found.request, found.source
    paths = {
        name: sources.relative_to(getattr(request, name).absolute(), request.out)
        for name in ("source", "pictures")
        if getattr(request, name)
    }
    asked = asdict(request) | {name: path.as_posix() for name, path in paths.items()}
    asked |= {"labeled": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in request.labeled}}
    del asked["out"]
    return {
        "supclust": __version__,
        "asked": asked,
        "source": source.about,
        "images": len(source.ids),
        "skipped": len(source.skipped),
        "clusters": len(found.pool.clusters_for(request.budget).sizes),
        "labels": len(found.labels),
        "embeddings": embeddings.as_posix(),
        "folder": None if source.folder is None else sources.relative_to(source.folder, request.out).as_posix(),
        "copies": dict(source.copies),
        "earlier": list(source.earlier),
        "picks": [source.ids[pick.point] for pick in found.picks],
    }


def _facts(found: Round) -> dict[str, str]:
    source, request = found.source, found.request
    facts = {
        "Picked": f"{len(found.picks):,} of {len(source.ids):,}",
        "Strategy": request.strategy,
        "Clusters": f"{len(found.pool.clusters_for(request.budget).sizes):,}",
        "Features": str(source.about["encoder"]),
        "Seed": str(request.seed),
    }
    if found.labels:
        facts["Labelled before"] = f"{len(found.labels):,}, of {len(set(found.labels.values()))} classes"
    if source.skipped:
        facts["Left out"] = f"{len(source.skipped):,} files"
    return facts


def _sheet(found: Round) -> Sheet:
    title = f"{len(found.picks)} images to label, of {found.source.about['name']}"
    return Sheet(title, _facts(found), tuple(_card(found, pick) for pick in found.picks), found.classes)


def _card(found: Round, pick: Pick) -> Card:
    return Card(
        order=pick.order,
        pick=_tile(found.source, pick.point, LARGE),
        neighbors=tuple(_tile(found.source, point, SMALL) for point in pick.typical),
        cluster=pick.cluster,
        cluster_size=pick.cluster_size,
        rank=pick.rank,
        typicality=pick.typicality,
        sup=pick.sup,
        why=explain(found, pick),
    )


def _tile(source: Source, point: int, side: int) -> Tile:
    """An image that has gone since it was embedded is shown by its id."""
    try:
        picture = images.thumbnail(source.files[point], side) if source.files[point] else None
    except ValueError as error:
        log.warning("%s", error)
        picture = None
    return Tile(source.ids[point], picture)


def _about(found: Round) -> str:
    """What was done and how it goes on, for people."""
    facts = "\n".join(f"- {name}: {value}" for name, value in _facts(found).items())
    tasks = f"\n- Or import `{TASKS}` into Label Studio (see the README of supclust), and export your annotations as JSON or CSV."
    return f"""# {len(found.picks)} images to label, of {contact_sheet.visible(str(found.source.about["name"]))}

{facts}

How to label them:

- `{SHEET}` shows each pick beside the most typical images of its cluster. Type labels there and download `labels.csv`.
- Or fill the column `label` of `{PICKS}`.{tasks if found.source.folder else ""}

Then the next ones, in clusters that hold no label yet and none of these again:

    {_next_command(found.request)}
"""


def _next_command(request: Request) -> str:
    """What goes on from this round, for a shell."""
    words = ["supclust", "label", _as_path(request.out), "--labeled", "labels.csv", "--budget", str(request.budget)]
    words += ["--out", _as_path(Path(f"{request.out}-next")), "--strategy", request.strategy, "--seed", str(request.seed)]
    return shlex.join(words)


def _as_path(path: Path) -> str:
    """A path that no option is mistaken for."""
    return f"./{path}" if str(path).startswith("-") else str(path)
