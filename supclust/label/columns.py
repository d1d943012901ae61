"""What tools call the columns of images and of labels: one list for every file that is read."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

# Without case, blanks and signs: file_name, "File Name" and FileName are one. The likeliest first.
IDS = (
    *("supclustid", "id", "ids", "filename", "filenames", "filepath", "filepaths", "file", "files", "path", "paths"),
    *("image", "img", "photo", "picture", "fname", "fnames", "sourceref"),
    *(
        of + what
        for what in ("path", "paths", "file", "files", "name", "names", "id", "ids", "url", "uri", "index")
        for of in ("image", "img", "photo", "picture", "sample", "file", "rel", "asset", "external", "isic", "gcsfile")
    ),
    *("name", "names", "uuid", "key", "keys"),
)
PATHS = ("files", *(name for name in IDS if re.search("paths?$", name)))  # those that lead to the image itself
LABELS = (
    *("label", "labels", "class", "classname", "labelname", "category", "categoryname", "choice", "choices", "annotation"),
    *("groundtruth", "givenlabel", "truelabel", "labeltext", "findinglabels", "dx", "diagnosis", "species", "breed", "target", "y"),
    *("classid", "labelid", "categoryid", "tag", "tags", "accept"),
)
MEASURED = ("dx", "y")  # these of LABELS may also be features
PICKED = ("supclustid", "clustersize")  # only files that a round wrote have these: all their images were picked
ANSWER = "answer"  # Prodigy's: accept, reject (the label is wrong) or ignore (somebody skipped the image)
LABEL_STUDIO = "annotationid"  # its flat exports have this column, and id is the number of a task


def plain(name: object) -> str:
    """The name of a column without case, blanks and signs."""
    return re.sub(r"[\W_]", "", unicodedata.normalize("NFKC", str(name))).lower()


def find(names: Iterable[str], known: Sequence[str], asked: str | None = None) -> list[str]:
    """The columns that have one of the known names, the likeliest first; or the one that is asked for, if it is there."""
    if asked is not None:
        names = list(names)
        return [asked] if asked in names else [name for name in names if plain(name) == plain(asked)]
    return sorted((name for name in names if plain(name) in known), key=lambda name: known.index(plain(name)))
