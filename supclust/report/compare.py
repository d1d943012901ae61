"""Strategies against each other on labelled features of one's own: the runs of a sweep, a table of paired differences, a figure."""

import functools
import hashlib
import itertools
import runpy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from supclust import analysis, features, kept, plots, strategies, sweep
from supclust.engine.geometry import check_features
from supclust.features import Features
from supclust.pool import Pool, check_indices

STRATEGIES = ("supclust", "typiclust", "coreset", "margin", "random")
MEASURES = ("accuracy", "balanced_accuracy")
TEST_SHARE = 0.2  # of each class, drawn from the seed
COLORS = ("#8C510A", "#01665E", "#F0E442", "#7F0000")  # of strategies that have none


def run(
    points: np.ndarray, labels: Sequence[str], names: Sequence[str], files: Sequence[str], folder: Path, *,
    title: str, budget: int = 10, rounds: int = 6, seeds: int = 20, jobs: int = -1,
) -> tuple[pd.DataFrame, dict[sweep.Key, str]]:  # fmt: skip
    """Run strategies, and random, on splits of the points: the table of the runs, as sweep.run gives it, and the runs that failed.

    points (n, d), labels (n,). names: as strategies.parse reads them. files: further ones, as my.py:mine. budget: labels a round.
    The folder gets the records: what was stopped goes on. Raises ValueError for points that are not finite, classes and budgets
    that they are too few for, sizes below one, an unknown strategy, and a name that is taken; see sweep.run for other errors.
    """
    data, added = _labelled(points, labels), _added(files)
    for name in names:
        strategies.parse(name)
    if min(budget, rounds, seeds) < 1:
        raise ValueError(f"budget, rounds and seeds must be at least 1, not {budget}, {rounds} and {seeds}")
    if budget > (n := len(_split(data, 0).train)):
        raise ValueError(f"the budget is {budget}, but beside the test set there are only {n} points")
    source, sources = {"experiment": sweep.EXPERIMENT["ssl"], "features": data.checksum, "rounds": rounds}, {}
    for name, seed in itertools.product(dict.fromkeys([*names, "random", *added]), range(seeds)):
        code = {"code": hashlib.sha256(added[name].read_bytes()).hexdigest()} if name in added else {}
        sources[sweep.Key(title, "ssl", name, str(budget), seed)] = title, source | code
    sweep.complete(sources, functools.partial(_prepare, data, added), folder, jobs)
    return sweep.recorded(sources, folder), sweep.failures(sources, folder)


def _labelled(points: np.ndarray, labels: Sequence[str]) -> Features:
    """All of them as a pool, not split yet."""
    classes, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(classes) == 1:
        raise ValueError(f"all labels are {classes.item()!r}, and one class leaves nothing to compare")
    if min(counts) < 2 or TEST_SHARE * len(labels) <= len(classes) - 1:
        few = f"{len(labels)} points of {len(classes)} classes, {min(counts)} of {classes[counts.argmin()].item()!r}"
        raise ValueError(f"{few}, are too few to have all classes in the pool and in the fifth that is the test set")
    points = check_features(points)
    return Features(points, points[:0], numbers, numbers[:0], tuple(classes.tolist()), {})


def _split(data: Features, seed: int) -> Features:
    labels = data.train_labels
    parts = train_test_split(data.train, labels, test_size=TEST_SHARE, random_state=seed, stratify=labels)
    return replace(data, **dict(zip(features.ARRAYS, parts, strict=True)))


def _added(texts: Sequence[str]) -> dict[str, Path]:
    """The files of strategies, by name."""
    files: dict[str, Path] = {}
    for path, _, name in (text.rpartition(":") for text in texts):
        if not path or not name.isidentifier():
            raise ValueError(f"{path or name!r} does not name a function of a file, as my.py:mine does")
        if name in {*strategies.STRATEGIES, *strategies.CONTROLS, *files}:
            raise ValueError(f"there is a strategy {name} already: the one in {path} needs another name")
        files[name] = Path(path).absolute()
    return files


def _prepare(data: Features, added: Mapping[str, Path], key: sweep.Key) -> sweep.Prepared:
    split, known = _split(data, key.seed), {name: functools.partial(ask, path, name) for name, path in added.items()}
    return split, Pool(split.train, seed=key.seed, labels=split.train_labels), {"known": strategies.STRATEGIES | known}


def ask(path: Path, name: str, pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
    """What a file's function picks (budget,) of a pool that hides its labels. Raises ValueError for what cannot be used."""
    try:
        function = runpy.run_path(str(path), run_name=path.stem)[name]
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path} gives no function {name}: {type(error).__name__}: {error}") from error
    picks = check_indices(name, function(replace(pool, labels=None), budget, rng), len(pool.features))
    if (known := np.count_nonzero(~pool.free[picks])) or len(picks) != budget:
        raise ValueError(f"{name} returned {len(picks)} points, {known} of them labelled, and not {budget} without a label")
    return picks


def write(curves: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Write curves.csv, curves.png and .pdf, and compare.csv, which is returned: for each measure, the lead in points of each
    strategy over random and over the first one, averaged over the rounds, with its 95 % interval over seeds.
    """
    names = list(curves["strategy"].unique())
    pairs = [
        {"measure": measure, "strategy": name, "against": against, **row}
        for measure, against, name in itertools.product(MEASURES, dict.fromkeys(["random", names[0]]), names)
        if name != against
        for row in analysis.compare(curves, name, against, measure).to_dict("records")
    ]
    new = [name for name in names if name not in plots.STYLES]
    styles = plots.STYLES | dict(zip(new, itertools.cycle(itertools.product(COLORS, "v", "-"))))
    plots.set_style()
    figure = plots.curves(curves, names, "random", f"Mean over {curves['seed'].nunique()} seeds, 95 % intervals", styles)
    plots.write(figure, folder / "curves")
    plt.close(figure)
    leads = pd.DataFrame(pairs, columns=["measure", "strategy", "against", "mean", "low", "high", "seeds", "verdict"])
    for name, table in (("curves", curves), ("compare", leads)):
        kept.write_text(folder / f"{name}.csv", table.to_csv(index=False))
    return leads
