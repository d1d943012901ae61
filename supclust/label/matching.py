"""Which of the images a file of labels means, and what it says about them."""

import base64
import functools
import html
import itertools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from supclust.images.files import SUFFIXES
from supclust.label.annotations import BROKEN, LOCAL_FILES, Label, plain_number, safe, shown, unsafe

SEVERAL = -1  # instead of the position of an image
PARTLY = "by a part of its name"
UNKNOWN, UNCLEAR, ELSEWHERE = "not among the images", "of several images", "in other folders than the images of that name"
ABSOLUTE = re.compile(r"[\\/~]|[A-Za-z]:[\\/]|[a-z][a-z0-9+.-]*://")
BEGINNING = re.compile("^(?:[.]{0,2}/|[A-Za-z]:/)+")  # a path may begin with it; it says nothing about the image
SIGNS = re.compile("[%&?#]|://|upload/")  # an address, or an escaped path
UPLOADED = re.compile(r"(?:^|/)(?:data/upload|upload/[0-9]+)/([^/]*)$")  # Label Studio serves uploads from there
PREFIX = re.compile(r"\A[0-9a-f]{8}-(?:(?:[0-9a-f]{4}-){3}[0-9a-f]{12}-)?")  # 1a2b3c4d-name.png, or a whole UUID
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
    An id is found as it stands; else with or without the ' of `safe`; else in another spelling (Unicode normalisation NFC, slashes,
    blanks around it, 7 for 007), as a path of which as many folders agree as both have; without its suffix, or with that of another
    format; as Label Studio or Roboflow names it; always on condition that this is one image only. A path through other folders is
    another image.
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
        last = plain_number(path.rpartition("/")[2])
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
        for loose, (path, elsewhere) in itertools.product((False, True), paths):
            for spelt in _loosely(_uploaded(path)) if loose else [_spelling(path)]:
                position, how = look_up(loose, spelt, elsewhere)
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
    return folder + slash + ROBOFLOW.sub(r".\1", PREFIX.sub("", file))


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
            found += [unquote(path), address] if address != text else [text, unquote(text), unquote(path)]
    return dict.fromkeys(found)
