"""Which of the images a file of labels means, and what it says about them."""

import base64
import functools
import html
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from supclust.images.files import SUFFIXES
from supclust.label.annotations import BROKEN, LOCAL_FILES, Label, plain_number, safe, shown, unsafe

PARTLY = "by a part of its name"
UNKNOWN, UNCLEAR, ELSEWHERE = "not among the images", "of several images", "in other folders than the images of that name"
ABSOLUTE = re.compile(r"[\\/~]|[A-Za-z]:[\\/]|[a-z][a-z0-9+.-]*://")
BEGINNING = re.compile("^(?:[.]{0,2}/|[A-Za-z]:/)+")  # a path may begin with it; it says nothing about the image
UPLOADS = re.compile(r"\A(?:.*/)?(?:data/upload|upload/[0-9]+)/(?=[^/]*\Z)")  # Label Studio serves uploads from there
PREFIX = re.compile(r"\A[0-9a-f]{8}-(?:(?:[0-9a-f]{4}-){3}[0-9a-f]{12}-)?")  # 1a2b3c4d-name.png, or a whole UUID
CLASH = re.compile(r"_(?=\w*(?:[a-z\d][A-Z]|\d[a-z]))[A-Za-z\d]{7}(?=\.\w+\Z)")  # name_ZoqW18z.png: Django's, for a second name.png
ROBOFLOW = re.compile(r"_(\w{3,4})\.rf\.[^/]+$")  # name_png.rf.1a2b3c4d.jpg


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
    """Which images are meant, and their labels: ground truth, else what most annotations say; ties are problems.

    ids: (n,), distinct. aliases: id of an image that was left out as a copy -> id of the one that was kept. folder: around the ids.
    picked: ids that are done if they are listed, even without a label.
    An id is found as it stands, or with or without the ' of `safe`; else as a path of which as many folders agree as both have,
    whatever its spelling, its suffix, and what Label Studio or Roboflow add to it; or with its folders joined by signs, as in
    cat_001.jpg; always on condition that this is one image only. A path through other folders is another image.
    """
    known = {name: position for position, name in enumerate(ids)}
    known |= {alias: known[name] for alias, name in aliases.items() if name in known and alias not in known}
    find, said = _finder(known, folder), {}
    unknown, by_name, found, problems = {}, {}, {}, {}
    for one in labels:
        position, how = (None, BROKEN) if one.problem == BROKEN else find(one)
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
    roots, parents = {_loosely(one.name) for one in folders}, {_loosely(one.parent.name) for one in folders}

    @functools.cache
    def index() -> dict[str, set[str]]:
        """Ids by their paths with a / in front, by the last parts of these, and by all parts joined; as `_loosely` spells them."""
        found = defaultdict(set)
        for name in known:
            path = f"/{_loosely(name)}"
            for key in (path, *_ends(path), _joined(path)):
                found[key].add(name)
        return found

    def look_up(path: str, elsewhere: bool) -> tuple[set[str], str]:
        """The ids that a path may mean, in whatever spelling, and PARTLY if folders say that it may; or none, and the reason."""
        ids, none = index(), set()
        end = next((end for end in _ends(path) if f"/{end}" in ids), "")  # an image that the path leads to, through folders
        *_, around, parent = "", "", *path.removesuffix(end).split("/")[:-1]
        led = ids.get(f"/{end}", none)
        if f"/{path}" in ids:
            return ids[f"/{path}"], ""
        if led and (parent in roots or not folders):
            return led | ids.get(path, none), ""
        if path in ids:
            return ids[path], PARTLY
        if led:
            return (led, PARTLY) if elsewhere and around not in parents else (none, ELSEWHERE)
        joined = ids.get(_joined(f"/{path}"), none)
        if any("/" in _spelling(name) for name in joined):
            return joined, PARTLY
        return none, ELSEWHERE if "/" in path and path.rpartition("/")[2] in ids else UNKNOWN

    @functools.cache
    def meant(path: str, elsewhere: bool) -> tuple[set[int], str]:
        """Their positions, two at most; of several ids, of those that agree without a change of letters, signs or suffix."""
        found, how = look_up(_loosely(path), elsewhere)
        same = {name for name in found if _agree(_spelling(name), _spelling(path))}
        positions = sorted({known[name] for name in same or found})[:2]  # two are as unclear as many
        return set(positions), how if same or not found else PARTLY

    def find(one: Label) -> tuple[int | None, str]:
        names, partly, reason = (one.id, *one.others), set(), UNKNOWN
        for exact in (spelt for name in names for spelt in (name, unsafe(name), safe(name))):  # a ' may have been meant
            if exact in known:
                return known[exact], ""
        for name in names:
            # Of another machine, a folder may have another name.
            absolute = ABSOLUTE.match(name) and LOCAL_FILES not in name and not os.path.isfile(name)
            for path in _paths(name):
                found, how = meant(path, bool(absolute))
                if len(found) == 1 and not how:
                    return min(found), ""
                partly |= found
                reason = how if how == ELSEWHERE else reason
        return (partly.pop(), PARTLY) if len(partly) == 1 else (None, UNCLEAR if partly else reason)

    return find


def _ends(path: str) -> Iterator[str]:
    """The path without its first folder, without its first two, ..."""
    start = path.find("/") + 1
    while start:
        yield path[start:]
        start = path.find("/", start) + 1


def _spelling(name: str) -> str:
    """One spelling of what programs and file systems spell in several ways."""
    path = unicodedata.normalize("NFC", name).replace("\\", "/").strip()
    return BEGINNING.sub("", path) or path


def _agree(one: str, other: str) -> bool:
    """Whether one path ends with the other."""
    return f"/{one}".endswith(f"/{other}") or f"/{other}".endswith(f"/{one}")


def _loosely(name: str) -> str:
    """A path in small letters, without suffix, and without the signs that Django takes out of the names of uploaded files."""
    folder, slash, file = re.sub(r"[^-\w./]", "", _spelling(name).replace(" ", "_")).lower().rpartition("/")
    stem, suffix = os.path.splitext(file)
    return folder + slash + plain_number(stem if suffix in SUFFIXES else file)


def _joined(path: str) -> str:
    """Its folders and the signs in its names are alike, and numbers are without zeros in front."""
    return re.sub(r"[-_/]+(0+(?=\d))?", "_", path)


def _paths(name: str) -> Iterable[str]:
    """The paths that a path or an address may mean, the likeliest first."""
    if signed := re.search("[?&]fileuri=([^&]+)", name):
        with suppress(ValueError):
            name = base64.b64decode(unquote(signed[1])).decode()
    found = []
    for text in dict.fromkeys((name, html.unescape(name))):
        address = re.sub("^[^/]*://[^/]*/", "", text)  # without host or bucket
        path = unquote(re.split("[?#]", address)[0])
        if LOCAL_FILES in text:
            path = text.partition(LOCAL_FILES)[2]
            found += [unquote(path), unquote(path.partition("&")[0]), path]
        else:
            found += [path, address] if address != text else [text, unquote(text), path]
    return dict.fromkeys([*found, *map(_original, found)])


def _original(path: str) -> str:
    """The path of a file before Label Studio or Roboflow gave it another name."""
    folder, slash, file = UPLOADS.sub("", _spelling(path)).rpartition("/")
    return folder + slash + ROBOFLOW.sub(r".\1", CLASH.sub("", PREFIX.sub("", file)))
