"""What a round writes: picks, contact sheet, tasks for Label Studio, embeddings, and what was done."""

import csv
import hashlib
import json
import logging
import math
import os
import re
import shlex
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import pandas as pd
from filelock import FileLock, Timeout

from supclust import __version__, kept
from supclust.images import files as images
from supclust.label import annotations, contact_sheet, embeddings, sources
from supclust.label.annotations import CONTROL, LOCAL_FILES, counted, listing, safe, visible
from supclust.label.contact_sheet import NEIGHBOR, PICK, Card, Sheet, Tile
from supclust.label.request import NOT_XML, Request
from supclust.label.rounds import Pick, Round

log = logging.getLogger(__name__)

HERE = Path(__file__).parent  # its template
PICKS, SKIPPED, ABOUT, EMBEDDINGS = "picks.csv", "skipped.csv", "about.md", "embeddings.npz"
SHEET, SHEET_PICTURE = "contact_sheet.html", "contact_sheet.png"
TASKS, CONFIG = "label_studio.json", "label_studio.xml"
HANDED_OUT = "handed_out.json"  # in the first round of a chain: what the later ones picked
RESULTS = (PICKS, SKIPPED, ABOUT, SHEET, SHEET_PICTURE, TASKS, CONFIG, EMBEDDINGS, HANDED_OUT, images.MARKER)
NUMBERS = ("cluster", "cluster_size", "group_size", "typicality", "sup", "order")  # of a pick, in the table
FACTS = ("order", "cluster", "cluster_size", "typicality", "sup")  # what a task says about its pick, to sort by
PART = ".part-results"  # results are made in this folder; the run that holds its lock may write


# -- the folder for the results ------------------------------------------------------------------------------------------------


@contextmanager
def writing(request: Request, names: Sequence[str] = RESULTS) -> Iterator[Path]:
    """A folder to make results of these names in. They are moved to request.out at the end, in this order: all of them, or none.

    Until then, no other run writes there. Earlier results that are not made again are removed. The first of the names is that of
    the table that has a column to type labels into. The last one is always made, and without it the others, which a killed run
    left, do not count. Raises ValueError where out cannot be written or is in use, and where results
    would overwrite what is read, earlier ones without force, or labels that somebody typed.
    """
    out, part = request.out, request.out / PART
    killed = part.exists()  # in this folder, an earlier run
    made = [one for one in (out, *out.parents) if not one.exists()]
    try:
        part.mkdir(parents=True, exist_ok=True)
        lock = FileLock(part / "lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise ValueError(f"another run writes into {out}: name another folder, or wait until it has ended") from None
    except OSError as error:
        raise ValueError(f"cannot write into {out}: name another folder for the results, as in --out picks") from error
    whole = True
    try:
        _check(request, names, killed)
        folder = Path(tempfile.mkdtemp(dir=part))
        yield folder
        whole = False
        (out / names[-1]).unlink(missing_ok=True)
        for name in names:
            if (folder / name).exists():
                os.replace(folder / name, out / name)
            else:
                (out / name).unlink(missing_ok=True)
        whole = True
    finally:
        if whole:  # else the next run finds what a killed one would have left
            shutil.rmtree(part, ignore_errors=True)  # also what a killed run left there; the next run may have come in already
        lock.release()
        for one in made:
            with suppress(OSError):  # there is something in it
                one.rmdir()


def _check(request: Request, names: Sequence[str], killed: bool) -> None:
    out = request.out
    if out.resolve() == request.source.resolve():
        raise ValueError(f"the results cannot go into {request.source} itself: name another folder, as in --out picks-2")
    there = [name for name in names if (out / name).exists()]
    if there and not (request.force or (killed and names[-1] not in there)):
        raise ValueError(f"{out} holds results already ({', '.join(there)}): name another folder, or overwrite them with --force")
    read = [request.source, *request.labeled]
    if (record := request.source / images.MARKER).is_file():
        read.append(request.source / sources.read_record(record)["embeddings"])
    if lost := [path for path in read if path.resolve() in {(out / name).resolve() for name in names}]:
        raise ValueError(f"{lost[0]} is read from and would be overwritten: name another folder than {out} for the results")
    table = out / names[0]
    try:
        typed = sum(bool(one.label or one.problem) for one in annotations.read(table)) if table.exists() else 0
    except ValueError as error:
        raise ValueError(f"{error}. It may hold labels that somebody typed: move it away before it is overwritten") from error
    if typed:
        raise ValueError(f"{table} holds {counted(typed, 'label')} that somebody typed: move it away before it is overwritten")


# -- a round -------------------------------------------------------------------------------------------------------------------


def write(found: Round, folder: Path) -> None:
    """All results of a round, into a folder of `writing`; the record, which makes a round of them, is moved last."""
    source, rows = found.source, [_row(found, pick) for pick in found.picks]
    if source.kept is None:
        paths = tuple(file and relative(file, found.request.out) for file in source.files)
        embeddings.write(folder / EMBEDDINGS, embeddings.Embeddings(source.features, source.ids, paths))
    write_csv(folder / PICKS, rows)
    write_skipped(folder, {**source.skipped, **found.problems})
    if tasks := label_studio_tasks([row for row in rows if row["path"]], source.folder):
        write_tasks(folder, tasks, found.offered)
    title, facts = f"{counted(len(found.picks), 'image')} to label, of {source.about['name']}", _facts(found)
    sheet = Sheet(title, facts, [_card(found, pick) for pick in found.picks], found.offered)
    kept.write_text(folder / SHEET, contact_sheet.html(sheet))
    contact_sheet.png(sheet).save(folder / SHEET_PICTURE, optimize=True)
    # In Markdown, a class <unknown> is no tag, and there are no links.
    about = kept.template(HERE / "about.md.j2", visible=lambda text: re.sub(r"<|`|(?<=\])\(", r"\\\g<0>", visible(text)))
    if "pixels" in source.about:
        facts["Seen by the encoder"] = source.about["pixels"]
    text = about.render(title=title, facts=facts, tasks=bool(tasks), command=_next_command(found.request))
    kept.write_text(folder / ABOUT, f"{text}\n")
    kept.write_text(folder / images.MARKER, json.dumps(_record(found), indent=1, ensure_ascii=False))


def write_skipped(folder: Path, left_out: Mapping[str, str]) -> None:
    """Images and labels that are left out, and why, as skipped.csv; no file if there are none."""
    if left_out:
        write_csv(folder / SKIPPED, [{"path": name, "reason": reason} for name, reason in left_out.items()])


def _row(found: Round, pick: Pick) -> dict[str, Any]:
    path = images.printable(str(found.source.files[pick.point] or ""))
    names = {"id": found.source.ids[pick.point], "label": "", "path": path}  # spreadsheets leave out an empty label at the end
    return names | {name: getattr(pick, name) for name in NUMBERS}


def relative(file: Path, folder: Path) -> str:
    """The way from a folder to a file, so that both may be moved together; between drives the whole path."""
    try:
        return Path(os.path.relpath(file, folder)).as_posix()
    except ValueError:
        return file.absolute().as_posix()


def _link(file: Path, folder: Path) -> str:
    """The address of a file for a page in a folder, in which no name means anything else than a name."""
    way = relative(file, folder)
    return file.absolute().as_uri() if Path(way).is_absolute() else quote(os.fsencode(way))


def _facts(found: Round) -> dict[str, str]:
    source, request = found.source, found.request
    facts = {
        "Picked": f"{len(found.picks):,} of {len(source.ids):,}",
        "Strategy": found.strategy,
        "Clusters": f"{found.clusters:,}",
        "Features": str(source.about["encoder"]),
        "Seed": str(request.seed),
    }
    if found.labels:
        counts = Counter(found.labels.values())
        rarest = listing((f"{label} {count}" for label, count in counts.most_common()[:-4:-1]), str)
        facts["Labelled before"] = f"{len(found.labels):,}, of {counted(len(counts), 'class', 'classes')}; the rarest: {rarest}"
    if source.skipped:
        facts["Left out"] = counted(len(source.skipped), "file")
    return facts | found.facts


def _card(found: Round, pick: Pick) -> Card:
    neighbors = tuple(tile(found.source, point, NEIGHBOR) for point in pick.typical)
    file, shown = found.source.files[pick.point], tile(found.source, pick.point, PICK)
    return Card(pick, replace(shown, link=file and _link(file, found.request.out)), neighbors)


def tile(source: sources.Source, point: int, side: int) -> Tile:
    """An image that has gone since it was embedded is shown by its id."""
    file, picture = source.files[point], None
    try:
        picture = images.thumbnail(file, side) if file else None
    except ValueError as error:
        log.warning("%s", error)
    return Tile(source.ids[point], picture)


def _next_command(request: Request) -> str:
    """What goes on from this round, for a shell, with paths that no option is mistaken for."""
    out, following = (f"./{path}" if path.startswith("-") else path for path in (f"{request.out}", f"{request.out}-next"))
    options = {"--labeled": "labels.csv", "--budget": request.budget, "--out": following, "--strategy": request.strategy}
    options |= {"--seed": request.seed, "--per-class-min": request.per_class_min, "--images": request.pictures}
    words = [str(word) for option, value in options.items() if value is not None for word in (option, value)]
    return shlex.join(["supclust", "label", out, *words, *["--keep-duplicates"] * request.keep_duplicates])


def _record(found: Round) -> dict[str, Any]:
    """For the next round, and for whoever wants to know in a year."""
    request, source = found.request, found.source
    asked = asdict(request) | {
        "source": relative(request.source, request.out),
        "pictures": request.pictures and relative(request.pictures, request.out),
        "labeled": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in request.labeled},
    }
    del asked["out"], asked["copy"]
    return {
        "supclust": __version__,
        "asked": asked,
        "source": source.about,
        "strategy": found.strategy,
        "clusters": found.clusters,
        "embeddings": EMBEDDINGS if source.kept is None else relative(source.kept, request.out),
        "folder": source.folder and relative(source.folder, request.out),
        **{name: getattr(source, name) for name in sources.KEPT},
        "earlier": source.earlier,
        "picks": [source.ids[pick.point] for pick in found.picks],
        "labels": {source.ids[point]: label for point, label in found.labels.items()},
        "classes": found.classes,
        "first": relative(source.first, request.out) if source.first else ".",
    }


# -- formats of others ---------------------------------------------------------------------------------------------------------


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows, cells by column, as a CSV file that is safe to open in a spreadsheet; whole or not at all.

    Text is made `safe` and put in quotes, numbers stand as they are, None and NaN are empty; UTF-8, lines end in a line feed.
    """
    cells = [{name: safe(cell) if isinstance(cell, str) else cell for name, cell in row.items()} for row in rows]
    kept.write_text(path, pd.DataFrame(cells).to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n"))


def label_studio_tasks(picks: Sequence[Mapping[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Tasks that Label Studio imports, one a pick, in their order, without predictions.

    picks: id, path of the image (below the folder) and FACTS; numbers that are not finite become null, as JSON has no others.
    The addresses hold where LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT is the folder around this one: Label Studio does not take the
    root itself for a storage, only folders in it.
    """
    tasks = []
    for pick in picks:
        facts = {name: pick[name] if math.isfinite(pick[name]) else None for name in FACTS}
        tasks.append({"data": {"image": label_studio_image(pick["path"], folder), "supclust_id": pick["id"], **facts}})
    return tasks


def write_tasks(folder: Path, tasks: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> None:
    """Tasks for Label Studio, and where classes are known, its labelling interface."""
    kept.write_text(folder / TASKS, json.dumps(tasks, indent=1) + "\n")
    if classes:
        kept.write_text(folder / CONFIG, label_studio_config(classes))


def label_studio_image(path: str, folder: Path) -> str:
    """The address at which Label Studio serves the image with that path, which is below the folder."""
    return f"{LOCAL_FILES}{quote(folder.resolve().name)}/{quote(relative(Path(path), folder))}"


def label_studio_config(classes: Sequence[str]) -> str:
    """The labelling interface of a project in Label Studio, as XML: an image, and a choice of one of the classes."""
    choices = "".join(f"    <Choice value={quoteattr(NOT_XML.sub('', name))}/>\n" for name in classes)
    control = f'  <Choices name="{CONTROL}" toName="image" choice="single" showInline="true">\n{choices}  </Choices>\n'
    return f'<View>\n  <Image name="image" value="$image"/>\n{control}</View>\n'
