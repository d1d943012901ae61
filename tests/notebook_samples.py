"""Tiny notebooks for the tests of the runner and of the notebook hygiene."""

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

PARAMETERS = 'profile: str = "laptop"\nseed: int = 0'

# What a figure notebook comes down to, without the second that importing matplotlib takes.
DRAW = """
import base64
from supclust import kept
folder = kept.figures(profile)
folder.mkdir(parents=True, exist_ok=True)
png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
(folder / "{name}.png").write_bytes(base64.b64decode(png))
(folder / "{name}.pdf").write_bytes(b"%PDF-1.4")
"""


def draw(name: str) -> str:
    return DRAW.format(name=name).strip()


def make(*cells: str, opening: str = "# A title\n\nA first paragraph.", parameters: str = PARAMETERS) -> nbformat.NotebookNode:
    """An unexecuted notebook: an opening, a parameters cell, and these code cells."""
    return new_notebook(
        cells=[
            new_markdown_cell(opening),
            new_code_cell(parameters, metadata={"tags": ["parameters"]}),
            *(new_code_cell(source) for source in cells),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}},
    )


def write(folder: Path, **notebooks: nbformat.NotebookNode) -> Path:
    """Write notebooks; a name like n03_something becomes 03_something.ipynb."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, notebook in notebooks.items():
        nbformat.write(notebook, folder / f"{name.removeprefix('n')}.ipynb")
    return folder


def outcome(name, status="ok", seconds=1.0):
    """What `reproduce.figures` returns of a notebook."""
    return {"notebook": name, "status": status, "started": "", "seconds": seconds, "parameters": {}, "failing_cell": None}
