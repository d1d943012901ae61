"""Which of the images an id means, as people and programs write ids."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import unquote

from supclust.label.annotations import Label, listing, plain_number, safe, shown, unsafe

LOCAL_FILES = "/data/local-files/?d="  # where Label Studio serves files of its own machine, by their path below a root
UPLOADED = "/data/upload/"  # where it serves files that were uploaded, under a name of its own: 1a2b3c4d-name.png


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
