"""Image files: finding them in a folder, reading them whatever they are, and leaving them where they are until they are needed."""

import ctypes
import dataclasses
import hashlib
import logging
import math
import os
import threading
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image, ImageOps, ImageStat, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError
from tqdm import tqdm

from supclust.images import dicom
from supclust.kept import sha256

EXTRAS = {"HEIC": ("heif", "pillow_heif"), "DICOM": ("dicom", "pydicom")}  # of this package, and what they bring
MISSING = {kind: f", or run pip install 'supclust[{extra}]'" for kind, (extra, name) in EXTRAS.items() if not find_spec(name)}
KINDS = {".dcm": "DICOM", **dict.fromkeys((".heic", ".heif", ".hif"), "HEIC")}  # by suffix
if "HEIC" not in MISSING:
    import pillow_heif

    pillow_heif.register_heif_opener()
# What may be inside, told by content. Others that Pillow knows run programs (EPS), or are no photographs (PDF, fonts).
Image.init()
FORMATS = sorted({"JPEG", "PNG", "WEBP", "TIFF", "BMP", "DIB", "PPM", "GIF", "AVIF", "JPEG2000", "HEIF"} & set(Image.OPEN))
SUFFIXES = sorted(suffix for suffix, kind in Image.EXTENSION.items() if kind in {*FORMATS, "MPO"})
SUFFIXES += [".dcm"] * ("DICOM" not in MISSING)
_OTHERS = ".dng .cr2 .cr3 .nef .arw .orf .rw2 .raf .jxl .svg .psb .xcf .exr .hdr .nii .npy .npz .czi .nd2 .lif .svs"
UNREAD = {*Image.EXTENSION, *KINDS, *_OTHERS.split()}.difference(SUFFIXES)  # images, of kinds that are not read
for _libtiff in Path(Image.__file__).parents[1].glob("pillow.libs/libtiff*"):  # Pillow's wheels for Linux have it
    ctypes.CDLL(str(_libtiff)).TIFFSetErrorHandler(None)  # else it prints about damaged files
logging.getLogger("PIL").setLevel(logging.CRITICAL)  # it, too
LARGEST_ARRAY = 2_000_000_000  # bytes; a folder of more is read file by file, when its images are asked for
THREADS = min(8, os.cpu_count() or 1)  # that decode images at once; Pillow works outside Python's lock
LONGEST = 65_535  # pixels of a side, as in JPEG; the time that Pillow takes for a row grows with the square of its length
LARGE = 2**25  # pixels; of images with more, one at a time is decoded, as it takes gigabytes
_LARGE_IMAGE = threading.Lock()
ENOUGH = 448  # pixels that are left of the sides of a JPEG that is reduced while it is decoded, or twice what is asked for
SAMPLED = 2**18  # pixels of an image that tell its range
FEW = 16  # largest value of grey images of 8 bits that count as numbers: masks, small digits
LIGHT = 170  # grey of what is visible in an image, of 255, above which black shows it better than white
UNREADABLE, NO_IMAGE = "cannot read the image {}: ", "its content is no image that can be read"
REASONS = {  # for people who do not know Pillow
    Image.DecompressionBombError: f"larger than {2 * Image.MAX_IMAGE_PIXELS:,} pixels, or {LONGEST:,} on a side: scale it down",
    FileNotFoundError: "it is no longer there",
    PermissionError: "it may not be read: permission denied",
    UnidentifiedImageError: NO_IMAGE,
    BufferError: "16 bits a channel with values below 512, whose lower halves Pillow does not read: save it with 8 bits",
    NotImplementedError: "its DICOM pixels are compressed: decompress them, or run pip install pylibjpeg pylibjpeg-libjpeg",
}
SIGNS = {  # other kinds of files, by their first bytes
    "HEIC": (b"ftyphei", b"ftypmif1"),
    "a raw photograph": (b"ftypcrx", b"CR\x02\0", b"FUJIFILMCCD"),
    "a video": (b"ftypiso", b"ftypmp4", b"ftypqt", b"ftypm4v", b"AVI LIST", b"matroska", b"webm"),
    "a web page or SVG": (b"<!doctype html", b"<html", b"<?xml", b"<svg"),
    "a pointer of Git LFS or git-annex to the image": (b"git-lfs", b"/annex/objects"),
    "DICOM": (b"DICM",),
    "PDF or EPS": (b"%PDF", b"%!PS"),
    "an archive": (b"PK\x03\x04", b"\x1f\x8b\x08"),
    "a TIFF of unusual bands or numbers, or a damaged one": (b"II*\0", b"MM\0*", b"II+\0"),
}
MARKER = "supclust.json"  # marks a folder of results, whose pictures are not in the pool
SYSTEM = {  # folders, or their suffixes, in which systems and programs keep copies and small versions, in lower case
    *("@eadir", "@tmp", "@recycle", "#recycle", "#snapshot", "~snapshot", "@recently-snapshot", ".@__thumb", "$recycle.bin"),
    *("lost+found", "lost.dir", "system volume information", "network trash folder"),
    *("__macosx", ".appledouble", "temporary items", ".thumbnails", "thmbnl", ".trashes"),
    *(".photoslibrary", ".photolibrary", ".aplibrary", ".lrdata"),
}
RANGES = (1, *(2**bits - 1 for bits in (8, 10, 12, 14, 16)))  # largest values of what cameras, scanners and programs write
SEEN = (
    "each whole image, of several frames or pages the first, squeezed into a square; values of more than 8 bits by the range that "
    "each image fills; transparent pixels in white, or in black behind something light"
)


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Images that stay in their files until they are asked for: stands in for an array uint8 (n, 3, side, side).

    images[i] is one image (3, side, side), images[a:b] and images[indices] are arrays (m, 3, side, side), decoded by THREADS
    threads; indices follow NumPy's rules, on the first axis only. It pickles as a list of names, so that workers of a DataLoader
    can read from it. Reading raises ValueError naming the file for an image that cannot be read; with `unreadable`, arrays lack it.
    """

    folder: Path
    names: tuple[str, ...] = field(repr=False)  # relative to folder
    side: int  # pixels
    whole: bool = True  # squeezed into the square; else the central square is cut out
    unreadable: dict[Path, str] | None = None  # takes the files that could not be read, each with the reason

    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self), 3, self.side, self.side

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: int | slice | Sequence[int] | np.ndarray) -> np.ndarray:
        rows = np.arange(len(self))[key]  # NumPy's own rules: negative positions, steps, masks, and IndexError
        if rows.ndim == 0:
            with warnings.catch_warnings(action="ignore"):  # as in `read_all`
                return read(self.folder / self.names[rows], self.side, self.whole)
        return read_all([self.folder / self.names[row] for row in rows], self.side, self.unreadable, whole=self.whole)

    def take(self, indices: slice | Sequence[int] | np.ndarray) -> Self:
        """The images at these indices, in that order, still in their files."""
        return dataclasses.replace(self, names=tuple(self.names[row] for row in np.arange(len(self))[indices]))

    def checksum(self) -> str:
        """SHA-256 of side and of the files' names and sizes: tells images apart without reading them, on any machine."""
        sizes = [(name, (self.folder / name).stat().st_size) for name in self.names]
        return sha256(repr((self.side, sizes, "whole") if self.whole else (self.side, sizes)))


# -- finding -------------------------------------------------------------------------------------------------------------------


def find(folder: Path, leave_out: Collection[Path] = ()) -> tuple[list[Path], dict[Path, str]]:
    """The image files in and below a folder, sorted, told by their suffixes; and what else is there, with the reason.

    Links are followed, but not to a folder around this one, and each folder is visited once. Not looked at are folders of SYSTEM,
    those that `supclust label` wrote (they hold its MARKER), and, without a word, hidden ones and those of leave_out.
    """
    found, others, problems = [], {}, []
    visited = {*map(Path.resolve, leave_out), *folder.resolve().parents}
    for name, folders, names in os.walk(folder, followlinks=True, onerror=problems.append):
        here, real = Path(name), Path(name).resolve()
        system = not SYSTEM.isdisjoint({real.name.lower(), real.suffix.lower()})
        whose = "a folder of the system or of a program" if system else "results of supclust label" * is_round(here)
        if real in visited or (whose and here != folder):
            others |= {here: f"{whose}: not looked at"} if real not in visited else {}
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(one for one in folders if not one.startswith(".") or one.lower() in SYSTEM)
        for file in (here / one for one in names if not one.startswith(".")):
            if reason := _why_not(file):
                others[file] = reason
            else:
                found.append(file)
    others |= {Path(error.filename): f"cannot be opened: {error.strerror}" for error in problems}
    return sorted(found), others


def is_round(folder: Path) -> bool:
    """Whether `supclust label` wrote its results into a folder."""
    return os.path.isfile(folder / MARKER)


def _why_not(file: Path) -> str | None:
    """The reason why a file cannot be an image that is read; None if it may be one."""
    suffix = file.suffix.lower()
    if suffix in UNREAD:
        return f"{suffix[1:].upper()} is not read: convert it to JPEG or PNG{MISSING.get(KINDS.get(suffix), '')}"
    if suffix not in SUFFIXES and ("DICOM" in MISSING or not file.is_file() or not dicom.is_dicom(file)):
        return "not an image, by its name"
    if printable(str(file)) != str(file):
        return "its path is not valid Unicode: rename it"
    return None if file.is_file() else "a link to nothing, or not a regular file"


def printable(name: str) -> str:
    """A file's name with the bytes that are no UTF-8 spelt out."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def copies(files: Sequence[Path]) -> dict[Path, Path]:
    """Which files are byte for byte the same as an earlier one, and as which. Only files of equal size are read."""
    sizes = {file: os.path.getsize(file) for file in files if os.access(file, os.R_OK)}  # not of those that have gone
    often, first, found = Counter(sizes.values()), {}, {}
    for file, size in sizes.items():
        if often[size] > 1:
            with open(file, "rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").digest()
            if (earlier := first.setdefault(digest, file)) != file:
                found[file] = earlier
    return found


# -- reading -------------------------------------------------------------------------------------------------------------------


def load(root: Path, files: Sequence[Path], side: int) -> np.ndarray | ImageFiles:
    """The images uint8 (n, 3, side, side): an array where it is small enough, else the files, which stay where they are."""
    if len(files) * 3 * side**2 <= LARGEST_ARRAY:
        return read_all(files, side, progress=True)
    return ImageFiles(root.absolute(), tuple(file.relative_to(root).as_posix() for file in files), side)


def read_all(
    files: Sequence[Path], side: int, unreadable: dict[Path, str] | None = None, progress: bool = False, whole: bool = True
) -> np.ndarray:
    """The images as an array uint8 (n, 3, side, side); unreadable and whole as in ImageFiles."""
    images, n = np.empty((len(files), 3, side, side), dtype=np.uint8), 0

    def decode(file: Path) -> np.ndarray | None:
        try:
            return read(file, side, whole)
        except ValueError as error:
            if unreadable is None:
                raise
            unreadable[file] = str(error).removeprefix(UNREADABLE.format(file))
            return None

    threads, bar = ThreadPoolExecutor(THREADS), {"desc": "reading images", "unit": "image", "leave": False}
    try:
        with warnings.catch_warnings(action="ignore"):  # Pillow's, about metadata that is not needed
            for image in tqdm(threads.map(decode, files), total=len(files), disable=None if progress else True, **bar):
                if image is not None:
                    images[n], n = image, n + 1
    finally:  # a broken file, or a reader who stops it, leaves nothing running
        threads.shutdown(cancel_futures=True)
    return images[:n]


def read(file: Path, side: int, whole: bool = True) -> np.ndarray:
    """One image, upright as its camera meant it, scaled to side x side, see ImageFiles.whole: uint8 (3, side, side).

    Of several frames the first counts; modes become RGB as in `rgb`. Raises ValueError naming the file when it cannot be read.
    """
    with _decoded(file, side) as image:
        square, bicubic = (side, side), Image.Resampling.BICUBIC
        found = image.resize(square, bicubic) if whole else ImageOps.fit(image, square, bicubic)
        return np.asarray(found).transpose(2, 0, 1).copy()


def thumbnail(file: Path, side: int) -> Image.Image:
    """One whole image, upright, in RGB, no longer than side pixels; a smaller one as it is. ValueError when it cannot be read."""
    with warnings.catch_warnings(action="ignore"), _decoded(file, side) as image:
        image.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=None)
        return image


@contextmanager
def _decoded(file: Path, side: int) -> Iterator[Image.Image]:
    """The image, upright and in RGB; of a large JPEG a half, a quarter or an eighth of the size, but still 4 * side or ENOUGH."""
    try:
        with open_image(file) as opened:
            whole = math.prod(opened.size)
            least = min(4 * side, max(2 * side, ENOUGH))
            opened.draft(None, (least, least))  # whose sizes are rounded up: the larger, the smaller the error
            pixels = whole if "progressive" in opened.info else math.prod(opened.size)  # such a JPEG is decoded whole
            # Pillow only checks what it opens as an image of one frame.
            if pixels > 2 * Image.MAX_IMAGE_PIXELS or max(opened.size) > LONGEST:
                raise Image.DecompressionBombError
            with _LARGE_IMAGE if pixels > LARGE else nullcontext():
                depth = str(getattr(opened, "tile", ""))  # Pillow keeps the upper 8 of 16 bits a channel
                tags = getattr(opened, "tag_v2", {})  # of a TIFF
                planes = tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2 and "'raw'" in depth
                if planes and 16 in tags[TiffImagePlugin.BITSPERSAMPLE]:
                    raise UnidentifiedImageError  # Pillow would read half of each number
                halved = ";16" in depth or (opened.format == "PPM" and "65535" in depth)
                opened.filename = ""  # else Pillow maps the file into memory, and scrambles a TIFF that is turned
                opened.load()
                with suppress(Exception):  # broken metadata is no reason to do without the image
                    ImageOps.exif_transpose(opened, in_place=True)
                yield rgb(opened, max(1, min(opened.size) // (4 * side)), halved)
    except Exception as error:  # Pillow's decoders raise whatever the damaged bytes lead them to
        reason = next((reason for kind, reason in REASONS.items() if isinstance(error, kind)), f"damaged: {error}".strip())
        reason = _content(file) if reason == NO_IMAGE else reason
        raise ValueError(UNREADABLE.format(file) + reason.replace(str(file), file.name)) from error


def open_image(file: Path) -> Image.Image:
    """The image in a file; its pixels wait, but those of DICOM. Of JPEG, it may be too large to be decoded whole."""
    if "DICOM" not in MISSING and dicom.is_dicom(file):
        with _LARGE_IMAGE:  # 20 megapixels with a window take 600 MB
            return dicom.open_image(file)
    try:
        return Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError:
        with suppress(SyntaxError):  # it is no JPEG
            return JpegImagePlugin.JpegImageFile(file)
        raise


def _content(file: Path) -> str:
    """What a file holds that is called an image but is none that can be read."""
    with open(file, "rb") as opened:
        head = opened.read(400)
        either = head + head.lower()
        kind = next((kind for kind, signs in SIGNS.items() if any(sign in either for sign in signs)), None)
        if kind and (kind in MISSING or kind not in EXTRAS):
            return f"its content is {kind}, which is not read: convert it to JPEG or PNG{MISSING.get(kind, '')}"
    return NO_IMAGE if any(head) else "a file of zeros" if head else "an empty file"


def rgb(image: Image.Image, factor: int = 1, halved: bool = False) -> Image.Image:
    """An image of any mode in RGB: values of more than 8 bits are scaled by `value_range`, transparent pixels are white or black.

    factor: by which an image of numbers, or with transparent pixels, is reduced on the way. halved: whether it holds the upper
    halves of 16 bits.
    """
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    if image.mode == "L" and tags.get(TiffImagePlugin.SAMPLEFORMAT) == (2,):  # -128..127, which Pillow takes for 0..255
        image = image.point([value ^ 128 for value in range(256)])
    few = image.mode == "L" and not image.has_transparency_data and image.getextrema()[1] <= FEW
    if few or image.mode.startswith(("F", "I")):
        return _grey(image, factor, tags).convert("RGB")
    if halved and image.mode != "CMYK":
        colours = [band for band in image.getbands() if band.lower() != "a"]
        if max(image.getchannel(band).getextrema()[1] for band in colours) < 2:
            raise BufferError
        low, high = value_range(np.asarray(_sample(image))[..., : len(colours)].astype(np.uint16) * 257)
        table = _as_bytes(np.arange(256) * 257, low, high).tolist() * len(colours)
        image = image.point(table + list(range(256)) * (len(image.getbands()) - len(colours)))
    if image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image  # the only mode that Pillow converts La to
        image = image.convert("RGBA")
        if most := image.getchannel("A").getextrema()[1]:  # otherwise nothing is visible, but colours may be there
            image = image.reduce(factor)
            image.putalpha(image.getchannel("A").point(lambda alpha: 255 * alpha / most))
            seen = image.getchannel("A").point(lambda alpha: 255 * (alpha > 15))
            ground = "black" if ImageStat.Stat(image.convert("L"), seen).mean[0] > LIGHT else "white"
            image = Image.alpha_composite(Image.new("RGBA", image.size, ground), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey(image: Image.Image, factor: int, tags: Mapping[int, Any]) -> Image.Image:
    """An image of numbers in 8 bits, reduced by a factor; strip by strip, as it may have gigabytes."""
    unsigned = bool(tags) and image.mode == "I" and tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,)) == (1,)

    def numbers(part: Image.Image) -> np.ndarray:
        return np.asarray(part).view(np.uint32) if unsigned else np.asarray(part)

    low, high = value_range(numbers(_sample(image)))
    found = Image.new("L", [-(-length // factor) for length in image.size])
    rows = factor * max(1, 2**19 // (factor * image.width))
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        found.paste(Image.fromarray(_as_bytes(numbers(strip), low, high)).reduce(factor), (0, top // factor))
    inverted = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0  # Pillow inverts 8 bits only
    return ImageOps.invert(found) if inverted and image.mode != "L" else found


def _sample(image: Image.Image) -> Image.Image:
    """Some of the pixels, evenly spread."""
    side = min(1, (SAMPLED / math.prod(image.size)) ** 0.5)
    return image.resize([math.ceil(side * length) for length in image.size], Image.Resampling.NEAREST)


def _as_bytes(values: np.ndarray, low: float, high: float) -> np.ndarray:
    scaled = np.nan_to_num((values.astype(float) - low) * (255 / (high - low)))
    return np.rint(scaled.clip(0, 255)).astype(np.uint8)


def value_range(values: np.ndarray) -> tuple[float, float]:
    """The values of an image of more than 8 bits that become black and white, for each image by itself.

    They are 0 and the smallest of RANGES that holds the image, if it reaches half of that and spreads over an eighth: so a scan
    looks the same in whatever number of bits, and a series keeps its brightness. Otherwise they are its own percentiles 1 and
    99; or 5 and 95, where else the middle half of its values would be one grey: a few bright pixels must not darken the others.
    NaN, infinity, and a value that lies apart at either end, such as -9999, are no data.
    """
    ordered = np.sort(values[np.isfinite(values)], axis=None).astype(float)
    for _ in range(4):  # at the lower end, then, mirrored, at the upper, each twice
        rest = ordered[ordered > ordered[:1]]
        if len(rest) and rest[0] - ordered[0] > np.ptp(np.percentile(rest, (1, 99))) > 0:
            ordered = rest
        ordered = -ordered[::-1]
    if not len(ordered):
        return 0, 1
    for cut in (1, 5):
        low, high = np.percentile(ordered, (cut, 100 - cut))
        if not 0 < np.ptp(np.percentile(ordered, (25, 75))) < (high - low) / 32:
            break
    low, high = (low, high) if low < high else ordered[[0, -1]]
    largest = next((largest for largest in RANGES if high <= largest), None)
    if largest and low >= 0 and (low == high or (high >= largest / 2 and high - low >= largest / 8)):
        return 0, largest
    return low, high if low < high else low + 1
