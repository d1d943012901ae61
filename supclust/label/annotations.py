"""Labels as people hand them in, CSV tables and JSON of Label Studio and others, and which of the images they mean."""

import base64
import csv
import functools
import html
import io
import json
import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from supclust.images.files import SUFFIXES
from supclust.label import columns

log = logging.getLogger(__name__)

SHOWN = 5  # examples in a message
EXAMPLE = "A file of labels looks like this:\nid,label\ncats/1.png,cat"
ADVICE = "Save the table as 'CSV UTF-8', or export JSON from Label Studio"
ONE_LABEL = "An image has one label: in Label Studio, one <Choices> tag with choice='single'"
LOCAL_FILES = "/data/local-files/?d="  # where Label Studio serves files of its own machine, by their path below a root
CONTROL = "label"  # the name of the choices in Label Studio, and so of the column in what it exports
ONES, ZEROS = ("1", "1.0", "true"), ("0", "0.0", "false")  # in a column for each class
SEVERAL = -1  # instead of the position of an image
PARTLY = "by a part of its name"
UNKNOWN, UNCLEAR, ELSEWHERE = "not among the images", "of several images", "in other folders than the images of that name"
MISSING = ("na", "n/a", "#n/a", "<na>", "nan", "none", "null")  # what programs write into a cell without a value

NUMBER = re.compile(r"[0-9]{1,18}(\.0+)?")  # a whole one, as an id
BEFORE_TABLE = re.compile(r'\A(?:(?:"?sep=."?|[,;\t ]*)[\r\n]+)*')  # blank rows, and a line that tells spreadsheets the separator
ABSOLUTE = re.compile(r"[\\/~]|[A-Za-z]:[\\/]|[a-z][a-z0-9+.-]*://")
BEGINNING = re.compile("^(?:[.]{0,2}/|[A-Za-z]:/)+")  # of paths: says nothing about the image
SIGNS = re.compile("[%&?#]|://|upload/")  # of addresses, and of what is written in another way
UPLOADED = re.compile(r"(?:^|/)upload/(?:[0-9]+/)?([^/]*)$")  # where Label Studio serves uploads, under names of its own:
PREFIX = re.compile(r"\A[0-9a-f]{8}-(?:(?:[0-9a-f]{4}-){3}[0-9a-f]{12}-)?")  # 1a2b3c4d-name.png, or a whole UUID


class Label(NamedTuple):
    """What a file says about an image."""

    id: str  # as it is written there
    label: str | None  # None if it is listed without one
    file: str
    others: tuple[str, ...] = ()  # what else the image is called there
    certain: bool = False  # ground truth: counts more than other annotations
    done: bool = False  # not to be picked again, with or without a label: picked before, or skipped by an annotator
    problem: str = ""  # why there is no label where one was given


class Columns(NamedTuple):
    """How to read tables, where the names of their columns do not say it."""

    id: str | None = None
    label: str | None = None
    classes: tuple[str, ...] = ()  # names that are labels, be they NA or None


Row = tuple[str, dict[str, Any]]  # where it stands, and the cells by column


def read(path: Path, wanted: Columns = Columns()) -> list[Label]:  # noqa: B008  (it cannot be changed)
    """The labels in a CSV or JSON file, told apart by how they begin, not by the name.

    CSV: UTF-8, or UTF-16 with a byte order mark; comma, semicolon or tab; a header with one of columns.IDS, and one of
    columns.LABELS or a column of 0 and 1 for each class. JSON: Label Studio's exports and tasks, JSON lines, {name: label} and
    FiftyOne's labels.json. Predictions are no labels.
    What is no single label is a problem of that image. ValueError with the file and the row or task, for what cannot be read.
    """
    text = _text(path)
    if text.lstrip()[:1] in ("[", "{"):
        given = _of_json(path, text, wanted)
    else:
        given = _of_table(path, *_csv_rows(path, text), wanted, is_csv=True)
    return [one._replace(file=str(path)) for one in given]


def listing(examples: Iterable[Any], show: Callable[[Any], str] | None = None) -> str:
    """The first few, and how many more."""
    texts = list(map(show or shown, examples))
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return (", ".join(texts[:SHOWN]) or "none") + more


def shown(value: Any) -> str:
    """A value as it can stand in a message: on one line, and not endless."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    advice = f"This looks like a workbook or another zip archive. {ADVICE}" if content.startswith(b"PK") else ADVICE
    encoding = "UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "UTF-8"  # the first is what spreadsheets call Unicode
    try:
        text = content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not {encoding} (byte {error.start + 1} of {len(content)}). {advice}") from error
    if "\0" in text:
        raise ValueError(f"{path} is not a text file: it holds NUL bytes. {advice}")
    if not text.strip():
        raise ValueError(f"{path} is empty. {EXAMPLE}")
    return text


# -- tables --------------------------------------------------------------------------------------------------------------------


def _csv_rows(path: Path, text: str) -> tuple[list[str], list[Row]]:
    """Columns and rows. Fields that are missing at the end of a row are empty: spreadsheets leave them out."""
    blank = BEFORE_TABLE.match(text).end()
    delimiter = max(",;\t", key=re.sub('"[^"]*"', "", re.split("[\r\n]", text[blank:], maxsplit=1)[0]).count)
    lines = io.StringIO(text[blank:], newline="")
    try:
        names, *rows = [*csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)] or [[]]
    except csv.Error as error:
        raise ValueError(f"{path} is not a CSV file: {error}. Is a quotation mark missing, or not doubled?") from error
    names, found = [unsafe(name.strip()).strip() for name in names], []
    for number, row in enumerate(rows, start=2 + len(re.findall("\r\n|\r|\n", text[:blank]))):
        if any(map(str.strip, row[len(names) :])):
            fields = f"{len(row)} field(s), and the header has {len(names)}"
            raise ValueError(f"{path}, row {number}: {fields}. Put text with {delimiter!r} in quotes")
        if any(map(str.strip, row)):
            cells = zip_longest(names, map(unsafe, row[: len(names)]), fillvalue="")
            found.append((f"{path}, row {number}", dict(cells)))
    return names, found


def _of_table(path: Path, names: Sequence[str], rows: Sequence[Row], wanted: Columns, is_csv: bool) -> Iterator[Label]:
    """The labels of a table with a row for each image, or for each annotation."""
    ids = _columns(path, names, columns.IDS, wanted.id, "id")
    exported, picked = columns.find(names, [columns.LABEL_STUDIO]), bool(columns.find(names, columns.PICKED))
    nobody = exported and all(row.get(exported[0]) is None for _, row in rows)  # has annotated anything
    others = [name for name in names if name not in ids] if is_csv and rows else []
    classes = [name for name in others if all(row[name].lower() in (*ONES, *ZEROS) for _, row in rows)]
    if len(classes) < 2 or columns.find(names, columns.LABELS, wanted.label):
        classes = []
    labels = [] if classes or nobody else _columns(path, names, columns.LABELS, wanted.label, "label")
    missing: Counter[str] = Counter()
    for where, row in rows:
        value = next((row[name] for name in labels if name in row), None)
        if classes:
            value = [name for name in classes if row[name].lower() in ONES]
        elif is_csv:
            value = _cell(value)
            if str(value).lower() in MISSING and value not in wanted.classes:
                missing[value] += 1
                value = None
        task = exported and exported[0] in row
        image = _names(where, row, [name for name in ids if not task or columns.plain(name) != "id"] or ids)
        yield _label(where, image, value, done=picked)
    if missing:
        cells = ", ".join(f"{count} {value!r}" for value, count in missing.items())
        log.warning("%s: %s in the column of labels are no labels, unless --classes names them", path, cells)


def _columns(where: Path | str, names: Collection[str], known: Sequence[str], asked: str | None, what: str) -> list[str]:
    found = columns.find(names, known, asked)
    if asked and not found and (found := columns.find(names, known)):
        log.warning("%s has no column %r: %r is read", where, asked, found[0])
    if not found:
        wanted = asked or f"one of {', '.join(known[:9])} ..., or what --{what}-column names,"
        raise ValueError(f"{where} has no column of {what}s: its columns are {listing(names)}; {wanted} is wanted. {EXAMPLE}")
    if [*map(columns.plain, names)].count(columns.plain(found[0])) > 1 and found[0] != asked:
        raise ValueError(f"{where} has several columns {found[0].lower()!r}, and it is not clear which is meant; rename the others")
    return found


def _names(where: str, row: Mapping[str, Any], ids: Sequence[str]) -> tuple[str, ...]:
    """What a row or a task calls its image, the likeliest first."""
    found = [row.get(name) for name in ids]
    names = tuple(str(value) for value in found if type(value) is int or (isinstance(value, str) and value))
    if not names:
        wanted = f"{listing(ids)} must be text or a whole number, not {shown(found[0])}"
        raise ValueError(f"{where}: nothing says which image this is: {wanted}")
    return names


def _label(where: str, names: Sequence[str], value: Any, **more: bool) -> Label:
    try:
        label, problem = _choice(value), ""
    except ValueError as error:
        label, problem = None, f"{where}: {error}"
    return Label(names[0], label, "", tuple(names[1:]), problem=problem, **more)


def _cell(cell: str) -> Any:
    """The value in a cell. Label Studio writes JSON into one that holds several choices; other texts stand, brackets or not."""
    text = cell.strip()
    if text.endswith(".0"):  # of a column of numbers in which some are missing
        text = plain_number(text)
    try:
        value = json.loads(text) if text.startswith(("[", "{")) else None
    except (ValueError, RecursionError):
        value = None
    several = isinstance(value, list) and value and all(isinstance(item, dict) for item in value)
    return value if several or (isinstance(value, dict) and "choices" in value) else text


def _choice(value: Any) -> str | None:
    """The label, of what stands where a label should: a text, or choices of which there is one. ValueError for everything else."""
    found = _only(value)
    if isinstance(found, dict):  # Label Studio's, FiftyOne's
        found = _only(next((found[name] for name in ("choices", "label") if name in found), found))
    if type(found) not in (str, int, type(None)):
        raise ValueError(f"the label is {shown(value)}. {ONE_LABEL}")
    return None if found is None else unicodedata.normalize("NFC", str(found)).strip() or None


def _only(value: Any) -> Any:
    """What is in a list of one; nothing, of an empty list."""
    return next(iter(value), None) if isinstance(value, list) and len(value) <= 1 else value


# -- JSON ----------------------------------------------------------------------------------------------------------------------


def _of_json(path: Path, text: str, wanted: Columns) -> Iterator[Label]:
    flat = []
    for number, task in enumerate(_tasks(path, text), start=1):
        where = f"{path}, task {number}"
        if "data" in task:
            yield from _of_task(where, task, wanted)
        else:
            flat.append((where, task))
    if flat:
        yield from _of_table(path, list(dict.fromkeys(name for _, row in flat for name in row)), flat, wanted, is_csv=False)


def _tasks(path: Path, text: str) -> list[dict[str, Any]]:
    """Tasks of Label Studio, or flat records, whatever is around them."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # the latter of thousands of brackets
        try:
            value = [json.loads(line) for line in text.split("\n") if line.strip()]  # JSON lines
        except (ValueError, RecursionError):
            raise ValueError(f"{path} is not JSON that can be read: {error}") from error
    tasks = _objects(str(path), _records(path, value) if isinstance(value, dict) else value, "tasks")
    # What Label Studio writes into a storage is an annotation, with its task inside.
    return [{**task["task"], "annotations": [task]} if isinstance(task.get("task"), dict) else task for task in tasks]


def _records(path: Path, value: dict[str, Any]) -> Any:
    if {"images", "annotations"} <= set(value):
        raise ValueError(f"{path} is COCO, which labels boxes in images. Write a table of the labels of whole images. {EXAMPLE}")
    if isinstance(value.get("samples"), list):  # FiftyOne's data set
        return value["samples"]
    names = value.get("labels")
    if isinstance(names, dict):  # FiftyOne's labels.json: numbers of classes, or labels
        classes = dict(enumerate(value.get("classes") or ()))
        plain = {name: one.get("label") if isinstance(one, dict) else one for name, one in names.items()}
        return [{"id": name, "label": classes.get(one, one) if type(one) is int else one} for name, one in plain.items()]
    if columns.find(value, columns.IDS) or {"data", "task"} & set(value) or any(isinstance(one, dict) for one in value.values()):
        return [value]
    return [{"id": name, "label": label} for name, label in value.items()]


def _of_task(where: str, task: dict[str, Any], wanted: Columns) -> Iterator[Label]:
    """The labels of a task of Label Studio: one of each annotation, and one that says that it is listed."""
    [data] = _objects(where, [task["data"]], "data")
    names = _names(where, data, _columns(where, data, columns.IDS, wanted.id, "id"))
    yield _label(where, names, None, done=bool(columns.find(data, columns.PICKED)))
    for annotation in _objects(where, task.get("annotations", task.get("completions")), "annotations"):
        if annotation.get("was_cancelled") or annotation.get("skipped"):
            yield _label(where, names, None, done=True)
            continue
        results = _objects(where, annotation.get("result"), "result")
        choices = [result for result in results if result.get("type") == "choices"]
        choices = [result for result in choices if result.get("from_name") == (wanted.label or CONTROL)] or choices
        value = [result.get("value") for result in choices]
        if results and not choices:
            value = {"no choice": [result.get("type") for result in results]}
        yield _label(where, names, value, certain=bool(annotation.get("ground_truth")))


def _objects(where: str, value: Any, what: str) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        advice = "Export the whole annotations, not only their numbers"
        raise ValueError(f"{where}: {what} should be objects, not {shown(value)}. {advice}")
    return value


# -- which image it is ---------------------------------------------------------------------------------------------------------


class Matched(NamedTuple):
    """What labels say about the images, by position."""

    labels: dict[int, str]
    done: list[int]  # images without a label that are not to be picked again
    unknown: dict[str, str]  # id -> why it is none of the images
    by_name: dict[str, str]  # id -> the image that it means, found by a part of its name
    problems: dict[str, str]  # image -> why it has no label, although one was given


def match(
    labels: Iterable[Label],
    ids: Sequence[str],
    aliases: Mapping[str, str],
    folder: Path | None = None,
    picked: Collection[str] = (),
) -> Matched:
    """Which images are meant, and their labels: ground truth, else what most say; images of which as many say another are problems.

    ids: (n,), distinct. aliases: id of an image that was left out as a copy -> id of the one that was kept. folder: around the ids.
    picked: ids that are done if they are listed, even without a label.
    An id is found as it stands; else with or without the ' of `safe`; else in another spelling (Unicode normalisation NFC, slashes,
    blanks around it, 7 for 007), as a path of which as many folders agree as both have; without its suffix; as Label Studio names
    what is uploaded; in all these ways if that is one image only. A path through other folders is another image.
    """
    known = {name: position for position, name in enumerate(ids)}
    known |= {alias: known[name] for alias, name in aliases.items() if name in known and alias not in known}
    find, said = _finder(known, folder), {}
    unknown, by_name, found, problems = {}, {}, {}, {}
    for one in labels:
        position, how = find(one)
        if position is None:
            unknown[one.id] = how
            continue
        said.setdefault(position, []).append(one)
        if how:
            by_name[one.id] = ids[position]
    for position, given in said.items():
        votes = [one for one in given if one.label]
        votes = [one for one in votes if one.certain] or votes
        most = Counter(one.label for one in votes).most_common(2)
        if len(most) == 2 and most[0][1] == most[1][1]:
            different = dict.fromkeys(f"{shown(one.label)} in {one.file}" for one in votes)
            problems[ids[position]] = f"different labels: {' and '.join(different)}"
        elif most:
            found[position] = most[0][0]
        elif problem := "; ".join(one.problem for one in given if one.problem):
            problems[ids[position]] = problem
    without = {position: given for position, given in said.items() if position not in found}
    done = [position for position, given in without.items() if ids[position] in picked or any(one.done for one in given)]
    return Matched(found, done, unknown, by_name, problems)


def _finder(known: Mapping[str, int], folder: Path | None) -> Callable[[Label], tuple[int | None, str]]:
    """A function that gives the position of an image, and PARTLY if not by its whole name; or None, and the reason."""
    folders = {Path(os.path.abspath(folder)), folder.resolve()} if folder else set()
    parents = {_spelling(one.parent.name) for one in folders}

    @functools.cache
    def index(loose: bool) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
        """Positions by whole ids, by ids with the folder around them, and by the last parts of ids; SEVERAL if that is not one."""
        spellings = _loosely if loose else lambda name: (_spelling(name),)
        roots = [spelt for one in folders for spelt in spellings(one.name)]
        whole, rooted, ends = {}, {}, {}
        for name, position in known.items():
            for path in spellings(name):
                whole[path] = position if whole.get(path, position) == position else SEVERAL
                rooted.update((f"{root}/{path}", whole[path]) for root in roots)
                for end in _ends(path):
                    ends[end] = position if ends.get(end, position) == position else SEVERAL
        return whole, rooted, ends

    def look_up(loose: bool, path: str, absolute: bool) -> tuple[int | None, str]:
        whole, rooted, ends = index(loose)
        if path in whole or path in rooted:
            return whole.get(path, rooted.get(path)), ""
        if path in ends:
            return ends[path], PARTLY
        for end in _ends(path):
            if end in rooted or (end in whole and not folders):
                return rooted.get(end, whole.get(end)), ""
            if end in whole:
                parent = path.removesuffix(end).split("/")[-3:-2]
                return (whole[end], PARTLY) if absolute and parents.isdisjoint(parent) else (None, ELSEWHERE)
        last = path.rpartition("/")[2]
        return None, ELSEWHERE if last != path and (last in whole or last in ends) else UNKNOWN

    def find(one: Label) -> tuple[int | None, str]:
        names, reason = (one.id, *one.others), UNKNOWN
        for name in names:
            for exact in (name, unsafe(name), safe(name)):  # the last, as reading took a ' off that may have been meant
                if exact in known:
                    return known[exact], ""
        # Of another machine, a folder may have another name.
        absolute = {name: ABSOLUTE.match(name) and LOCAL_FILES not in name and not os.path.isfile(name) for name in names}
        paths = [(path, bool(absolute[name])) for name in names for path in _paths(name)]
        for loose in (False, True):
            for path, elsewhere in paths:
                position, how = look_up(loose, _uploaded(path) if loose else _spelling(path), elsewhere)
                if position == SEVERAL:
                    return None, UNCLEAR
                if position is not None:
                    return position, PARTLY if loose else how
                reason = how if how == ELSEWHERE else reason
        return None, reason

    return find


def _ends(path: str) -> Iterator[str]:
    """The path without its first folder, without its first two, ..."""
    start = path.find("/") + 1
    while start:
        yield plain_number(path[start:])
        start = path.find("/", start) + 1


def _spelling(name: str) -> str:
    """One spelling of what programs and file systems spell in several ways."""
    path = unicodedata.normalize("NFC", name).replace("\\", "/").strip()
    return plain_number(BEGINNING.sub("", path) or path)


def _loosely(name: str) -> tuple[str, ...]:
    """As Label Studio, which is to say Django, calls uploaded files, in small letters; with suffix and without."""
    path = re.sub(r"[^-\w./]", "", _spelling(name).replace(" ", "_")).lower()
    stem, suffix = os.path.splitext(path)
    return (path, plain_number(stem)) if suffix in SUFFIXES else (path,)


def _uploaded(path: str) -> str:
    folder, slash, file = _loosely(path)[0].rpartition("/")
    return folder + slash + PREFIX.sub("", file)


def _paths(name: str) -> Iterable[str]:
    """The paths that a path or an address may mean, the likeliest first."""
    if not SIGNS.search(name):
        return [name]
    if signed := re.search("[?&]fileuri=([^&]+)", name):
        with suppress(ValueError):
            name = base64.b64decode(unquote(signed[1])).decode()
    found = []
    for text in dict.fromkeys((name, html.unescape(name))):
        address = re.sub("^[^/]*://[^/]*/", "", text)  # without host or bucket
        path = re.split("[?#]", address)[0]
        if LOCAL_FILES in text:
            path = text.partition(LOCAL_FILES)[2]
            found += [unquote(path), unquote(path.partition("&")[0]), path]
        elif uploaded := UPLOADED.search(path):
            found += [PREFIX.sub("", unquote(uploaded[1])), address]
        else:
            found += [unquote(path), address] if address != text else [text, unquote(text)]
    return dict.fromkeys(found)


# -- ids as spreadsheets spell them --------------------------------------------------------------------------------------------


def plain_number(name: str) -> str:
    """One spelling of whole numbers: programs that read tables make 7 of 007, and 7.0 where a number is missing."""
    return str(int(name.partition(".")[0])) if name[:1].isdecimal() and NUMBER.fullmatch(name) else name


def safe(text: str) -> str:
    """The text with a ' in front if a spreadsheet could take it for a formula ("CSV injection"), else as it is.

    That is, if it begins with = + - or @, in whatever width, be it after blanks or invisible signs, or with a tab or a line end.
    Texts that have such a ' already get another one, so that taking one off always gives the text back.
    """
    return f"'{text}" if _is_formula(text.lstrip("'")) else text


def unsafe(text: str) -> str:
    """Undoes `safe`."""
    return text[1:] if text.startswith("'") and _is_formula(text.lstrip("'")) else text


def _is_formula(text: str) -> bool:
    seen = (sign for sign in unicodedata.normalize("NFKC", text) if sign.isprintable() and not sign.isspace())
    return text.startswith(("\t", "\r", "\n")) or next(seen, "a") in "=+-@\N{MINUS SIGN}"
