"""Labels as people hand them in: CSV tables, JSON of Label Studio and of others."""

import ast
import csv
import io
import json
import logging
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from supclust.label import columns

log = logging.getLogger(__name__)

SHOWN = 5  # examples in a message
EXAMPLE = "A file of labels looks like this:\nid,label\ncats/1.png,cat"
ADVICE = "Save the table as 'CSV UTF-8', or export JSON from Label Studio"
ONE_LABEL = "An image has one label: choice='single' in Label Studio; where columns stand for classes, --classes names them"
BROKEN = "broken"  # the problem of a row or a task that cannot be read; its id is what is wrong
LOCAL_FILES = "/data/local-files/?d="  # where Label Studio serves files of its own machine, by their path below a root
CONTROL = "label"  # the name of the choices in Label Studio, and so of the column in what it exports
ONE = re.compile(r"1(\.0*)?|true|x", re.IGNORECASE)  # the cell of the right class in a one-hot table
ONE_OR_NOT = re.compile(rf"{ONE.pattern}|0(\.0*)?|false|", re.IGNORECASE)
# What programs write into a cell without a value: NA, #N/A, <NA>, -nan, (null), \N, a full stop, #REF! ...
MISSING = re.compile(
    r"\W*(na|n/a|nan|nat|none|null|nil|unlabell?ed)\W*|\\n|\.[a-z]?|#¡?[a-z/0]+[!?]|#nv|--+|\(blank\)|n\.a\.|-?1\.#[a-z]+",
    re.IGNORECASE,
)
NUMBER = re.compile(r"[0-9]{1,18}(\.0+)?")  # a whole one, as an id
HEADER = re.compile(r'^[^\r\n]*[,;|\t] *"?\w', re.MULTILINE)  # the first row of several cells: titles may stand above it


class Label(NamedTuple):
    """What a file says about an image."""

    id: str  # as it is written there
    label: str | None  # None if it is listed without one
    file: str
    others: tuple[str, ...] = ()  # further names of the image
    certain: bool = False  # ground truth: counts more than other annotations
    done: bool = False  # not to be picked again, with or without a label: picked before, or skipped by an annotator
    problem: str = ""  # why there is no label where one was given


class Columns(NamedTuple):
    """How to read tables, where the names of their columns do not say it."""

    id: str | None = None
    label: str | None = None
    classes: tuple[str, ...] = ()  # names that are labels, even NA or None


Row = tuple[str, dict[str, Any]]  # its place in the file, and its cells by column


def read(path: Path, wanted: Columns = Columns()) -> list[Label]:  # noqa: B008  (it cannot be changed)
    """The labels in a CSV or JSON file, told apart by how they begin, not by the name.

    CSV: UTF-8, or UTF-16 with a byte order mark; comma, semicolon, tab or |; a header with one of columns.IDS, and one of
    columns.LABELS or a column of 0 and 1 for each class. JSON: Label Studio's exports and tasks, JSON lines, {name: label},
    tables as pandas writes them, and FiftyOne's labels.json. Predictions are no labels.
    Where an image has no single label, that is a problem of the image; a row or a task that cannot be read is BROKEN.
    Raises ValueError, with the place, if all of them are, or if the file itself cannot be read.
    """
    text = _text(path)
    if text.lstrip()[:1] in ("[", "{"):
        given = list(_of_json(path, text, wanted))
    else:
        given = list(_of_table(path, *_csv_rows(path, text), wanted, is_csv=True))
    if given and all(one.problem == BROKEN for one in given):
        raise ValueError(given[0].id)
    return [one._replace(file=str(path)) for one in given]


def table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows of a CSV file as they stand there, `unsafe`; ValueError, with the place, if it is damaged."""
    names, rows = _csv_rows(path, _text(path))
    return names, [row for _, row in rows]


def listing(examples: Iterable[Any], show: Callable[[Any], str] | None = None) -> str:
    """The first few, and how many more."""
    texts = list(map(show or shown, examples))
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return (", ".join(texts[:SHOWN]) or "none") + more


def counted(number: int, one: str, many: str = "") -> str:
    """The number, and what there are so many of: 1 image, 2,000 images; many: the plural that does not just add an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def shown(value: Any) -> str:
    """A value as it can stand in a message: on one line, and not endless."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def visible(text: str) -> str:
    r"""Text with each character that shows nothing, or turns the text around, as Python writes it: \n, \u202e, \udcff.

    What comes back can be written as UTF-8, whatever was in the name of a file.
    """
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        encoding = "UTF-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "UTF-8"  # spreadsheets call it Unicode
        text = content.decode(encoding).removeprefix("\ufeff")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not {encoding} (byte {error.start + 1} of {len(content)}). {ADVICE}") from error
    if "\0" in text or not text.strip():
        raise ValueError(f"{path} is empty, or holds NUL bytes and is not a text file. {ADVICE}")
    return text


# -- tables --------------------------------------------------------------------------------------------------------------------


def _csv_rows(path: Path, text: str) -> tuple[list[str], list[Row]]:
    """Columns and rows. Fields that are missing at the end of a row are empty: spreadsheets leave them out."""
    header, found = HEADER.search(text), []
    start = header.start() if header else 0
    above, text = text.count("\n", 0, start), text[start:]
    delimiter = max(",;\t|", key=re.sub('"[^"]*"', "", re.split("[\r\n]", text, maxsplit=1)[0]).count)
    rows = csv.DictReader(io.StringIO(text, newline=""), restval="", delimiter=delimiter, strict=True, skipinitialspace=True)
    try:
        names = rows.fieldnames = [unsafe(name.strip()).strip() for name in rows.fieldnames or ()]
        for row in rows:
            where = f"{path}, line {above + rows.line_num}"
            if any(map(str.strip, row.pop(None, ()))):
                advice = f"Name all columns, and put text with {delimiter!r} in quotes"
                raise ValueError(f"{where}: more fields than the {len(names)} of the header. {advice}")
            if any(map(str.strip, row.values())):
                found.append((where, {name: unsafe(cell) for name, cell in row.items()}))
    except csv.Error as error:
        raise ValueError(f"{path} is not a CSV file: {error}. Is a quotation mark missing, or not doubled?") from error
    return names, found


def _of_table(path: Path, names: Sequence[str], rows: Sequence[Row], wanted: Columns, is_csv: bool) -> Iterator[Label]:
    """The labels of a table with a row for each image, or for each annotation."""
    ids = _columns(path, names, columns.IDS, wanted.id, "id")
    exported, picked = columns.find(names, [columns.LABEL_STUDIO]), bool(columns.find(names, columns.PICKED))
    if exported:
        ids = [name for name in ids if columns.plain(name) != "id"] or ids
    nobody = exported and all(row.get(exported[0]) is None for _, row in rows)  # has annotated anything
    classes = _one_hot([name for name in names if name not in ids], rows, wanted) if is_csv else []
    labels = [] if classes or nobody else _columns(path, names, columns.LABELS, wanted.label, "label")
    missing: Counter[str] = Counter()
    for where, row in rows:
        value, answer = next((row[name] for name in labels if name in row), None), row.get(columns.ANSWER)
        if answer in ("reject", "ignore"):
            value = None
        elif classes:
            value = [name for name in classes if ONE.fullmatch(row[name])]
        elif is_csv and value.strip() not in wanted.classes:
            value = _cell(value)
            if MISSING.fullmatch(str(value)):
                missing[value] += 1
                value = None
        try:
            yield _label(where, _names(where, row, ids), value, done=picked or answer == "ignore")
        except ValueError as error:
            yield Label(str(error), None, "", problem=BROKEN)
    if missing:
        cells = ", ".join(f"{count} {value!r}" for value, count in missing.items())
        log.warning("%s: not taken for labels, unless --classes names them: %s", path, cells)


def _one_hot(names: Sequence[str], rows: Sequence[Row], wanted: Columns) -> list[str]:
    """The columns of 0 and 1, one for each class: those that are named, or all that are no ids, if few rows have two classes."""
    if not rows or wanted.label or columns.find(names, columns.LABELS):
        return []
    cells = {name: [row[name] for _, row in rows] for name in names}
    found = [name for name in names if all(map(ONE_OR_NOT.fullmatch, cells[name])) and any(cells[name])]
    named = columns.find(found, [*map(columns.plain, wanted.classes)])
    if len(named) > 1:
        return named
    right = [sum(map(bool, map(ONE.fullmatch, row))) for row in zip(*(cells[name] for name in found), strict=True)]
    alone = right.count(1) > len(right) - right.count(0) - right.count(1)
    return found if len(found) > 1 and len(found) == len(names) and alone else []


def _columns(where: Path | str, names: Collection[str], known: Sequence[str], asked: str | None, what: str) -> list[str]:
    found = columns.find(names, known, asked)
    if asked and not found and (found := columns.find(names, known)):
        log.warning("%s has no column %r: %r is read", where, asked, found[0])
    if not found:
        wanted = repr(asked) if asked else f"one of {', '.join(known[:9])} ..., or what --{what}-column names,"
        wanted += " or columns of 0 and 1 that --classes names," if what == "label" and not asked else ""
        raise ValueError(f"{where} has no column of {what}s: its columns are {listing(names)}; {wanted} is wanted. {EXAMPLE}")
    if [*map(columns.plain, names)].count(columns.plain(found[0])) > 1 and found[0] != asked:
        raise ValueError(f"{where} has several columns {found[0].lower()!r}, and it is not clear which is meant; rename the others")
    return found


def _names(where: str, row: Mapping[str, Any], ids: Sequence[str]) -> tuple[str, ...]:
    """What a row or a task calls its image, the likeliest first."""
    found = [row.get(name) for name in ids]
    found = [value.get("path") if isinstance(value, dict) else value for value in found]  # an image of Hugging Face
    texts = [str(value) for value in found if type(value) in (int, str)]
    names = tuple(text for text in texts if text and not text.startswith("data:"))  # an image itself, as in Prodigy
    if not names:
        wanted = f"{listing(ids)} must be text or a whole number, not {shown(found[0])}"
        raise ValueError(f"{where}: nothing says which image this is: {wanted}")
    return names


def _label(where: str, names: Sequence[str], value: Any, **more: bool) -> Label:
    """A label, of what stands where it should: a text, or choices of which there is one. Everything else is a problem."""
    found = _only(value)
    if isinstance(found, dict):  # Label Studio's, FiftyOne's
        found = _only(next((found[name] for name in ("choices", "label") if name in found), found))
    if isinstance(found, float):  # a number that pandas keeps beside missing ones, or a missing one
        found = int(found) if found.is_integer() else None if math.isnan(found) else found
    if not isinstance(found, (str, int, type(None))):
        return Label(names[0], None, "", tuple(names[1:]), problem=f"{where}: the label is {shown(value)}. {ONE_LABEL}", **more)
    label = "" if found is None else unicodedata.normalize("NFC", str(found)).strip()
    return Label(names[0], label or None, "", tuple(names[1:]), **more)


def _cell(cell: str) -> Any:
    """The value in a cell. Label Studio writes JSON into one that holds several choices, pandas a list; other texts stand."""
    text = cell.strip()
    if text.endswith(".0"):  # of a column of numbers in which some are missing
        text = plain_number(text)
    value = None
    for parse in (ast.literal_eval, json.loads) if text.startswith(("[", "{")) else ():
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            value = parse(text)
    several = isinstance(value, list) and all(isinstance(item, (str, dict)) for item in value)
    return value if several or (isinstance(value, dict) and "choices" in value) else text


def _only(value: Any) -> Any:
    """What is in a list of one; nothing, of an empty list."""
    return next(iter(value), None) if isinstance(value, list) and len(value) <= 1 else value


# -- JSON ----------------------------------------------------------------------------------------------------------------------


def _of_json(path: Path, text: str, wanted: Columns) -> Iterator[Label]:
    flat, tasks = [], _tasks(path, text)
    # Of several choices in a task, the label is the one of that name, wherever the file has it.
    given = json.dumps([task.get("annotations", task.get("completions")) for task in tasks])
    control = wanted.label or (CONTROL if f'"from_name": "{CONTROL}"' in given else None)
    for number, task in enumerate(tasks, start=1):
        where = f"{path}, task {number}"
        if "data" in task:
            try:
                yield from list(_of_task(where, task, wanted.id, control))
            except ValueError as error:
                yield Label(str(error), None, "", problem=BROKEN)
        else:
            flat.append((where, task))
    if len(flat) < len(tasks):
        yield from (Label(f"{where} has no data", None, "", problem=BROKEN) for where, _ in flat)
    elif flat:
        yield from _of_table(path, list(dict.fromkeys(name for _, row in flat for name in row)), flat, wanted, is_csv=False)


def _tasks(path: Path, text: str) -> list[dict[str, Any]]:
    """Tasks of Label Studio, or flat records, whatever is around them."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # the latter of thousands of brackets
        value = []
        for number, line in enumerate(text.split("\n"), start=1):  # JSON lines
            try:
                value += [json.loads(line)] if line.strip() else []
            except (ValueError, RecursionError):
                where = f"{path}, line {number}," if value else path
                raise ValueError(f"{where} is not JSON that can be read: {error}") from error
    tasks = _objects(str(path), _records(path, value) if isinstance(value, dict) else value, "tasks")
    # What Label Studio writes into a storage is an annotation, with its task inside.
    return [{**task["task"], "annotations": [task]} if isinstance(task.get("task"), dict) else task for task in tasks]


def _records(path: Path, value: dict[str, Any]) -> Any:
    if {"images", "annotations"} <= set(value):
        raise ValueError(f"{path} is COCO, which labels boxes in images. Write a table of the labels of whole images. {EXAMPLE}")
    for name in ("samples", "data", "images", "items", "records", "labels"):  # the first as in FiftyOne's data set
        if isinstance(value.get(name), list) and all(isinstance(one, dict) for one in value[name]):
            return value[name]
    if {"data", "task"} & set(value):
        return [value]
    if columns.find(value, columns.IDS):
        cells = [list(one.values()) if isinstance(one, dict) else one for one in value.values()]
        by_column = all(isinstance(one, list) for one in cells)  # as pandas writes tables
        return [dict(zip(value, row, strict=False)) for row in zip(*cells, strict=False)] if by_column else [value]
    if isinstance(names := value.get("labels"), dict):  # FiftyOne's labels.json: numbers of classes, or labels
        classes = dict(enumerate(value["classes"])) if isinstance(value.get("classes"), list) else {}
        value = {name: classes.get(one, one) if type(one) is int else one for name, one in names.items()}
    records = {name: one if isinstance(one, dict) else {"label": one} for name, one in value.items()}
    return [one if columns.find(one, columns.IDS) else {"id": name, **one} for name, one in records.items()]


def _of_task(where: str, task: dict[str, Any], id_column: str | None, control: str | None) -> Iterator[Label]:
    """The labels of a task of Label Studio: one of each annotation, and one that says that it is listed."""
    [data] = _objects(where, [task["data"]], "data")
    names = _names(where, data, _columns(where, data, columns.IDS, id_column, "id"))
    yield _label(where, names, None, done=bool(columns.find(data, columns.PICKED)))
    for annotation in _objects(where, task.get("annotations", task.get("completions")), "annotations"):
        if annotation.get("was_cancelled") or annotation.get("skipped"):
            yield _label(where, names, None, done=True)
            continue
        results = _objects(where, annotation.get("result"), "result")
        choices = [result for result in results if result.get("type") == "choices"]
        named = [result for result in choices if control is None or result.get("from_name") in (control, None)]
        value = [result.get("value") for result in (named if choices else results)]
        yield _label(where, names, value, certain=bool(annotation.get("ground_truth")))


def _objects(where: str, value: Any, what: str) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        advice = "Export the whole annotations, not only their numbers"
        raise ValueError(f"{where}: {what} should be objects, not {shown(value)}. {advice}")
    return value


# -- ids as spreadsheets spell them --------------------------------------------------------------------------------------------


def plain_number(name: str) -> str:
    """One spelling of whole numbers: programs that read tables make 7 of 007, and 7.0 where a number is missing."""
    return str(int(name.partition(".")[0])) if name[:1].isdecimal() and NUMBER.fullmatch(name) else name


def safe(text: str) -> str:
    """The text with a ' in front if a spreadsheet could take it for a formula ("CSV injection"), else as it is.

    That is, if it begins with = + - or @, in whatever width, be it after blanks or invisible signs, or with a tab or a line end.
    Texts that have such a ' already get another one, so that taking one off always gives the text back.
    """
    bare = text.lstrip("'")
    seen = (sign for sign in unicodedata.normalize("NFKC", bare) if sign.isprintable() and not sign.isspace())
    is_formula = bare.startswith(("\t", "\r", "\n")) or next(seen, "a") in "=+-@\N{MINUS SIGN}"
    return f"'{text}" if is_formula else text


def unsafe(text: str) -> str:
    """Undoes `safe`."""
    return text[1:] if text.startswith("'") and safe(text) != text else text
