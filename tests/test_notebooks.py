"""Are the committed notebooks fit to be read on GitHub and compared by nbval? (What they compute is nbval's business.)"""

import ast
import json
import re
import runpy

import nbformat
import papermill
import pytest

from supclust import kept
from tests import notebook_samples as samples

NOTEBOOKS = sorted(kept.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(home|root|work|tmp|Users|private|mnt)/")
KEPT = {"recompute", "rerun", "measure", "encoder_quality", "embedding_maps"}  # whoever uses one of these may read a kept table
MAX_BYTES, MAX_LINES = 1_000_000, 20


def problems(notebook, size=0):
    """Everything that keeps a notebook from being committed, one line each."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    found = [*opening_problems(notebook), *parameter_problems(notebook), *metadata_problems(notebook)]
    found += [problem for number, cell in enumerate(code, start=1) for problem in cell_problems(number, cell)]
    if words(notebook, "markdown") < words(notebook, "code"):
        found.append(f"less prose ({words(notebook, 'markdown')} words) than code ({words(notebook, 'code')} words)")
    if size >= MAX_BYTES:
        found.append(f"{size} bytes are too much")
    return found


def words(notebook, kind):
    return sum(len(cell.source.split()) for cell in notebook.cells if cell.cell_type == kind)


def opening_problems(notebook):
    first = notebook.cells[0]
    if first.cell_type != "markdown" or not re.match(r"# \S", first.source):
        yield "does not open with a heading"


def metadata_problems(notebook):
    if "widgets" in notebook.metadata:
        yield "has widgets metadata, which GitHub refuses to draw"
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "its kernel is not python3"
    if any(cell.cell_type == "code" and not cell.source.strip() for cell in notebook.cells):
        yield "has an empty code cell"
    if any(MACHINE_PATH.search(cell.source) for cell in notebook.cells if cell.cell_type != "code"):
        yield "its prose names a path of a machine"


def parameter_problems(notebook):
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        yield f"{len(tagged)} cells are tagged parameters"
        return
    statements = ast.parse(tagged[0].source).body
    declared = [ast.unparse(statement) for statement in statements]
    if not all(is_annotated_scalar(statement) for statement in statements):
        yield "a parameter is not an annotated scalar of that type"
    elif "profile: str = 'laptop'" not in declared:
        yield 'lacks profile: str = "laptop"'


def is_annotated_scalar(statement):
    match statement:
        case ast.AnnAssign(target=ast.Name(), annotation=ast.Name(id=kind), value=value) if value is not None:
            try:
                return type(ast.literal_eval(value)).__name__ == kind in ("str", "int", "float", "bool")
            except ValueError:
                return False
    return False


def cell_problems(number, cell):
    where = f"code cell {number} ({cell.source.splitlines()[0]})"
    if cell.execution_count != number:
        yield f"{where} has execution count {cell.execution_count}"
    if len(cell.source.splitlines()) > MAX_LINES:
        yield f"{where} has more than {MAX_LINES} lines"
    if any(output.output_type == "error" for output in cell.outputs):
        yield f"{where} ends with an error"
    if any(output.get("name") == "stderr" for output in cell.outputs):
        yield f"{where} prints to stderr: a warning or a progress bar"
    if MACHINE_PATH.search(cell.source + texts(cell.outputs)):
        yield f"{where} names a path of a machine"
    if draws(cell) and not cell.source.rstrip().endswith("plt.show()"):
        yield f"{where} draws a figure and does not end with plt.show()"


def texts(outputs):
    """All outputs as text, pictures left out: base64 has slashes, too."""
    kept = [{**output, "data": {k: v for k, v in output.get("data", {}).items() if "image" not in k}} for output in outputs]
    return json.dumps(kept)


def draws(cell):
    """Did matplotlib put a figure there? Its text beside the picture says so."""
    return any("<Figure" in output.get("data", {}).get("text/plain", "") for output in cell.outputs)


def compared(cell):
    """Does nbval compare an output of the cell? It skips pictures, all but the text beside them."""
    outputs = [output.get("text") or output.get("data", {}).get("text/plain", "<Figure") for output in cell.outputs]
    return "nbval-ignore-output" not in cell.metadata.get("tags", []) and not all(text.startswith("<") for text in outputs)


def computed_anew(notebook):
    """The cells whose output is compared and comes from no kept table, nor from a name that was made from one."""
    tainted = set(KEPT)
    for cell in (one for one in notebook.cells if one.cell_type == "code" and "parameters" not in one.metadata.get("tags", [])):
        names = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Name | ast.Attribute)]
        used = {node.attr if isinstance(node, ast.Attribute) else node.id for node in names}
        if used & tainted:
            tainted |= {node.id for node in names if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)} - {"_"}
        elif compared(cell):
            yield cell


# --- the committed notebooks ----------------------------------------------------------------------------------------------


def test_each_notebook_has_a_number_of_its_own():
    assert [file.name[:2] for file in NOTEBOOKS] == [f"{number:02}" for number in range(13)]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_can_be_committed(file):
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    assert problems(notebook, file.stat().st_size) == []


def test_what_nbval_compares_is_said_as_it_is():
    notebooks = [nbformat.read(file, as_version=4) for file in NOTEBOOKS]
    n = sum(compared(cell) for notebook in notebooks for cell in notebook.cells if cell.cell_type == "code")
    m = sum(len(list(computed_anew(notebook))) for notebook in notebooks)
    said = ast.get_docstring(ast.parse((kept.NOTEBOOKS / "conftest.py").read_text()))
    assert f"outputs of {n} cells are compared, of them {m} computed anew" in said


@pytest.mark.parametrize(("source", "anew"), [("x = 1\nx", 1), ("t = table(recompute)", 0), ("t = table(recompute)\nt", 0)])
def test_an_output_that_is_read_back_is_not_computed_anew(source, anew):
    notebook = samples.make(source, "t", parameters=f"{samples.PARAMETERS}\nrecompute: bool = False")
    notebook.cells[-2].outputs = output("execute_result", data={"text/plain": "1"}, execution_count=1)
    notebook.cells[-1].outputs = output("display_data", data={"text/plain": "<Figure"})
    assert len(list(computed_anew(notebook))) == anew


@pytest.mark.parametrize(
    ("first", "second", "close"),
    [
        ("rho −0.60 of 12 clusters", "rho −0.62 of 12 clusters", True),
        ("rho −0.60", "rho −0.64", False),
        ("rho 0.60", "rho −0.60", False),
        ("share   96", "share  94", True),
        ("share 36", "share 40", False),
        ("supclust 36", "typiclust 36", False),
        ("36 37", "36", False),
        ("10,006 images", "10,009 images", False),
    ],
)  # fmt: skip
def test_close_outputs_may_differ_in_the_last_place(first, second, close):
    tests = runpy.run_path(str(kept.NOTEBOOKS / "conftest.py"))
    assert (tests["Close"](first) == second) == close


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_papermill_reads_every_parameter(file):
    (cell,) = [cell for cell in nbformat.read(file, as_version=4).cells if "parameters" in cell.metadata.get("tags", [])]
    written = {statement.target.id: statement.annotation.id for statement in ast.parse(cell.source).body}
    read = {name: entry["inferred_type_name"] for name, entry in papermill.inspect_notebook(file).items()}
    assert read == written  # papermill skips a line with a second equals sign, be it in a comment


# --- the checks themselves ------------------------------------------------------------------------------------------------


def good():
    """A notebook without a flaw, executed."""
    notebook = samples.make("x = 1\nprint(x)", "plt.plot([x])\nplt.show()", opening="# A title\n\n" + "Prose. " * 20)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, start=1):
        cell.execution_count = number
    code[1].outputs = [nbformat.v4.new_output("stream", name="stdout", text="1\n")]
    picture = {"image/png": "iVBOR/tmp/w0KGgo=", "text/plain": "<Figure size 640x480 with 1 Axes>"}
    code[2].outputs = [nbformat.v4.new_output("display_data", data=picture)]
    return notebook


def test_a_good_notebook_has_no_problem():
    assert problems(good()) == []


def output(kind, **content):
    return [nbformat.v4.new_output(kind, **content)]


@pytest.mark.parametrize(
    ("cell", "changes", "problem"),
    [
        (0, {"source": "No heading. " + "Prose. " * 20}, "does not open with a heading"),
        (0, {"source": "# T\n\nSee /home/me/x. " + "Prose. " * 20}, "its prose names a path of a machine"),
        (0, {"source": "# T"}, "less prose"),
        (2, {"execution_count": None}, "code cell 2 (x = 1) has execution count None"),
        (2, {"execution_count": 7}, "code cell 2 (x = 1) has execution count 7"),
        (2, {"source": ""}, "has an empty code cell"),
        (2, {"source": "x\n" * 21}, "code cell 2 (x) has more than 20 lines"),
        (2, {"source": "open('/tmp/x')"}, "code cell 2 (open('/tmp/x')) names a path of a machine"),
        (2, {"outputs": output("error", ename="E", evalue="", traceback=[])}, "code cell 2 (x = 1) ends with an error"),
        (2, {"outputs": output("stream", name="stderr", text="50%|")}, "code cell 2 (x = 1) prints to stderr"),
        (2, {"outputs": output("stream", name="stdout", text="in /home/x/y")}, "code cell 2 (x = 1) names a path"),
        (2, {"outputs": output("display_data", data={"text/html": "/tmp/x"})}, "code cell 2 (x = 1) names a path"),
        (3, {"source": "plt.plot([x])"}, "code cell 3 (plt.plot([x])) draws a figure and does not end with plt.show()"),
        (1, {"metadata": {}}, "0 cells are tagged parameters"),
        (2, {"metadata": {"tags": ["parameters"]}}, "2 cells are tagged parameters"),
        (1, {"source": "seed: int = 0"}, 'lacks profile: str = "laptop"'),
        (1, {"source": 'profile: str = "quick"'}, 'lacks profile: str = "laptop"'),
        (1, {"source": 'profile = "laptop"'}, "a parameter is not an annotated scalar"),
        (1, {"source": 'profile: str = "laptop"\nseed: int = 0.5'}, "a parameter is not an annotated scalar"),
        (1, {"source": 'profile: str = "laptop"\nsizes: list = [1]'}, "a parameter is not an annotated scalar"),
        (1, {"source": 'profile: str = "laptop"\nseed: int = len("x")'}, "a parameter is not an annotated scalar"),
    ],
)  # fmt: skip
def test_a_flaw_is_found(cell, changes, problem):
    notebook = good()
    notebook.cells[cell].update(nbformat.from_dict(changes))
    assert any(found.startswith(problem) for found in problems(notebook)), problems(notebook)


def test_a_flaw_of_the_whole_notebook_is_found():
    notebook = good()
    notebook.metadata.update(nbformat.from_dict({"widgets": {}, "kernelspec": {"name": "conda-env"}}))
    assert problems(notebook, MAX_BYTES) == [
        "has widgets metadata, which GitHub refuses to draw", "its kernel is not python3", "1000000 bytes are too much",
    ]  # fmt: skip
