"""Labels as people hand them in, plain CSV files and Label Studio's JSON, and which of the images they mean."""

import csv
import io
import json
import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

log = logging.getLogger(__name__)

SHOWN = 5  # examples in a message
ID_COLUMNS = ("supclust_id", "id", "image_id", "path", "image", "file", "filename", "file_name", "name")
LABEL_COLUMNS = ("label", "class", "category", "choice", "choices", "annotation", "target", "y")
EXAMPLE = "A file of labels looks like this:\nid,label\ncats/1.png,cat"
ADVICE = "Save the table as 'CSV UTF-8', or export JSON from Label Studio"
ONE_LABEL = "An image has one label: in Label Studio, one <Choices> tag with choice='single'"
LOCAL_FILES = "/data/local-files/?d="  # where Label Studio serves files of its own machine, by their path below a root
UPLOADED = "/data/upload/"  # where it serves files that were uploaded, under a name of its own: 1a2b3c4d-name.png
CONTROL = "label"  # the name of the choices in Label Studio, and so of the column in what it exports

NUMBER = re.compile(r"[0-9]{1,18}(\.0+)?")  # a whole one, as an id
SEPARATOR = re.compile(r'\A"?sep=."?\r?\n')  # a line with which spreadsheets are told the separator


class Label(NamedTuple):
    """What a file says about an image."""

    id: str  # as it is written there
    label: str | None  # None if it is listed without one: skipped, or not done yet
    file: str


def read(path: Path) -> list[Label]:
    """The labels in a CSV file or in JSON of Label Studio, told apart by how they begin, not by the name.

    CSV: UTF-8, or UTF-16 with a byte order mark; comma, semicolon or tab; a header with one of ID_COLUMNS and one of LABEL_COLUMNS.
    JSON: Label Studio's exports JSON and JSON-MIN, and tasks that nobody has annotated. Predictions are not labels.
    Raises ValueError with the file and the row or task, for whatever cannot be read.
    """
    text = _text(path)
    pairs = _json_pairs if text.lstrip()[:1] in ("[", "{") else _csv_pairs
    labels = [Label(name, label, str(path)) for name, label in pairs(path, text)]
    if not any(one.label for one in labels):
        log.info("%s has no labels yet (%d images are listed)", path, len(labels))
    return labels


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


# -- CSV -----------------------------------------------------------------------------------------------------------------------


def _csv_pairs(path: Path, text: str) -> Iterator[tuple[str, str | None]]:
    text = SEPARATOR.sub("", text).lstrip("\r\n")
    delimiter = max(",;\t", key=re.sub('"[^"]*"', "", re.split("[\r\n]", text, maxsplit=1)[0]).count)
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        rows = [(number, row) for number, row in enumerate(table, start=1) if any(map(str.strip, row))]
    except csv.Error as error:
        raise ValueError(f"{path} is not a CSV file: {error}. Is a quotation mark missing, or not doubled?") from error
    names = [unsafe(name.strip()).strip().lower() for name in rows[0][1]] if rows else []
    id_column, label_column = _column(path, names, _id_columns(names), "ids"), _column(path, names, LABEL_COLUMNS, "labels")
    for number, row in rows[1:]:
        where = f"{path}, row {number}"
        if len(row) != len(names):
            raise ValueError(
                f"{where}: {len(row)} field(s), and the header has {len(names)}. Put text with {delimiter!r} in quotes"
            )
        if not row[id_column]:
            raise ValueError(f"{where}: the id of the image is empty. Fill it in, or remove the row")
        yield unsafe(row[id_column]), _cell_label(where, row[label_column])


def _id_columns(names: Iterable[str]) -> tuple[str, ...]:
    """In tables that Label Studio exports, id is the number of its task; it says more than that about the image."""
    return ID_COLUMNS if "annotation_id" not in names else (*(name for name in ID_COLUMNS if name != "id"), "id")


def _column(path: Path, header: Sequence[str], wanted: Sequence[str], what: str) -> int:
    found = next((name for name in wanted if name in header), None)
    if found is None:
        raise ValueError(
            f"{path} has no column of {what}: its columns are {listing(header)}; one of {', '.join(wanted)} is wanted. {EXAMPLE}"
        )
    if header.count(found) > 1:
        raise ValueError(f"{path} has several columns {found!r}, and it is not clear which is meant; rename the others")
    return header.index(found)


def _cell_label(where: str, cell: str) -> str | None:
    """The label in a cell. Label Studio writes JSON into one that holds several choices; other texts stand, brackets or not."""
    text = unsafe(cell.strip()).strip()
    if text.endswith(".0"):  # of a column of numbers in which some are missing
        text = plain_number(text)
    try:
        value = json.loads(text) if text.startswith(("[", "{")) else None
    except (ValueError, RecursionError):
        value = None
    several = isinstance(value, list) and value and all(isinstance(item, dict) for item in value)
    return _choice(where, value if several or (isinstance(value, dict) and "choices" in value) else text)


# -- Label Studio --------------------------------------------------------------------------------------------------------------


def _json_pairs(path: Path, text: str) -> Iterator[tuple[str, str | None]]:
    for number, task in enumerate(_tasks(path, text), start=1):
        where = f"{path}, task {number}"
        if "data" not in task:  # JSON-MIN
            value = next((task[name] for name in LABEL_COLUMNS if name in task), None)
            yield _identity(where, task, _id_columns(task)), _choice(where, value)
            continue
        [data] = _objects(where, [task["data"]], "data")
        name = _identity(where, data, ID_COLUMNS)
        yield name, None
        for annotation in _objects(where, task.get("annotations"), "annotations"):
            if not annotation.get("was_cancelled"):
                yield name, _annotation_label(where, annotation)


def _tasks(path: Path, text: str) -> list[dict[str, Any]]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # the latter of thousands of brackets
        raise ValueError(f"{path} is not JSON that Label Studio exports: {error}") from error
    tasks = _objects(str(path), [value] if isinstance(value, dict) else value, "tasks")
    # JSON-MIN has the labels under the name that the choices have in the project, which its owner chooses.
    flat = [task for task in tasks if "data" not in task and task.get("annotation_id", "") is not None]
    if flat and not any(name in task for task in flat for name in LABEL_COLUMNS):
        raise ValueError(
            f"{path}: no task has a label: the keys of the first are {listing(flat[0])}; one of {', '.join(LABEL_COLUMNS)} is "
            "wanted. Rename it, or export as JSON, which needs no name"
        )
    return tasks


def _identity(where: str, data: Mapping[str, Any], names: Sequence[str]) -> str:
    for name in names:
        value = data.get(name)
        if type(value) is int or (isinstance(value, str) and value):
            return str(value)
    raise ValueError(
        f"{where}: nothing says which image this is: the keys are {listing(data)}; one of {', '.join(names)} is wanted, as text or "
        "a whole number"
    )


def _objects(where: str, value: Any, what: str) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError(
            f"{where}: {what} should be objects, not {shown(value)}. Export the whole annotations, not only their numbers"
        )
    return value


def _annotation_label(where: str, annotation: dict[str, Any]) -> str | None:
    """The one choice of an annotation; None if it was handed in without one."""
    results = _objects(where, annotation.get("result"), "result")
    choices = [result for result in results if result.get("type") == "choices"]
    choices = [result for result in choices if result.get("from_name") == CONTROL] or choices
    if results and not choices:
        kinds = listing(result.get("type") for result in results)
        raise ValueError(f"{where}: the annotation is of type {kinds}, and not a choice for the whole image. {ONE_LABEL}")
    if len(choices) > 1:
        raise ValueError(f"{where}: the annotation holds {len(choices)} results with choices. {ONE_LABEL}")
    return _choice(where, choices[0].get("value") if choices else None)


def _choice(where: str, value: Any) -> str | None:
    """The label, of what stands where a label should: a text, or Label Studio's choices of which there is one."""
    found = _only(value)
    if isinstance(found, dict) and isinstance(found.get("choices"), list):
        found = _only(found["choices"])
    if type(found) not in (str, int, type(None)):
        raise ValueError(f"{where}: the label is {shown(value)}. {ONE_LABEL}")
    return None if found is None else str(found).strip() or None


def _only(value: Any) -> Any:
    """What is in a list of one; nothing, of an empty list."""
    return next(iter(value), None) if isinstance(value, list) and len(value) <= 1 else value


# -- which image it is ---------------------------------------------------------------------------------------------------------


def match(labels: Iterable[Label], ids: Sequence[str], aliases: Mapping[str, str]) -> tuple[dict[int, str], list[int], list[str]]:
    """Labels by position in ids (n,), which are distinct; positions that are listed without a label; and ids that are unknown.

    aliases: id of an image that was left out as a copy -> id of the one that was kept.
    An id is found as it stands; else with or without the ' of `safe`; else, if that names one image only, in another spelling
    (Unicode normalisation NFC, slashes for backslashes, no blanks around it, 7 for 007) or as the end of a path or an address.
    Raises ValueError naming images that get different labels, be it under one name or two, in one file or several.
    """
    known = {name: position for position, name in enumerate(ids)}
    known |= {alias: known[name] for alias, name in aliases.items() if name in known and alias not in known}
    spelled = _unambiguous(known)
    said: dict[int, dict[str, Label]] = {}  # position -> label -> who said so first
    unknown: dict[str, None] = {}  # a set that keeps its order
    for one in labels:
        position = _position(one.id, known, spelled)
        if position is None:
            unknown[one.id] = None
            continue
        different = said.setdefault(position, {})
        if one.label:
            different.setdefault(one.label, one)
    if conflicts := [different.values() for different in said.values() if len(different) > 1]:
        raise ValueError(
            f"{len(conflicts)} image(s) have different labels: {listing(conflicts, _contradiction)}. Keep one label of each image"
        )
    found = {position: next(iter(different)) for position, different in said.items() if different}
    return found, [position for position in said if position not in found], list(unknown)


def _contradiction(labels: Iterable[Label]) -> str:
    return " and ".join(f"{shown(one.id)} is {shown(one.label)} in {one.file}" for one in labels)


def _unambiguous(known: Mapping[str, int]) -> dict[str, int]:
    """Positions by the one spelling of their ids, without the spellings that two images share."""
    meant: dict[str, set[int]] = {}
    for name, position in known.items():
        meant.setdefault(_spelling(name), set()).add(position)
    return {name: positions.pop() for name, positions in meant.items() if len(positions) == 1}


def _position(name: str, known: Mapping[str, int], spelled: Mapping[str, int]) -> int | None:
    """Where the image is; None if it is not, or if it could be two."""
    for exact in (name, unsafe(name), safe(name)):  # the last, as reading took a ' off that may have been meant
        if exact in known:
            return known[exact]
    for path in map(_spelling, _paths(name)):
        if path in spelled:
            return spelled[path]
        parts = path.split("/")
        ends = {spelled.get(_spelling("/".join(parts[start:]))) for start in range(1, len(parts))} - {None}
        if ends:
            return ends.pop() if len(ends) == 1 else None
    return None


def _spelling(name: str) -> str:
    """One spelling of what programs and file systems spell in several ways."""
    return plain_number(unicodedata.normalize("NFC", name).replace("\\", "/").strip())


def _paths(name: str) -> list[str]:
    """The paths that a path or an address may mean, the likeliest first."""
    if LOCAL_FILES in name:
        return [unquote(name.partition(LOCAL_FILES)[2].partition("&")[0])]
    if UPLOADED in name:
        return [re.sub("/[0-9a-f]{8}-([^/]*)$", r"/\1", unquote(name.partition("?")[0]))]
    return [unquote(re.split("[?#]", name)[0]), name] if "://" in name else [name, unquote(name)]


# -- ids as spreadsheets spell them --------------------------------------------------------------------------------------------


def plain_number(name: str) -> str:
    """One spelling of whole numbers: programs that read tables make 7 of 007, and 7.0 where a number is missing."""
    return str(int(name.partition(".")[0])) if NUMBER.fullmatch(name) else name


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
