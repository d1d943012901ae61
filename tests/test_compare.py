"""`supclust compare`: the table of runs on splits of a file, and strategies from files, whatever they do.

That a killed comparison goes on where it stopped is tested of the sweep, whose records it has.
"""

import shutil

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from supclust import __main__, active, kept, plots, strategies
from supclust.pool import Pool
from supclust.report import compare
from tests.conftest import make_blobs

CURVES = plots.curves
POINTS, LABELS = make_blobs(4, 20, 8, spread=0.8), np.repeat(["ant", "bee", "cat", "dog"], [35, 20, 15, 10])
OURS = ["--strategies", "margin", "typiclust"]


@pytest.fixture(autouse=True)
def no_figures(monkeypatch, log_level):
    """Figures take longer than all the rest."""
    monkeypatch.setattr(plots, "curves", lambda *_, **__: plt.figure(figsize=(1, 1)))


@pytest.fixture
def file(tmp_path):
    np.savez(tmp_path / "animals.npz", features=POINTS, labels=LABELS)
    return tmp_path / "animals.npz"


def sizes(seeds=2, jobs=1):
    return ["--budget", "5", "--rounds", "3", "--seeds", str(seeds), "--jobs", str(jobs)]


def run(file, *line, **options):
    return __main__.main(["compare", str(file), *map(str, line), *sizes(**options)])


def table(file, name="curves", folder=None):
    return pd.read_csv((folder or file.parent / "compare" / "animals") / f"{name}.csv", dtype={"budget": str})


def strategy(folder, body, name="mine"):
    """The argument for a file with this strategy."""
    path = folder / f"file_of_{name}.py"
    path.write_text(f"import numpy as np\n\n\ndef {name}(pool, budget, rng):\n    {body}\n")
    return f"--strategy={path}:{name}"


# -- what comes out ------------------------------------------------------------------------------------------------------------


def test_the_table_is_that_of_plain_runs_on_the_splits(file):
    assert run(file, *OURS) == 0
    rows, data = [], compare._labelled(POINTS, LABELS)
    for name in ("margin", "typiclust", "random"):
        for seed in range(2):
            split = compare._split(data, seed)
            pool = Pool(split.train, seed=seed)
            for number, one in enumerate(active.run(split, pool, name, "5", 3), start=1):
                rows.append((name, seed, number, one.labels, one.accuracy, one.classes))
    columns = ["strategy", "seed", "round", "labels", "accuracy", "classes"]
    pd.testing.assert_frame_equal(table(file)[columns], pd.DataFrame(rows, columns=columns))
    assert set(table(file)["labels"]) == {5, 10, 15}


def test_each_strategy_is_paired_with_random_and_with_the_first(file):
    run(file, *OURS, seeds=4)
    curves, pairs = table(file), table(file, "compare")
    wanted = [("margin", "random"), ("typiclust", "random"), ("typiclust", "margin"), ("random", "margin")]
    assert list(pairs[["strategy", "against"]].itertuples(index=False, name=None)) == wanted * 2
    for row in pairs.itertuples():
        means = curves.groupby(["strategy", "seed"])[row.measure].mean()
        leads = 100 * (means[row.strategy] - means[row.against]).to_numpy()
        low, high = stats.ttest_1samp(leads, 0).confidence_interval(0.95)
        np.testing.assert_allclose([row.mean, row.low, row.high, row.seeds], [leads.mean(), low, high, 4], atol=1e-9)
        assert row.verdict == ("higher" if low > 0 else "lower" if high < 0 else "no clear difference")


def test_the_tables_are_printed_and_a_figure_is_drawn(file, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "curves", CURVES)
    assert run(file, *OURS, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("typiclust", " ± ", "no clear difference", str(tmp_path / "out" / "curves.png")))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "compare.csv", "curves.csv", "curves.pdf", "curves.png", "records",
    ]  # fmt: skip
    assert not (tmp_path / "compare").exists()


def test_a_file_that_is_called_like_a_formula_makes_none(file):
    shutil.copy(file, file.with_name("=1+1.npz"))
    assert run(file.with_name("=1+1.npz"), "--strategies", "random") == 0
    assert set(table(file, folder=file.parent / "compare" / "'=1+1")["dataset"]) == {"'=1+1"}


def test_a_file_may_have_a_long_name(file):
    """Those of records are longer, and a name has 255 bytes at most."""
    shutil.copy(file, file.with_name(f"{'x' * 200}.npz"))
    assert run(file.with_name(f"{'x' * 200}.npz"), "--strategies", "random") == 0


def test_random_alone_has_no_pairs(file, capsys):
    assert run(file, "--strategies", "random") == 0
    assert set(table(file)["strategy"]) == {"random"}
    assert table(file, "compare").empty
    printed = capsys.readouterr().out
    assert "random alone: there is nothing to compare it with" in printed
    assert "Empty DataFrame" not in printed


def test_a_link_to_a_folder_that_is_not_there_yet_may_be_named(file, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "results")
    assert run(file, "--strategies", "random", "--out", tmp_path / "link") == 0
    assert (tmp_path / "disk" / "results" / "curves.csv").exists()


@pytest.mark.parametrize("seed", range(3))
def test_a_fifth_of_each_class_is_the_test_set_and_the_seed_draws_it(seed):
    data = compare._labelled(np.arange(80.0)[:, None], LABELS)
    split, again, other = (compare._split(data, number) for number in (seed, seed, seed + 1))
    assert sorted(np.ravel([*split.train, *split.test])) == list(range(80))
    assert np.bincount(split.test_labels).tolist() == [7, 4, 3, 2]
    for points, labels in ((split.train, split.train_labels), (split.test, split.test_labels)):
        np.testing.assert_array_equal(np.take(split.classes, labels), LABELS[points[:, 0].astype(int)])
    np.testing.assert_array_equal(split.test, again.test)
    assert set(split.test[:, 0]) != set(other.test[:, 0])


def test_parquet_with_ids_gives_the_same_as_npz(file, tmp_path):
    pytest.importorskip("pyarrow")
    run(file, *OURS)
    columns = pd.DataFrame(POINTS).add_prefix("x").assign(category=LABELS, id=[f"{i}.png" for i in range(len(LABELS))])
    columns.to_parquet(tmp_path / "animals.parquet")
    assert run(tmp_path / "animals.parquet", *OURS, "--out", tmp_path / "out") == 0
    pd.testing.assert_frame_equal(table(file), table(file, folder=tmp_path / "out"))


# -- strategies from files -----------------------------------------------------------------------------------------------------


def test_a_strategy_from_a_file_gets_its_rows(file, tmp_path):
    assert run(file, *OURS, strategy(tmp_path, "return pool.queryable[:budget].tolist()")) == 0
    rows = table(file)
    assert list(rows["strategy"].unique()) == ["margin", "typiclust", "random", "mine"]
    records = file.parent / "compare" / "animals" / "records"
    picks = [one["picks"] for one in kept.load(records / "animals--ssl--mine--5--1.json")[0]["rounds"]]
    assert picks == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]
    assert set(table(file, "compare").query("strategy == 'mine'")["against"]) == {"random", "margin"}
    assert "mine" not in strategies.STRATEGIES  # nor does another comparison in this process know it
    assert "mine" not in plots.STYLES


@pytest.mark.slow
def test_a_strategy_from_a_file_works_in_other_processes(file, tmp_path):
    mine = strategy(tmp_path, "return rng.choice(pool.queryable, budget, replace=False)")
    run(file, *OURS, mine)
    assert run(file, *OURS, mine, "--out", tmp_path / "two", jobs=2) == 0
    pd.testing.assert_frame_equal(table(file), table(file, folder=tmp_path / "two"))


def test_a_strategy_from_a_file_sees_features_and_the_model_but_no_labels(file, tmp_path):
    body = "assert pool.labels is None and (pool.model is None) == (len(pool.labeled) == 0); return pool.queryable[:budget]"
    assert run(file, *OURS, strategy(tmp_path, body)) == 0


BROKEN = {
    "labelled": ("return np.arange(budget)", "labelled returned 5 points, 5 of them labelled, and not 5 without a label"),
    "few": ("return pool.queryable[: budget - 1]", "few returned 4 points, 0 of them labelled, and not 5 without a label"),
    "many": ("return pool.queryable", "many returned 64 points, 0 of them labelled, and not 5 without a label"),
    "repeated": ("return [7] * budget", "repeated indices must be distinct; repeated: [7]"),
    "outside": ("return np.arange(budget) + 1000", "outside indices must lie in 0..63; out of range: [1000, 1001"),
    "nothing": ("pass", "nothing must be a list of indices, not object of shape ()"),
    "scores": ("return rng.random(budget)", "scores must be a list of indices, not float64 of shape (5,)"),
    "peeks": ("return pool.labels[:budget]", "TypeError: 'NoneType' object is not subscriptable"),
    "imports": ("pass\nimport nowhere_to_be_found", "gives no function imports: ModuleNotFoundError: No module named 'nowhere_to"),
    "syntax": ("return (", "gives no function syntax: SyntaxError: '(' was never closed"),
    "exits": ("pass\nraise SystemExit(1)", "gives no function exits: SystemExit: 1"),
}


def test_broken_strategies_spoil_no_other_and_each_is_told_in_a_sentence(file, tmp_path, caplog):
    broken = [strategy(tmp_path, body, name) for name, (body, _) in BROKEN.items()]
    path = broken[0].removeprefix("--strategy=").rpartition(":")[0]
    assert run(file, *OURS, *broken[:6], f"--strategy={path}:absent") == 1
    assert run(file, *OURS, *broken[6:]) == 1
    for _, sentence in BROKEN.values():
        assert sum(sentence in message for message in caplog.messages) == 1
    assert f"{path} gives no function absent" in caplog.text
    assert "14 runs failed; the same command tries them again" in caplog.text
    assert run(file, *OURS, "--out", tmp_path / "alone") == 0
    pd.testing.assert_frame_equal(table(file), table(file, folder=tmp_path / "alone"))


def test_what_is_mended_or_changed_is_run_again_and_nothing_else(file, tmp_path, capsys):
    mine, records = strategy(tmp_path, "1 / 0"), file.parent / "compare" / "animals" / "records"
    assert run(file, *OURS, mine) == 1
    others = {path: path.stat().st_mtime_ns for path in records.iterdir() if "mine" not in path.name}
    strategy(tmp_path, "return pool.queryable[:budget]")
    assert run(file, *OURS, mine) == 0
    first = table(file)
    strategy(tmp_path, "return pool.queryable[-budget:]")
    assert run(file, *OURS, mine) == 0
    assert not table(file).equals(first)
    strategy(tmp_path, "1 / 0")  # though there are records of what it was
    assert run(file, *OURS, mine) == 1
    assert "mine" not in set(table(file)["strategy"])
    assert others == {path: path.stat().st_mtime_ns for path in records.iterdir() if "mine" not in path.name}


# -- bad input -----------------------------------------------------------------------------------------------------------------

NAN = np.where(np.arange(80)[:, None] == 7, np.nan, POINTS)


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"features": POINTS}, "animals.npz cannot be read: it holds no labels: name them 'labels'"),
        ({"features": POINTS, "labels": np.zeros(80)}, "all labels are '0', and one class leaves nothing to compare"),
        ({"features": NAN, "labels": LABELS}, "features are NaN, infinite or too large for float32 in 1 row(s): 7"),
        (
            {"features": POINTS, "labels": LABELS, "ids": np.arange(80) // 2},
            "ids must be distinct, and these come up again: '0', '1'",
        ),
        ({"features": POINTS, "labels": LABELS[:70]}, "80 rows of features need as many labels, and there are 70"),
        (
            {"features": POINTS, "labels": np.eye(4)[np.arange(80) % 4]},
            "80 rows of features need as many labels, and there are 320",
        ),
        ({"features": POINTS, "labels": [*LABELS[:79], ""]}, "each point needs a label, and these rows have none: 79"),
        ({"features": POINTS, "labels": [*LABELS[:79], "emu"]}, "80 points of 5 classes, 1 of 'emu', are too few"),
        ({"features": POINTS, "labels": np.arange(80) // 2}, "80 points of 40 classes, 2 of '0', are too few"),
    ],
)
def test_features_that_cannot_be_compared_on_are_refused_in_one_line(tmp_path, capsys, arrays, sentence):
    np.savez(tmp_path / "animals.npz", **arrays)
    assert run(tmp_path / "animals.npz") == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not (tmp_path / "compare").exists()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--strategies typclust", "unknown strategy 'typclust'; known: random"),
        ("--strategies supclust:top=1", "'supclust:top=1' does not name settings"),
        ("--strategy mine.py", "'mine.py' does not name a function of a file, as my.py:mine does"),
        ("--strategy mine.py:", "'mine.py' does not name a function of a file"),
        ("--strategy nowhere.py:mine", "No such file or directory: '{folder}/nowhere.py'"),
        ("--strategy mine.py:margin", "there is a strategy margin already: the one in mine.py needs another name"),
        ("--strategy mine.py:badge", "there is a strategy badge already: the one in mine.py needs another name"),
        ("--strategy a.py:mine --strategy b.py:mine", "there is a strategy mine already: the one in b.py needs another name"),
        ("--budget 65", "the budget is 65, but beside the test set there are only 64 points"),
        ("--budget 0", "budget, rounds and seeds must be at least 1, not 0, 3 and 2"),
        ("--rounds 0", "budget, rounds and seeds must be at least 1, not 5, 0 and 2"),
        ("--seeds -1", "budget, rounds and seeds must be at least 1, not 5, 3 and -1"),
        ("--jobs 0", "n_jobs == 0"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_one_line(file, tmp_path, capsys, monkeypatch, line, sentence):
    monkeypatch.chdir(tmp_path)
    assert __main__.main(["compare", str(file), *sizes(), *line.split()]) == 2
    error = capsys.readouterr().err
    assert sentence.format(folder=tmp_path) in error
    assert error.count("\n") == 1
    assert not (tmp_path / "compare").exists()


def test_points_are_too_few_exactly_where_they_cannot_be_split():
    for n_classes in range(2, 7):
        for n in range(2 * n_classes, 8 * n_classes):
            labels, points = np.arange(n) % n_classes, np.ones((n, 1))
            if n <= 5 * (n_classes - 1):
                with pytest.raises(ValueError, match=f"{n} points of {n_classes} classes"):
                    compare._labelled(points, labels)
            else:
                compare._split(compare._labelled(points, labels), 0)
