"""What a round writes: picks, contact sheet, tasks for Label Studio, embeddings, and what was done."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from supclust import __version__, kept
from supclust.images import files as images
from supclust.images.files import MARKER
from supclust.label import annotations, contact_sheet, embeddings, exports
from supclust.label.contact_sheet import Card, Sheet, Tile
from supclust.label.embeddings import Embeddings
from supclust.label.request import Request
from supclust.label.rounds import Pick, Round, explain

log = logging.getLogger(__name__)

HERE = Path(__file__).parent  # its template
PICKS, SKIPPED, ABOUT, EMBEDDINGS = "picks.csv", "skipped.csv", "about.md", "embeddings.npz"
SHEET, SHEET_PICTURE = "contact_sheet.html", "contact_sheet.png"
TASKS, CONFIG = "label_studio.json", "label_studio.xml"
RESULTS = (PICKS, SKIPPED, ABOUT, SHEET, SHEET_PICTURE, TASKS, CONFIG, EMBEDDINGS, MARKER)
PART = ".part-"  # begins the name of the folder in which results are made
LARGE, SMALL = 256, 128  # pixels of pictures of picks, and of the others


# -- checks, before anything that takes long -----------------------------------------------------------------------------------


def check(request: Request) -> None:
    """ValueError where results would overwrite the source, labels that somebody typed, or without force those of another run."""
    out = request.out
    if os.path.lexists(out) and not out.is_dir():
        raise ValueError(f"{out} is a file or a link to nothing: name a folder for the results, as in --out picks")
    nearest = next(one for one in (out.absolute(), *out.absolute().parents) if one.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"cannot write into {nearest}: name another folder for the results")
    if request.source.is_dir() and out.exists() and out.samefile(request.source):
        raise ValueError(f"the results cannot go into {request.source} itself: name another folder, as in --out picks-2")
    there = [name for name in RESULTS if (out / name).exists()]
    if there and not request.force:
        raise ValueError(f"{out} holds results already ({', '.join(there)}): name another folder, or overwrite them with --force")
    if folders := [name for name in there if (out / name).is_dir()]:
        raise ValueError(f"{out / folders[0]} is a folder, in the place of a file: move it away")
    try:
        typed = len(annotations.read(out / PICKS).labels) if PICKS in there else 0
    except ValueError:  # no table of this tool's
        typed = 0
    if typed:
        raise ValueError(f"{out / PICKS} holds {typed} labels that somebody typed: move it away before it is overwritten")


def check_stays(request: Request, read: Iterable[Path | None]) -> None:
    """ValueError where results would overwrite what this round, or a later one of another chain, is read from."""
    results = {(request.out / name).resolve() for name in RESULTS}
    for path in read:
        if path is not None and path.resolve() in results:
            raise ValueError(
                f"{path} is read from and would be overwritten: name another folder than {request.out} for the results"
            )


# -- writing -------------------------------------------------------------------------------------------------------------------


def write(found: Round) -> None:
    """All results, or none: they are made in a folder beside them, then moved; the record, which makes a round of them, last.

    Raises ValueError for a folder that cannot be written into.
    """
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
    source, table = found.source, _table(found)
    if source.kept is None:
        paths = tuple(None if file is None else _relative(file, found.request.out) for file in source.files)
        embeddings.write(folder / EMBEDDINGS, Embeddings(source.features, source.ids, paths))
    exports.write_csv(folder / PICKS, table)
    if source.skipped:
        rows = {"path": [one.name for one in source.skipped], "reason": [one.reason for one in source.skipped]}
        exports.write_csv(folder / SKIPPED, rows)
    picks = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
    picks = [pick | {"path": _relative(Path(pick["path"]), source.folder)} for pick in picks if pick["path"]]
    if picks:
        exports.write_tasks(folder / TASKS, exports.label_studio_tasks(picks, exports.local_files(source.folder)))
        _write_config(found, folder)
    title, facts = f"{len(found.picks)} images to label, of {source.about['name']}", _facts(found)
    sheet = Sheet(title, facts, [_card(found, pick) for pick in found.picks], found.classes)
    kept.write_text(folder / SHEET, contact_sheet.html(sheet))
    contact_sheet.png(sheet).save(folder / SHEET_PICTURE, optimize=True)
    about = kept.template(HERE / "about.md.j2", visible=contact_sheet.visible)
    command = _next_command(found.request)
    kept.write_text(folder / ABOUT, about.render(title=title, facts=facts, tasks=bool(picks), command=command) + "\n")
    kept.write_text(folder / MARKER, json.dumps(_record(found), indent=1, ensure_ascii=False))


def _table(found: Round) -> dict[str, list]:
    picks, files = found.picks, [found.source.files[pick.point] for pick in found.picks]
    return {
        "id": [found.source.ids[pick.point] for pick in picks],
        "path": ["" if file is None else images.printable(str(file)) for file in files],
        "cluster": [pick.cluster for pick in picks],
        "cluster_size": [pick.cluster_size for pick in picks],
        "typicality": [float(f"{pick.typicality:.6g}") for pick in picks],  # the digits that float32 knows
        "sup": [float(f"{pick.sup:.6g}") for pick in picks],
        "order": [pick.order for pick in picks],
        "label": [""] * len(picks),
    }


def _relative(file: Path, folder: Path) -> str:
    """The way from a folder to a file, so that both may be moved together."""
    return Path(os.path.relpath(file, folder)).as_posix()


def _write_config(found: Round, folder: Path) -> None:
    try:
        if found.classes:
            kept.write_text(folder / CONFIG, exports.label_studio_config(found.classes))
    except ValueError as error:  # of labels that somebody typed: no reason to lose a round
        log.warning("%s is left out: %s", CONFIG, error)


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


def _card(found: Round, pick: Pick) -> Card:
    def tile(point: int, side: int) -> Tile:
        """An image that has gone since it was embedded is shown by its id."""
        file, picture = found.source.files[point], None
        try:
            picture = images.thumbnail(file, side) if file else None
        except ValueError as error:
            log.warning("%s", error)
        return Tile(found.source.ids[point], picture)

    neighbors = tuple(tile(point, SMALL) for point in pick.typical)
    scores = {"rank": pick.rank, "typicality": pick.typicality, "sup": pick.sup}
    return Card(pick.order, tile(pick.point, LARGE), neighbors, pick.cluster, pick.cluster_size, **scores, why=explain(found, pick))


def _next_command(request: Request) -> str:
    """What goes on from this round, for a shell, with paths that no option is mistaken for."""
    out, following = (f"./{path}" if path.startswith("-") else path for path in (f"{request.out}", f"{request.out}-next"))
    words = ["supclust", "label", out, "--labeled", "labels.csv", "--budget", str(request.budget)]
    return shlex.join([*words, "--out", following, "--strategy", request.strategy, "--seed", str(request.seed)])


def _record(found: Round) -> dict[str, Any]:
    """For the next round, and for whoever wants to know in a year."""
    request, source = found.request, found.source
    asked = asdict(request) | {
        "source": _relative(request.source.absolute(), request.out),
        "pictures": request.pictures and _relative(request.pictures.absolute(), request.out),
        "labeled": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in request.labeled},
    }
    del asked["out"]
    return {
        "supclust": __version__,
        "asked": asked,
        "source": source.about,
        "images": len(source.ids),
        "skipped": len(source.skipped),
        "clusters": len(found.pool.clusters_for(request.budget).sizes),
        "labels": len(found.labels),
        "embeddings": EMBEDDINGS if source.kept is None else _relative(source.kept, request.out),
        "folder": source.folder and _relative(source.folder, request.out),
        "copies": dict(source.copies),
        "earlier": list(source.earlier),
        "picks": [source.ids[pick.point] for pick in found.picks],
    }
