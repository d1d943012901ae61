"""Image files as people have them: broken, huge, turned, linked in circles, of strange names."""

import io
import logging
import math
import os
import pickle
import struct
import subprocess
import sys
import time
import zlib
from contextlib import suppress

import numpy as np
import pillow_heif
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from supclust.images import files as images
from tests.drawn_images import draw
from tests.mutations import mutated


def write(path, colour=(200, 30, 60), size=(12, 9), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


def as_bytes(kind="PNG", size=(24, 18), **options):
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, kind, **options)
    return stream.getvalue()


def find(root, **options):
    """Names of the images in a folder, and of the others with the reason."""
    found, others = images.find(root, **options)
    found = tuple(file.relative_to(root).as_posix() for file in found)
    return found, {images.printable(file.relative_to(root).as_posix()): others[file] for file in others}


def load_readable(root, files, side):
    """The images that can be read, their files, and the others with the reason."""
    unreadable = {}
    found = images.read_all(files, side, unreadable)
    return found, [file for file in files if file not in unreadable], unreadable


def png_that_claims(width, height):
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def tiff(bands, bits, kind=1, order="<", pixels=None, photometric=1, planes=1):
    """A TIFF file of pixels, else of 2 x 2 zeros, whose numbers are unsigned (1), signed (2) or floating-point (3)."""
    height, width = (2, 2) if pixels is None else pixels.shape[:2]
    content = bytes(bands * bits) if pixels is None else pixels.tobytes()
    each = bytes([*struct.pack(f"{order}H", bits)]) * bands
    tags = {256: (3, width), 257: (3, height), 258: (3, each), 259: (3, 1), 262: (3, photometric), 273: (4, 400), 277: (3, bands)}
    tags |= {278: (3, height), 279: (4, len(content)), 284: (3, planes), 339: (3, struct.pack(f"{order}H", kind) * bands)}
    entries, extra = b"", b""
    for tag, (type_, value) in tags.items():
        many = isinstance(value, bytes) and len(value) > 4
        one = value if isinstance(value, bytes) else struct.pack(f"{order}{'H' if type_ == 3 else 'L'}", value)
        field = struct.pack(f"{order}L", 8 + 2 + 12 * len(tags) + 4 + len(extra)) if many else one.ljust(4, b"\0")
        extra += one if many else b""
        entries += struct.pack(f"{order}HHL", tag, type_, len(one) // (2 if type_ == 3 else 4)) + field
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}L", 8)
    return (start + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + extra).ljust(400, b"\0") + content


# --- finding --------------------------------------------------------------------------------------------------------------


def test_finds_images_of_all_common_formats_in_nested_folders(tmp_path):
    names = ["b/2.JPG", "b/c/3.webp", "1.png", "4.bmp", "5.tif", "6.gif", "7.ppm", "8.jp2", "9.avif", "c.j2k", "d.mpo", "e.pgm"]
    for name in names:
        write(tmp_path / name)
    assert find(tmp_path) == (tuple(sorted(names)), {})
    assert all(images.read(tmp_path / name, 6).shape == (3, 6, 6) for name in names)


def test_what_is_no_image_is_listed_with_the_reason(tmp_path):
    write(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("x")
    for name in ("painting.PSD", "brain.nii", "chart.eps"):
        (tmp_path / name).write_text("x")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert find(tmp_path)[1] == {
        "brain.nii": "NII is not read: convert it to JPEG or PNG",
        "chart.eps": "EPS is not read: convert it to JPEG or PNG",
        "gone.png": "a link to nothing, or not a regular file",
        "notes.txt": "not an image, by its name",
        "painting.PSD": "PSD is not read: convert it to JPEG or PNG",
        "pipe.png": "a link to nothing, or not a regular file",
    }


def test_hidden_files_and_results_of_the_tool_are_not_looked_at(tmp_path):
    for name in ("a.png", ".cache/b.png", ".c.png", "below/picks/contact_sheet.png", "out/d.png"):
        write(tmp_path / name)
    (tmp_path / "below" / "picks" / images.MARKER).write_text('{"supclust": "1.0", "picks": []}')
    reasons = {"below/picks": "results of supclust label: not looked at"}
    assert find(tmp_path, leave_out=[tmp_path / "out"]) == (("a.png",), reasons)


@pytest.mark.parametrize(
    "name",
    [
        *("@eaDir", "#recycle", "$RECYCLE.BIN", ".thumbnails", "System Volume Information", "__MACOSX", "lost+found", "~snapshot"),
        *("Photos Library.photoslibrary", "Catalogue Previews.lrdata"),
    ],
)
def test_folders_of_systems_and_programs_are_left_out_and_listed(tmp_path, name):
    write(tmp_path / "2024" / "a.png")
    write(tmp_path / "2024" / name / "a.png" / "THUMB.png")
    (tmp_path / "linked").symlink_to(tmp_path / "2024" / name)
    reason = "a folder of the system or of a program: not looked at"
    assert find(tmp_path) == (("2024/a.png",), {f"2024/{name}": reason, "linked": reason})
    assert find(tmp_path / "2024" / name)[0] == ("a.png/THUMB.png",)  # if it is asked for


def test_links_that_go_in_circles_or_up_end_and_linked_folders_count_once(tmp_path):
    write(tmp_path / "one" / "a.png")
    (tmp_path / "one" / "loop").symlink_to(tmp_path)
    (tmp_path / "one" / "up").symlink_to(tmp_path.parent)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    elsewhere = write(tmp_path.parent / f"{tmp_path.name}-elsewhere" / "b.png").parent
    (tmp_path / "three").symlink_to(elsewhere)
    assert find(tmp_path) == (("one/a.png", "three/b.png"), {"self": "not an image, by its name"})


def test_a_name_that_is_not_unicode_is_reported_in_a_way_that_can_be_printed(tmp_path):
    write(tmp_path / "a.png")
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes((tmp_path / "a.png").read_bytes())
    write(tmp_path / os.fsdecode(b"fol\xff") / "b.png")
    reason = "its path is not valid Unicode: rename it"
    assert find(tmp_path) == (("a.png",), {"caf\\xe9.png": reason, "fol\\xff/b.png": reason})


UNREADABLE = """
import os, sys
from pathlib import Path
from PIL import Image
from supclust.images import files as images
Image.init()
root = Path(sys.argv[1])
images.read(root / "a.png", 4)
os.setuid(65534)
found, others = images.find(root)
assert images.copies(found) == {}
unreadable = {}
print(len(images.read_all(found, 4, unreadable)), *unreadable.values(), *others.values(), sep="; ")
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become somebody who may not read")
def test_files_and_folders_that_may_not_be_read_are_reported(tmp_path):
    for parent in [tmp_path, *tmp_path.parents]:
        if not parent.stat().st_mode & 0o001:  # pytest's own folders
            parent.chmod(0o755)
    write(tmp_path / "a.png")
    write(tmp_path / "secret.png").chmod(0)
    write(tmp_path / "closed" / "b.png").parent.chmod(0)
    done = subprocess.run([sys.executable, "-c", UNREADABLE, tmp_path], capture_output=True, text=True)
    assert done.stdout == ("1; it may not be read: permission denied; cannot be opened: Permission denied\n"), done.stderr


def test_copies_are_found_by_content_not_by_name_or_size(tmp_path):
    contents = [b"abc", b"abd", b"abc", b"x", b"abc", b"abd"]
    files = [tmp_path / f"{i}.png" for i in range(6)]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    found = {files[2]: files[0], files[4]: files[0], files[5]: files[1]}
    assert images.copies(files) == found
    assert images.copies([*files, tmp_path / "gone since it was listed.png"]) == found


# --- reading --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.png", b"", "an empty file"),
        ("text.jpg", b"not an image at all", "its content is no image that can be read"),
        ("cut.png", as_bytes()[:300], "damaged: "),
        ("cut.jpg", as_bytes("JPEG")[:-60], "damaged: "),
        ("bomb.png", png_that_claims(60_000, 60_000), "larger than 178,956,970 pixels, or 65,535 on a side: scale it down"),
        ("long.png", png_that_claims(16, 65_536), "larger than 178,956,970 pixels, or 65,535 on a side: scale it down"),
        ("zeros.png", bytes(500), "a file of zeros"),
        ("script.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "its content is PDF or EPS, which is not read"),
        ("film.jpg", b"\0\0\0\x1cftypM4V ", "its content is a video, which is not read"),
        ("all.jpg", b"PK\x03\x04", "its content is an archive, which is not read"),
        ("phone.jpg", b"\0\0\0\x24ftypheic\0\0\0\0mif1heic", "its content is no image that can be read"),
        ("page.jpg", b"\n<!DOCTYPE html><html lang=en>", "its content is a web page or SVG, which is not read"),
        ("pointer.png", b"version https://git-lfs.github.com/spec/v1\n", "its content is a pointer of Git LFS or git-annex"),
        ("scan.jpg", bytes(128) + b"DICM" + bytes(20), "its content is no image that can be read"),
        (
            "bands.tif",
            tiff(13, 16),
            "its content is a TIFF of unusual bands or numbers, or a damaged one, which is not read: convert it to JPEG or PNG",
        ),
        ("float.tif", tiff(3, 32, 3), "its content is a TIFF of unusual bands or numbers"),
        ("double.jpg", tiff(1, 64, 3, ">"), "its content is a TIFF of unusual bands or numbers"),
        ("cut.tif", tiff(13, 16)[:60], "its content is a TIFF of unusual bands or numbers, or a damaged one"),
    ],
)
def test_what_cannot_be_read_is_left_out_with_a_reason(tmp_path, name, content, reason):
    good = [write(tmp_path / "a.png"), write(tmp_path / "z.png")]
    (tmp_path / name).write_bytes(content)
    files = sorted([*good, tmp_path / name])
    pixels, kept, unreadable = load_readable(tmp_path, files, 4)
    assert pixels.shape == (2, 3, 4, 4)
    assert kept == good
    assert list(unreadable) == [tmp_path / name]
    assert unreadable[tmp_path / name].startswith(reason)
    assert str(tmp_path) not in unreadable[tmp_path / name]
    with pytest.raises(ValueError, match=name) as caught:
        images.thumbnail(tmp_path / name, 8)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # a worker may hand it on


def test_files_that_cannot_be_read_are_missing_in_arrays_and_noted_if_there_is_a_place_for_it(tmp_path):
    for i in range(3):
        write(tmp_path / f"{i}.png", (i, 0, 0))
    (tmp_path / "1.png").write_bytes(b"")
    names, unreadable = ("0.png", "1.png", "2.png"), {}
    found = images.ImageFiles(tmp_path, names, 4, unreadable=unreadable)[:]
    assert found[:, 0, 0, 0].tolist() == [0, 2]
    assert unreadable == {tmp_path / "1.png": "an empty file"}
    with pytest.raises(ValueError, match=r"cannot read the image .*1.png: an empty file"):
        images.ImageFiles(tmp_path, names, 4)[:]


def test_transparent_pixels_are_white_whatever_their_hidden_colour(tmp_path):
    half = Image.new("RGBA", (8, 4), (0, 0, 0, 0))
    half.paste((10, 20, 30, 255), (0, 0, 4, 4))
    half.save(tmp_path / "a.png")
    half.quantize(4).save(tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        assert np.abs(images.read(tmp_path / name, 4)[:, :, -1].astype(int) - 255).max() <= 2
        assert images.thumbnail(tmp_path / name, 8).getpixel((7, 0)) == (255, 255, 255)


def test_cmyk_and_floating_point_images_are_read(tmp_path):
    write(tmp_path / "a.jpg", (0, 255, 255, 0), mode="CMYK")
    red = images.read(tmp_path / "a.jpg", 4)
    assert red[0].min() > 200
    assert red[1:].max() < 60
    Image.fromarray(np.linspace(-3, 5, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path / "b.tif")
    grey = images.read(tmp_path / "b.tif", 8)
    assert grey.min() == 0
    assert grey.max() == 255


@pytest.mark.parametrize(
    ("mode", "size"),
    [
        *(("1", (40, 30)), ("L", (1, 3000)), ("LA", (3000, 1)), ("La", (40, 30)), ("P", (1, 3000)), ("PA", (3000, 1))),
        *(("RGB", (40, 30)), ("RGBA", (1, 3000)), ("RGBa", (3000, 1)), ("RGBX", (40, 30)), ("CMYK", (1, 3000))),
        *(("YCbCr", (3000, 1)), ("LAB", (40, 30)), ("HSV", (1, 3000)), ("F", (40, 30)), ("I", (40, 30)), ("I;16", (3000, 1))),
    ],
)
def test_an_image_of_any_mode_and_shape_becomes_rgb(mode, size):
    found = images.rgb(Image.new(mode, size))
    assert (found.mode, found.size) == ("RGB", size)


PICTURE = np.arange(64 * 80).reshape(64, 80) // 20  # from black to white
SCAN = (PICTURE * (4095 / 255)).astype("u2")  # of 12 bits


def dicom(path, values, bits=12, **elements):
    """A DICOM file of grey pixels (h, w) or frames (n, h, w), or RGB (h, w, 3), of a patient with a name."""
    found = pydicom.Dataset()
    found.PatientName, found.PatientID, found.SOPClassUID = "Doe^Jane", "4711-0815", pydicom.uid.SecondaryCaptureImageStorage
    colour = values.shape[-1] == 3
    pydicom.pixels.set_pixel_data(found, values, "RGB" if colour else "MONOCHROME2", 8 if values.dtype == np.uint8 else bits)
    for name, value in elements.items():
        setattr(found, name, value)
    found.save_as(path, enforce_file_format=True)
    return path


def assert_shows(tmp_path, values, expected, tolerance=1):
    """That an image of these numbers is expected (64, 80) to the encoder and on the contact sheet, however it is stored."""
    for name in ("a.tif", "a.png")[: 1 + (values.dtype.kind == "u")]:
        Image.fromarray(values).save(tmp_path / name)
        assert (
            np.abs(np.asarray(images.thumbnail(tmp_path / name, 80)).transpose(2, 0, 1) - expected.astype(float)).max() <= tolerance
        )
        squeezed = np.asarray(Image.fromarray(expected.astype(np.uint8)).resize((16, 16), Image.Resampling.BICUBIC), dtype=float)
        assert np.abs(images.read(tmp_path / name, 16) - squeezed).max() <= 1.5 * tolerance + 1


@pytest.mark.parametrize(
    ("kind", "bits"), [*[(kind, bits) for kind in ("u2", "i2", "i4", "f4") for bits in (8, 10, 12, 14)], ("u2", 16)]
)
def test_an_image_looks_the_same_in_whatever_number_of_bits(tmp_path, kind, bits):
    assert_shows(tmp_path, (PICTURE * ((2**bits - 1) / 255)).astype(kind), PICTURE)


@pytest.mark.parametrize("scale", [1 / 255, 1])
def test_floating_point_numbers_go_from_0_to_1_or_255(tmp_path, scale):
    assert_shows(tmp_path, (PICTURE * scale).astype("f4"), PICTURE)
    assert_shows(tmp_path, ((80 + PICTURE / 4) * scale).astype("f4"), 80 + PICTURE // 4)  # and keep their brightness


@pytest.mark.parametrize(
    ("kind", "low", "step"),
    [
        ("u2", 30000, 8),
        ("i2", -1024, 16),
        ("i2", -3000, 1),
        ("i4", 10**6, 3),
        ("i4", -(2**30), 10**6),
        ("f4", -1, 1 / 128),
        ("f4", 1e6, 1),
    ],
)
def test_other_ranges_are_those_that_the_image_fills(tmp_path, kind, low, step):
    shown = np.clip((PICTURE - 2.5) * 255 / 250, 0, 255)
    assert_shows(tmp_path, (low + PICTURE * step).astype(kind), shown, tolerance=3)


@pytest.mark.parametrize(
    ("kind", "options", "values"),
    [
        ("u2", {"photometric": 0}, 4095 - PICTURE * (4095 / 255)),  # white is 0, as in radiographs
        ("f4", {"photometric": 0}, 255 - PICTURE),
        ("u1", {"photometric": 0}, 255 - PICTURE),
        ("u4", {}, 2**31 - 128 * 2**20 + PICTURE * 2**20),
        ("i1", {}, PICTURE - 128),
    ],
)
def test_numbers_of_a_tiff_that_pillow_takes_for_others(tmp_path, kind, options, values):
    values = values.astype(kind)
    number = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    (tmp_path / "a.tif").write_bytes(tiff(1, 8 * values.itemsize, number, pixels=values, **options))
    shown = np.asarray(images.thumbnail(tmp_path / "a.tif", 80))[:, :, 0]
    assert np.abs(shown - PICTURE.astype(float)).max() <= 3


def test_planes_of_16_bits_are_refused_where_pillow_would_read_half_of_each_number(tmp_path):
    planes = np.stack([PICTURE * 257] * 3).astype("u2").reshape(64, 80, 3)
    (tmp_path / "a.tif").write_bytes(tiff(3, 16, pixels=planes, photometric=2, planes=2))
    with pytest.raises(ValueError, match="its content is a TIFF of unusual bands or numbers"):
        images.read(tmp_path / "a.tif", 8)


@pytest.mark.parametrize("values", [(-9999,), (np.nan,), (-np.inf,), (-3.4028235e38,), (-9999, np.nan, -32768)])
@pytest.mark.parametrize("rows", [1, 20, 50])
def test_what_is_no_data_is_black_and_changes_nothing_else(tmp_path, values, rows):
    heights, expected = (PICTURE * 16).astype("f4"), PICTURE.copy()
    for row in range(rows):
        heights[row], expected[row] = values[row % len(values)], 0
    Image.fromarray(heights).save(tmp_path / "a.tif")
    assert np.abs(np.asarray(images.thumbnail(tmp_path / "a.tif", 80))[:, :, 0] - expected.astype(float)).max() <= 2


def test_no_data_in_whole_numbers_and_single_outliers(tmp_path):
    for kind, nothing, shown in (("u2", 65535, 255), ("i2", -32768, 0)):
        scan, expected = (PICTURE * 16).astype(kind), PICTURE.copy()
        scan[:30], expected[:30] = nothing, shown
        assert_shows(tmp_path, scan, expected, tolerance=2)
    hot = (PICTURE / 255).astype("f4")
    hot[3, 5], hot[7, 7] = 1e30, -1e6
    image = images.rgb(Image.fromarray(hot))
    assert abs(np.asarray(image)[:, :, 0].astype(float) - PICTURE).mean() < 1


@given(low=st.floats(-1e6, 1e6), step=st.floats(0.01, 1e6), kind=st.sampled_from(["u2", "i2", "i4", "f4"]), seed=st.integers(0, 99))
def test_no_image_with_something_on_it_is_black_or_white(low, step, kind, seed):
    noise = low + step * np.random.default_rng(seed).gamma(2, 1, (24, 32))
    values = (noise if kind == "f4" else noise.clip(np.iinfo(kind).min, np.iinfo(kind).max)).astype(kind)
    if len(np.unique(values)) > 16:
        shown = np.asarray(images.rgb(Image.fromarray(values)))
        assert shown.std() > 5
        assert 10 < shown.mean() < 245


def test_a_single_spot_is_shown_and_one_value_alone_is_no_error():
    spot = np.zeros((64, 80), dtype=np.uint16)
    spot[30:33, 30:33] = 3000
    assert images.rgb(Image.fromarray(spot)).getextrema() == ((0, 187),) * 3
    for mode, value, shown in (
        ("F", math.nan, 0),
        ("F", -5, 0),
        ("I", 0, 0),
        ("I;16", 25700, 100),
        ("I", 10**9, 0),
        ("F", 0.5, 128),
    ):
        assert images.rgb(Image.new(mode, (4, 3), value)).getextrema() == ((shown, shown),) * 3


def png_of_16_bits(pixels):
    """A PNG file of colours (h, w, 3 or 4) of 16 bits, which Pillow reads but does not write."""
    height, width, bands = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[bands], 0, 0, 0)
    chunks = {b"IHDR": header, b"IDAT": zlib.compress(rows), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part)) for name, part in chunks.items()
    )


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("bands", [3, 4])
def test_colours_of_16_bits_are_not_dark_where_fewer_are_used(tmp_path, bits, bands):
    colours = np.stack([PICTURE, PICTURE[::-1], 255 - PICTURE, np.full_like(PICTURE, 255)][:bands], axis=2) * ((2**bits - 1) / 255)
    if bands == 4:
        colours[:, :, 3] = 65535
    (tmp_path / "a.png").write_bytes(png_of_16_bits(colours))
    shown = np.asarray(images.thumbnail(tmp_path / "a.png", 80)).astype(float)
    expected = np.stack([PICTURE, PICTURE[::-1], 255 - PICTURE], axis=2)
    assert np.abs(shown - expected).max() <= {10: 90, 12: 20, 16: 1}[bits]  # Pillow keeps the upper 2, 4 or 8 bits
    (tmp_path / "a.ppm").write_bytes(b"P6 80 64 65535\n" + colours[:, :, :3].astype(">u2").tobytes())
    shown = np.asarray(images.thumbnail(tmp_path / "a.ppm", 80)).astype(float)
    assert np.abs(shown - expected).max() <= {10: 130, 12: 20, 16: 1}[bits]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize(("shade", "ground"), [(255, 0), (200, 0), (120, 255), (0, 255)])
def test_what_is_light_on_a_transparent_ground_stays_visible(tmp_path, mode, shade, ground):
    glyph = Image.new("LA", (32, 32), (shade, 0))
    glyph.paste((shade, 255), (8, 8, 16, 24))
    glyph.convert("RGBA").quantize(4).save(tmp_path / "a.png") if mode == "P" else glyph.convert(mode).save(tmp_path / "a.png")
    shown = images.read(tmp_path / "a.png", 32).astype(int)
    assert (shown[0, 2, 2], shown[0, 12, 12]) == (ground, shade)
    assert images.thumbnail(tmp_path / "a.png", 32).getpixel((2, 2)) == (ground,) * 3


def test_a_faint_glyph_is_seen_as_if_it_were_not_and_of_what_is_fully_transparent_the_colours():
    glyph = Image.new("RGBA", (32, 32), (255, 255, 255, 0))
    assert images.rgb(glyph).getextrema() == ((255, 255),) * 3
    for alpha in (80, 10):
        glyph.paste((255, 255, 255, alpha), (8, 8, 16, 24))
        assert images.rgb(glyph).getextrema() == ((0, 255),) * 3
    framebuffer = Image.merge("RGBA", [Image.fromarray(PICTURE.astype("u1"))] * 3 + [Image.new("L", PICTURE.shape[::-1])])
    assert (np.asarray(images.rgb(framebuffer))[:, :, 1] == PICTURE).all()


def test_alpha_of_fewer_bits_than_its_numbers_have_hides_nothing(tmp_path):
    pixels = np.dstack([PICTURE * 16] * 3 + [np.full_like(PICTURE, 4095)])
    (tmp_path / "a.png").write_bytes(png_of_16_bits(pixels))
    assert np.abs(np.asarray(images.thumbnail(tmp_path / "a.png", 80))[:, :, 0] - PICTURE.astype(float)).max() <= 20


@pytest.mark.parametrize("levels", [2, 4, 16, 17])
def test_grey_images_of_few_small_values_are_numbers_not_black(levels):
    few = PICTURE * levels // 256
    for values in (few, few + 20 * (few == few.max())):  # a larger value makes it a dark photograph
        shown = np.asarray(images.rgb(Image.fromarray(values.astype("u1"))))[:, :, 0]
        assert (shown == (few * (255 / (levels - 1))).round()).all() if values is few else (shown == values).all()


MEMORY = """
import resource, sys, warnings
from pathlib import Path
from supclust.images import files as images
warnings.simplefilter("ignore")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
images.read(Path(sys.argv[1]), 32)
images.thumbnail(Path(sys.argv[1]), 256)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux")
@pytest.mark.parametrize(("mode", "factor"), [("F", 1.5), ("I;16", 2), ("RGBA", 3.3)])
def test_one_large_image_takes_little_more_than_its_own_memory(tmp_path, mode, factor):
    Image.new(mode, (6000, 6000), (7, 7, 7, 200) if mode == "RGBA" else 7).save(tmp_path / "a.tif")
    done = subprocess.run([sys.executable, "-c", MEMORY, tmp_path / "a.tif"], capture_output=True, text=True)
    assert int(done.stdout) * 1000 < factor * (tmp_path / "a.tif").stat().st_size, done.stderr


def test_damaged_tiff_files_are_quiet(tmp_path, capfd):
    content = bytearray(as_bytes("TIFF", compression="tiff_adobe_deflate"))
    content[200:260] = b"\xa5" * 60
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(ValueError, match=r"a.tif: damaged: "):
        images.read(tmp_path / "a.tif", 8)
    assert capfd.readouterr() == ("", "")


def test_of_an_animation_the_first_frame_counts(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "b.webp", "c.png"):
        frames[0].save(
            tmp_path / name, save_all=True, append_images=frames[1:], duration=50, **({"lossless": True} if "web" in name else {})
        )
        assert images.read(tmp_path / name, 4)[:, 0, 0].tolist() == [255, 0, 0]


def test_broken_metadata_is_no_reason_to_lose_an_image(tmp_path, monkeypatch):
    file = write(tmp_path / "a.jpg")
    monkeypatch.setattr(Image.Image, "getexif", lambda image: struct.unpack(">I", b""))
    with pytest.raises(struct.error):
        Image.open(file).getexif()
    monkeypatch.undo()
    exif = Image.Exif()
    exif[0x0112] = 6
    content = bytearray(as_bytes("JPEG", exif=exif.tobytes()))
    where = content.index(b"Exif") + 10
    content[where : where + 20] = b"\xff" * 20
    file.write_bytes(content)
    assert images.read(file, 4).shape == (3, 4, 4)


def test_of_large_images_one_at_a_time_is_decoded(tmp_path, monkeypatch):
    files = [write(tmp_path / f"{i}.png", size=(40, 40)) for i in range(6)]
    monkeypatch.setattr(images, "LARGE", 1000)
    monkeypatch.setattr(images, "THREADS", 4)
    at_work, most, rgb = [], [], images.rgb

    def watch(*arguments):
        at_work.append(1)
        most.append(len(at_work))
        time.sleep(0.01)
        at_work.pop()
        return rgb(*arguments)

    monkeypatch.setattr(images, "rgb", watch)
    images.read_all(files, 4)
    assert max(most) == 1
    monkeypatch.setattr(images, "LARGE", 2000)
    images.read_all(files, 4)
    assert max(most) > 1


def test_thumbnails_are_whole_upright_and_not_larger_than_the_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # its camera was turned
    write(tmp_path / "a.jpg", size=(400, 200), exif=exif.tobytes())
    assert images.thumbnail(tmp_path / "a.jpg", 100).size == (50, 100)
    assert images.thumbnail(write(tmp_path / "b.png", size=(8, 6)), 100).size == (8, 6)


VALID = {kind: as_bytes(kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "HEIF")}
VALID["DCM"] = dicom(io.BytesIO(), SCAN, WindowCenter=1024, WindowWidth=2048).getvalue()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rng=st.randoms(use_true_random=False))
def test_whatever_is_in_a_file_it_is_an_image_or_a_reason(tmp_path, rng):
    files = [tmp_path / f"a.{kind.lower()}" for kind in VALID]
    for file, content in zip(files, VALID.values(), strict=True):
        file.write_bytes(mutated(content, rng))
    pixels, kept, unreadable = load_readable(tmp_path, files, 4)
    assert len(pixels) == len(kept) == len(files) - len(unreadable)
    assert all(unreadable.values())
    for file in files:
        with suppress(ValueError):
            assert max(images.thumbnail(file, 8).size) <= 8


def test_images_that_stay_in_their_files_are_read_without_a_library_s_words(tmp_path, recwarn):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = as_bytes("JPEG", exif=exif)
    (tmp_path / "a.jpg").write_bytes(content.replace(b"\x01\x12\x00\x03\x00\x00\x00\x01", b"\x01\x12\x00\x03\x00\x00\x00\xff"))
    lazy = images.ImageFiles(tmp_path, ("a.jpg",), 4)
    assert lazy[0].shape == (3, 4, 4)
    assert lazy[:].shape == (1, 3, 4, 4)
    assert not recwarn.list


@pytest.mark.parametrize("kind", ["a bright bead", "hot pixels", "a no-data edge that was resampled"])
def test_few_extreme_pixels_do_not_hide_the_rest(kind):
    values = np.random.default_rng(0).uniform(200, 500, (100, 100))
    if kind == "hot pixels":
        values.flat[::50] = 60_000
    elif kind == "a bright bead":
        values[:18, :18] = 60_000
    else:
        values[:4] = np.linspace(-9999, 200, 400).reshape(4, 100)
    low, high = images.value_range(values)
    assert 0 <= low < 260
    assert 440 < high < 1100


def test_sixteen_bits_of_colour_whose_upper_halves_are_empty_are_told(tmp_path):
    rows = np.repeat(PICTURE[:, :, None], 3, axis=2).astype(">u2")
    (tmp_path / "dark.png").write_bytes(png_of_16_bits(rows))
    with pytest.raises(ValueError, match="16 bits a channel with values below 512"):
        images.thumbnail(tmp_path / "dark.png", 80)


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("mode", ["L", "I;16", "RGB", "F"])
def test_a_tiff_is_turned_once(tmp_path, mode, compression):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(PICTURE.astype(np.uint8))
    image = Image.fromarray(PICTURE.astype(np.uint16) * 257) if mode == "I;16" else picture.convert(mode)
    image.save(tmp_path / "a.tif", exif=exif.tobytes(), compression=compression)
    shown = np.asarray(images.thumbnail(tmp_path / "a.tif", 80).convert("L"), dtype=float)
    assert np.abs(shown - np.rot90(PICTURE, -1)).max() <= 1


# --- kinds that extras bring ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["heic", "HEIF", "hif", "avif", "jpg"])
def test_photographs_of_telephones_are_turned_once(tmp_path, suffix):
    image, exif = Image.new("RGB", (40, 20), (250, 10, 10)), Image.Exif()
    image.paste((10, 10, 250), (0, 10, 40, 20))
    exif[0x0112] = 6  # its camera was turned: below is left
    file = tmp_path / f"a.{suffix}"
    image.save(file, exif=exif.tobytes(), quality=95)
    assert find(tmp_path)[0] == (file.name,)
    shown = images.thumbnail(file, 100)
    assert shown.size == (20, 40)
    assert np.abs(np.subtract(shown.getpixel((3, 20)), (10, 10, 250))).max() < 30
    assert np.abs(np.subtract(shown.getpixel((16, 20)), (250, 10, 10))).max() < 30


def test_heic_of_10_bits_of_several_images_and_damaged(tmp_path):
    deep = np.repeat(PICTURE[:, :, None] * 257, 3, axis=2).astype("<u2")
    pillow_heif.from_bytes("RGB;16", (80, 64), deep.tobytes()).save(tmp_path / "deep.jpg", quality=-1)
    assert np.abs(np.asarray(images.thumbnail(tmp_path / "deep.jpg", 80))[:, :, 0] - PICTURE.astype(float)).max() <= 3
    red, blue = (Image.new("RGB", (64, 64), colour) for colour in ("red", "blue"))
    red.save(tmp_path / "burst.heic", save_all=True, append_images=[blue])
    assert images.read(tmp_path / "burst.heic", 4)[0].min() > 240
    red.save(tmp_path / "one.heic")
    whole = (tmp_path / "one.heic").read_bytes()
    for length, reason in ((300, "its content is no image that can be read"), (len(whole) - 20, r"damaged: [^\n]+\Z")):
        (tmp_path / "cut.heic").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=reason):
            images.read(tmp_path / "cut.heic", 4)


WITHOUT_EXTRAS = """
import sys
from pathlib import Path
sys.modules |= {"pillow_heif": None, "pydicom": None}
from supclust.images import files as images
found, others = images.find(Path(sys.argv[1]))
images.read_all(found, 4, others)
print(*sorted(others.values()), sep="\\n")
"""


def test_without_the_extras_they_are_named(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.heic")
    dicom(tmp_path / "b.dcm", SCAN)
    for name in ("a.heic", "b.dcm"):
        (tmp_path / f"{name}.jpg").write_bytes((tmp_path / name).read_bytes())
    dicom(tmp_path / "IM0001", SCAN)
    done = subprocess.run([sys.executable, "-c", WITHOUT_EXTRAS, tmp_path], capture_output=True, text=True)
    dicom_, heif = (f"read: convert it to JPEG or PNG, or run pip install 'supclust[{extra}]'" for extra in ("dicom", "heif"))
    reasons = [f"DCM is not {dicom_}", f"HEIC is not {heif}"]
    reasons += [
        f"its content is DICOM, which is not {dicom_}",
        f"its content is HEIC, which is not {heif}",
        "not an image, by its name",
    ]
    assert done.stdout.splitlines() == reasons, done.stderr


def window(center, width):
    return {"WindowCenter": center, "WindowWidth": width}


@pytest.mark.parametrize(
    ("values", "elements", "expected"),
    [
        (SCAN, {}, PICTURE),
        (SCAN, {"PhotometricInterpretation": "MONOCHROME1"}, 255 - PICTURE),
        (SCAN, window(2048, 4096), PICTURE),
        (SCAN, window(1024, 2048), np.minimum(2 * PICTURE, 255)),
        (SCAN, window([1024, 9], [2048, 9]), np.minimum(2 * PICTURE, 255)),
        (SCAN, window(1024, 2048) | {"PhotometricInterpretation": "MONOCHROME1"}, 255 - np.minimum(2 * PICTURE, 255)),
        (SCAN, window(0, 2048) | {"RescaleSlope": 2, "RescaleIntercept": -1024}, np.minimum(4 * PICTURE, 255)),
        (SCAN, window(-9999, 10), PICTURE),  # beside all values: as if there were none
        (SCAN, window("", ""), PICTURE),
        ((SCAN.astype("i2") - 2048), window(-1024, 2048), np.minimum(2 * PICTURE, 255)),
        (SCAN, window(1024, 2048) | {"VOILUTFunction": "LINEAR_EXACT"}, np.minimum(2 * PICTURE, 255)),
        (np.stack([SCAN, SCAN[::-1]]), {}, PICTURE),  # of several frames the first
        (PICTURE.astype("u1"), {}, PICTURE),
        (PICTURE.astype("u1"), {"PhotometricInterpretation": "MONOCHROME1"}, 255 - PICTURE),
        (np.repeat(PICTURE[:, :, None], 3, axis=2).astype("u1"), {}, PICTURE),
    ],
)
def test_dicom_looks_as_its_file_says(tmp_path, values, elements, expected):
    for name in ("scan.dcm", "IM0001", "1.2.840.113619.jpg"):
        dicom(tmp_path / name, values, **elements)
        shown = np.asarray(images.thumbnail(tmp_path / name, 80)).transpose(2, 0, 1).astype(float)
        assert np.abs(shown - expected).max() <= 2
    assert find(tmp_path)[0] == ("1.2.840.113619.jpg", "IM0001", "scan.dcm")


def test_pillow_s_log_is_not_printed(tmp_path, caplog):
    (tmp_path / "a.tif").write_bytes(tiff(18, 8))
    assert load_readable(tmp_path, [tmp_path / "a.tif"], 4)[2]
    assert not caplog.text


def test_what_is_in_a_dicom_file_is_not_printed(tmp_path, caplog):
    content = dicom(tmp_path / "a.dcm", SCAN).read_bytes()
    (tmp_path / "a.dcm").write_bytes(content.replace(b"1.2.840.10008.1.2.1", b"1.2.Doe^Jane.8.1.2.1", 1)[: len(content)])
    logging.getLogger("pydicom").setLevel(logging.WARNING)  # as importing it does
    load_readable(tmp_path, [tmp_path / "a.dcm"], 4)
    assert not caplog.text


def test_dicom_with_tables_of_grey_and_of_colours(tmp_path):
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 16], (np.arange(4096)[::-1] * 16).astype("u2").tolist()
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    dicom(tmp_path / "grey.dcm", SCAN, VOILUTSequence=[table])
    assert np.abs(np.asarray(images.thumbnail(tmp_path / "grey.dcm", 80))[:, :, 0] - (255.0 - PICTURE)).max() <= 2
    palette = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour, entries in (("Red", np.arange(256)), ("Green", np.arange(256)[::-1]), ("Blue", np.zeros(256))):
        palette[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        palette[f"{colour}PaletteColorLookupTableData"] = (entries * 257).astype("<u2").tobytes()
    dicom(tmp_path / "colours.dcm", PICTURE.astype("u1"), **palette)
    shown = np.asarray(images.thumbnail(tmp_path / "colours.dcm", 80)).transpose(2, 0, 1).astype(int)
    assert (shown == [PICTURE, 255 - PICTURE, np.zeros_like(PICTURE)]).all()


def test_dicom_that_holds_no_image_or_cannot_be_decompressed_is_left_out(tmp_path):
    found = pydicom.dcmread(dicom(tmp_path / "report.dcm", SCAN))
    del found.Rows
    found.save_as(tmp_path / "report.dcm")
    found = pydicom.dcmread(dicom(tmp_path / "packed.dcm", SCAN))
    found.PixelData, found.file_meta.TransferSyntaxUID = pydicom.encaps.encapsulate([bytes(90)]), pydicom.uid.JPEGLSLossless
    found["PixelData"].VR = "OB"
    found.save_as(tmp_path / "packed.dcm")
    (tmp_path / "cut.dcm").write_bytes(dicom(tmp_path / "whole.dcm", SCAN).read_bytes()[:-5000])
    unreadable = load_readable(tmp_path, sorted(tmp_path.iterdir()), 4)[2]
    assert {file.name: reason.partition(":")[0] for file, reason in unreadable.items()} == {
        "cut.dcm": "damaged",
        "packed.dcm": "its DICOM pixels are compressed",
        "report.dcm": "its content is no image that can be read",
    }


def test_compressed_dicom_that_pillow_knows_is_read(tmp_path):
    found = pydicom.dcmread(dicom(tmp_path / "a.dcm", SCAN))
    found.compress(pydicom.uid.RLELossless)
    found.save_as(tmp_path / "a.dcm")
    assert np.abs(np.asarray(images.thumbnail(tmp_path / "a.dcm", 80))[:, :, 0] - PICTURE.astype(float)).max() <= 2


# --- large JPEG -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux")
def test_a_jpeg_of_400_megapixels_is_read_in_little_memory(tmp_path):
    Image.new("L", (20_000, 20_000), 90).save(tmp_path / "a.jpg")
    done = subprocess.run([sys.executable, "-c", MEMORY, tmp_path / "a.jpg"], capture_output=True, text=True)
    assert int(done.stdout) * 1000 < 300_000_000, done.stderr


def test_jpeg_above_the_limit_is_read_if_it_can_be_reduced_on_the_way(tmp_path, monkeypatch):
    large = Image.fromarray(PICTURE.astype("u1")).resize((800, 640))
    large.save(tmp_path / "a.jpg", quality=95)
    large.save(tmp_path / "progressive.jpg", progressive=True)
    large.save(tmp_path / "a.png")
    expected = images.read(tmp_path / "a.jpg", 8)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)
    assert (images.read(tmp_path / "a.jpg", 8) == expected).all()
    assert images.thumbnail(tmp_path / "a.jpg", 40).size == (40, 32)
    for name, side in (("a.jpg", 300), ("progressive.jpg", 8), ("a.png", 8)):
        with pytest.raises(ValueError, match="larger than "):
            images.read(tmp_path / name, side)


@pytest.mark.parametrize("side", [8, 40])
def test_a_jpeg_that_is_reduced_on_the_way_looks_like_one_that_is_not(tmp_path, side):
    butterfly = draw(3, seed=1, side=40 * side)
    butterfly.save(tmp_path / "a.jpg", quality=95)
    slow = np.asarray(Image.open(tmp_path / "a.jpg").resize((side, side), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.abs(images.read(tmp_path / "a.jpg", side) - slow.astype(float)).max() <= 4
