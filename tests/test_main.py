import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock

from supclust import __main__, claims, datasets, kept, profiles, simclr, sweep
from supclust.label import embedders
from supclust.report import reproduce
from supclust.train import shipping
from tests import notebook_samples as samples
from tests.notebook_samples import make


@pytest.fixture(autouse=True)
def as_before(monkeypatch, tmp_path, log_level):
    """The command may set SUPCLUST_OUT and log levels for its own process; here it shares ours."""
    monkeypatch.setenv("SUPCLUST_OUT", str(tmp_path / "default"))


@pytest.fixture
def calls(monkeypatch):
    """Stand-ins for what the commands call; what they were called with."""
    seen = []

    def figures(*arguments):
        seen.append(arguments)
        return [samples.outcome("00_a")]

    def run(profile, **arguments):
        seen.append((profile.name, arguments))
        rows = [
            ("digits", "ssl", "supclust", "tiny", seed, turn, 10 * turn, *3 * [0.5], 10) for seed in range(3) for turn in (5, 6)
        ]
        return pd.DataFrame(rows, columns=sweep.COLUMNS)

    monkeypatch.setattr(reproduce, "figures", figures)
    monkeypatch.setattr(sweep, "run", run)
    monkeypatch.setattr(sweep, "write_table", lambda profile: kept.reports(profile.name) / "curves.csv")
    return seen


# --- figures --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line", ["03 4 -p seed 3 -p points 5", "-p seed 3 03 -p points 5 4", "-p seed 3 -p points 5 03 4", "03 -p seed 3 4 -p points 5"]
)
def test_figures_takes_notebooks_and_parameters_in_any_order(calls, line, tmp_path):
    assert __main__.main(["figures", "--profile", "quick", "--out", str(tmp_path), *line.split()]) == 0
    assert calls == [("quick", ["03", "4"], {"seed": "3", "points": "5"}, False)]
    assert kept.out() == tmp_path


def test_figures_defaults_to_all_of_laptop(calls, capsys, tmp_path):
    assert __main__.main(["figures", "--recompute"]) == 0
    assert calls == [("laptop", [], {}, True)]
    assert capsys.readouterr().out == f"{tmp_path / 'default' / 'reports' / 'laptop' / 'index.html'}\n"


@pytest.mark.parametrize("line", ["--foo", "-p seed", "3 --bar 4"])
def test_a_command_line_that_makes_no_sense_is_refused(calls, line, capsys):
    with pytest.raises(SystemExit) as stopped:
        __main__.main(["figures", *line.split()])
    assert stopped.value.code == 2
    assert "usage: supclust" in capsys.readouterr().err
    assert calls == []


def test_a_failing_notebook_ends_the_command_with_1(monkeypatch, capsys):
    outcomes = [samples.outcome("00_a", "failed"), samples.outcome("01_b")]
    monkeypatch.setattr(reproduce, "figures", lambda *_: outcomes)
    assert __main__.main(["figures", "--profile", "quick"]) == 1
    assert capsys.readouterr().err == "1 of 2 notebooks failed: 00_a\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--profile fast", "unknown profile 'fast'; known: quick, laptop, paper, smoke"),
        ("-p seed x", "00_a: parameter 'seed' is int, and 'x' is not; its parameters: profile: str, seed: int"),
    ],
)
def test_wrong_input_is_one_line(monkeypatch, tmp_path, capsys, line, message):
    monkeypatch.setattr(kept, "NOTEBOOKS", samples.write(tmp_path / "notebooks", n00_a=make("1")))
    assert __main__.main(["figures", *line.split()]) == 2
    assert capsys.readouterr().err == f"supclust figures: {message}\n"


def test_other_errors_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(reproduce, "figures", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        __main__.main(["figures"])


def test_an_interruption_ends_with_130(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduce, "figures", interrupted)
    assert __main__.main(["figures"]) == 130
    assert capsys.readouterr().err == "supclust figures: interrupted. Finished work is kept\n"


# --- sweep, data and others -------------------------------------------------------------------------------------------------------


def test_sweep_passes_its_slice_on_and_prints_the_table(calls, capsys, tmp_path):
    line = "sweep --profile quick --datasets digits --strategies supclust random --budgets tiny --seeds 2 --jobs 1"
    assert __main__.main([*line.split(), "--frameworks", "ssl", "--shard", "2/3", "--out", str(tmp_path)]) == 0
    part = {"datasets": ["digits"], "strategies": ["supclust", "random"], "budgets": ["tiny"], "seeds": 2, "jobs": 1}
    part |= {"frameworks": ["ssl"], "shard": (2, 3)}
    assert calls == [("quick", part)]
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == str(tmp_path / "reports" / "quick" / "curves.csv")
    assert printed[-2].split()[-4:] == ["supclust", "0.5", "0.0", "3"]  # mean, spread and number of seeds, last round


def test_sweep_defaults_to_what_the_profile_says(calls):
    assert __main__.main(["sweep", "--profile", "paper"]) == 0
    nothing = dict.fromkeys(("frameworks", "datasets", "strategies", "budgets", "seeds"))
    assert calls == [("paper", nothing | {"jobs": -1, "shard": (1, 1)})]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sweep --profile fast", "unknown profile 'fast'; known: quick, laptop, paper"),
        ("sweep --profile quick --strategies best", "unknown strategy 'best'; known: random, margin, least-confidence"),
        ("sweep --profile quick --datasets mnist", "'mnist'; it has: digits"),
        ("sweep --profile quick --budgets huge", "'huge'; known: tiny, small"),
        ("sweep --profile quick --seeds 0", "seeds must be at least 1, not 0"),
        ("sweep --profile quick --frameworks fls", "unknown framework 'fls'; known: ssl, fsl"),
        ("claims --profile fast", "unknown profile 'fast'; known: quick, laptop, paper"),
        ("data mnist", "unknown data set 'mnist'; known: digits, cifar10, cifar10-lt50"),
        ("train mnist", "unknown data set 'mnist'"),
        ("train digits --recipe fast", "unknown recipe 'fast'; known: paper, laptop"),
        ("train digits -p depth 3", "unknown key 'depth' of SimCLR; known: network"),
        ("train digits -p seed 3", "is given as --seed"),
        ("train digits -p epochs many", "SimCLR.epochs must be int, not 'many'"),
        ("train digits --recipe digits --start nowhere.safetensors", "no encoder weights at nowhere.safetensors"),
        ("ship digits efficientnet-b0", "unknown encoder 'efficientnet-b0'"),
        ("ship digits resnet50", "unknown encoder 'resnet50'"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line_that_lists_the_known(capsys, line, message):
    assert __main__.main(line.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert error.startswith(f"supclust {line.split()[0]}: ")


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "-1/2", "1/2/3"])
def test_a_shard_that_makes_no_sense_is_refused(calls, capsys, shard):
    with pytest.raises(SystemExit):
        __main__.main(["sweep", f"--shard={shard}"])
    assert "is not a part such as 1/8" in capsys.readouterr().err
    assert calls == []


def test_failed_runs_end_the_sweep_with_1(calls, tmp_path):
    key = sweep.keys(profiles.get("quick"))[0]
    kept.write(tmp_path / "reports" / "quick" / "records" / key.failure, "Traceback: a cosmic ray", None)
    assert __main__.main(["sweep", "--profile", "quick", "--out", str(tmp_path)]) == 1


def test_a_full_disk_is_one_line(monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "the disk is full; the 3 records are whole")

    monkeypatch.setattr(sweep, "run", full)
    assert __main__.main(["sweep", "--profile", "quick"]) == 1
    assert capsys.readouterr().err == "supclust sweep: the disk is full; the 3 records are whole\n"


def test_claims_are_written_printed_and_put_into_the_readme(monkeypatch, tmp_path, capsys):
    found = claims.verdicts(profiles.get("quick"), pd.DataFrame(columns=sweep.COLUMNS), pd.DataFrame(columns=claims.EVIDENCE))
    monkeypatch.setattr(claims, "run", lambda profile: found)
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- claims:begin -->\nold\n<!-- claims:end -->\nafter\n")
    assert __main__.main(["claims", "--profile", "quick", "--out", str(tmp_path), "--readme", str(readme)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 9
    assert printed[0].startswith("1  no data       ")
    assert printed[-1] == str(tmp_path / "reports" / "quick" / "claims.md")
    assert "\nold\n" not in readme.read_text()
    assert "| claim | here | verdict |" in readme.read_text()


def test_claims_are_written_before_they_are_printed(monkeypatch, tmp_path):
    def stop(*_, **__):
        monkeypatch.undo()
        raise KeyboardInterrupt

    found = claims.verdicts(profiles.get("quick"), pd.DataFrame(columns=sweep.COLUMNS), pd.DataFrame(columns=claims.EVIDENCE))
    (readme := tmp_path / "README.md").write_text("<!-- claims:begin -->\n<!-- claims:end -->\n")
    monkeypatch.setattr(claims, "run", lambda profile: found)
    monkeypatch.setattr(__main__, "print", stop, raising=False)
    assert __main__.main(["claims", "--profile", "quick", "--out", str(tmp_path), "--readme", str(readme)]) == 130
    assert "| claim | here | verdict |" in readme.read_text()


def test_data_downloads_both_splits(monkeypatch, capsys):
    asked, load = [], datasets.load

    def record(name, split, **more):
        asked.append((name, split, more))
        return load("digits", split)

    monkeypatch.setattr(datasets, "load", record)
    assert __main__.main(["data", "cifar100"]) == 0
    more = {"download": True, "missing": "error"}
    assert asked == [("cifar100", "train", more), ("cifar100", "test", more)]
    assert capsys.readouterr().out == "digits train: 1437 images of 10 classes\ndigits test: 360 images of 10 classes\n"
    assert __main__.main(["data", "isic2019", "--leave-out-missing"]) == 0
    assert asked[2:] == [("isic2019", split, {"download": False, "missing": "leave out"}) for split in ("train", "test")]


def test_ship_takes_weights_for_the_package_and_a_name_for_another_encoder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SUPCLUST_OUT", str(tmp_path))
    table, asked = pd.DataFrame({"kNN": [0.123456]}, ["some bytes"]), []
    monkeypatch.setattr(shipping, "ship", lambda *known: asked.append(known) or table)
    assert __main__.main(["ship", "cifar10", "mine.safetensors"]) == 0
    assert asked == [("cifar10", Path("mine.safetensors"))]
    assert "some bytes  0.1235" in capsys.readouterr().out
    pixels = embedders.Embedder(8, lambda images, _: (images[:, 0].reshape(len(images), -1).astype(np.float32) + 1, {}), "digits")
    monkeypatch.setattr(embedders, "load", lambda options: asked.append(options) or pixels)
    assert __main__.main(["ship", "digits", "timm:resnet50", "--download"]) == 0
    assert asked[1] == embedders.EncoderOptions("timm:resnet50", download=True)
    assert (tmp_path / "artefacts" / "laptop" / "digits@timm:resnet50" / "features.safetensors").exists()


# --- train ----------------------------------------------------------------------------------------------------------------


def test_a_path_that_is_not_unicode_is_refused_before_anything_is_read(capsys):
    with pytest.raises(SystemExit):
        __main__.main(["label", "images", "--out", "b\udcff"])
    assert "argument --out: b\\udcff is not valid Unicode: rename it" in capsys.readouterr().err


def test_a_folder_has_one_training_at_a_time(tmp_path, capsys):
    line = ["train", "digits", "--recipe", "digits", "-p", "epochs", "1", "-p", "width", "4", "--folder", str(tmp_path)]
    with FileLock(tmp_path / "training.lock"):
        assert __main__.main(line) == 2
    assert f"another process trains in {tmp_path}: wait until it has ended, or name another --folder" in capsys.readouterr().err
    done = subprocess.run([sys.executable, "-m", "supclust", *line], capture_output=True, text=True)  # as torchrun starts it
    assert done.returncode == 0
    assert "epoch 1: loss " in done.stderr


def test_train_in_pieces_then_from_its_weights(tmp_path, capsys):
    """No time: exit code 3 and no weights. Again: the encoder. From it: another one."""
    line = ["train", "digits", "--recipe", "digits", "-p", "epochs", "1", "-p", "width", "4", "--folder"]
    assert __main__.main([*line, str(tmp_path / "a"), "--minutes", "0"]) == 3
    weights = tmp_path / "a" / "encoder.safetensors"
    assert not weights.exists()
    assert __main__.main([*line, str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out == f"{weights}\n"
    first = simclr.load_weights(weights)
    assert (first.config.epochs, first.config.width, first.config.side) == (1, 4, 8)
    assert 0 < first.history[0]["knn"] < 1
    assert __main__.main([*line, str(tmp_path / "b"), "--start", str(weights), "--seed", "3"]) == 0
    second = simclr.load_weights(tmp_path / "b" / "encoder.safetensors")
    assert second.config.seed == 3
    assert second.history[0]["loss"] < first.history[0]["loss"]


# --- the command itself ---------------------------------------------------------------------------------------------------


def test_help_lists_the_commands_without_loading_what_they_need():
    script = (
        "import sys; from supclust import __main__\n"
        "try: __main__.main(['--help'])\n"
        "except SystemExit: print(sorted({'torch', 'papermill', 'sklearn', 'scipy', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    assert all(command in done.stdout for command in ("label", "compare", "figures", "sweep", "claims", "data", "train", "ship"))


@pytest.mark.parametrize("command", ["label", "compare", "figures", "sweep", "claims", "data", "train", "ship"])
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        __main__.main([command, "--help"])
    assert stopped.value.code == 0
    assert f"usage: supclust {command}" in capsys.readouterr().out


def test_the_module_is_the_command(capsys):
    done = subprocess.run([sys.executable, "-m", "supclust", "data", "mnist"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("supclust data: unknown data set 'mnist'; known: digits, cifar10")
    for line, code in ((["--version"], 0), ([], 2)):
        with pytest.raises(SystemExit) as stopped:
            __main__.main(line)
        assert stopped.value.code == code
    assert capsys.readouterr().out.startswith("supclust 0.")
