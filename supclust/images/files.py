"""Image files: finding them in a folder, reading them whatever they are, and leaving them where they are until they are needed."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import threading
import warnings
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from supclust.kept import sha256

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".avif", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".jp2"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
UNREAD = (".heic", ".heif", ".jxl", ".svg", ".psd", ".pdf", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2")
# What may be inside, told by content. Others that Pillow knows run programs (EPS), or are no photographs (PDF, fonts).
Image.init()
FORMATS = sorted({"JPEG", "PNG", "WEBP", "TIFF", "BMP", "DIB", "PPM", "GIF", "AVIF", "JPEG2000"} & set(Image.OPEN))
LARGEST_ARRAY = 2_000_000_000  # bytes; a folder of more is read file by file, when its images are asked for
THREADS = min(8, os.cpu_count() or 1)  # that decode images at once; Pillow works outside Python's lock
LARGE = 2**25  # pixels; of images with more, one at a time is decoded, as it takes gigabytes
_LARGE_IMAGE = threading.Lock()
UNREADABLE, NO_IMAGE = "cannot read the image {}: ", "its content is no image that can be read"
REASONS = {  # in words for those who do not know Pillow
    Image.DecompressionBombError: f"larger than {2 * Image.MAX_IMAGE_PIXELS:,} pixels: scale it down",
    FileNotFoundError: "it is no longer there",
    PermissionError: "it may not be read: permission denied",
    UnidentifiedImageError: NO_IMAGE,
}
MARKER = "supclust.json"  # a folder that holds it was written by `supclust label`: its pictures are none of the pool


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Images that stay in their files until they are asked for: stands in for an array uint8 (n, 3, side, side).

    images[i] is one image (3, side, side), images[a:b] and images[indices] are arrays (m, 3, side, side), decoded by THREADS
    threads; indices follow NumPy's rules, on the first axis only. It pickles as a list of names, so that workers of a DataLoader
    can read from it. Reading raises ValueError naming the file for an image that cannot be read.
    """

    folder: Path
    names: tuple[str, ...] = field(repr=False)  # relative to folder
    side: int  # pixels

    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self), 3, self.side, self.side

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: int | slice | Sequence[int] | np.ndarray) -> np.ndarray:
        rows = np.arange(len(self))[key]  # NumPy's own rules: negative positions, steps, masks, and IndexError
        if rows.ndim == 0:
            return read(self.folder / self.names[rows], self.side)
        return read_all([self.folder / self.names[row] for row in rows], self.side)

    def take(self, indices: slice | Sequence[int] | np.ndarray) -> ImageFiles:
        """The images at these indices, in that order, still in their files."""
        return dataclasses.replace(self, names=tuple(self.names[row] for row in np.arange(len(self))[indices]))

    def checksum(self) -> str:
        """SHA-256 of side and of the files' names and sizes: tells images apart without reading them, on any machine."""
        return sha256(repr((self.side, [(name, (self.folder / name).stat().st_size) for name in self.names])))


# -- finding -------------------------------------------------------------------------------------------------------------------


def find(folder: Path, leave_out: Collection[Path] = ()) -> tuple[list[Path], dict[Path, str]]:
    """The image files in and below a folder, sorted, told by their suffixes; and what else is there, with the reason.

    Links are followed, but not to a folder around this one, and each folder is visited once. Not looked at, and not reported:
    hidden files and folders, the folders of leave_out, and those that `supclust label` wrote (they hold MARKER).
    """
    found, others, problems = [], {}, []
    visited = {*map(Path.resolve, leave_out), *folder.resolve().parents}
    for name, folders, names in os.walk(folder, followlinks=True, onerror=problems.append):
        here, real = Path(name), Path(name).resolve()
        if real in visited or (MARKER in names and here != folder):
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        for file in (here / one for one in names if not one.startswith(".")):
            if reason := _why_not(file):
                others[file] = reason
            else:
                found.append(file)
    others |= {Path(error.filename): f"cannot be opened: {error.strerror}" for error in problems}
    return sorted(found), others


def _why_not(file: Path) -> str | None:
    """The reason why a file cannot be an image that is read; None if it may be one."""
    suffix = file.suffix.lower()
    if suffix in UNREAD:
        return f"{suffix[1:].upper()} is not read: convert it to JPEG or PNG"
    if suffix not in SUFFIXES:
        return "not an image, by its name"
    if printable(str(file)) != str(file):
        return "its path is not valid Unicode: rename it"
    if not file.exists():
        return "a link to nothing"
    return None if file.is_file() else "not a regular file"


def printable(name: str) -> str:
    """A file's name with the bytes that are no UTF-8 spelt out."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def copies(files: Sequence[Path]) -> dict[Path, Path]:
    """Which files are byte for byte the same as an earlier one, and as which. Only files of equal size are read."""
    sizes = Counter(map(os.path.getsize, files))
    first: dict[bytes, Path] = {}
    found = {}
    for file in files:
        if sizes[os.path.getsize(file)] > 1 and os.access(file, os.R_OK):
            with open(file, "rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").digest()
            if (earlier := first.setdefault(digest, file)) != file:
                found[file] = earlier
    return found


# -- reading -------------------------------------------------------------------------------------------------------------------


def load(root: Path, files: Sequence[Path], side: int, unreadable: dict[Path, str] | None = None) -> np.ndarray | ImageFiles:
    """The images uint8 (n, 3, side, side): an array where it is small enough, else the files, which stay where they are.

    unreadable: takes the files that cannot be read, each with the reason; without it, an array of them raises ValueError.
    """
    with warnings.catch_warnings(action="ignore"):  # Pillow's, about metadata that is not needed
        if len(files) * 3 * side**2 <= LARGEST_ARRAY:
            return read_all(files, side, unreadable, progress=True)
        if unreadable is not None:
            deque(_decode(files, side, unreadable, progress=True), maxlen=0)
            files = [file for file in files if file not in unreadable]
    return ImageFiles(root.absolute(), tuple(file.relative_to(root).as_posix() for file in files), side)


def read_all(files: Sequence[Path], side: int, unreadable: dict[Path, str] | None = None, progress: bool = False) -> np.ndarray:
    """The images as an array uint8 (n, 3, side, side); unreadable as in `load`."""
    images, n = np.empty((len(files), 3, side, side), dtype=np.uint8), 0
    for n, image in enumerate(_decode(files, side, unreadable, progress), start=1):
        images[n - 1] = image
    return images[:n]


def _decode(files: Sequence[Path], side: int, unreadable: dict[Path, str] | None, progress: bool) -> Iterator[np.ndarray]:
    """One image uint8 (3, side, side) after the other."""

    def decode(file: Path) -> np.ndarray | None:
        try:
            return read(file, side)
        except ValueError as error:
            if unreadable is None:
                raise
            unreadable[file] = str(error).removeprefix(UNREADABLE.format(file))
            return None

    threads = ThreadPoolExecutor(THREADS)
    try:
        decoded = threads.map(decode, files)
        bar = tqdm(decoded, total=len(files), desc="reading images", unit="image", leave=False, disable=None if progress else True)
        yield from (image for image in bar if image is not None)
    finally:  # a broken file, or a reader who stops it, leaves nothing running
        threads.shutdown(cancel_futures=True)


def read(file: Path, side: int) -> np.ndarray:
    """One image, upright as its camera meant it, its central square scaled to side x side: uint8 (3, side, side).

    Grey values of 16 bits are scaled to 8, CMYK becomes RGB, what is transparent becomes white, of several frames the first counts.
    Raises ValueError naming the file when it cannot be read.
    """
    with _decoded(file, side) as image:
        return np.asarray(ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)).transpose(2, 0, 1).copy()


def thumbnail(file: Path, side: int) -> Image.Image:
    """One whole image, upright, in RGB, no longer than side pixels; a smaller one as it is. ValueError when it cannot be read."""
    with warnings.catch_warnings(action="ignore"), _decoded(file, side) as image:
        image.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=None)
        return image


@contextmanager
def _decoded(file: Path, side: int) -> Iterator[Image.Image]:
    """The image, upright and in RGB; of a large JPEG a half, a quarter or an eighth of the size, but still 4 * side."""
    try:
        with Image.open(file, formats=FORMATS) as opened:
            pixels = math.prod(opened.size)
            if pixels > 2 * Image.MAX_IMAGE_PIXELS:  # Pillow only checks what it opens as an image of one frame
                raise Image.DecompressionBombError
            with _LARGE_IMAGE if pixels > LARGE else nullcontext():
                opened.draft(None, (4 * side, 4 * side))  # whose sizes are rounded up: the larger, the smaller the error
                opened.load()
                with suppress(Exception):  # broken metadata is no reason to do without the image
                    ImageOps.exif_transpose(opened, in_place=True)
                yield rgb(opened)
    except Exception as error:  # Pillow's decoders raise whatever the damaged bytes lead them to
        reason = next((reason for kind, reason in REASONS.items() if isinstance(error, kind)), f"damaged: {error}")
        reason = "an empty file" if reason == NO_IMAGE and not file.stat().st_size else reason
        raise ValueError(UNREADABLE.format(file) + reason.replace(str(file), file.name)) from error


def rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in RGB: transparent pixels become white, grey values of more than 8 bits are scaled to 8."""
    if image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image  # which Pillow converts to nothing else
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image, dtype=float), posinf=0, neginf=0)
        image = Image.fromarray(((values - values.min()) * (255 / (np.ptp(values) or 1))).astype(np.uint8))
    elif image.mode.startswith("I"):  # 16 bits: Pillow would clip them at 255, which turns a radiograph white
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    return image.convert("RGB")
