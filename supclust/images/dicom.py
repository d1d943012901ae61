"""DICOM: the first frame, as its file says that it should look. Only pixels go on from here, and nothing about patients."""

import logging
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError


def is_dicom(file: Path) -> bool:
    """Whether a file begins as DICOM does, whatever its name is: archives often give it no suffix."""
    with suppress(OSError), file.open("rb") as opened:
        return opened.read(132)[128:] == b"DICM"
    return False


def open_image(file: Path) -> Image.Image:
    """The image: RGB; else L where the file has 8 bits or a window (PS3.3 C.11.2), else F.

    Raises UnidentifiedImageError if there is none, and NotImplementedError if nothing here can decompress it.
    """
    from pydicom import dcmread, pixels
    from pydicom.pixels import processing

    # Its import sets a level, at which it quotes from files, which may tell who a patient is.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    about = dcmread(file, stop_before_pixels=True)
    if "Rows" not in about:
        raise UnidentifiedImageError
    try:
        values = pixels.pixel_array(file, index=0)
    except RuntimeError as error:
        raise NotImplementedError from error
    if about.PhotometricInterpretation == "PALETTE COLOR":
        colours = processing.apply_color_lut(values, about)
        values = colours if colours.dtype == np.uint8 else (colours >> 8).astype(np.uint8)
    if values.ndim == 3:
        return Image.fromarray(values)
    values = processing.apply_modality_lut(values, about)
    if about.get("WindowWidth"):
        shown, (low, high) = (processing.apply_windowing(part, about) for part in (values, np.array([-1e9, 1e9])))
        if np.ptp(shown):  # a window beside all values would hide the image
            values = np.rint((shown - low) * (255 / (high - low))).astype(np.uint8)
    elif about.get("VOILUTSequence"):
        values = processing.apply_voi(values, about)
    white = 255 if values.dtype == np.uint8 else float(values.min()) + float(values.max())
    values = white - values if about.PhotometricInterpretation == "MONOCHROME1" else values
    return Image.fromarray(values if values.dtype == np.uint8 else values.astype(np.float32))
