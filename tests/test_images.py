"""Image files as people have them: broken, huge, turned, linked in circles, of strange names."""

import io
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
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from supclust.images import files as images
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
    found = images.load(root, files, side, unreadable)
    return found, [file for file in files if file not in unreadable], unreadable


def png_that_claims(width, height):
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


# --- finding --------------------------------------------------------------------------------------------------------------


def test_finds_images_of_all_common_formats_in_nested_folders(tmp_path):
    names = ["b/2.JPG", "b/c/3.webp", "1.png", "4.bmp", "5.tif", "6.gif", "7.ppm", "8.jp2", "9.avif"]
    for name in names:
        write(tmp_path / name)
    assert find(tmp_path) == (tuple(sorted(names)), {})
    assert all(images.read(tmp_path / name, 6).shape == (3, 6, 6) for name in names)


def test_what_is_no_image_is_listed_with_the_reason(tmp_path):
    write(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "phone.HEIC").write_text("x")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert find(tmp_path)[1] == {
        "gone.png": "a link to nothing",
        "notes.txt": "not an image, by its name",
        "phone.HEIC": "HEIC is not read: convert it to JPEG or PNG",
        "pipe.png": "not a regular file",
    }


def test_hidden_files_and_results_of_the_tool_are_not_looked_at(tmp_path):
    write(tmp_path / "a.png")
    write(tmp_path / ".cache" / "b.png")
    write(tmp_path / ".c.png")
    write(tmp_path / "picks" / "contact_sheet.png")
    (tmp_path / "picks" / images.MARKER).write_text("{}")
    write(tmp_path / "out" / "d.png")
    assert find(tmp_path, leave_out=[tmp_path / "out"]) == (("a.png",), {})


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
print(len(images.load(root, found, 4, unreadable)), *unreadable.values(), *others.values(), sep="; ")
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
    assert images.copies(files) == {files[2]: files[0], files[4]: files[0], files[5]: files[1]}


# --- reading --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.png", b"", "an empty file"),
        ("text.jpg", b"not an image at all", "its content is no image that can be read"),
        ("cut.png", as_bytes()[:300], "damaged: "),
        ("cut.jpg", as_bytes("JPEG")[:-60], "damaged: "),
        ("bomb.png", png_that_claims(60_000, 60_000), "larger than 178,956,970 pixels: scale it down"),
        ("script.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "its content is no image that can be read"),
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


def test_a_large_folder_stays_in_its_files_without_those_that_cannot_be_read(tmp_path, monkeypatch):
    files = [write(tmp_path / f"{i}.png", (i, 0, 0)) for i in range(3)]
    files[1].write_bytes(b"")
    monkeypatch.setattr(images, "LARGEST_ARRAY", 0)
    lazy, kept, _ = load_readable(tmp_path, files, 4)
    assert isinstance(lazy, images.ImageFiles)
    assert (lazy.names, kept) == (("0.png", "2.png"), [files[0], files[2]])


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


@pytest.mark.parametrize(("kind", "mode", "largest"), [("u2", "I;16", 93), ("i4", "I", 93), ("f4", "F", 255)])
def test_numbers_that_are_no_bytes_are_scaled_to_them(kind, mode, largest):
    picture = Image.fromarray(np.arange(1200).reshape(30, 40).astype(kind) * 20)
    assert picture.mode == mode
    assert images.rgb(picture).getextrema() == ((0, largest),) * 3
    assert images.rgb(Image.new("F", (4, 3), math.nan)).getextrema() == ((0, 0),) * 3


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

    def watch(image):
        at_work.append(1)
        most.append(len(at_work))
        time.sleep(0.01)
        at_work.pop()
        return rgb(image)

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


VALID = {kind: as_bytes(kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")}


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
