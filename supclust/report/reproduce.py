"""Papermill over the numbered notebooks: executed copies, HTML pages, and what made them."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbconvert.exporters import HTMLExporter
from nbconvert.preprocessors import ExecutePreprocessor
from papermill.exceptions import PapermillExecutionError

from supclust import kept, profiles
from supclust.profiles import Profile
from supclust.report import index, provenance

log = logging.getLogger(__name__)

KERNEL = "python3"
KERNEL_ARGUMENTS = ["--log-level=CRITICAL"]  # else each warns that it talks over the loopback interface, and of its own end
TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no")

# How every kernel runs, whatever the shell that starts it says: figures go into the notebook, a progress bar does not (it would
# stay there as a heap of control characters), threads that wait for each other sleep instead of spinning (where other programs
# want the cores too, spinning makes small steps many times slower), and the debugger need not say that Python's own modules are
# frozen.
KERNEL_ENVIRONMENT = {
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "TQDM_DISABLE": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}


@dataclass(frozen=True)
class FailingCell:
    """Where a notebook stopped."""

    number: int | None  # as in "In [5]" of the executed copy; None when not one cell ran
    source: str  # its first line
    error: str


@dataclass(frozen=True)
class Outcome:
    """How one notebook went."""

    notebook: str
    status: str  # "ok" or "failed"
    started: str  # ISO 8601, UTC
    seconds: float
    parameters: dict[str, Any]  # all of them, those left at their default included
    figures: tuple[str, ...]  # files of the figures folder that it wrote
    failing_cell: FailingCell | None = None


ENTRY = {field.name for field in dataclasses.fields(Outcome)} - {"notebook"}  # what provenance.json says of a notebook


@dataclass(frozen=True)
class Task:
    """A notebook, and the parameters it is run with."""

    file: Path
    given: dict[str, Any]
    defaults: dict[str, Any]

    @property
    def name(self) -> str:
        return self.file.stem


def figures(
    profile: str,
    notebooks: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    recompute: bool = False,
) -> list[Outcome]:
    """Execute the numbered notebooks, all or those named, one after the other, and write their reports.

    notebooks: "03", "3", "03_queried_samples" or the file's name.
    parameters: name -> value for every one of them; text is read as the type that the notebook annotates.
    out: the folder below which reports/ and figures/ are written (default: kept.out()).
    recompute: passed to the notebooks that have such a parameter.

    Fills reports/<profile>/ with NAME.ipynb, NAME.html, index.html and provenance.json. A notebook that fails does not stop
    the others; its Outcome says where. Raises ValueError, before anything runs, for an unknown profile or notebook, and for a
    parameter that one of the notebooks does not have or whose value is not of its type.
    """
    config = profiles.get(profile)
    tasks = plan(config.name, find_notebooks(notebooks), parameters or {}, recompute)
    with _environment(out):
        record = _start_record(config, parameters or {})
        outcomes = []
        for number, task in enumerate(tasks, start=1):
            log.info("[%d/%d] %s ...", number, len(tasks), task.name)
            outcomes.append(_run(task, config.name))
            log.info("[%d/%d] %s", number, len(tasks), describe(outcomes[-1]))
            _add_to_record(record, outcomes[-1])
            write_provenance(config, record)
            index.write(config.name, record, find_notebooks())
        return outcomes


def describe(outcome: Outcome) -> str:
    """One line on a notebook that went well, three on one that did not."""
    if outcome.failing_cell is None:
        return f"{outcome.notebook} ok in {outcome.seconds:.1f} s"
    cell = outcome.failing_cell
    where = "before its first cell" if cell.number is None else f"in cell [{cell.number}]: {cell.source}"
    return f"{outcome.notebook} FAILED after {outcome.seconds:.1f} s {where}\n    {cell.error}"


# --- what is going to run -------------------------------------------------------------------------------------------------


def find_notebooks(names: Sequence[str] = ()) -> list[Path]:
    """The files of the notebooks named (default: all), in the order of their numbers, each once.

    Raises ValueError for a name that fits none, listing the known ones.
    """
    known = sorted(kept.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    if not known:
        raise ValueError(f"no numbered notebook in {kept.NOTEBOOKS}")
    wanted = {_find_notebook(name, known) for name in names}
    return [file for file in known if file in wanted or not names]


def _find_notebook(name: str, known: Sequence[Path]) -> Path:
    stem = Path(name).name.removesuffix(".ipynb")
    for file in known:
        number = file.stem[:2]
        if stem == file.stem or (stem.isdecimal() and int(stem) == int(number)):
            return file
    raise ValueError(f"unknown notebook {name!r}; known: {', '.join(file.stem for file in known)}")


def plan(profile: str, notebooks: Sequence[Path], parameters: Mapping[str, Any], recompute: bool) -> list[Task]:
    """What to run with which parameters; ValueError with one line for each parameter that does not fit a notebook."""
    if "profile" in parameters:
        raise ValueError("the profile is chosen with --profile, not as a parameter")
    problems: dict[str, list[str]] = {}
    tasks = [_plan_one(file, {"profile": profile, **parameters}, recompute, problems) for file in notebooks]
    if problems:
        raise ValueError("\n".join(f"{', '.join(names)}: {problem}" for problem, names in problems.items()))
    return tasks


def _plan_one(file: Path, parameters: Mapping[str, Any], recompute: bool, problems: dict[str, list[str]]) -> Task:
    declared = papermill.inspect_notebook(file)
    if recompute and "recompute" in declared:
        parameters = {"recompute": True, **parameters}
    known = ", ".join(f"{name}: {entry['inferred_type_name']}" for name, entry in declared.items()) or "none"
    given = {}
    for name, value in parameters.items():
        try:
            given[name] = _read_value(name, value, declared)
        except ValueError as error:
            problems.setdefault(f"{error}; its parameters: {known}", []).append(file.stem)
    return Task(file, given, {name: _literal(entry["default"]) for name, entry in declared.items()})


def _read_value(name: str, value: Any, declared: Mapping[str, Mapping[str, str]]) -> Any:
    """The value as the type that the notebook annotates; papermill itself would pass on whatever it is given."""
    if name not in declared:
        raise ValueError(f"unknown parameter {name!r}")
    annotation = declared[name]["inferred_type_name"]
    try:
        return READERS[annotation](str(value))
    except KeyError:
        raise ValueError(f"parameter {name!r} is {annotation}, which cannot be given here ({', '.join(READERS)} can)") from None
    except ValueError:
        raise ValueError(f"parameter {name!r} is {annotation}, and {value!r} is not") from None


def _read_bool(text: str) -> bool:
    if text.lower() not in TRUE + FALSE:
        raise ValueError(text)
    return text.lower() in TRUE


READERS = {"str": str, "int": int, "float": float, "bool": _read_bool}


def _literal(source: str) -> Any:
    try:
        return ast.literal_eval(source)
    except (ValueError, SyntaxError):
        return source


# --- running --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _environment(out: str | Path | None = None) -> Iterator[None]:
    """What the kernels inherit, and what papermill and nbconvert are to keep to themselves, for the time of a run."""
    changes = dict(KERNEL_ENVIRONMENT)
    if out is not None:
        changes["SUPCLUST_OUT"] = str(Path(out).expanduser().resolve())
    loggers = {logging.getLogger(name): logging.getLogger(name).level for name in ("papermill", "traitlets")}
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with kept.environment(changes):
            yield
    finally:
        for logger, level in loggers.items():
            logger.setLevel(level)


def _run(task: Task, profile: str) -> Outcome:
    """Execute one notebook and write its two reports, whatever comes of it."""
    began, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    before = index.figure_stamps(profile)
    failing_cell = _execute(task, kept.reports(profile))
    after = index.figure_stamps(profile)
    return Outcome(
        notebook=task.name,
        status="ok" if failing_cell is None else "failed",
        started=started,
        seconds=round(time.perf_counter() - began, 1),
        parameters=task.defaults | task.given,
        figures=tuple(name for name in sorted(after) if after[name] != before.get(name)),
        failing_cell=failing_cell,
    )


def _execute(task: Task, folder: Path) -> FailingCell | None:
    """Papermill writes after every cell; what it writes takes its final name only when it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{task.name}.partial.ipynb"
    partial.unlink(missing_ok=True)
    try:
        failing_cell = _execute_cells(task, partial)
        if partial.exists():
            _write_reports(partial, folder / task.file.name)
        return failing_cell
    finally:
        partial.unlink(missing_ok=True)


def _execute_cells(task: Task, partial: Path) -> FailingCell | None:
    bar = {"desc": task.name, "leave": False, "disable": not sys.stderr.isatty()}
    try:
        papermill.execute_notebook(
            task.file,
            partial,
            task.given,
            kernel_name=KERNEL,
            extra_arguments=list(KERNEL_ARGUMENTS),
            cwd=task.file.parent,
            progress_bar=bar,
        )
    except PapermillExecutionError as error:
        return FailingCell(error.exec_count, _first_line(error.source), f"{error.ename}: {error.evalue}".rstrip(": "))
    except Exception as error:  # the kernel did not start or died: whatever it is, the other notebooks go on
        log.debug("%s", task.name, exc_info=True)
        return _last_started_cell(partial, f"{type(error).__name__}: {error}")
    return None


def _last_started_cell(partial: Path, error: str) -> FailingCell:
    """Where a dead kernel was: papermill's record of the cells ends there."""
    cells = nbformat.read(partial, as_version=4).cells if partial.exists() else []
    cells = [cell for cell in cells if cell.cell_type == "code" and cell.metadata.get("papermill", {}).get("start_time")]
    if not cells:
        return FailingCell(None, "", error)
    return FailingCell(len(cells), _first_line(cells[-1].source), error)


def _first_line(source: str) -> str:
    return next(iter(source.strip().splitlines()), "")


def _write_reports(partial: Path, executed: Path) -> None:
    """The executed copy, without the paths that papermill notes in it, and its HTML page."""
    notebook = nbformat.read(partial, as_version=4)
    for key in ("input_path", "output_path", "environment_variables"):
        notebook.metadata.get("papermill", {}).pop(key, None)
    kept.write_text(executed, nbformat.writes(notebook) + "\n")
    title, _ = index.read_opening(notebook, executed.stem)
    exporter = HTMLExporter(embed_images=True)
    resources = {"metadata": {"name": title, "path": str(kept.NOTEBOOKS)}}
    page, _ = exporter.from_notebook_node(notebook, resources)
    kept.write_text(executed.with_suffix(".html"), page)


def refresh(notebooks: Sequence[str] = ()) -> None:
    """Execute the notebooks, all or those named, in place with their defaults: the form in which they are committed.

    Of the metadata only tags, kernel and language stay. A notebook that fails raises nbclient's CellExecutionError and stays
    as it was.
    """
    with _environment():
        for file in find_notebooks(notebooks):
            log.info("%s ...", file.stem)
            notebook = nbformat.read(file, as_version=4)
            executor = ExecutePreprocessor(
                kernel_name=KERNEL, extra_arguments=list(KERNEL_ARGUMENTS), timeout=None, record_timing=False
            )
            notebook, _ = executor.preprocess(notebook, {"metadata": {"path": str(file.parent)}})
            kept.write_text(file, nbformat.writes(_keep_essentials(notebook)) + "\n")


def _keep_essentials(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"name": KERNEL, "display_name": "Python 3 (ipykernel)", "language": "python"},
            "language_info": {"name": "python", "pygments_lexer": "ipython3", "file_extension": ".py"},
        }
    )
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
    return notebook


# --- provenance.json ------------------------------------------------------------------------------------------------------


def _start_record(config: Profile, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What provenance.json is going to say: this run's circumstances, and the notebooks of earlier runs."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "profile": dataclasses.asdict(config),
        "parameters": _without_paths(dict(parameters)),
        **provenance.collect(),
        "features": provenance.feature_checksums(config),
        "notebooks": _read_earlier(kept.reports(config.name) / "provenance.json"),
    }


def _read_earlier(file: Path) -> dict[str, Any]:
    """The entries of the notebooks that are still there; a file that cannot be read is written anew."""
    if not file.exists():
        return {}
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))["notebooks"]
        known = {file.stem: entries[file.stem] for file in find_notebooks() if file.stem in entries}
        if not all(set(entry) >= ENTRY for entry in known.values()):
            raise ValueError("an entry is not whole")
        return known
    except (ValueError, KeyError, TypeError):
        log.warning("%s is not readable and is written anew", file)
        return {}


def _add_to_record(record: dict[str, Any], outcome: Outcome) -> None:
    """A notebook's entry replaces its earlier one; a figure belongs to the notebook that wrote it last."""
    entries = record["notebooks"]
    for other in entries.values():
        other["figures"] = [name for name in other["figures"] if name not in outcome.figures]
    entry = _without_paths(dataclasses.asdict(outcome))
    del entry["notebook"]
    entries[outcome.notebook] = {**entry, "git": record["git"]}
    record["notebooks"] = dict(sorted(entries.items()))


def write_provenance(config: Profile, record: dict[str, Any]) -> None:
    """Write reports/<profile>/provenance.json."""
    record["features"] = provenance.feature_checksums(config)  # a notebook may just have made them
    text = json.dumps(record, indent=2, ensure_ascii=False)
    kept.write_text(kept.reports(config.name) / "provenance.json", text + "\n")


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(item) for item in value]
    return provenance.without_paths(value) if isinstance(value, str) else value
