"""Which of the images an id means, as people and programs write ids."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from urllib.parse import unquote

from supclust.label.annotations import LOCAL_FILES, Labels, check_conflicts, listing, plain_number, safe, shown, unsafe

UPLOADED = "/data/upload/"  # where Label Studio serves files that were uploaded, under a name of its own: 1a2b3c4d-name.png


def match(
    labels: Labels, ids: Sequence[str], aliases: Mapping[str, str] | None = None
) -> tuple[dict[int, str], list[int], list[str]]:
    """Labels by position in ids (n,), which are distinct; positions that are listed without a label; and ids that are unknown.

    aliases: id of an image that was left out as a copy -> id of the one that was kept.
    An id is found as it stands; else with or without the ' of `safe`; else, if that names one image only, in another spelling
    (Unicode normalisation NFC, slashes for backslashes, no blanks around it, 7 for 007) or as the end of a path or an address.
    Raises ValueError naming images that get different labels, be it under one name or two.
    """
    index, unknown = _Index(ids, aliases or {}), []
    said: dict[int, dict[str, str]] = {}  # position -> label -> the first name under which it was given
    for name, label in labels.entries():
        position = index.position(name)
        if position is None:
            unknown.append(name)
        elif label:
            said.setdefault(position, {}).setdefault(label, name)
        else:
            said.setdefault(position, {})
    different = [names for names in said.values() if len(names) > 1]
    pairs = [" and ".join(f"{shown(name)} is {shown(label)}" for label, name in names.items()) for names in different]
    check_conflicts(labels.source, [f"{pair}, and they are one image" for pair in pairs])
    found = {position: next(iter(names)) for position, names in said.items() if names}
    return found, [position for position in said if position not in found], unknown


class _Index:
    """Finds images by their ids as people and programs write them."""

    def __init__(self, ids: Sequence[str], aliases: Mapping[str, str]) -> None:
        exact = {name: position for position, name in enumerate(ids)}
        if len(exact) < len(ids):
            repeated = [shown(name) for position, name in enumerate(ids) if exact[name] != position]
            raise ValueError(f"ids must be distinct, and these come up again: {listing(repeated)}")
        self._known = {alias: exact[kept] for alias, kept in aliases.items() if kept in exact} | exact
        meant: dict[str, set[int]] = {}
        for name, position in self._known.items():
            meant.setdefault(_spelled(name), set()).add(position)
        self._spelled = {name: positions.pop() for name, positions in meant.items() if len(positions) == 1}
        self._depth = max((name.count("/") for name in meant), default=0) + 1

    def position(self, name: str) -> int | None:
        """Where the image is; None if it is not, or if it could be two."""
        for spelling in (name, unsafe(name), safe(name)):  # the last, as reading took a ' off that may have been meant
            if spelling in self._known:
                return self._known[spelling]
        for path in map(_spelled, _paths(name)):
            if path in self._spelled:
                return self._spelled[path]
            parts = path.rsplit("/", self._depth)
            ends = {self._spelled.get(_spelled("/".join(parts[start:]))) for start in range(1, len(parts))} - {None}
            if ends:
                return ends.pop() if len(ends) == 1 else None
        return None


def _spelled(name: str) -> str:
    """One spelling of what programs and file systems spell in several ways."""
    return plain_number(unicodedata.normalize("NFC", name).replace("\\", "/").strip())


def _paths(name: str) -> list[str]:
    """The paths that a path or an address may mean, the likeliest first."""
    if LOCAL_FILES in name:
        return [unquote(name.partition(LOCAL_FILES)[2].partition("&")[0])]
    if UPLOADED in name:
        return [re.sub("/[0-9a-f]{8}-([^/]*)$", r"/\1", unquote(name.partition("?")[0]))]
    return [unquote(re.split("[?#]", name)[0]), name] if "://" in name else [name, unquote(name)]
