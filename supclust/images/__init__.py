"""Image files: found in folders, read whatever they are, and left on disk until they are needed.

`datasets.load` comes in here for folders and ISIC-2019, `label` for the images of its users.
"""

from supclust.images.files import (
    MARKER,
    SUFFIXES,
    ImageFiles,
    Skipped,
    copies,
    find,
    listing,
    load,
    load_readable,
    printable,
    read,
    read_all,
    relative,
    rgb,
    thumbnail,
)

__all__ = [
    "MARKER",
    "SUFFIXES",
    "ImageFiles",
    "Skipped",
    "copies",
    "find",
    "listing",
    "load",
    "load_readable",
    "printable",
    "read",
    "read_all",
    "relative",
    "rgb",
    "thumbnail",
]
