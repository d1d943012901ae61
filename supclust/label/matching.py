"""Which of the images an id means, as people and programs write ids."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from urllib.parse import unquote

from supclust.label.annotations import (
    LOCAL_FILES,
    NUMBER,
    Entry,
    Labels,
    check_conflicts,
    listing,
    plain_number,
    safe,
    shown,
    unsafe,
)

UPLOADED = "/data/upload/"  # where Label Studio serves files that were uploaded, under a name of its own: 1a2b3c4d-name.png


def match(
    labels: Labels, ids: Sequence[str], aliases: Mapping[str, str] | None = None
) -> tuple[dict[int, str], list[int], list[str]]:
    """Labels by position in ids (n,), which are distinct; positions that are listed without a label; and ids that are unknown.

    aliases: id of an image that was left out as a copy -> id of the one that was kept.
    An id is found as it stands; else without the ' that `safe` put there; else after Unicode normalisation (NFC); else with slashes
    for backslashes; else without blanks around it; else, if that names one image only, as the number that it is (7 for 007); else
    among the aliases; else, if that names one image only, as the end of a longer path or an address.
    Raises ValueError naming images that get different labels, be it under one name or two.
    """
    index, said, unknown = _Index(ids, aliases or {}), {}, []
    for name, label in labels.entries():
        position = index.position(name)
        if position is None:
            unknown.append(name)
        else:
            said.setdefault(position, []).append((name, label))
    found = {position: _agreed(heard) for position, heard in said.items()}
    check_conflicts(labels.source, [conflict for _, conflict in found.values() if conflict])
    labelled = {position: label for position, (label, _) in found.items() if label}
    return labelled, [position for position in found if position not in labelled], unknown


def _agreed(heard: Sequence[Entry]) -> tuple[str | None, str | None]:
    """The label that was given to one image under several names, and what is wrong with that, if anything."""
    different: dict[str, str] = {}
    for name, label in heard:
        if label:
            different.setdefault(label, f"{shown(name)} is {shown(label)}")
    conflict = f"{' and '.join(different.values())}, and they are one image" if len(different) > 1 else None
    return next(iter(different), None), conflict


class _Index:
    """Finds images by their ids as people and programs write them."""

    def __init__(self, ids: Sequence[str], aliases: Mapping[str, str]) -> None:
        self._exact = {name: position for position, name in enumerate(ids)}
        if len(self._exact) < len(ids):
            repeated = [shown(name) for position, name in enumerate(ids) if self._exact[name] != position]
            raise ValueError(f"ids must be distinct, and these come up again: {listing(repeated)}")
        self._aliases = {alias: self._exact[kept] for alias, kept in aliases.items() if kept in self._exact}

    def position(self, name: str) -> int | None:
        """Where the image is; None if it is not, or if it could be two."""
        for spelling in (name, unsafe(name), safe(name)):  # the last, as reading took a ' off that may have been meant
            if spelling in self._exact:
                return self._exact[spelling]
        for form, known in self._tables:
            if form is plain_number and not NUMBER.fullmatch(name):
                continue
            for spelling in (form(name), form(unsafe(name))):
                if spelling in known:
                    return known[spelling]
        return self._longer(name)

    @cached_property
    def _tables(self) -> list[tuple[Callable[[str], str], dict[str, int]]]:
        """What else to look names up in, in turn, and how names have to be written for that."""
        places = [(self._exact, (_nfc, _slashes, str.strip, plain_number)), (self._aliases, (str, _nfc, _slashes))]
        return [(form, _table(names, form)) for names, forms in places for form in forms]

    @cached_property
    def _ends(self) -> dict[str, int]:
        return _table({**self._aliases, **self._exact}, _slashes)

    @cached_property
    def _depth(self) -> int:
        return max((name.count("/") for name in self._ends), default=0) + 1

    def _longer(self, name: str) -> int | None:
        """The one image whose id is the end of a path or an address."""
        for path in map(_slashes, _paths(name)):
            parts = path.rsplit("/", self._depth)
            ends = ["/".join(parts[start:]) for start in range(1, len(parts))]
            found = {self._ends[path]} if path in self._ends else {self._ends[end] for end in ends if end in self._ends}
            if found:
                return found.pop() if len(found) == 1 else None
        return None


def _table(names: Mapping[str, int], form: Callable[[str], str]) -> dict[str, int]:
    """Positions by another form of the names, without those that are then of two images."""
    table: dict[str, int] = {}
    double = {form(name) for name, position in names.items() if table.setdefault(form(name), position) != position}
    return {name: position for name, position in table.items() if name not in double}


def _nfc(name: str) -> str:
    """One spelling of letters with accents: file systems and people's programs differ in it."""
    return unicodedata.normalize("NFC", name)


def _slashes(name: str) -> str:
    return _nfc(name).replace("\\", "/")


def _paths(name: str) -> list[str]:
    """The paths that a path or an address may mean, the likeliest first."""
    if LOCAL_FILES in name:
        return [unquote(name.partition(LOCAL_FILES)[2].partition("&")[0])]
    if UPLOADED in name:
        uploaded = unquote(name.partition("?")[0])
        return [re.sub("/[0-9a-f]{8}-([^/]*)$", r"/\1", uploaded), uploaded]
    if "://" in name:
        return [unquote(re.split("[?#]", name)[0]), name]
    return [name, unquote(name)]
