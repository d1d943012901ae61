"""What reads a file that somebody brings: valid files made here, ways to damage them, and checks that what is read is right.

A check reads a file. It raises ValueError or FileNotFoundError where the file is refused, and AssertionError for wrong data: each
one compares with an obvious way to read the same file, wherever that way succeeds.
"""

import functools
import io
import json
import random
import re
import struct
import tempfile
import unicodedata
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from tests import mutations

Seeds = Callable[[], list[bytes]]
Damage = Callable[[bytes, random.Random], bytes]
POINTS = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
IDS = ["a.png", "2.png", "c/3.png", "7", "e", "f.png"]
CLASSES = ["A", "B", "A", "B", "A", "B"]


@dataclass(frozen=True)
class Reader:
    """A kind of file."""

    name: str  # also of its folder in the corpus
    file: str  # what the file is called
    seeds: Seeds
    damage: Damage
    check: Callable[[Path], None]
    needs: str  # modules that the check imports
    trials: int = 10_000
    heavy: int = 1  # times 5 s and a gigabyte, which a trial may take


def right(what: str, *conditions: Any) -> None:
    """Raise AssertionError unless all of the conditions hold."""
    if not all(conditions):
        raise AssertionError(what)


# -- images --------------------------------------------------------------------------------------------------------------------


def saved(mode: str, kind: str, side: int = 16, **options: Any) -> bytes:
    """An image of noise and a gradient, in any mode."""
    noise = np.random.default_rng(1).integers(0, 256, (side, side, 4), dtype=np.uint8)
    noise[:, :, 0] = np.arange(side) * 255 // (side - 1)
    image = Image.fromarray(noise)
    if mode in ("I;16", "F", "I"):
        image = Image.fromarray((noise[:, :, 0].astype("f4") * 257).astype({"I;16": "<u2", "F": "f4", "I": "i4"}[mode]))
    elif mode != "RGBA":
        image = image.convert("L" if mode == "LA" else "RGB").convert(mode)
    if frames := options.pop("frames", 0):
        options |= {"save_all": True, "append_images": [image.rotate(90)] * frames}
    if (turn := options.pop("turn", None)) is not None:
        exif = Image.Exif()
        exif[0x0112] = turn
        options["exif"] = exif
    image.save(stream := io.BytesIO(), kind, **options)
    return stream.getvalue()


TURNS = [{"turn": turn} for turn in range(10)]  # orientations 1 to 8, and two that there are not
PICTURES: dict[str, tuple[str, list[tuple[str, dict]]]] = {
    "JPEG": ("jpg", [("L", {}), ("CMYK", {}), ("RGB", {"progressive": True}), *(("RGB", turn) for turn in TURNS)]),
    "PNG": (
        "png",
        [*((mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")), ("RGB", {"frames": 1}), ("L", TURNS[6])],
    ),
    "WEBP": ("webp", [("RGB", {}), ("RGBA", {}), ("RGB", {"lossless": True}), ("RGBA", {"frames": 2}), ("RGB", TURNS[8])]),
    "TIFF": (
        "tif",
        [
            *((mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16", "I", "F")),
            *(("RGB", {"compression": name}) for name in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")),
            *[("1", {"compression": "group4"}), ("RGB", {"frames": 1}), ("RGB", TURNS[5])],
        ],
    ),
    "BMP": ("bmp", [(mode, {}) for mode in ("1", "L", "P", "RGB", "RGBA")]),
    "PPM": ("ppm", [(mode, {}) for mode in ("1", "L", "RGB", "I;16", "F")]),
    "GIF": ("gif", [("L", {}), ("P", {}), ("P", {"frames": 2}), ("P", {"transparency": 3}), ("P", {"interlace": 0})]),
    "AVIF": ("avif", [("RGB", {}), ("RGBA", {}), ("RGB", TURNS[6])]),
    "JPEG2000": ("jp2", [("L", {}), ("RGB", {}), ("RGBA", {}), ("I;16", {}), ("RGB", {"no_jp2": True})]),
    "HEIF": ("heic", [("RGB", {}), ("RGBA", {}), ("L", {}), ("RGB", TURNS[3])]),
}


def pictures(kind: str) -> list[bytes]:
    return [saved(mode, kind, **options) for mode, options in PICTURES[kind][1]]


def dicoms() -> list[bytes]:
    """Grey of 8 and 16 bits, with a window, inverted, with a palette, in several frames; and colours."""
    import pydicom

    found = []
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16) * 16
    for values, more in (
        (grey, {}),
        (grey, {"WindowCenter": 1024, "WindowWidth": 2048}),
        (grey, {"RescaleSlope": "2", "RescaleIntercept": "-1024", "PhotometricInterpretation": "MONOCHROME1"}),
        ((grey // 16).astype(np.uint8), {}),
        (np.stack([grey, grey]), {}),
        (np.repeat((grey // 16).astype(np.uint8)[:, :, None], 3, axis=2), {}),
    ):
        one = pydicom.Dataset()
        one.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
        colour = values.shape[-1] == 3
        pydicom.pixels.set_pixel_data(one, values, "RGB" if colour else "MONOCHROME2", 8 if values.dtype == np.uint8 else 12)
        for name, value in more.items():
            setattr(one, name, value)
        one.save_as(stream := io.BytesIO(), enforce_file_format=True)
        found.append(stream.getvalue())
    return found


def check_image(path: Path) -> None:
    from supclust.images import files

    unreadable: dict[Path, str] = {}
    pixels = files.read_all([path], 4, unreadable)
    right(f"an array {pixels.shape}", pixels.dtype == np.uint8, pixels.shape == (1 - len(unreadable), 3, 4, 4))
    if unreadable:
        with suppress(ValueError):
            files.thumbnail(path, 8)
        raise ValueError(f"{path.name}: {unreadable[path]}")
    again = files.ImageFiles(path.parent, (path.name,), 4)[0]
    assert np.array_equal(pixels[0], again), "a second look shows another image"
    small = files.thumbnail(path, 8)
    right(f"a thumbnail {small.mode} {small.size}", small.mode == "RGB", 0 < max(small.size) <= 8)
    with suppress(Exception), warnings.catch_warnings(action="ignore"), Image.open(path, formats=files.FORMATS) as opened:
        opened.load()  # the obvious way, where it needs no care
        simple = not (opened.has_transparency_data or opened.getexif() or "halved" in str(opened.tile) or hasattr(opened, "tag_v2"))
        expected = (
            np.asarray(opened.convert("RGB").resize((4, 4), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
            if opened.mode in ("RGB", "P")
            else pixels
        )
        if simple and (path.suffix != ".ppm" or b"65535" not in path.read_bytes()) and b"acTL" not in path.read_bytes():
            assert_same_image(expected, pixels)


def assert_same_image(expected: np.ndarray, found: np.ndarray) -> None:
    if not np.array_equal(expected.reshape(found.shape), found):
        raise SystemExit("Pillow alone shows another image")  # which `suppress` above lets through


# -- embeddings ----------------------------------------------------------------------------------------------------------------


def npy(array: np.ndarray, **options: Any) -> bytes:
    np.save(stream := io.BytesIO(), array, **options)
    return stream.getvalue()


def arrays() -> list[bytes]:
    wide = POINTS.astype("f8")
    return [
        npy(one) for one in (POINTS, wide, np.asfortranarray(POINTS), POINTS.astype("f2"), wide.astype(">f8"), POINTS.astype("i1"))
    ]


def damaged_npy(content: bytes, rng: random.Random) -> bytes:
    """Another header: shape, type or order; or numbers that are none; or any damage."""
    if rng.random() < 0.4:
        return mutations.binary(content, rng)
    size = int.from_bytes(content[8:10], "little")
    header, data = content[10 : 10 + size].decode("latin-1"), content[10 + size :]
    shape = rng.choice(
        ["()", "(6,)", "(3, 6)", "(0, 3)", "(6, 0)", "(-6, 3)", "(6, 3, 1)", "(10**12, 3)", f"({2**62}, 4)", "(6, 3"]
    )
    shape = rng.choice([shape, "(600000000, 3)", "6, 3", "(6.0, 3)", "(True, 18)", "(2, 9)"])
    kind = rng.choice(["|O", "<U3", "<M8[s]", "<c8", "<i4", "<u8", ">f4", "<f2", "|b1", "|V4", "<f16", "f4,i4", "<q", "xyz", ""])
    for old, new in rng.sample(
        [(r"\(\d[^)]*\)", shape), (r"'[<>|]..'", f"'{kind}'"), ("False|True", rng.choice(["True", "1", "'a'"]))], 2
    ):
        header = re.sub(old, lambda _, new=new: new, header, count=1)
    if rng.random() < 0.3 and len(data) >= 8:
        place = rng.randrange(0, len(data), 4)
        data = data[:place] + struct.pack("<f", rng.choice([np.nan, np.inf, -np.inf, 3.4e38, 1e-45])) + data[place + 4 :]
    header = header.strip().ljust(size - 1) + "\n"
    return content[:8] + struct.pack("<H", len(header)) + header.encode("latin-1") + data


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    with zipfile.ZipFile(stream := io.BytesIO(), "w", compression) as file:
        for name, content in members.items():
            file.writestr(zipfile.ZipInfo(name), content, compression)
    return stream.getvalue()


def archives() -> list[bytes]:
    ids, labels = npy(np.array(IDS)), npy(np.array(CLASSES))
    return [
        archive({"features.npy": npy(POINTS), "ids.npy": ids, "labels.npy": labels}),
        archive({"X.npy": npy(POINTS.astype("f8")), "y.npy": npy(np.arange(6) % 2), "paths.npy": ids}, zipfile.ZIP_STORED),
        archive({"features.npy": npy(POINTS), "id.npy": npy(np.arange(6)), "label.npy": npy(np.array(CLASSES, dtype="S1"))}),
    ]


def damaged_npz(content: bytes, rng: random.Random) -> bytes:
    """Damaged arrays in an archive that is whole, other names, arrays that are gone; or any damage."""
    if rng.random() < 0.3:
        return mutations.binary(content, rng)
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    name = rng.choice(list(members))
    one = members[name] if rng.random() < 0.2 else damaged_npy(members[name], rng)
    del members[name]
    other = rng.choice(["features.npy", "ids.npy", "../a.npy", "a", "", "labels.npy", "é.npy", "b.npy"])
    if rng.random() < 0.9:
        members[name if rng.random() < 0.8 else other] = one
    return archive(members, rng.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED]))


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    import pyarrow
    from pyarrow import parquet as format_

    format_.write_table(pyarrow.table(columns), stream := io.BytesIO(), **options)
    return stream.getvalue()


def parquets() -> list[bytes]:
    numbers = {f"f{i}": POINTS[:, i] for i in range(3)}
    pd.DataFrame(numbers | {"label": CLASSES}, index=IDS).to_parquet(stream := io.BytesIO())
    return [
        parquet({"id": IDS, "features": list(POINTS), "label": CLASSES}),
        parquet({"id": IDS, "label": CLASSES} | numbers, compression="none"),
        stream.getvalue(),
    ]


def damaged_parquet(content: bytes, rng: random.Random) -> bytes:
    """A table with columns of other kinds; or any damage, which often lies in the tree of its footer."""
    if rng.random() < 0.5:
        return mutations.binary(content, rng)
    if rng.random() < 0.4 and len(content) > 200:
        place = len(content) - 8 - rng.randrange(min(600, len(content) - 8))
        return content[:place] + mutations.mutated(content[place:-8], rng) + content[-8:]
    import decimal

    import pyarrow

    vectors, array = [[1.0, 2.0, 3.0]] * 5, pyarrow.array
    odd = [
        *(array([*vectors, last]) for last in (None, [1.0, 2.0], [1.0, None, 3.0], [np.nan, np.inf, 0.0])),
        *(
            array([*vectors, vectors[0]], kind)
            for kind in (pyarrow.list_(pyarrow.float16(), 3), pyarrow.large_list(pyarrow.float64()))
        ),
        *(array([one] * 6) for one in ([[1.0], [2.0]], [], ["a", "b"], {"a": 1.0}, None, b"\xff\0", decimal.Decimal("1.5"), True)),
        *(array(range(6), kind) for kind in (pyarrow.timestamp("ns"), pyarrow.duration("s"), pyarrow.uint64(), pyarrow.int8())),
        *(array([None] * 6, kind) for kind in (pyarrow.float64(), pyarrow.list_(pyarrow.float32()), pyarrow.string())),
        array(["x", "y"] * 3).dictionary_encode(),
        array([np.nan, np.inf, 1e39, -1e300, 0.0, 1.0]),
        array([2**63] * 6, pyarrow.uint64()),
        array(["\0", "", "a", "a", "é", None]),
    ]
    names = ["features", "id", "label", "x", "emb", "path", "f0", "__index_level_0__", ""]
    columns: dict[str, Any] = {"id": IDS, "features": list(POINTS), "label": CLASSES}
    for _ in range(rng.randint(1, 3)):
        columns[rng.choice(names)] = rng.choice(odd)
    if rng.random() < 0.3:
        columns.pop("features")
    return parquet(columns)


def check_embeddings(path: Path, labels: bool = False) -> None:
    from supclust.engine import geometry
    from supclust.label import embeddings
    from supclust.report import compare

    found = embeddings.read(path, labels=labels)
    try:
        points = geometry.check_features(found.features)
        if labels:
            compare._labelled(points, found.labels)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    right("no points", points.dtype == np.float32, np.isfinite(points).all(), len(points) == len(found.ids) == len(set(found.ids)))
    for names, expected in obvious_arrays(path):
        with np.errstate(all="ignore"):
            right("other numbers", expected.shape == points.shape, np.array_equal(np.asarray(expected, dtype=np.float32), points))
        assert not names or list(found.ids) == names, f"other ids: {found.ids[:3]}"


def obvious_arrays(path: Path) -> Iterator[tuple[list[str], np.ndarray]]:
    """The ids, if that is simple, and the features, as NumPy or pyarrow alone read them; nothing where that is not clear."""
    with suppress(Exception), warnings.catch_warnings(action="ignore"):
        if path.suffix == ".npy":
            yield [], np.load(path)
        elif path.suffix == ".npz":
            with np.load(path) as file:
                names = [name for name in ("ids", "id") if name in file.files]
                ids = file[names[0]] if len(names) == 1 and "paths" not in file.files else np.array([])
                texts = list(map(str, ids.tolist())) if ids.dtype.kind in "Ui" and ids.ndim == 1 else []
                points = file["features" if "features" in file.files else "X"]
                if points.ndim == 2 and points.dtype.kind in "fiub":
                    yield texts, points
        else:
            import pyarrow.parquet

            columns = pyarrow.parquet.read_table(path).to_pydict()
            texts = [one for one in columns.get("id", []) if type(one) is str]
            texts = texts if len(texts) == 6 and "path" not in columns and "__index_level_0__" not in columns else []
            with np.errstate(all="ignore"):
                points = np.array(columns["features"], dtype=float)
            if points.ndim == 2 and points.size:
                yield texts, points


def check_labelled(path: Path) -> None:
    check_embeddings(path, labels=True)


# -- labels --------------------------------------------------------------------------------------------------------------------

SIMPLE = re.compile(r"[A-Za-z][A-Za-z0-9/_]*(\.png)?|2\.png")
PLAIN = re.compile("[A-Za-z][a-z]*")  # a label that no rule of the reader is about


def tables() -> list[bytes]:
    pairs = zip(IDS, CLASSES, strict=True)
    return [
        ("id,label\n" + "".join(f"{one},{label}\n" for one, label in pairs)).encode(),
        b'order,id,label,note\n1,a.png,A,"x, y"\n2,2.png,B,\n3,c/3.png,,z\n',
        b"image,A,B\na.png,1,0\n2.png,0,1\nc/3.png,0.0,1.0\n",
        b'image;label\na.png;A\n2.png;"B"\n\'=e;A\n',
    ]


def task(name: str, label: str) -> dict[str, Any]:
    choice = {"type": "choices", "from_name": "label", "to_name": "image", "value": {"choices": [label]}}
    return {"id": 1, "data": {"image": name}, "annotations": [{"id": 5, "was_cancelled": False, "result": [choice]}]}


def tasks() -> list[bytes]:
    both = [task(one, label) for one, label in zip(IDS, CLASSES, strict=True)]
    both[2]["predictions"] = [{"result": task("x", "C")["annotations"][0]["result"]}]
    flat = [{"id": 7, "annotation_id": 3, "image": f"/data/local-files/?d=pool/{one}", "choice": "A"} for one in IDS]
    return [json.dumps(value).encode() for value in (both, both[:1], flat, [both[0] | {"annotations": []}, both[1]])]


def lines() -> list[bytes]:
    pairs = list(zip(IDS, CLASSES, strict=True))
    rows = [
        [{"id": one, "label": label} for one, label in pairs],
        [{"image": one, "label": label, "answer": "accept"} for one, label in pairs],
        [{"path": one, "accept": [label]} for one, label in pairs],
    ]
    return ["\n".join(map(json.dumps, some)).encode() for some in rows]


def fiftyone() -> list[bytes]:
    pairs = list(zip(IDS, CLASSES, strict=True))
    values: list[Any] = [
        {"classes": ["A", "B"], "labels": {one: "AB".index(label) for one, label in pairs}},
        {"labels": dict(pairs)},
        {
            "samples": [
                {"filepath": f"/pool/{one}", "ground_truth": {"_cls": "Classification", "label": label}} for one, label in pairs
            ]
        },
        dict(pairs),
        {"id": dict(enumerate(IDS)), "label": dict(enumerate(CLASSES))},
    ]
    return [json.dumps(value).encode() for value in values]


def check_labels(path: Path) -> None:
    from supclust.label import annotations, matching

    labels = annotations.read(path)
    text = decoded(path.read_bytes())
    known, plain = set(texts_in(text)), unicodedata.normalize("NFC", text).replace('"', "")
    for one in labels:
        right(f"an id {one.id!r}", *(type(name) is str for name in (one.id, *one.others)))
        if one.label is not None:
            right(f"a label {one.label!r}", one.label, one.label == unicodedata.normalize("NFC", one.label).strip())
            there = known or {one.label} if one.label.replace('"', "") in plain else known
            assert one.label in there, f"{one.label!r} is not in it"
        assert one.label is None or not one.problem, f"a label in spite of a problem: {one}"
    found = [(one.id, one.label) for one in labels]
    expected = list(obvious_labels(text))
    rest = iter(found)
    assert all(pair in rest for pair in expected), f"{expected[:3]} became {found[:3]}"  # in this order, others between them
    matched = matching.match(labels, IDS, {})
    assert all(0 <= point < len(IDS) and label for point, label in matched.labels.items())
    for name, label in expected:
        if name in IDS and [one.id for one in labels].count(name) == 1 and {one.id for one in labels} <= {*IDS, name}:
            assert matched.labels.get(IDS.index(name), label) == label, f"{name} is no longer {label}"


def decoded(content: bytes) -> str:
    return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")


def texts_in(text: str) -> Iterator[str]:
    """All texts and numbers of a JSON file; nothing if it is none."""

    def inside(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for key, one in value.items():
                yield from (*inside(key), *inside(one))
        elif isinstance(value, list):
            for one in value:
                yield from inside(one)
        else:
            yield unicodedata.normalize("NFC", str(value)).strip()
            if isinstance(value, float) and value.is_integer():
                yield str(int(value))

    if text.lstrip()[:1] in ("[", "{"):
        yield from inside(json_of(text))


def json_of(text: str) -> Any:
    """The JSON in a text, or that in its lines."""
    try:
        return json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.split("\n") if line.strip()]


def obvious_labels(text: str) -> Iterator[tuple[str, str]]:
    """Ids and labels that nobody can read in two ways, in their order."""
    if text.startswith("id,label\n") and '"' not in text and "\r" not in text:
        rows = [line.split(",") for line in text.split("\n")[1:]]
        yield from (
            (row[0], row[1])
            for row in rows
            if len(row) == 2 and SIMPLE.fullmatch(row[0]) and PLAIN.fullmatch(row[1]) and row[1].lower() not in ("nan", "none", "x")
        )
    elif text.lstrip()[:1] in ("[", "{"):
        value = json_of(text)
        for one in value if isinstance(value, list) else []:
            with suppress(Exception):
                pair = one["data"]["image"], one["annotations"][0]["result"][0]["value"]["choices"][0]
                if SIMPLE.fullmatch(pair[0]) and PLAIN.fullmatch(pair[1]) and value_equals(one, task(*pair)):
                    yield pair


def value_equals(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether both have the same data and annotations."""
    return all(one[key] == other[key] for key in ("data", "annotations")) and one.keys() <= {
        "id",
        "data",
        "annotations",
        "predictions",
    }


def check_typed(path: Path) -> None:
    from supclust.label import typed

    found = typed.read(path.parent)
    assert all(type(text) is str for pair in found.items() for text in pair)
    text = decoded(path.read_bytes())
    expected = {
        one: label for one, label in obvious_labels(text) if len(re.findall(rf"^{re.escape(one)}(,|$)", text, re.MULTILINE)) == 1
    }  # of several rows the last counts
    assert expected.items() <= found.items(), f"{expected} became {found}"


# -- files of this package -----------------------------------------------------------------------------------------------------


def unpacked(content: bytes) -> tuple[Any, bytes]:
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def damaged_safetensors(content: bytes, rng: random.Random) -> bytes:
    """Other types, shapes and offsets in the header, other metadata, numbers that are none; or any damage."""
    if rng.random() < 0.3:
        return mutations.binary(content, rng)
    header, data = unpacked(content)
    if rng.random() < 0.3:
        place = rng.randrange(0, len(data) - 4, 2)
        data = data[:place] + rng.choice([b"\0\x7e", b"\0\x7c", b"\0\0\x80\x7f", b"\xff\xff\xff\x7f"]) + data[place + 4 :]
    elif rng.random() < 0.3 and "__metadata__" in header:
        key = rng.choice(list(header["__metadata__"]))
        with suppress(ValueError):
            header["__metadata__"][key] = json.dumps(mutations.value(json.loads(header["__metadata__"][key]), rng))
    else:
        name = rng.choice(list(header))
        header[name] = mutations.value(header[name], rng)
        if isinstance(header[name], dict) and "dtype" in header[name] and rng.random() < 0.5:
            header[name]["dtype"] = rng.choice(["F64", "F32", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "C64", "X"])
    text = json.dumps(header).encode("utf-8", "replace")
    return struct.pack("<Q", len(text)) + text + data


@functools.cache
def weights() -> list[bytes]:
    import torch

    from supclust import simclr
    from supclust.profiles import SimCLR

    torch.manual_seed(0)
    config = SimCLR(width=1, side=8, projection=2)
    network, head = simclr.untrained(config)
    encoder = simclr._encoder(
        config, network.state_dict(), head.state_dict(), [{"epoch": 1, "loss": 1.0, "knn": None, "seconds": 1.0}]
    )
    with tempfile.TemporaryDirectory() as folder:
        simclr.save_weights(encoder, Path(folder) / "e.safetensors", torch.float16)
        return [(Path(folder) / "e.safetensors").read_bytes()]


def check_weights(path: Path) -> None:
    import torch

    from supclust import simclr

    encoder = simclr.load_weights(path)
    made = encoder.network(torch.linspace(-2, 2, 2 * 3 * 64).reshape(2, 3, 8, 8))
    assert made.shape == (2, 8 * encoder.config.width), f"features {made.shape}"
    assert all(torch.isfinite(one).all() for one in encoder.network.state_dict().values()), "weights that are not finite"
    assert torch.isfinite(made).all(), "features that are not finite"


@functools.cache
def feature_files() -> list[bytes]:
    from supclust import features

    numbers = np.arange(6) % 2
    one = features.Features(POINTS, POINTS[:2], numbers, numbers[:2], ("A", "B"), {"dataset": "x"})
    with tempfile.TemporaryDirectory() as folder:
        features.save(Path(folder) / "f.safetensors", one)
        return [(Path(folder) / "f.safetensors").read_bytes()]


def check_features(path: Path) -> None:
    from supclust import features

    found = features.load(path)
    right("other features", np.array_equal(found.train, POINTS), np.array_equal(found.test, POINTS[:2]))
    right("other labels", found.train_labels.tolist() == [0, 1] * 3, found.classes == ("A", "B"), found.made_by == {"dataset": "x"})


ROUND = {"accuracy": 0.5, "balanced_accuracy": 0.5, "tail_accuracy": None, "classes": 2, "labels": 10, "queried": [1, 2]}
SOURCES = {"experiment": 1, "features": "abc", "rounds": 1}


@functools.cache
def run_on_record() -> tuple[Any, bytes]:
    from supclust import kept, sweep

    key = sweep.Key("digits", "ssl", "random", "tiny", 0)
    rounds = [dict.fromkeys(sweep.ROUND_COLUMNS, 0.5)]
    with tempfile.TemporaryDirectory() as folder:
        kept.write(Path(folder) / key.filename, {"seconds": 1.0, "rounds": rounds}, {"key": key._asdict(), **SOURCES})
        return key, (Path(folder) / key.filename).read_bytes()


def check_record(path: Path) -> None:
    from supclust import kept, sweep

    key, whole = run_on_record()
    (path.parent / key.filename).write_bytes(path.read_bytes())
    found = sweep.recorded({key: ("", SOURCES)}, path.parent)
    if found.empty:
        kept.load(path)  # says why, unless it is of another run
        return
    right("another run", len(found) == 1, found["accuracy"].item() == 0.5, json.loads(whole) == json.loads(path.read_bytes()))


@functools.cache
def report_table() -> list[bytes]:
    from supclust import kept

    with tempfile.TemporaryDirectory() as folder:
        kept.write(Path(folder) / "t.csv", pd.DataFrame({"a": ["x", "y"], "b": [0.1, 0.25]}), {"features": "abc", "rounds": 6})
        return [(Path(folder) / "t.csv").read_bytes()]


def check_report_table(path: Path) -> None:
    from supclust import kept

    found, _ = kept.load(path)
    assert found.to_dict("list") == {"a": ["x", "y"], "b": [0.1, 0.25]}, "another table"


def damaged_report_table(content: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.4:
        return mutations.mutated(content, rng)
    head, _, body = content.partition(b"\n")
    if rng.random() < 0.5:
        return b"# " + mutations.text(head[2:], rng) + b"\n" + body
    return head + b"\n" + mutations.table(body, rng)


@functools.cache
def round_files() -> list[bytes]:
    """The record and the embeddings of a round."""
    from supclust.label import labeling

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "e.npz", features=POINTS, ids=np.array(IDS))
        (folder / "labels.csv").write_text("id,label\na.png,A\n2.png,B\n")
        labeling.run(
            labeling.Request(folder / "e.npz", folder / "round", budget=2, labeled=[folder / "labels.csv"], classes=["A", "B"])
        )
        return [(folder / "round" / "supclust.json").read_bytes(), (folder / "e.npz").read_bytes()]


def check_round(path: Path) -> None:
    from supclust.label import labeling, sources

    folder = path.parent / "round"
    folder.mkdir(exist_ok=True)
    (path.parent / "e.npz").write_bytes(round_files()[1])
    (folder / "supclust.json").write_bytes(path.read_bytes())
    request = labeling.Request(folder, path.parent / "next", budget=1)
    source = sources.read(request)
    right("another pool", source.ids == tuple(IDS), set(source.earlier) <= set(IDS))
    matched, labels = labeling.match(request, source, labeling.read_labels(request), source.earlier)
    done, left = labeling._divided(source, matched, labels, 1)
    right("picks that come twice", {*done, *left} == set(range(len(IDS))), not {*done} & {*left})
    assert {IDS.index(one) for one in source.earlier} <= {*done.tolist()}, "a pick that comes again"


def isic() -> list[bytes]:
    classes = ["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK"]
    rows = [",".join([f"ISIC_{i:07}", *("1.0" if i % 8 == j else "0.0" for j in range(9))]) for i in range(9)]
    return ["\n".join([",".join(["image", *classes]), *rows, ""]).encode()]


def check_isic(path: Path) -> None:
    from supclust.images import isic2019

    names, labels = isic2019.read_labels(path)
    right("other labels", len(names) == len(labels) == len(set(names)), set(labels.tolist()) <= set(range(8)))
    with suppress(Exception):
        rows = [line.split(",") for line in path.read_text("utf-8-sig").strip().split("\n")[1:]]
        if all(len(row) == 10 and '"' not in "".join(row) for row in rows):
            assert_same_text([row[0] for row in rows], names)


def assert_same_text(expected: list[str], found: list[str]) -> None:
    if expected != found:
        raise SystemExit(f"other names: {found[:3]} instead of {expected[:3]}")


@functools.cache
def checkpoint() -> list[bytes]:
    import torch

    from supclust.train import checkpoints

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "c.pt"
        checkpoints.save(file, {"images": "abc"}, {"model": torch.nn.Linear(2, 2)}, (3, 1.5, torch.ones(2), [{"epoch": 1}]))
        return [file.read_bytes()]


def check_checkpoint(path: Path) -> None:
    import torch

    from supclust.train import checkpoints

    model = torch.nn.Linear(2, 2)
    step, seconds, losses, history = checkpoints.resume(path, {"images": "abc"}, {"model": model}, torch.device("cpu"))
    torch.manual_seed(0)
    whole = torch.nn.Linear(2, 2)
    assert (step, seconds, losses.tolist(), history) == (3, 1.5, [1, 1], [{"epoch": 1}]), "another progress"
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), whole.parameters(), strict=True)), "other weights"


def check_provenance(path: Path) -> None:
    from supclust.report import reproduce

    found = reproduce._earlier_entries(path)
    assert set(found) <= {file.stem for file in reproduce.find_notebooks()}


# -- parameters ----------------------------------------------------------------------------------------------------------------

NAMES = ("seed", "budget", "rounds", "recompute", "measure", "profile", "nothing", "", "se ed", "\0")
RECIPE = (
    "network",
    "width",
    "side",
    "epochs",
    "batch_size",
    "learning_rate",
    "temperature",
    "flip",
    "precision",
    "seed",
    "knn_every",
    "x",
)
NUMBERS = ("1", "2", "16", "-1", "0", "1e3", "1.0", " 3 ", "true", "False", "off", "resnet18", "float32", "10**9", "١")


def pairs(names: tuple[str, ...], rng: random.Random) -> bytes:
    """What stands after -p, some times."""
    return json.dumps(
        [[rng.choice(names), rng.choice([*NUMBERS, rng.choice(mutations.CELLS)[:99]])] for _ in range(rng.randint(1, 3))]
    ).encode()


def notebook_parameters(content: bytes, rng: random.Random) -> bytes:
    return pairs(NAMES, rng)


def recipe_parameters(content: bytes, rng: random.Random) -> bytes:
    return pairs(RECIPE, rng)


@functools.cache
def _inspected(file: Path) -> Any:
    import papermill

    return papermill.inspect_notebook(file)


def check_notebook_parameters(path: Path) -> None:
    from unittest import mock

    from supclust.report import reproduce

    given = dict(json.loads(path.read_bytes()))
    [notebook] = reproduce.find_notebooks(["08"])
    try:
        known = _inspected(notebook)
        with mock.patch("papermill.inspect_notebook", return_value=known):
            [found] = reproduce.plan("laptop", [notebook], given, False).values()
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    kinds = {"profile": str, "seed": int, "budget": int, "rounds": int, "recompute": bool}
    assert {name: type(value) for name, value in found.items()} == kinds, f"{found}"
    assert all(found[name] == int(text) for name, text in given.items() if kinds[name] is int), f"{given} became {found}"


def check_recipe(path: Path) -> None:
    from supclust import profiles, simclr

    try:
        config = profiles.parsed(profiles.recipe("laptop", "digits"), dict(json.loads(path.read_bytes())))
        if config.width <= 16:
            simclr.untrained(config)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    assert all(np.isfinite(value) for value in vars(config).values() if isinstance(value, float)), f"{config}"


NOTES = json.dumps({"notebooks": {"08_label_your_own_images": {"status": "ok"}}}).encode()
IMAGES, LABELS = "supclust.images.files", "supclust.label.annotations supclust.label.matching"
FEATURES = "supclust.label.embeddings supclust.report.compare pyarrow.parquet"
READERS = {
    reader.name: reader
    for reader in (
        *(
            Reader(
                kind.lower(),
                f"a.{suffix}",
                make,
                mutations.png if kind == "PNG" else mutations.binary,
                check_image,
                IMAGES,
                heavy=4,
            )
            for kind, suffix, make in [(kind, PICTURES[kind][0], functools.partial(pictures, kind)) for kind in PICTURES]
        ),
        Reader("dicom", "a.dcm", dicoms, mutations.binary, check_image, f"{IMAGES} pydicom.pixels", heavy=4),
        Reader("npy", "e.npy", arrays, damaged_npy, check_embeddings, FEATURES),
        Reader("npz", "e.npz", archives, damaged_npz, check_embeddings, FEATURES),
        Reader("parquet", "e.parquet", parquets, damaged_parquet, check_embeddings, FEATURES),
        Reader("labelled_npz", "e.npz", archives, damaged_npz, check_labelled, FEATURES),
        Reader("labelled_parquet", "e.parquet", parquets, damaged_parquet, check_labelled, FEATURES),
        Reader("labels_csv", "labels.csv", tables, mutations.table, check_labels, LABELS),
        Reader("label_studio", "labels.json", tasks, mutations.text, check_labels, LABELS),
        Reader("json_lines", "labels.jsonl", lines, mutations.text, check_labels, LABELS),
        Reader("fiftyone", "labels.json", fiftyone, mutations.text, check_labels, LABELS),
        Reader("typed_labels", "labels.csv", lambda: tables()[:1], mutations.table, check_typed, "supclust.label.typed"),
        Reader("isic", "labels.csv", isic, mutations.table, check_isic, "supclust.images.isic2019"),
        Reader("weights", "encoder.safetensors", weights, damaged_safetensors, check_weights, "supclust.simclr"),
        Reader("features", "features.safetensors", feature_files, damaged_safetensors, check_features, "supclust.features"),
        Reader("checkpoint", "checkpoint.pt", checkpoint, mutations.binary, check_checkpoint, "supclust.train.checkpoints"),
        Reader("record", "record.json", lambda: [run_on_record()[1]], mutations.text, check_record, "supclust.sweep"),
        Reader("report_table", "table.csv", report_table, damaged_report_table, check_report_table, "supclust.kept pandas"),
        Reader("round", "supclust.json", lambda: [round_files()[0]], mutations.text, check_round, "supclust.label.labeling"),
        Reader("provenance", "provenance.json", lambda: [NOTES], mutations.text, check_provenance, "supclust.report.reproduce"),
        Reader(
            "notebook_parameters", "p.json", lambda: [], notebook_parameters, check_notebook_parameters, "supclust.report.reproduce"
        ),
        Reader("recipe_parameters", "p.json", lambda: [], recipe_parameters, check_recipe, "supclust.simclr"),
    )
}
