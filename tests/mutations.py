"""Damage to files, for tests that nothing in a file can do more than be refused."""

import copy
import csv
import io
import json
import random
import re
import struct
import zlib
from contextlib import suppress
from typing import Any

EXTREME = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 13_000)
CELLS = (
    *("", " ", "nan", "NaN", "inf", "-Infinity", "1e400", "-1e-400", "1e39", "9" * 30, "-1", "0x10", "1_0", "1,5", "007", "1.0"),
    *('"', "'", '""', "\0", "\r", "\n", "\u2028", "\ufeff", "\ud7ff\ue000", "\x1b[2J", "=1+1", "a\tb", "a;b", "é", "e\u0301"),
    *("[]", "{}", "[1, 2]", "['a']", "['a', 'b']", '{"choices": ["a"]}', "[" * 300, "(" * 300, "None", "true", "0", "a" * 5000),
)
VALUES = (
    *(None, True, False, 0, 1, -1, 10**30, 1.5, 1e308, float("nan"), float("inf"), "", " ", "a", "0", "\0", "\ud800", "x" * 3000),
    *([], {}, [[]], [None], [1, "a"], {"a": 1}, {"": None}, {"choices": ["a"]}, {"choices": []}, {"label": "b"}, "2.png"),
)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """A few random changes: bits flipped, ends cut, bytes put in, slices that come twice or not at all."""
    for _ in range(rng.randint(1, 4)):
        start, end = sorted(rng.randint(0, len(content)) for _ in range(2))
        kind = rng.choice(["flip", "flip", "flip", "cut", "insert", "repeat", "drop"])
        if kind == "flip" and content:
            place = rng.randrange(len(content))
            content = content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]
        elif kind == "cut":
            content = content[:end]
        elif kind == "insert":
            content = content[:start] + rng.randbytes(rng.randint(1, 8)) + content[start:]
        elif kind == "repeat":
            content = content[:end] + content[start:]
        elif kind == "drop":
            content = content[:start] + content[min(end, start + 9) :]
    return content


def binary(content: bytes, rng: random.Random) -> bytes:
    """`mutated`, or extreme numbers written over one to three places, which are more often near the beginning."""
    if rng.random() < 0.4:
        return mutated(content, rng)
    for _ in range(rng.randint(1, 3)):
        number = struct.pack(rng.choice("<>") + "Q", rng.choice(EXTREME))
        size = rng.choice([1, 2, 4])
        number = number[:size] if number[7] == 0 else number[-size:]
        place = rng.randrange(max(1, min(len(content), rng.choice([64, 512, len(content)]))))
        content = content[:place] + number + content[place + size :]
    return content


def png(content: bytes, rng: random.Random) -> bytes:
    """A damaged chunk with a checksum that is right again, so that the decoder comes as far as the damage; or any damage."""
    if rng.random() < 0.3:
        return binary(content, rng)
    chunks, at = [], 8
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += size + 12
    for _ in range(rng.randint(1, 2)):
        place = rng.randrange(len(chunks))
        name, data = chunks[place]
        other = rng.choice(
            [b"tRNS", b"PLTE", b"gAMA", b"iCCP", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"zTXt", b"iTXt", b"sBIT", name]
        )
        inside = None
        if name == b"IDAT" and rng.random() < 0.5:
            with suppress(zlib.error):  # it is damaged already
                inside = zlib.compress(binary(zlib.decompress(data), rng))
        chunks[place : place + rng.randint(0, 1)] = [(other if rng.random() < 0.3 else name, inside or binary(data, rng))]
    return content[:8] + b"".join(
        len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big") for name, data in chunks
    )


def table(content: bytes, rng: random.Random) -> bytes:
    """A CSV file with odd cells, rows or another way to write them; or any damage."""
    if rng.random() < 0.25:
        return mutated(content, rng)
    rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"))))
    for _ in range(rng.randint(1, 4)):
        row = rng.choice(rows)
        kind = rng.choice(["cell", "cell", "cell", "mixed", "longer", "shorter", "again", "gone"])
        if kind == "cell" and row:
            row[rng.randrange(len(row))] = rng.choice(CELLS)
        elif kind == "mixed" and row:
            place = rng.randrange(len(row))
            row[place] = row[place] + rng.choice(CELLS)
        elif kind == "longer":
            row.append(rng.choice(CELLS))
        elif kind == "shorter" and row:
            row.pop()
        elif kind == "again":
            rows.insert(rng.randint(0, len(rows)), list(row))
        elif kind == "gone" and len(rows) > 1:
            rows.remove(row)
    ends = {"delimiter": rng.choice(",,,,;\t|"), "lineterminator": rng.choice(["\n", "\n", "\r\n", "\r"])}
    style = csv.QUOTE_ALL if rng.random() < 0.2 else csv.QUOTE_MINIMAL
    csv.writer(text := io.StringIO(), **ends, quoting=style).writerows(rows)
    return text.getvalue().encode(rng.choice(["utf-8"] * 6 + ["utf-8-sig", "utf-16", "latin-1"]), "replace")


def value(content: Any, rng: random.Random) -> Any:
    """Something that JSON can hold, with values of other kinds, missing, twice or nested in it."""
    whole = [copy.deepcopy(content)]
    for _ in range(rng.randint(1, 3)):
        inner, key = whole, 0
        while isinstance(inner[key], (dict, list)) and inner[key] and rng.random() < 0.85:
            inner = inner[key]
            key = rng.choice(list(inner)) if isinstance(inner, dict) else rng.randrange(len(inner))
        kind = rng.choice(["other", "other", "gone", "twice", "nested", "renamed"])
        if kind == "other" or inner is whole:
            inner[key] = copy.deepcopy(rng.choice(VALUES))
        elif kind == "gone":
            del inner[key]
        elif kind == "twice" and isinstance(inner, list):
            inner.append(copy.deepcopy(inner[key]))
        elif kind == "nested":
            inner[key] = rng.choice([[inner[key]], {"data": inner[key]}, {"label": inner[key]}, str(inner[key])])
        elif isinstance(inner, dict):
            inner[rng.choice(["id", "label", "data", "labels", "", "A", "image"])] = inner.pop(key)
    return whole[0]


def text(content: bytes, rng: random.Random) -> bytes:
    """A JSON file, or JSON lines, with other values, brackets without end, keys twice; or any damage."""
    if rng.random() < 0.25:
        return mutated(content, rng)
    if rng.random() < 0.02:
        return rng.choice([b"[", b'{"a":', b'[{"id":']) * rng.choice([900, 5000, 100_000])
    lines = content.decode("utf-8").strip().split("\n")
    with suppress(ValueError):  # of JSON lines
        lines = [json.dumps(json.loads(content), ensure_ascii=False)]
    place = rng.randrange(len(lines))
    lines[place] = json.dumps(value(json.loads(lines[place]), rng), ensure_ascii=rng.random() < 0.5)
    whole = "\n".join(lines)
    if rng.random() < 0.2:  # numbers that JSON may have and Python does not know
        whole = re.sub(r"\b\d+\b", lambda _: rng.choice(["1e400", "-0", "0" * 40, "9" * 5000, "1E-9"]), whole, count=1)
    return whole.encode("utf-8", "surrogatepass" if rng.random() < 0.5 else "replace")
