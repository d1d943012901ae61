"""What is kept on disk: in which folder, written whole or not at all, with a checksum, and read again instead of computed again.

SUPCLUST_DATA names the folder of the data sets (default: data/), SUPCLUST_OUT the one below which reports/, figures/ and
artefacts/ are written (default: the repository). Without a repository, the working folder takes its place.
"""

import errno
import glob
import hashlib
import io
import json
import logging
import os
import platform
import secrets
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parent
REPOSITORY = PACKAGE.parent
NOTEBOOKS, SHIPPED = REPOSITORY / "notebooks", PACKAGE / "shipped"
_NUMBERS = os.path.basename(os.path.realpath("/proc/self/ns/pid"))  # a container has its own numbers of processes
HOST = f"{zlib.crc32(f'{platform.node()} {_NUMBERS}'.encode()):08x}"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)  # OSError.errno when the disk, or one's share of it, is full


def _folder(variable: str, default: str) -> Path:
    root = REPOSITORY if (REPOSITORY / "pyproject.toml").exists() else Path.cwd()
    return Path(os.environ.get(variable) or root / default).expanduser().resolve()


def data() -> Path:
    """The folder of the data sets, one subfolder or archive each."""
    return _folder("SUPCLUST_DATA", "data")


def out() -> Path:
    """The folder below which everything is written."""
    return _folder("SUPCLUST_OUT", "")


def folders() -> dict[str, str]:
    """The two environment variables as this process reads them, to set them in a worker."""
    return {"SUPCLUST_DATA": str(data()), "SUPCLUST_OUT": str(out())}


@contextmanager
def environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables until the block ends, for this process and those that it starts."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def reports(profile: str) -> Path:
    """Executed notebooks, HTML pages, records, tables and provenance.json of a profile."""
    return out() / "reports" / profile


def figures(profile: str) -> Path:
    """Figures of a profile, PDF and PNG."""
    return out() / "figures" / profile


def artefacts(profile: str) -> Path:
    """Checkpoints and features that a profile trains. Not under version control."""
    return out() / "artefacts" / profile


def shipped_features(dataset: str) -> Path:
    """The features of a data set that come with the package."""
    return SHIPPED / f"{dataset}-features.safetensors"


def shipped_weights(dataset: str) -> Path:
    """The weights of the encoder that made these features."""
    return SHIPPED / f"{dataset}-encoder.safetensors"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; it replaces path if the block succeeds, and is removed if it fails.

    Those that killed processes have left are removed first, on Linux, where processes tell when they began.
    """
    path.parent.resolve().mkdir(parents=True, exist_ok=True)  # where a link leads, too
    prefix = f".{path.name}.{HOST}-"  # then the process: another one may write the same file
    for left_over in path.parent.glob(f"{glob.escape(prefix)}*.tmp"):
        writer = left_over.name.removeprefix(prefix).rpartition("-")[0]
        if writer != _process(writer.partition("-")[0]):
            left_over.unlink(missing_ok=True)
    temporary = path.with_name(f"{prefix}{_process(str(os.getpid()))}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _process(number: str) -> str:
    """The number of a process and, on Linux, when it began: a later one may have the same number. For one that has ended: "0"."""
    if not os.path.exists("/proc/self/stat"):
        return number
    try:
        return f"{number}-{Path(f'/proc/{number}/stat').read_text().rpartition(')')[2].split()[19]}"
    except OSError:
        return "0"


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file, as UTF-8, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def sha256(text: str) -> str:
    """Checksum of a text, in hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of arrays with their names, types and shapes, the largest first, in hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(arrays, key=lambda name: (arrays[name].nbytes, name), reverse=True):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def template(path: Path, **filters: Callable[..., Any]) -> Any:
    """A Jinja template with these filters; it escapes in HTML, and a name that is not set is an error."""
    import jinja2

    options = {"undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    found = jinja2.Environment(loader=jinja2.FileSystemLoader(path.parent), autoescape=".html" in path.suffixes, **options)
    found.filters |= filters
    return found.get_template(path.name)


def read_or_make(profile: str, name: str, made_from: Any, make: Callable[[], Any], *, recompute: bool = False) -> Any:
    """A kept value of a profile, if it was made from the same things; otherwise make() is called and its value is kept.

    name: of a file in the profile's reports, see `write`. made_from: anything JSON can hold. recompute=True makes it in any case.
    """
    for value, source in () if recompute else read_all(profile, name):
        if source == made_from:
            return value
    write(reports(profile) / name, make(), made_from)
    return load(reports(profile) / name)[0]


def read_all(profile: str, name: str) -> Iterator[tuple[Any, Any]]:
    """What the readable files of that name hold: the one among one's own reports, then the one of the repository."""
    return filter(None, (read(folder / name) for folder in dict.fromkeys((reports(profile), REPOSITORY / "reports" / profile))))


def read(path: Path) -> tuple[Any, Any] | None:
    """`load`, but None for a file that does not exist and for a damaged one, which a warning names."""
    try:
        return load(path) if path.exists() else None
    except (ValueError, OSError) as error:
        log.warning("%s; it is not used", error)
        return None


def write(path: Path, value: Any, made_from: Any) -> None:
    """Write a value with a checksum and what it was made from, as its suffix says, whole or not at all.

    .csv: a pandas table. .safetensors: arrays by name; made_from is a dict. .json: anything JSON can hold.
    """
    if path.suffix == ".csv":
        body = value.to_csv(index=False)
        write_text(path, f"# {json.dumps({'sources': made_from, 'sha256': sha256(body)})}\n{body}")
    elif path.suffix == ".json":
        whole = sha256(json.dumps([made_from, value]))
        write_text(path, json.dumps({"sources": made_from, "value": value, "sha256": whole}))
    else:
        about = json.dumps({**made_from, "checksum": checksum(value)})
        arrays = {name: np.ascontiguousarray(array) for name, array in value.items()}
        content = safetensors.numpy.save(arrays, {"about": about, "about_sha256": sha256(about)})
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))  # the library has them in random order
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        write_bytes(path, content[:8] + text.ljust(size) + content[8 + size :])


def load(path: Path) -> tuple[Any, Any]:
    """Read a file of `write`: the value, and what it was made from.

    Raises FileNotFoundError, and ValueError naming the file if it is truncated, unreadable, or changed by a single bit (but not
    where a .csv says what it was made from: changed, that is another origin, and nobody takes the table for theirs).
    """
    content = path.read_bytes()
    try:
        if path.suffix == ".csv":
            import pandas as pd

            head, _, body = content.decode("utf-8").partition("\n")
            about = json.loads(head.removeprefix("#"))
            value, made_from, whole = pd.read_csv(io.StringIO(body)), about["sources"], sha256(body) == about["sha256"]
        elif path.suffix == ".json":
            about = json.loads(content)
            value, made_from = about["value"], about["sources"]
            whole = sha256(json.dumps([made_from, value])) == about["sha256"]
        else:
            about = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
            value, made_from = safetensors.numpy.load(content), json.loads(about["about"])
            whole = (sha256(about["about"]), checksum(value)) == (about["about_sha256"], made_from.pop("checksum"))
        if not whole:
            raise ValueError("its checksum differs")
    except Exception as error:  # damage shows wherever the parser first meets it
        raise ValueError(f"the file {path} is damaged ({str(error)[:300]})") from error
    return value, made_from
