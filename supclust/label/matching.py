"""Which of the images a file of labels means, and what it says about them."""

import base64
import functools
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
CLASH = re.compile(r"_(?=\w{0,5}(?:[a-z\d][A-Z]|\d[a-z]))[A-Za-z\d]{7}(?=\.\w+\Z)")  # name_ZoqW18z.png: Django's second name.png
ROBOFLOW = re.compile(r"_(\w{3,4})\.rf\.[^/]+$")  # name_png.rf.1a2b3c4d.jpg

Looker = Callable[[str, bool], tuple[set[int], str]]


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
    whatever its spelling, its suffix, and what Label Studio or Roboflow add to it; always on condition that this is one image
    only. A path through other folders is another image.
    """
    known = {name: position for position, name in enumerate(ids)}
    known |= {alias: known[name] for alias, name in aliases.items() if name in known and alias not in known}
    whole, partly, said = _looker(known, folder, _spelling), _looker(known, folder, _loosely), {}
    unknown, by_name, found, problems = {}, {}, {}, {}
    for one in labels:
        position, how = (None, BROKEN) if one.problem == BROKEN else _find(one, known, whole, partly)
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


def _find(one: Label, known: Mapping[str, int], whole: Looker, partly: Looker) -> tuple[int | None, str]:
    """The position of an image, and PARTLY if not by its whole name; or None, and the reason."""
    names = (one.id, *one.others)
    for exact in (spelt for name in names for spelt in (name, unsafe(name), safe(name))):  # a ' may have been meant
        if exact in known:
            return known[exact], ""
    # Of another machine, where folders may have other names.
    foreign = {name for name in names if ABSOLUTE.match(name) and LOCAL_FILES not in name and not os.path.isfile(name)}
    paths = [(path, name in foreign) for name in names for path in _paths(name)]
    for look_up in (whole, partly):
        found = [look_up(path, foreign) for path, foreign in paths]
        sure = [positions for positions, how in found if len(positions) == 1 and not how]
        if sure and look_up is whole:
            return min(sure[0]), ""
        if candidates := set().union(*(positions for positions, _ in found)):
            return (candidates.pop(), PARTLY) if len(candidates) == 1 else (None, UNCLEAR)
    return None, ELSEWHERE if any(how == ELSEWHERE for _, how in found) else UNKNOWN


def _looker(known: Mapping[str, int], folder: Path | None, spell: Callable[[str], str]) -> Looker:
    """A function that gives the positions that a path may mean, and PARTLY if only folders differ; or none, and the reason."""
    roots = {spell(one.name) for one in (Path(os.path.abspath(folder)), folder.resolve())} if folder else set()

    @functools.cache
    def index() -> dict[str, set[int]]:
        """Positions by whole paths, with a / in front, and by their last parts; two of many, which are as unclear."""
        found = defaultdict(set)
        for name, position in known.items():
            path = f"/{spell(name)}"
            for key in (path, *_ends(path)):
                if len(found[key]) < 2:
                    found[key].add(position)
        return found

    def look_up(path: str, foreign: bool) -> tuple[set[int], str]:
        ids, path = index(), spell(path)
        if f"/{path}" in ids:
            return ids[f"/{path}"], ""
        end = next((end for end in _ends(path) if f"/{end}" in ids), "")  # an image that the path leads to, through folders
        if end and (path.removesuffix(f"/{end}").rpartition("/")[2] in roots or not roots):
            return ids[f"/{end}"] | ids.get(path, set()), "" if roots else PARTLY
        if path in ids:
            return ids[path], PARTLY
        if end and foreign:
            return ids[f"/{end}"], PARTLY
        return set(), ELSEWHERE if "/" in path and path.rpartition("/")[2] in ids else UNKNOWN

    return look_up


def _ends(path: str) -> Iterator[str]:
    """The path without its first folder, without its first two, ..."""
    while "/" in path:
        path = path.partition("/")[2]
        yield path


def _spelling(name: str) -> str:
    """One spelling of what programs and file systems spell in several ways."""
    path = unicodedata.normalize("NFC", name).replace("\\", "/").strip()
    return BEGINNING.sub("", path) or path


def _loosely(name: str) -> str:
    """A path in small letters, without suffix, and without the signs that Django takes out of the names of uploaded files."""
    folder, slash, file = re.sub(r"[^-\w./]", "", _spelling(name).replace(" ", "_")).lower().rpartition("/")
    stem, suffix = os.path.splitext(file)
    return folder + slash + plain_number(stem if suffix in SUFFIXES else file)


def _paths(name: str) -> Iterable[str]:
    """The paths that a path or an address may mean, the likeliest first."""
    if signed := re.search("[?&]fileuri=([^&]+)", name):
        with suppress(ValueError):
            name = base64.b64decode(unquote(signed[1])).decode()
    path = name.partition(LOCAL_FILES)[2] or re.sub("^[^/]*://[^/]*/", "", name)  # without host or bucket
    found = [path, unquote(path), unquote(re.split("[?#&]", path)[0])]
    if path != name:  # of an address
        found.reverse()
    return dict.fromkeys([*found, *map(_original, found)])


def _original(path: str) -> str:
    """The path of a file before Label Studio or Roboflow gave it another name."""
    folder, slash, file = UPLOADS.sub("", _spelling(path)).rpartition("/")
    return folder + slash + ROBOFLOW.sub(r".\1", CLASH.sub("", PREFIX.sub("", file)))
