"""Picks on the shipped CIFAR-10 features that no change of the code may move: tests/golden_picks.json.

`python -m tests.test_golden` writes the file anew, after a change that is meant to move picks.
"""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

import supclust
from supclust import active, features, kept, learners, profiles, strategies, sweep

FILE = Path(__file__).with_name("golden_picks.json")
SEEDS, BUDGETS, LABELED = (0, 1, 2), (10, 50), 100
CASES = [f"{name} seed {seed}" for name, seed in itertools.product(strategies.NAMES, SEEDS)]
CASES += [f"{name} labelled" for name in strategies.NAMES]
LONG = {"probcover seed 1", "probcover seed 2"}  # every ball of 50,000 points, twice


def queries(case, data, pools):
    """{budget: picks} of a case: before there is a label, or with a hundred of them and a linear layer trained on these."""
    name, kind = case.split(" ", 1)
    seed = 0 if kind == "labelled" else int(kind.removeprefix("seed "))
    if seed not in pools:
        pools[seed] = strategies.Pool(data.train, seed=seed)
    pool, labeled = pools[seed], np.empty(0, dtype=np.int64)
    if kind == "labelled":
        labeled = np.random.default_rng(0).choice(len(data.train), LABELED, replace=False)
        head = learners.fit_linear_head(pool.points[labeled], data.train_labels[labeled], len(data.classes))
        pool = pool.with_labeled(labeled, active.Outputs(head, lambda: pools[seed].points, learned=False))
    picks = {budget: strategies.query(name, pool, budget, np.random.default_rng(seed)).tolist() for budget in BUDGETS}
    if name == "supclust" and kind != "seed 2":
        assert supclust.select(data.train, BUDGETS[0], labeled, seed=seed).tolist() == picks[BUDGETS[0]]
    return {str(budget): found for budget, found in picks.items()}


def cifar10():
    return features.obtain(profiles.get("laptop"), "cifar10")


@pytest.fixture(scope="module")
def data():
    return cifar10()


@pytest.fixture(scope="module")
def pools():
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.night if case in LONG else ()) for case in CASES])
def test_picks_are_those_on_record(case, data, pools):
    assert queries(case, data, pools) == json.loads(FILE.read_text())[case]


@pytest.mark.slow
def test_rows_of_the_table_that_comes_with_the_repository_are_those_that_its_runs_give(tmp_path):
    part = {"strategies": ["supclust", "typiclust", "supclust-no-sup"], "datasets": ["cifar10"], "budgets": ["tiny"], "seeds": 2}
    fresh = sweep.run(profiles.get("laptop"), folder=tmp_path, jobs=1, **part)
    rows, _ = kept.load(kept.REPOSITORY / "reports" / "laptop" / "curves.csv")
    both = fresh.merge(rows, on=[*sweep.RUN, "round", "labels"], suffixes=("", " kept"))
    assert len(both) == len(fresh) == 2 * 3 * 6
    np.testing.assert_allclose(both["accuracy"], both["accuracy kept"], atol=0.002)  # twenty of ten thousand test images
    np.testing.assert_array_equal(both["classes"], both["classes kept"])


if __name__ == "__main__":
    data, pools = cifar10(), {}
    lines = [f"{json.dumps(case)}: {json.dumps(queries(case, data, pools))}" for case in CASES]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
