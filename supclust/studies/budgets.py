"""How the criteria of a query relate to accuracy as its budget grows: what the paper leaves to future work."""

import joblib
import numpy as np
import pandas as pd
from sklearn.metrics import pairwise_distances_argmin_min

from supclust import active, analysis, features, kept, method, strategies, sweep
from supclust.engine import threads
from supclust.profiles import Profile

BUDGETS = (10, 25, 50, 100, 250, 500, 1000, 2500)  # labels of one query
LARGEST_SHARE = 1 / 3  # of a pool that is queried
DIVERSE = "Random point of each cluster"
QUERIES = {name: name for name in ("random", "typiclust", "supclust-no-sup", "supclust", "supclust-no-typicality")}
QUERIES |= {DIVERSE: "supclust-no-sup:top_fraction=1.0", "maxherding": "maxherding", "coreset": "coreset"}
# What a criterion adds: the strategy with it, and the one without it that is otherwise the same.
STEPS = {
    "diversity": (DIVERSE, "random"),
    "typicality": ("supclust-no-sup", DIVERSE),
    "the most typical": ("typiclust", "supclust-no-sup"),
    "SUP among the typical": ("supclust", "supclust-no-sup"),
    "SUP in the whole cluster": ("supclust-no-typicality", DIVERSE),
}
CRITERIA = ["coverage", "typicality", "sup"]
COLUMNS = [*sweep.COLUMNS, *CRITERIA]


def table(profile: Profile, *, recompute: bool = False) -> pd.DataFrame:
    """Accuracy and CRITERIA of one query from nothing, a row of COLUMNS for each data set, strategy, budget and seed.

    On the first and the last data set of the profile; kept in budgets.csv while their features stay the same. For CRITERIA see
    `coverage` and `percentiles`, means over the picks.
    """
    draws = {name: profile.seeds if features.seeded(profile, name) else 1 for name in (profile.datasets[0], profile.datasets[-1])}
    checksums = {name: [features.obtain(profile, name, seed).checksum for seed in range(n)] for name, n in draws.items()}
    made_from = {"experiment": sweep.EXPERIMENT["ssl"], "budgets": list(BUDGETS), "queries": QUERIES, "seeds": profile.seeds}
    made_from |= {"features": checksums}

    def make() -> pd.DataFrame:
        tasks = (joblib.delayed(measure)(profile, name, seed, kept.folders()) for name in draws for seed in range(profile.seeds))
        return pd.concat(joblib.Parallel(-1, initializer=threads.end_with_parent)(tasks), ignore_index=True)

    return kept.read_or_make(profile.name, "budgets.csv", made_from, make, recompute=recompute)


def measure(profile: Profile, dataset: str, seed: int, folders: dict[str, str]) -> pd.DataFrame:
    """The rows of a data set and seed; folders: kept.folders()."""
    rows = []
    with sweep.alone(folders):
        data = features.obtain(profile, dataset, seed)
        pool = strategies.Pool(data.train, seed=seed)
        for budget in (one for one in BUDGETS if one <= LARGEST_SHARE * len(data.train)):
            scores = percentiles(method.explain(pool, budget))
            for name, strategy in QUERIES.items():
                (result,) = active.run(data, pool, strategy, str(budget), rounds=1)
                picks = list(result.picks)
                found = {"strategy": name, "budget": budget, "coverage": coverage(pool.points, picks), **scores.iloc[picks].mean()}
                rows.append(found | {column: getattr(result, column) for column in sweep.ROUND_COLUMNS})
    return pd.DataFrame(rows).assign(dataset=dataset, framework="ssl", seed=seed, round=1)[COLUMNS].round(6)


def coverage(points: np.ndarray, picks: list[int]) -> float:
    """The mean distance from the points (n, d) to the nearest pick, negative: larger is better covered."""
    return -float(pairwise_distances_argmin_min(points, points[picks])[1].mean())


def percentiles(details: method.Details) -> pd.DataFrame:
    """Percentiles of typicality and sup (n,) in each point's cluster: 50 on average, half of what ties with it is below a point."""
    groups = pd.DataFrame({"typicality": details.typicality, "sup": details.sup}).groupby(details.assignments)
    return 100 * (groups.rank() - 0.5) / groups.transform("size").to_numpy()[:, None]


def added(table: pd.DataFrame, measure: str = "accuracy") -> pd.DataFrame:
    """What each of STEPS adds in points, as analysis.compare gives it, with the column criterion."""
    rows = {criterion: analysis.compare(table, *pair, measure) for criterion, pair in STEPS.items()}
    return pd.concat(rows, names=["criterion"]).reset_index("criterion")


def regressed(table: pd.DataFrame) -> pd.DataFrame:
    """Linear regression of accuracy on CRITERIA over all strategies and seeds, for each data set and budget.

    mean: points per standard deviation of a criterion, the others held fixed; low, high: its 95 % interval, robust to clusters of
    the same seed.
    """
    from statsmodels.formula.api import ols

    rows = []
    for panel, part in table.groupby(analysis.PANEL, sort=False):
        standard = part[CRITERIA].apply(lambda values: (values - values.mean()) / values.std())
        values = standard.assign(points=100 * part["accuracy"])
        fit = ols(f"points ~ {' + '.join(CRITERIA)}", values).fit(cov_type="cluster", cov_kwds={"groups": part["seed"]}, use_t=True)
        rows += [(*panel, one, fit.params[one], *fit.conf_int().loc[one]) for one in CRITERIA]
    return pd.DataFrame(rows, columns=[*analysis.PANEL, "criterion", "mean", "low", "high"])
