import base64
import functools
import io
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from supclust import features, kept, profiles
from supclust.report import provenance, reproduce
from supclust.train import shipping
from tests import notebook_samples as samples
from tests.conftest import make_features
from tests.notebook_samples import make, outcome

BOOM = 'values = []\nraise RuntimeError(f"no record in {folder}")'
RECOMPUTE = samples.PARAMETERS + "\nrecompute: bool = False"
LINK = re.compile(r'(?:href|src)="([^"#][^"]*)"')


@pytest.fixture
def notebooks(tmp_path, monkeypatch):
    """An empty folder of notebooks, whose reports are written beside it, and nothing inherited from the shell."""
    monkeypatch.setattr(kept, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setenv("SUPCLUST_OUT", str(tmp_path))
    for name in reproduce.KERNEL_ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "notebooks"


@pytest.fixture
def pretended(monkeypatch):
    """No notebook is run, all go well."""

    def pretend(seconds=1.0):
        monkeypatch.setattr(reproduce, "_run", lambda file, *_: outcome(file.stem, seconds=seconds))

    pretend()
    return pretend


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of three notebooks of which the second fails: (outcomes, out, log)."""
    root = tmp_path_factory.mktemp("finished")
    opening = "# First <b>figure</b> & more\n\nWhat [it](http://x.y) shows."
    tell = "print(kept.out())\nprint(seed, profile, recompute)"
    samples.write(
        root / "notebooks",
        n00_first=make(samples.draw("figure_1"), opening=opening),
        n01_second=make(samples.draw("simclr"), BOOM, samples.draw("never")),
        n02_third=make(samples.draw("figure_2"), tell, parameters=RECOMPUTE),
    )
    (root / "out" / "figures" / "quick").mkdir(parents=True)
    Image.new("RGB", (2_000, 10), "red").save(root / "out" / "figures" / "quick" / "figure_9_old.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept, "NOTEBOOKS", root / "notebooks")
        patch.setenv("SUPCLUST_OUT", str(root / "out"))
        outcomes = reproduce.figures("quick", parameters={"seed": "3"}, recompute=True)
    return outcomes, root / "out"


@pytest.fixture
def page(finished):
    """The page of all figures of that run."""
    return (finished[1] / "reports" / "quick" / "index.html").read_text()


def read_provenance(out: Path, profile: str = "quick") -> dict:
    return json.loads((out / "reports" / profile / "provenance.json").read_text())


def text_of(notebook: Path) -> str:
    outputs = [output for cell in nbformat.read(notebook, 4).cells for output in cell.get("outputs", ())]
    return "".join(output.get("text", "") for output in outputs)


# --- a run ----------------------------------------------------------------------------------------------------------------


def test_a_failing_notebook_does_not_stop_the_others_and_its_failing_cell_is_named(finished):
    outcomes, out = finished
    assert {one["notebook"]: one["status"] for one in outcomes} == {"00_first": "ok", "01_second": "failed", "02_third": "ok"}
    cell = outcomes[1]["failing_cell"]
    executed = nbformat.read(out / "reports" / "quick" / "01_second.ipynb", 4)
    (shown,) = [c for c in executed.cells if c.cell_type == "code" and any(o.output_type == "error" for o in c.outputs)]
    error = f"RuntimeError: no record in {out / 'figures' / 'quick'}"
    assert cell == {"number": shown.execution_count, "source": "values = []", "error": error}
    assert f"in cell [{cell['number']}]: values = []\n    RuntimeError" in reproduce.describe(outcomes[1])


def test_every_notebook_gets_an_executed_copy_and_a_page_and_nothing_is_left_over(finished):
    _, out = finished
    names = ("00_first", "01_second", "02_third")
    wanted = {f"{name}.{suffix}" for name in names for suffix in ("ipynb", "html")} | {"index.html", "provenance.json"}
    assert {file.name for file in (out / "reports" / "quick").iterdir()} == wanted
    assert "no record in" in (out / "reports" / "quick" / "01_second.html").read_text()


def test_parameters_and_folder_reach_the_notebooks_and_the_copy_does_not_say_where_it_was_made(finished):
    outcomes, out = finished
    assert text_of(out / "reports" / "quick" / "02_third.ipynb") == f"{out.resolve()}\n3 quick True\n"
    assert outcomes[2]["parameters"] == {"profile": "quick", "seed": 3, "recompute": True}
    assert outcomes[0]["parameters"] == {"profile": "quick", "seed": 3}
    metadata = nbformat.read(out / "reports" / "quick" / "00_first.ipynb", 4).metadata
    assert str(out.parent) not in json.dumps(metadata)
    assert metadata.papermill.parameters == {"profile": "quick", "seed": 3}


def test_a_kernel_has_the_folders_of_its_run_and_the_environment_is_as_before_afterwards(notebooks, tmp_path, monkeypatch):
    show = 'import os\nprint(os.environ["SUPCLUST_OUT"], os.environ["MPLBACKEND"])'
    samples.write(notebooks, n00_a=make(show), n01_b=make())
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    for name in ("somewhere", "elsewhere"):  # workers of the first run are there for the second one, too
        monkeypatch.setenv("SUPCLUST_OUT", name)
        before = dict(os.environ)
        reproduce.figures("laptop")
        written = text_of(tmp_path / name / "reports" / "laptop" / "00_a.ipynb")
        assert written == f"{tmp_path / name} module://matplotlib_inline.backend_inline\n"  # whatever folder the kernel works in
        assert dict(os.environ) == before


def test_a_kernel_that_does_not_start_is_a_failure_before_the_first_cell(notebooks, tmp_path, monkeypatch, caplog):
    samples.write(notebooks, n00_a=make("1"))
    monkeypatch.setitem(reproduce.KERNEL, "kernel_name", "no-such-kernel")
    with caplog.at_level(logging.INFO, "supclust"):
        (failed,) = reproduce.figures("quick")
    assert failed["failing_cell"]["number"] is None
    assert failed["failing_cell"]["error"].startswith("NoSuchKernel")
    start, end = (record.getMessage() for record in caplog.records if record.name.startswith("supclust"))
    assert start == "00_a ..."
    assert re.match(r"\[1/1\] 00_a FAILED after \d+\.\d s before its first cell\n    NoSuchKernel", end)


def test_a_kernel_that_dies_is_a_failure_and_names_the_cell(notebooks, tmp_path):
    samples.write(notebooks, n00_dies=make("print(1)", "import os\nos._exit(9)"))
    (dead,) = reproduce.figures("quick")
    assert dead["failing_cell"]["source"] == "import os"
    assert dead["failing_cell"]["error"].startswith("DeadKernelError")
    assert (tmp_path / "reports" / "quick" / "00_dies.html").exists()


@pytest.mark.parametrize(("profile", "rerun", "apart"), [("laptop", False, True), ("laptop", True, False), ("quick", False, False)])
def test_notebooks_that_only_read_have_processes_of_their_own(notebooks, monkeypatch, profile, rerun, apart):
    reader = make(parameters=f"{samples.PARAMETERS}\nrerun: bool = False")
    samples.write(notebooks, n00_a=reader, n01_b=reader)
    monkeypatch.setattr(reproduce, "_run", lambda file, *_: outcome(file.stem, seconds=os.getpid()))
    outcomes = reproduce.figures(profile, parameters={"rerun": rerun})
    assert [one["notebook"] for one in outcomes] == ["00_a", "01_b"]
    assert {one["seconds"] != os.getpid() for one in outcomes} == {apart}


def test_a_killed_run_leaves_nothing_when_the_next_one_has_ended(tmp_path):
    once = "import os, pathlib\nos.kill(os.getppid(), 9) if not pathlib.Path(out, 'again').exists() else print(1)"
    samples.write(tmp_path / "notebooks", n00_once=make(f"out = {str(tmp_path)!r}\n{once}"))
    script = "import pathlib, sys\nfrom supclust import kept\nfrom supclust.report import reproduce\n"
    script += "kept.NOTEBOOKS = pathlib.Path('notebooks')\nreproduce.figures('quick')"
    (tmp_path / "tmp").mkdir()
    places = os.environ | {"TMPDIR": str(tmp_path / "tmp"), "SUPCLUST_OUT": str(tmp_path / "out")}
    run = functools.partial(
        subprocess.run, [sys.executable, "-c", script], cwd=tmp_path, env=places, capture_output=True, text=True
    )
    assert run().returncode == -9
    (tmp_path / "again").touch()
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    left = sorted(file.name for file in (tmp_path / "out" / "reports" / "quick").iterdir())
    assert left == ["00_once.html", "00_once.ipynb", "index.html", "provenance.json"]
    assert all(re.fullmatch(r"tmp\w+\.json", file.name) for file in (tmp_path / "tmp").iterdir())  # where a kernel listens


def test_a_notebook_s_process_that_is_killed_ends_in_a_sentence(notebooks):
    samples.write(notebooks, n00_a=make("import os\nos.kill(os.getppid(), 9)"), n01_b=make())
    with pytest.raises(ChildProcessError, match="a process was killed, perhaps because memory ran out"):
        reproduce.figures("laptop")


def test_ctrl_c_stops_at_once_and_keeps_what_is_finished(tmp_path):
    samples.write(tmp_path / "notebooks", n00_done=make("1"), n01_long=make("import time\ntime.sleep(100)"))
    script = (
        "import pathlib, signal, sys\n"
        "from supclust import __main__, kept\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "kept.NOTEBOOKS = pathlib.Path(sys.argv[1])\n"
        "sys.exit(__main__.main(['figures', '--profile', 'quick', '--out', sys.argv[2]]))"
    )
    command = [sys.executable, "-c", script, tmp_path / "notebooks", tmp_path / "out"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        for line in process.stderr:
            if "[1/2] 00_done ok" in line:
                process.send_signal(2)
        assert process.wait(timeout=60) == 130
    assert list(read_provenance(tmp_path / "out")["notebooks"]) == ["00_done"]
    left = {file.name for file in (tmp_path / "out" / "reports" / "quick").iterdir()}
    assert left == {"00_done.ipynb", "00_done.html", "index.html", "provenance.json"}


# --- what is refused before anything runs ---------------------------------------------------------------------------------


@pytest.fixture
def nothing_runs(monkeypatch):
    monkeypatch.setattr(reproduce, "_run", lambda *_: pytest.fail("a notebook was run"))


def test_an_unknown_parameter_is_refused(notebooks, nothing_runs):
    samples.write(notebooks, n00_a=make("1"), n01_b=make("1", parameters=samples.PARAMETERS + "\npoints: int = 5"))
    with pytest.raises(ValueError, match=r"^00_a: unknown parameter 'points'; its parameters: profile: str, seed: int$"):
        reproduce.figures("quick", parameters={"points": "7"})


@pytest.mark.parametrize(
    ("kind", "value"), [("int", "1.5"), ("int", "[1,2]"), ("int", ""), ("float", "big"), ("bool", "2"), ("list", "[1]")]
)
def test_an_ill_typed_parameter_is_refused(notebooks, nothing_runs, kind, value):
    samples.write(notebooks, n00_a=make("1", parameters=f'profile: str = "laptop"\nthing: {kind} = 1'))
    with pytest.raises(ValueError, match=rf"^00_a: parameter 'thing' is {kind}.*profile: str, thing: {kind}$"):
        reproduce.figures("quick", parameters={"thing": value})


@pytest.mark.parametrize(
    ("kind", "given", "read"),
    [("int", "3", 3), ("int", 3, 3), ("float", "1e-3", 1e-3), ("float", 2, 2.0), ("str", "7", "7"),
     ("bool", "True", True), ("bool", "no", False), ("bool", False, False)],
)  # fmt: skip
def test_parameters_are_read_as_their_type(notebooks, kind, given, read):
    samples.write(notebooks, n00_a=make("1", parameters=f'profile: str = "laptop"\nthing: {kind} = 1'))
    [parameters] = reproduce.plan("quick", reproduce.find_notebooks(), {"thing": given}, recompute=False).values()
    assert parameters == {"profile": "quick", "thing": read}
    assert type(parameters["thing"]) is type(read)


def test_one_problem_of_several_notebooks_is_told_once(notebooks, nothing_runs):
    samples.write(notebooks, n00_a=make("1"), n01_b=make("1"))
    with pytest.raises(ValueError, match=r"^00_a, 01_b: parameter 'seed' is int, and 'x' is not; "):
        reproduce.figures("quick", parameters={"seed": "x"})


def test_a_notebook_without_parameters_cell_is_refused(notebooks, nothing_runs):
    notebook = make("1")
    notebook.cells[1].metadata.tags = []
    samples.write(notebooks, n00_a=notebook)
    with pytest.raises(ValueError, match=r"^00_a: unknown parameter 'profile'; its parameters: none$"):
        reproduce.figures("quick")


def test_the_profile_is_no_parameter(notebooks, nothing_runs):
    samples.write(notebooks, n00_a=make("1"))
    with pytest.raises(ValueError, match="--profile"):
        reproduce.figures("quick", parameters={"profile": "paper"})


def test_parameters_left_at_their_default_are_in_the_plan(notebooks):
    samples.write(notebooks, n00_a=make("1", parameters=samples.PARAMETERS + "\nscale: float = 1e-3"))
    [parameters] = reproduce.plan("quick", reproduce.find_notebooks(), {}, recompute=False).values()
    assert parameters == {"profile": "quick", "seed": 0, "scale": 1e-3}


@pytest.mark.parametrize(
    "name", ["03", "3", "03_queried_samples", "03_queried_samples.ipynb", "notebooks/03_queried_samples.ipynb"]
)
def test_notebooks_are_found_by_number_or_name(notebooks, name):
    samples.write(notebooks, n00_a=make(), n03_queried_samples=make())
    assert [file.stem for file in reproduce.find_notebooks([name])] == ["03_queried_samples"]


def test_notebooks_run_in_their_order_and_once(notebooks):
    samples.write(notebooks, n00_a=make(), n01_b=make(), n02_c=make(), draft=make())
    assert [file.stem for file in reproduce.find_notebooks(["2", "00", "02_c"])] == ["00_a", "02_c"]
    assert [file.stem for file in reproduce.find_notebooks()] == ["00_a", "01_b", "02_c"]


@pytest.mark.parametrize("name", ["7", "queried", "00_", "", "03_queried_samples.html", "²"])
def test_an_unknown_notebook_is_refused(notebooks, name):
    samples.write(notebooks, n00_a=make(), n03_queried_samples=make())
    with pytest.raises(ValueError, match=r"unknown notebook .*; known: 00_a, 03_queried_samples"):
        reproduce.find_notebooks([name])


def test_an_empty_folder_is_an_error(notebooks):
    with pytest.raises(ValueError, match="no numbered notebook in"):
        reproduce.find_notebooks()


# --- provenance -----------------------------------------------------------------------------------------------------------


def test_provenance_says_what_was_run_with_what(finished):
    _, out = finished
    record = read_provenance(out)
    assert record["profile"]["name"] == "quick"
    assert record["profile"]["simclr"]["epochs"] == profiles.PROFILES["quick"].simclr.epochs
    assert record["parameters"] == {"seed": "3"}
    assert set(record["versions"]) == {"python", *provenance.PACKAGES}
    assert record["versions"]["torch"]
    assert record["hardware"]["cores"] >= 1
    assert record["features"] == {"digits": None}
    assert record["started"].endswith("+00:00")
    assert "git" in record


def test_provenance_has_an_entry_per_notebook(finished):
    outcomes, out = finished
    entries = read_provenance(out)["notebooks"]
    assert list(entries) == ["00_first", "01_second", "02_third"]
    first = entries["00_first"]
    assert first == outcomes[0] | {"git": read_provenance(out)["git"]}
    assert first["seconds"] > 0
    assert entries["01_second"]["failing_cell"]["source"] == "values = []"


def test_provenance_names_no_folder(finished):
    _, out = finished
    text = (out / "reports" / "quick" / "provenance.json").read_text()
    assert "RuntimeError: no record in .../quick" in text
    assert not re.search(r'"[^"]*(/home/|/tmp/)', text)
    assert str(kept.REPOSITORY) not in text
    assert str(out) not in text


def test_of_two_runs_at_once_each_keeps_the_entry_of_the_other(notebooks, tmp_path, monkeypatch):
    def run(file, *_):
        if file.stem == "00_slow":
            reproduce.figures("quick", ["01"])
        return outcome(file.stem)

    samples.write(notebooks, n00_slow=make(), n01_quick=make())
    monkeypatch.setattr(reproduce, "_run", run)
    reproduce.figures("quick", ["00"])
    assert list(read_provenance(tmp_path)["notebooks"]) == ["00_slow", "01_quick"]


def test_a_partial_run_keeps_the_entries_of_the_others_that_are_still_there(notebooks, tmp_path, pretended):
    samples.write(notebooks, n00_a=make(), n01_b=make())
    reproduce.figures("quick")
    pretended(seconds=5)
    reproduce.figures("quick", ["1"])
    entries = read_provenance(tmp_path)["notebooks"]
    assert {name: entry["seconds"] for name, entry in entries.items()} == {"00_a": 1.0, "01_b": 5}
    (notebooks / "01_b.ipynb").unlink()
    reproduce.figures("quick")
    assert list(read_provenance(tmp_path)["notebooks"]) == ["00_a"]


@pytest.mark.parametrize("text", ["", "<<<<<<< HEAD", "{}", '{"notebooks": 1}', "[" * 100_000])
def test_a_broken_provenance_file_is_written_anew(notebooks, tmp_path, pretended, caplog, text):
    samples.write(notebooks, n00_a=make(), n01_b=make())
    file = tmp_path / "reports" / "quick" / "provenance.json"
    kept.write_text(file, text)
    reproduce.figures("quick", ["1"])
    assert list(read_provenance(tmp_path)["notebooks"]) == ["01_b"]
    assert "is not readable" in caplog.text


def test_a_report_is_whole_or_as_it_was(notebooks, tmp_path, pretended, monkeypatch):
    samples.write(notebooks, n00_a=make())
    reproduce.figures("quick")
    reports = tmp_path / "reports" / "quick"
    before = {file.name: file.read_text() for file in reports.iterdir()}
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no space left on device")))
    with pytest.raises(OSError, match="no space"):
        reproduce.figures("quick")
    assert {file.name: file.read_text() for file in reports.iterdir()} == before


def test_feature_checksums_are_read_from_the_files(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("SUPCLUST_OUT", str(tmp_path))
    monkeypatch.setattr(kept, "SHIPPED", tmp_path)
    laptop = dict.fromkeys(profiles.get("laptop").datasets)
    assert provenance.feature_checksums(profiles.get("laptop")) == laptop
    stored = shipping.save_encoded(tmp_path / "cifar10-features.safetensors", make_features(), "uint8")
    assert provenance.feature_checksums(profiles.get("laptop")) == laptop | {"cifar10": stored.checksum}
    trained = tmp_path / "artefacts" / "paper"
    drawn = features.save(trained / "cifar10-lt50-seed3" / "features.safetensors", make_features())
    kept.write_text(trained / "cifar10" / "features.safetensors", "truncated")
    nothing = dict.fromkeys(profiles.get("paper").datasets)
    assert provenance.feature_checksums(profiles.get("paper")) == nothing | {"cifar10-lt50-seed3": drawn.checksum}
    assert "is damaged" in caplog.text


def git(folder, *arguments):
    name = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false", "-c", "core.hooksPath=/dev/null"]
    subprocess.run(["git", *name, *arguments], cwd=folder, check=True, capture_output=True)


def test_git_state(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    assert provenance.git_state(tmp_path) is None
    git(tmp_path, "init")
    assert provenance.git_state(tmp_path) is None  # no commit yet
    (tmp_path / "code.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    clean = provenance.git_state(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", clean["commit"])
    assert clean["dirty"] is False
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "figure_1.png").write_text("what a run writes")
    assert provenance.git_state(tmp_path) == clean
    (tmp_path / "code.py").write_text("2")
    assert provenance.git_state(tmp_path) == {**clean, "dirty": True}
    (tmp_path / "below").mkdir()
    assert provenance.git_state(tmp_path / "below") is None


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("no file /opt/data/cifar/a.txt", "no file .../a.txt"),
        ("'/srv/project' and (/tmp/x/y.py:3)", "'.../project' and (.../y.py:3)"),
        (f"{Path.home()}/x/y.png", "~/x/y.png"),
        ("https://arxiv.org/abs/2403.03741", "https://arxiv.org/abs/2403.03741"),
        ("figures/quick/a.png, 1/2 and /", "figures/quick/a.png, 1/2 and /"),
    ],
)
def test_folders_are_left_out_of_texts(text, without):
    assert provenance.without_paths(text) == without


# --- the page of all figures ----------------------------------------------------------------------------------------------


def test_the_page_shows_every_figure_once_small_enough_to_read_and_its_links_lead_somewhere(finished, page):
    reports = finished[1] / "reports" / "quick"
    links = LINK.findall(page)
    shown = [Path(link).name for link in re.findall(r'<a href="([^"]+)"><img src="data:image/webp', page)]
    assert shown == ["figure_1.png", "figure_2.png", "figure_9_old.png", "simclr.png"]
    assert {"00_first.html", "01_second.html", "02_third.html", "provenance.json", "../../figures/quick/figure_1.pdf"} <= set(links)
    assert all((reports / link).exists() for link in links if not link.startswith("data:"))
    small = re.findall(r'<img src="data:image/webp;base64,([^"]+)"', page)
    assert [Image.open(io.BytesIO(base64.b64decode(data))).size for data in small] == [(1, 1), (1, 1), (800, 4), (1, 1)]


def test_figures_of_the_laptop_profile_have_the_findings_of_the_docs(notebooks, tmp_path, pretended):
    samples.write(notebooks, n00_a=make())
    (folder := tmp_path / "figures" / "laptop").mkdir(parents=True)
    for name in ("figure_1", "no_row"):
        Image.new("RGB", (10, 10)).save(folder / f"{name}.png")
    reproduce.figures("laptop")
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", (tmp_path / "reports" / "laptop" / "index.html").read_text())
    finding, name = re.fullmatch(r"<strong>(.+)</strong> (.+)", captions[0]).groups()
    assert name == "figure 1"
    assert f"| {finding} |" in (kept.REPOSITORY / "docs" / "figures.md").read_text(encoding="utf-8")
    assert captions[1] == "no row"


def test_the_page_escapes_what_notebooks_say_and_tells_of_the_failure(page):
    assert "First &lt;b&gt;figure&lt;/b&gt; &amp; more</a>" in page
    assert "<b>" not in page
    assert page.count('<span class="ok">ok</span>') == 2
    assert page.count('<span class="failed">failed</span>') == 1
    assert re.search(r'class="error">Stopped in cell \[\d+\], <code>values = \[\]</code>\s+RuntimeError', page)


def test_the_page_asks_nothing_of_the_network_and_suits_the_reader_and_the_screen(page):
    assert "http:" not in page
    assert "https:" not in page
    assert "<script" not in page
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


def test_the_page_lists_notebooks_that_have_not_run(notebooks, tmp_path, pretended):
    samples.write(notebooks, n00_a=make(), n01_b=make(opening="# Second"))
    reproduce.figures("quick", ["0"])
    page = (tmp_path / "reports" / "quick" / "index.html").read_text()
    assert page.count("not run yet") == 1
    assert "Second" in page


# --- the committed form ---------------------------------------------------------------------------------------------------


def test_refresh_executes_in_place_keeps_only_what_is_needed_and_leaves_a_failing_notebook_as_it_was(notebooks):
    notebook = make("from tqdm import tqdm\nfor _ in tqdm(range(3)):\n    pass\nprint(profile)", "1 + 1")
    notebook.metadata.widgets = {"x": 1}
    notebook.cells[2].metadata.collapsed = True
    notebook.cells[2].execution_count = 17
    samples.write(notebooks, n00_a=notebook, n01_b=make("1 / 0"))
    before = (notebooks / "01_b.ipynb").read_bytes()
    with pytest.raises(Exception, match="ZeroDivisionError"):
        reproduce.refresh()
    assert (notebooks / "01_b.ipynb").read_bytes() == before
    fresh = nbformat.read(notebooks / "00_a.ipynb", 4)
    code = [cell for cell in fresh.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [1, 2, 3]
    assert [cell.metadata for cell in code] == [{"tags": ["parameters"]}, {}, {}]
    assert [output.get("text") for output in code[1].outputs] == ["laptop\n"]  # and no progress bar
    assert set(fresh.metadata) == {"kernelspec", "language_info"}
    assert fresh.metadata.kernelspec.name == "python3"


def test_figures_in_a_committed_notebook_have_a_palette_and_look_the_same():
    rows, columns = np.mgrid[:200, :300]
    picture = np.dstack([rows, columns // 2, 0 * rows, 255 + 0 * rows]).astype(np.uint8) // 64 * 64 + 60  # twenty colours
    Image.fromarray(picture, "RGBA").save(large := io.BytesIO(), "PNG", compress_level=0)
    data = {"image/png": base64.b64encode(large.getvalue()).decode(), "text/plain": "<Figure>"}
    notebook = make("1 + 1")
    notebook.cells[2].outputs = [nbformat.v4.new_output("stream", text="a"), nbformat.v4.new_output("display_data", data)]
    reproduce.shrink(notebook)
    after = notebook.cells[2].outputs[1].data
    assert len(after["image/png"]) < len(data["image/png"]) / 4
    with Image.open(io.BytesIO(base64.b64decode(after["image/png"]))) as small:
        assert small.mode == "P"
        assert np.abs(np.asarray(small.convert("RGB"), int) - picture[..., :3]).max() <= 2
    assert after["text/plain"] == "<Figure>"
