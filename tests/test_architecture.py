"""Imports point down: a module imports only those that stand before it here."""

import ast

import pytest

from supclust import paths

FLOORS = [
    "paths",
    "profiles",
    "files",
    "pages",
    "tables",
    "annotations",
    "checkpoints",
    "parallel",
    "threads",
    "gpu",
    "geometry",
    "embeddings",
    "sharded",
    "kmeans",
    "cells",
    "pairs",
    "balls",
    "analysis",
    "augment",
    "scores",
    "images",
    "datasets",
    "provenance",
    "networks",
    "learners",
    "plots",
    "contact_sheet",
    "strategies.pool",
    "simclr",
    "strategies.clustered",
    "strategies.coverage",
    "strategies.uncertainty",
    "strategies.uniform",
    "features",
    "embedders",
    "strategies",
    "selection",
    "skactiveml",
    "active",
    "sources",
    "labeling",
    "embedding",
    "speed",
    "shipping",
    "sweep",
    "scaling",
    "claims",
    "sensitivity",
    "reproduce",
    "__main__",
]


def modules():
    files = [path for path in paths.PACKAGE.rglob("*.py") if path != paths.PACKAGE / "__init__.py"]
    return {".".join(path.relative_to(paths.PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imports(path):
    """Names of the package's modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "supclust":
            inner = node.module.removeprefix("supclust").removeprefix(".")
            for alias in node.names:
                name = ".".join(filter(None, [inner, alias.name]))
                yield name if name in FLOORS else inner


def test_every_module_has_its_place():
    assert set(modules()) == set(FLOORS)


@pytest.mark.parametrize("name", FLOORS)
def test_imports_point_down(name):
    found = set(imports(modules()[name])) - {"", name}
    assert all(FLOORS.index(other) < FLOORS.index(name) for other in found), found
