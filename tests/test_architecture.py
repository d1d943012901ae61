"""Rooms and the rules of their imports: who may come in where."""

import ast

import pytest

from supclust import kept

ROOMS = {"strategies", "engine", "scale", "images", "train", "label", "report", "bench", "studies"}
EXPERIMENT = ["datasets", "simclr", "learners", "features", "active", "sweep", "analysis", "claims"]
# What a room or file may import besides itself. The files of the experiment may import those that stand before them, too.
BASE = {"engine", "kept", "profiles"}
METHOD = {"engine", "pool", "method", "strategies"}
ALLOWED = {
    "engine": set(),
    "kept": {"profiles"},
    "profiles": {"kept"},
    "pool": {"engine"},
    "method": {"engine", "pool"},
    "strategies": {"engine", "pool", "method"},
    **{name: BASE | METHOD | set(EXPERIMENT[:i]) for i, name in enumerate(EXPERIMENT)},
    "plots": BASE | METHOD | set(EXPERIMENT),
    "skactiveml": METHOD,
    "scale": METHOD,
    "images": BASE | METHOD | set(EXPERIMENT),
    "train": BASE | METHOD | set(EXPERIMENT) | {"images"},
    "label": BASE | METHOD | set(EXPERIMENT) | {"images", "train"},
    "report": BASE | METHOD | set(EXPERIMENT) | {"plots"},
    "studies": BASE | METHOD | set(EXPERIMENT) | {"plots"},
    "bench": BASE | METHOD | set(EXPERIMENT) | {"plots", "scale", "train"},
    "__init__": {"method"},
    "__main__": BASE | METHOD | set(EXPERIMENT) | ROOMS,
}
# The core reaches a room inside of a function, here only.
LAZY = {
    "pool": "scale",
    "datasets": "images",
    "simclr": "train",
    "active": "train",
}


def imports(path):
    """Rooms and files of the package that a file imports, and whether it does so at its top."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "supclust":
            inner = node.module.split(".")[1:]
            for name in [inner[0]] if inner else [alias.name for alias in node.names]:
                yield name, node in tree.body


@pytest.mark.parametrize("path", sorted(kept.PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(kept.PACKAGE)))
def test_imports_keep_to_the_rules(path):
    room = path.relative_to(kept.PACKAGE).parts[0].removesuffix(".py")
    for name, at_the_top in imports(path):
        lazily = not at_the_top and LAZY.get(room) == name
        assert name in {room, *ALLOWED[room], "__version__"} or lazily, f"{room} must not import {name}"


def test_a_stranger_finds_at_most_twenty_files_and_ten_folders():
    there = [path for path in kept.PACKAGE.iterdir() if path.name != "__pycache__"]
    assert sum(path.is_file() for path in there) <= 20
    assert sum(path.is_dir() for path in there) <= 10
