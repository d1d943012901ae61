"""Papermill over the numbered notebooks: executed copies, HTML pages, a page of all figures, and what made them."""

import ast
import base64
import io
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import BrokenExecutor
from configparser import ConfigParser
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import joblib
import nbformat
import papermill
from nbconvert.exporters import HTMLExporter
from nbconvert.preprocessors import ClearMetadataPreprocessor, ExecutePreprocessor
from PIL import Image

from supclust import kept, profiles
from supclust.engine import threads
from supclust.report import provenance

log = logging.getLogger(__name__)
logging.getLogger("traitlets").setLevel(logging.ERROR)  # nbconvert warns of every picture without an alternative text
warnings.filterwarnings("ignore", "The specified file .* does not end in", module="papermill")

# How every kernel runs. Its log is off, else each warns that it talks over the loopback interface, and of its own end.
KERNEL = {"kernel_name": "python3", "extra_arguments": ["--log-level=CRITICAL"]}

# And whatever the shell that starts it says: figures go into the notebook, a progress bar does not (it would stay there as a heap
# of control characters), threads that wait for each other sleep instead of spinning (where other programs want the cores too,
# spinning makes small steps many times slower), and the debugger need not say that Python's own modules are frozen.
KERNEL_ENVIRONMENT = {
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "TQDM_DISABLE": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}

# Types that a parameter may be annotated with, and how its text is read.
READERS = {"str": str, "int": int, "float": float, "bool": lambda text: ConfigParser.BOOLEAN_STATES[text.lower()]}


def figures(
    profile: str, notebooks: Sequence[str] = (), parameters: Mapping[str, Any] | None = None, recompute: bool = False
) -> list[dict[str, Any]]:
    """Execute the numbered notebooks, all or those named, and write their reports: two at a time where they only read kept tables.

    notebooks: "03", "3", "03_queried_samples" or the file's name.
    parameters: name -> value for every one of them; text is read as the type that the notebook annotates.
    recompute: passed to the notebooks that have such a parameter.

    Fills reports/<profile>/ with NAME.ipynb, NAME.html, index.html and provenance.json. A notebook that fails does not stop
    the others. Returns the outcome of each: notebook, status ("ok" or "failed"), started (ISO 8601, UTC), seconds, parameters
    (those left at their default included) and failing_cell: None, or its number as in "In [5]" of the executed copy (None when
    not one cell ran), its source (the first line) and the error. Raises ValueError, before anything runs, for an unknown profile
    or notebook, and for a parameter that one of the notebooks does not have or whose value is not of its type.
    """
    config, parameters = profiles.get(profile), dict(parameters or {})
    tasks = plan(profile, find_notebooks(notebooks), parameters, recompute)
    file, outcomes = kept.reports(profile) / "provenance.json", []
    started = datetime.now(UTC).isoformat(timespec="seconds")
    record = {"started": started, "profile": asdict(config), "parameters": parameters, **provenance.collect()}
    computes = config.features == "trained" or any(value is True for values in tasks.values() for value in values.values())
    jobs = 1 if computes else min(2, len(tasks))  # who computes takes all cores, and makes what later ones read
    work = (joblib.delayed(_run)(notebook, values, file.parent, kept.folders()) for notebook, values in tasks.items())
    try:
        for outcome in joblib.Parallel(jobs, return_as="generator_unordered", initializer=threads.end_with_parent)(work):
            outcomes.append(outcome)
            cell = outcome["failing_cell"]
            public = cell and cell | {"error": provenance.without_paths(cell["error"])}
            entry = {outcome["notebook"]: outcome | {"failing_cell": public, "git": record["git"]}}
            record["features"] = provenance.feature_checksums(config)  # a notebook may just have made them
            entries = _earlier_entries(file) | entry  # of another run at the same time, too
            record["notebooks"] = dict(sorted(entries.items()))
            kept.write_text(file, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
            _write_index(profile, record)
            log.info("[%d/%d] %s", len(outcomes), len(tasks), describe(outcome))
    except BrokenExecutor as error:
        raise ChildProcessError("a process was killed, perhaps because memory ran out. Finished notebooks are kept") from error
    return sorted(outcomes, key=lambda outcome: outcome["notebook"])


def describe(outcome: Mapping[str, Any]) -> str:
    """One line on a notebook that went well, two on one that did not."""
    name, seconds, cell = outcome["notebook"], outcome["seconds"], outcome["failing_cell"]
    if cell is None:
        return f"{name} ok in {seconds:.1f} s"
    where = "before its first cell" if cell["number"] is None else "in cell [{number}]: {source}".format_map(cell)
    return f"{name} FAILED after {seconds:.1f} s {where}\n    {cell['error']}"


def refresh() -> None:
    """Execute the notebooks in place with their defaults: the form in which they are committed.

    Of the metadata only tags, kernel and language stay. A notebook that fails raises nbclient's CellExecutionError and stays
    as it was.
    """
    execute = ExecutePreprocessor(**KERNEL, timeout=None, record_timing=False)
    stays = {"kernelspec", ("language_info", "name")}
    clear = ClearMetadataPreprocessor(preserve_cell_metadata_mask={"tags"}, preserve_nb_metadata_mask=stays)
    with kept.environment(KERNEL_ENVIRONMENT):
        for file in find_notebooks():
            log.info("%s ...", file.stem)
            notebook = nbformat.read(file, as_version=4)
            for preprocessor in (execute, clear):
                preprocessor.preprocess(notebook, {"metadata": {"path": str(file.parent)}})
            shrink(notebook)
            kept.write_text(file, nbformat.writes(notebook) + "\n")


def shrink(notebook: nbformat.NotebookNode) -> None:
    """Give the figures in a notebook a palette of 128 colours, which takes a quarter of the space."""
    for data in (output["data"] for cell in notebook.cells for output in cell.get("outputs", ()) if "data" in output):
        if "image/png" in data:
            with Image.open(io.BytesIO(base64.b64decode(data["image/png"]))) as figure:
                figure.convert("RGB").quantize(128).save(small := io.BytesIO(), "PNG", optimize=True)
            data["image/png"] = base64.b64encode(small.getvalue()).decode()


# --- what is going to run -------------------------------------------------------------------------------------------------


def find_notebooks(names: Sequence[str] = ()) -> list[Path]:
    """The files of the notebooks named (default: all), in the order of their numbers, each once.

    Raises ValueError for a name that fits none, listing the known ones.
    """
    known = sorted(kept.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    if not known:
        raise ValueError(f"no numbered notebook in {kept.NOTEBOOKS}: the notebooks come with a clone of the repository")
    wanted = set()
    for name in names:
        stem = Path(name).name.removesuffix(".ipynb")
        found = [file for file in known if stem and stem.zfill(2) in (file.stem, file.stem[:2])]
        if not found:
            raise ValueError(f"unknown notebook {name!r}; known: {', '.join(file.stem for file in known)}")
        wanted.update(found)
    return [file for file in known if file in wanted or not names]


def plan(profile: str, notebooks: Sequence[Path], parameters: Mapping[str, Any], recompute: bool) -> dict[Path, dict[str, Any]]:
    """All parameters of each notebook; ValueError with one line for each given one that does not fit a notebook."""
    if "profile" in parameters:
        raise ValueError("the profile is chosen with --profile, not as a parameter")
    tasks, problems = {}, {}
    for file in notebooks:
        declared = papermill.inspect_notebook(file)
        kinds = {name: entry["inferred_type_name"] for name, entry in declared.items()}
        known = ", ".join(f"{name}: {kind}" for name, kind in kinds.items()) or "none"
        tasks[file] = {name: ast.literal_eval(entry["default"]) for name, entry in declared.items()}
        wanted = {"profile": profile} | ({"recompute": True} if recompute and "recompute" in declared else {}) | dict(parameters)
        for name, value in wanted.items():
            try:  # papermill itself would pass on whatever it is given
                tasks[file][name] = READERS[kinds[name]](str(value))
            except (ValueError, KeyError):
                kind = kinds.get(name)
                problem = f"parameter {name!r} is {kind}, and {value!r} is not" if kind else f"unknown parameter {name!r}"
                problems.setdefault(f"{problem}; its parameters: {known}", []).append(file.stem)
    if problems:
        raise ValueError("\n".join(f"{', '.join(names)}: {problem}" for problem, names in problems.items()))
    return tasks


# --- running --------------------------------------------------------------------------------------------------------------


def _run(file: Path, parameters: dict[str, Any], folder: Path, folders: dict[str, str]) -> dict[str, Any]:
    """Execute one notebook and write its two reports into the folder, whatever comes of it; returns its outcome.

    Papermill writes after every cell, into a temporary file; the reports are there when all cells have run, or one has failed.
    """
    log.info("%s ...", file.stem)  # shown where notebooks run one after the other
    started, error = datetime.now(UTC), None
    bar = {"desc": file.stem, "leave": False, "disable": not sys.stderr.isatty()}
    with kept.environment(KERNEL_ENVIRONMENT | folders), kept.replacing(folder / file.name) as executed:
        try:
            papermill.execute_notebook(file, executed, parameters, cwd=file.parent, progress_bar=bar, **KERNEL)
        except Exception as failed:  # in a cell, or the kernel did not start or died: whatever it is, the other notebooks go on
            log.debug("%s", file.stem, exc_info=True)
            name, value = getattr(failed, "ename", type(failed).__name__), getattr(failed, "evalue", failed)  # those of the cell
            error = f"{name}: {value}".rstrip(": ")
        notebook = nbformat.read(executed, as_version=4)
        for key in ("input_path", "output_path", "environment_variables"):
            del notebook.metadata.papermill[key]
        executed.write_bytes(f"{nbformat.writes(notebook)}\n".encode())
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code" and cell.metadata.papermill.start_time]
    last = ["", *sources][-1].strip().partition("\n")[0]
    page, _ = HTMLExporter().from_notebook_node(notebook, {"metadata": {"name": _title(file)}})
    kept.write_text(folder / f"{file.stem}.html", page)
    return {
        "notebook": file.stem,
        "status": "failed" if error else "ok",
        "started": started.isoformat(timespec="seconds"),
        "seconds": round((datetime.now(UTC) - started).total_seconds(), 1),
        "parameters": parameters,
        "failing_cell": {"number": len(sources) or None, "source": last, "error": error} if error else None,
    }


def _earlier_entries(file: Path) -> dict[str, Any]:
    """What provenance.json says of the notebooks that are still there; a file that cannot be read is written anew."""
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))["notebooks"] if file.exists() else {}
        return {notebook.stem: entries[notebook.stem] for notebook in find_notebooks() if notebook.stem in entries}
    except (ValueError, KeyError, TypeError, RecursionError):
        log.warning("%s is not readable and is written anew", file)
        return {}


def _write_index(profile: str, record: dict[str, Any]) -> None:
    """Write reports/<profile>/index.html: a table of the notebooks, then every figure, small and inlined, with its finding."""
    reports, pictures = kept.reports(profile), sorted(kept.figures(profile).glob("[!.]*"))
    text = (kept.REPOSITORY / "docs" / "figures.md").read_text(encoding="utf-8")  # rows of: picture | notebook | paper | finding
    findings = dict(re.findall(rf"\]\(../figures/{profile}/([\w.]+)\) \|.*\| (.+) \|\n", text))
    pictures.sort(key=lambda file: [*findings, file.name].index(file.name))  # those without a row come last
    page = kept.template(Path(__file__).with_name("index.html.j2")).render(
        record=record,
        notebooks=[(file.stem, _title(file), os.path.relpath(file, reports)) for file in find_notebooks()],
        pages={file.stem for file in reports.glob("*.html")},
        pictures=[(file, _small(file.read_bytes())) for file in pictures if file.suffix in (".png", ".gif")],
        findings=findings,
        pdfs=[file.stem for file in pictures if file.suffix == ".pdf"],
    )
    kept.write_text(reports / "index.html", page)


@cache  # the page is written after each notebook, and most pictures are as before
def _small(picture: bytes) -> str:
    """The picture, at most 800 pixels wide, as an address that holds all of it."""
    with Image.open(io.BytesIO(picture)) as image:
        image.thumbnail((800, 1600))
        image.convert("RGB").save(small := io.BytesIO(), "WEBP", quality=40)
    return f"data:image/webp;base64,{base64.b64encode(small.getvalue()).decode()}"


def _title(notebook: Path) -> str:
    """The heading that a notebook opens with."""
    return nbformat.read(notebook, as_version=4).cells[0].source.partition("\n")[0].lstrip("# ")
