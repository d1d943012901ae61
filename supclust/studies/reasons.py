"""Why the boundary does not pay: experiments that tell the possible reasons apart (notebook 12).

Some of them read labels that no strategy can see; their docstrings say so.
"""

import dataclasses
import functools
import itertools
import zlib
from collections.abc import Iterable, Iterator, Sequence

import joblib
import numpy as np
import pandas as pd
from scipy import stats
from sklearn.neighbors import NearestNeighbors

from supclust import active, analysis, features, kept, learners, method, strategies, sweep
from supclust.engine import geometry, threads
from supclust.features import Features
from supclust.pool import Clusters
from supclust.profiles import Profile
from supclust.strategies import Pool

ROUNDS = 6
COMPARED = ("supclust", "supclust-no-sup", "typiclust")
MEMBER = "supclust-no-sup:top_fraction=1.0"  # a random one of all points of each cluster
MOVES = (-1.0, -0.5, 0.0, 0.1, 0.2, 0.4, 0.6)  # shares of the way to the mean of a point's class
SIZES = (1_000, 2_500, 5_000, 10_000, 25_000, 50_000)  # points of a pool
FIXED_AT = 5_000  # points of a pool in which a tenth gives as many typical points as the fixed number does
STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)  # quantiles of SUP among the typical tenth
AS_IT_IS, TOLD, ASKED = "as it is", "told the majority's class", "asks the majority only"
CHANGES = [f"supclust:relative_temperature={value}" for value in (0.01, 0.03, 0.3, 1.0, 3.0)]  # of settings, one at a time
CHANGES += [f"supclust:top_fraction={value}" for value in (0.02, 0.05, 0.2, 0.5, 1.0)]
CHANGES += [f"supclust:max_clusters={value}" for value in (10, 20, 50)]
NEIGHBORS, SAMPLE = 20, 2_000  # whose labels are looked at; points that stand for the whole pool
LOOKS = ["margin", "entropy", "gap"]  # of picks, see `looks`
COLUMNS = ["question", *analysis.PANEL, "setting", "strategy", "seed", "round", "accuracy", "classes", "match", "purity", *LOOKS]


def at_quantile(share: float) -> strategies.Strategy:
    """SUPClust that takes this quantile of SUP among the typical tenth: 0 is the farthest from other clusters, 1 the nearest."""

    def query(pool: Pool, budget: int, rng: np.random.Generator) -> np.ndarray:
        def choose(clusters: Clusters, cluster: int, candidates: np.ndarray) -> int:
            typical, scores = method.supclust_scores(pool, clusters, cluster, candidates)
            return typical[np.argsort(scores)[round(share * (len(typical) - 1))]]

        return method.query_clusters(pool, budget, choose)

    return query


def rounds(
    data: Features, pool: Pool, strategy: str, budget: str, oracle: str = AS_IT_IS, query: strategies.Strategy | None = None
) -> Iterator[tuple[dict, Clusters, np.ndarray]]:
    """A run as active.run makes it, in SSL: of each round its measures, its clusters and its picks.

    classes: that have a label by then. match: share of the picks that have the most frequent class of their cluster; purity: that
    share of all points. Two oracles see all labels. TOLD: a pick gets the most frequent class of its cluster as its label, right or
    wrong. ASKED: only points of this class may be picked, and the tenth is taken of these. query: instead of the strategy.
    """
    name, changes = strategies.parse(strategy)
    pool, rng = pool.with_settings(**changes), np.random.default_rng([pool.seed, zlib.crc32(name.encode())])
    query = query or functools.partial(strategies.query, name)
    labels, told, test = data.train_labels, data.train_labels.copy(), geometry.normalise(data.test)
    step = active.step_size(budget, len(data.classes))
    for number in range(1, ROUNDS + 1):
        clusters = pool.clusters_for(step)
        majority = analysis.majority(labels, clusters.assignments)
        matches = labels == majority
        picks = query(dataclasses.replace(pool, candidates=np.flatnonzero(matches)) if oracle == ASKED else pool, step, rng)
        if oracle == TOLD:
            told[picks] = majority[picks]
        pool = pool.with_labeled(np.concatenate([pool.labeled, picks]))
        head = learners.fit_linear_head(pool.points[pool.labeled], told[pool.labeled], len(data.classes))
        accuracy, classes = (head.predict(test) == data.test_labels).mean(), len(np.unique(labels[pool.labeled]))
        found = {"accuracy": accuracy, "classes": classes, "match": matches[picks].mean(), "purity": matches.mean()}
        yield found | {"round": number}, clusters, picks


def looks(data: Features, pool: Pool, clusters: Clusters, some: np.ndarray) -> dict[str, float]:
    """LOOKS of some points of a pool, means. They see all labels.

    margin: p1 - p2 of a linear layer trained on all labels of the pool, small at boundaries of classes. entropy: of the labels of
    the 20 nearest points, in bits. gap: how much farther the nearest other centre is than the own, small at boundaries of clusters.
    """
    fit = functools.partial(learners.fit_linear_head, pool.points, data.train_labels, len(data.classes))
    points, own = pool.points[some], clusters.assignments[some]
    second, first = np.sort(np.exp(pool.shared(("all labels",), fit).log_probabilities(points)), axis=1)[:, -2:].T
    near = NearestNeighbors(n_neighbors=NEIGHBORS + 1, algorithm="brute").fit(pool.points).kneighbors(points)[1][:, 1:]
    shares = np.eye(len(data.classes))[data.train_labels[near]].mean(axis=1)
    gap = analysis.gap(points, own, clusters.centers) - np.linalg.norm(points - clusters.centers[own], axis=1)
    return dict(zip(LOOKS, map(np.mean, (first - second, stats.entropy(shares, base=2, axis=1), gap)), strict=True))


def moved(data: Features, share: float) -> Features:
    """The normalised features, each moved a share of the way to the mean of its class (seen) in the pool; below zero, away."""
    train, test = geometry.normalise(data.train), geometry.normalise(data.test)
    means = np.stack([train[data.train_labels == one].mean(axis=0) for one in range(len(data.classes))])
    train = (1 - share) * train + share * means[data.train_labels]
    test = (1 - share) * test + share * means[data.test_labels]
    return dataclasses.replace(data, train=train, test=test, checksum="")


def picks(data: Features, pool: Pool, budget: str) -> Iterator[dict]:
    """Where the picks lie, round by round; as the strategy "pool", a sample of all points in the clusters of the first round."""
    for name in (*COMPARED, MEMBER):
        for row, clusters, picked in rounds(data, pool, name, budget):
            yield {"setting": AS_IT_IS, "strategy": name} | row | looks(data, pool, clusters, picked)
    sample = np.random.default_rng(pool.seed).permutation(len(data.train))[:SAMPLE]
    first = pool.clusters_for(active.step_size(budget, len(data.classes)))
    yield {"setting": AS_IT_IS, "strategy": "pool", "round": 1} | looks(data, pool, first, sample)


def means(question: str, data: Features, pool: Pool, budget: str) -> Iterator[dict]:
    """Means over the rounds, as round 0, of each setting that a question is about."""
    for setting, names, part, options in variants(question, data, pool):
        own = pool if part is data else Pool(part.train, seed=pool.seed)
        for name in names:
            found = pd.DataFrame(row for row, *_ in rounds(part, own, name, budget, **options))
            yield {"setting": setting, "strategy": name} | found.mean().to_dict() | {"round": 0}


def variants(question: str, data: Features, pool: Pool) -> Iterator[tuple[object, Iterable[str], Features, dict]]:
    """The settings of a question: what each is called, and its strategies, features, and options of `rounds`."""
    match question:
        case "purity":  # clusters become pure as features move towards the means of their classes
            for share in MOVES:
                yield share, COMPARED, moved(data, share), {}
        case "oracles":  # two ways not to miss the class of a cluster
            for oracle in (AS_IT_IS, TOLD, ASKED):
                yield oracle, COMPARED, data, {"oracle": oracle}
        case "sign":  # from the farthest from other clusters to the nearest, among the typical tenth
            for share in STEPS:
                yield share, ["supclust"], data, {"query": at_quantile(share)}
        case "sizes":  # of parts of the pool, in whose clusters a tenth counts as typical, or a fixed number of points
            order = np.random.default_rng(pool.seed).permutation(len(data.train))
            for size in (one for one in SIZES if one <= len(order)):
                share = min(1.0, pool.settings.top_fraction * FIXED_AT / size)
                fixed = [f"{name}:top_fraction={share}" for name in COMPARED[:2]]
                yield size, [*COMPARED, *fixed], data.subset(order[:size]), {}
        case "settings":
            yield AS_IT_IS, [*COMPARED, *CHANGES], data, {}
        case "neighbors":  # K of typicality
            yield AS_IT_IS, [f"supclust:n_neighbors={k}" for k in (5, 10, 50)], data, {}


LONG_TAIL_TOO = ("digits", "cifar10", "cifar10-lt50")
EVERYWHERE = (*LONG_TAIL_TOO, "ham10000", "cifar100")
QUESTIONS = {  # where each is asked, at which budgets, and with how many times the profile's seeds
    "picks": (EVERYWHERE, ("tiny",), 1),
    "oracles": (EVERYWHERE, ("tiny",), 1),
    "sign": (EVERYWHERE, ("tiny",), 1),
    "purity": (LONG_TAIL_TOO, ("tiny",), 1),
    "sizes": (LONG_TAIL_TOO[:2], ("tiny",), 1),
    "settings": (LONG_TAIL_TOO, ("tiny", "small"), 2),
    "neighbors": (LONG_TAIL_TOO, ("tiny", "small"), 2),
}


def table(profile: Profile, *, recompute: bool = False) -> pd.DataFrame:
    """The answers to QUESTIONS: a row of COLUMNS for each setting, strategy and seed, of "picks" for each round, too.

    Kept in reasons.csv while the features stay the same. recompute=True passes that file over, but not the records of questions,
    data sets and seeds that are done.
    """
    tasks = [
        (question, dataset, budget, seed)
        for question, (datasets, budgets, times) in QUESTIONS.items()
        for dataset, budget, seed in itertools.product(datasets, budgets, range(times * profile.seeds))
        if dataset in profile.datasets
    ]
    made_from = {name: [_source(profile, name, seed) for seed in range(profile.seeds)] for name in profile.datasets}

    def make() -> pd.DataFrame:
        work = (joblib.delayed(_answer)(profile, *task, kept.folders()) for task in tasks)
        return pd.concat(joblib.Parallel(-1, initializer=threads.end_with_parent)(work), ignore_index=True)

    return kept.read_or_make(profile.name, "reasons.csv", made_from, make, recompute=recompute)


def leads(rows: pd.DataFrame, rivals: Sequence[str] = COMPARED[1:], measure: str = "accuracy") -> pd.DataFrame:
    """Lead of SUPClust over each rival in a measure times 100, seed by seed: dataset, budget, setting, seed, rival, lead."""
    wide = 100 * rows.pivot_table(measure, ["dataset", "budget", "setting", "seed"], "strategy", sort=False)
    lead = wide[list(rivals)].rsub(wide["supclust"], axis=0)
    return lead.melt(var_name="rival", value_name="lead", ignore_index=False).reset_index()


def _source(profile: Profile, dataset: str, seed: int) -> dict:
    return {"experiment": sweep.EXPERIMENT["ssl"], "features": features.obtain(profile, dataset, seed).checksum}


def _answer(profile: Profile, question: str, dataset: str, budget: str, seed: int, folders: dict[str, str]) -> pd.DataFrame:
    with sweep.alone(folders):
        draw = seed % profile.seeds  # of a pool and its encoder; further seeds share them
        data = features.obtain(profile, dataset, draw)

        def make() -> pd.DataFrame:
            ask = picks if question == "picks" else functools.partial(means, question)
            found = pd.DataFrame(ask(data, Pool(data.train, seed=seed), budget))
            found = found.assign(question=question, dataset=dataset, framework="ssl", budget=budget, seed=seed)
            return found.reindex(columns=COLUMNS).round(4)

        name = f"records/reasons--{question}--{dataset}--{budget}--{seed}.csv"
        return kept.read_or_make(profile.name, name, _source(profile, dataset, draw), make)
