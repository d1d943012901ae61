"""Where data sets, artefacts, reports and figures live; nothing else.

SUPCLUST_DATA names the folder of the data sets (default: data/ in the repository). SUPCLUST_OUT names the folder below which
reports/, figures/ and artefacts/ are written (default: the repository). Where the package is installed without its repository, the
working folder takes its place.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
REPOSITORY = PACKAGE.parent
NOTEBOOKS = REPOSITORY / "notebooks"
SHIPPED = PACKAGE / "shipped"


def root() -> Path:
    """The repository, or the working folder if the package is installed without one."""
    return REPOSITORY if (REPOSITORY / "pyproject.toml").exists() else Path.cwd()


def data() -> Path:
    """The folder that holds the data sets, one subfolder or archive each."""
    return Path(os.environ.get("SUPCLUST_DATA") or root() / "data").expanduser().resolve()


def out() -> Path:
    """The folder below which everything is written."""
    return Path(os.environ.get("SUPCLUST_OUT") or root()).expanduser().resolve()


def folders() -> dict[str, str]:
    """The two environment variables, as they stand in this process: for `same_folders` in another."""
    return {"SUPCLUST_DATA": str(data()), "SUPCLUST_OUT": str(out())}


@contextmanager
def same_folders(as_there: Mapping[str, str]) -> Iterator[None]:
    """The folders of another process, for as long as the block lasts: workers may have been started with other ones."""
    before = {name: os.environ.get(name) for name in as_there}
    os.environ.update(as_there)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def reports(profile: str) -> Path:
    """Executed notebooks, HTML pages, records, curves.csv and provenance.json of a profile."""
    return out() / "reports" / profile


def reports_to_read(profile: str) -> list[Path]:
    """Where tables that are kept may be: among one's own reports, and among those that come with the repository."""
    return list(dict.fromkeys((reports(profile), REPOSITORY / "reports" / profile)))


def figures(profile: str) -> Path:
    """Figures of a profile, PDF and PNG."""
    return out() / "figures" / profile


def artefacts(profile: str) -> Path:
    """What a profile trains and keeps: checkpoints and features. Not under version control."""
    return out() / "artefacts" / profile


def shipped_features(dataset: str) -> Path:
    """The features of a data set that come with the package."""
    return SHIPPED / f"{dataset}-features.safetensors"


def shipped_weights(dataset: str) -> Path:
    """The encoder's weights that these features were made with."""
    return SHIPPED / f"{dataset}-encoder.safetensors"
