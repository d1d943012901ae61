"""The paper's eight claims, each with a verdict that is computed from paired differences over seeds.

claims.toml holds the claims as the paper makes them and as they are read here, and claims.md.j2 how verdicts are made.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import pandas as pd

from supclust import active, analysis, features, kept, method, strategies, sweep
from supclust.analysis import Interval
from supclust.profiles import TITLES, Profile

log = logging.getLogger(__name__)

PAPER = tomllib.loads((kept.PACKAGE / "claims.toml").read_text(encoding="utf-8"))
MARGIN = PAPER["margin"]
SUPPORTED, CONTRADICTED, INCONCLUSIVE, NO_DATA = "supported", "contradicted", "inconclusive", "no data"
ABOVE, BELOW, WITHIN = "> 0", "< 0", f"within ±{MARGIN}"  # what a claim says of a mean
BOUNDS = {ABOVE: (0, np.inf), BELOW: (-np.inf, 0), WITHIN: (-MARGIN, MARGIN)}
DIGITS = {"points": 1, "rho": 2, "distance": 3}  # after the point, by unit

DIVERSITY = ("coreset", "typiclust", "probcover", "supclust")
UNCERTAINTY = ("margin", "least-confidence", "entropy", "bald", "dbal")
ORDER = ("supclust", "typiclust", "supclust-no-sup", "supclust-no-typicality")  # claim 2, the best first
IMBALANCED = ("cifar10-lt50", "isic2019")  # claim 3
EVIDENCE = ["dataset", "seed", "clusters", "rho_all", "rho_within", "gap_typiclust", "gap_supclust"]
COLUMNS = ["claim", "what", "panel", "expected", "mean", "low", "high", "seeds", "unit", "counts", "verdict"]
MARKERS = ["<!-- claims:begin -->", "<!-- claims:end -->"]


@dataclass(frozen=True)
class Comparison:
    """One mean over seeds, and whether it is what the claim says."""

    what: str
    panel: str
    expected: str  # ABOVE, BELOW or WITHIN
    interval: Interval | None  # None: no data
    seeds: int
    unit: str = "points"
    counts: bool = True  # False: extra information, no part of the claim's verdict
    subject: bool = True  # False: what the claim sets its subject apart from; by itself it decides nothing

    @property
    def verdict(self) -> str:
        """Supported, contradicted, inconclusive, or no data."""
        return judge(self.interval, self.expected)

    @property
    def in_words(self) -> str:
        """The mean and its interval."""
        if self.interval is None:
            return "–"
        mean, low, high = (_number(value, self.unit) for value in dataclasses.astuple(self.interval))
        return f"{mean} [{low}, {high}]"


@dataclass(frozen=True)
class Claim:
    """What the paper says, how it is read here, and the comparisons that it is judged by."""

    number: int
    title: str
    statement: str
    figure: str  # of the paper
    reading: str
    universal: bool  # holds everywhere, or names an order: one clearly contrary comparison contradicts it
    comparisons: tuple[Comparison, ...] = ()

    @property
    def counted(self) -> list[Comparison]:
        """The comparisons that have data and count."""
        return [one for one in self.comparisons if one.counts and one.verdict != NO_DATA]

    @property
    def verdict(self) -> str:
        """By the rule that claims.md.j2 states."""
        found = [one.verdict for one in self.counted]
        if not any(one.subject for one in self.counted):
            return NO_DATA
        if set(found) == {SUPPORTED}:
            return INCONCLUSIVE if self.universal and self.count(NO_DATA) else SUPPORTED
        contrary = any if self.universal else all
        return CONTRADICTED if contrary(one == CONTRADICTED for one in found) else INCONCLUSIVE

    def count(self, verdict: str) -> int:
        """How many of the comparisons that count have that verdict."""
        return sum(one.counts and one.verdict == verdict for one in self.comparisons)


# -- from runs and evidence to verdicts ----------------------------------------------------------------------------------------


def judge(interval: Interval | None, expected: str) -> str:
    """The verdict on one comparison: is the whole interval where the claim says, or all of it elsewhere?"""
    if interval is None:
        return NO_DATA
    start, end = BOUNDS[expected]
    inside, outside = start < interval.low and interval.high < end, interval.high < start or interval.low > end
    return SUPPORTED if inside else CONTRADICTED if outside else INCONCLUSIVE


def verdicts(profile: Profile, table: pd.DataFrame, evidence: pd.DataFrame | None = None) -> list[Claim]:
    """The eight claims with their comparisons.

    table: a row for each round, as sweep.run gives it; runs may be missing. evidence: as `measure` gives it; None = not measured.
    """
    panels, first_round = _panels(profile, table), table[table["round"] == 1]
    measured = (pd.DataFrame(columns=EVIDENCE) if evidence is None else evidence).set_index("dataset")
    nearer = measured["gap_supclust"] - measured["gap_typiclust"]
    found = (
        [
            *_by_dataset(profile, "ρ within clusters", WITHIN, measured["rho_within"], "rho"),
            *_by_dataset(profile, "ρ over all points", WITHIN, measured["rho_all"], "rho"),
        ],
        [_pair(table, panel, pair) for pair in itertools.combinations(ORDER, 2) for panel in panels],
        _gains(profile, table),
        [_families(table, panel) for panel in panels],
        _frameworks(table, panels),
        [_coreset(table, panel) for panel in _panels(profile, table, ("cifar10-lt50",))],
        [_pair(first_round, panel, ("supclust", "random")) for panel in panels],
        _by_dataset(profile, _less("supclust", "typiclust"), BELOW, nearer, "distance"),
    )
    return [Claim(**claim, comparisons=tuple(some)) for claim, some in zip(PAPER["claim"], found, strict=True)]


def run(profile: Profile) -> list[Claim]:
    """The verdicts on what a profile's kept table holds, seeds beyond the profile's included; no run is made.

    Evidence that is not kept is measured where the features can be read.
    Raises ValueError, saying what to do, where there is no run at all.
    """
    wanted = sweep.keys(profile, frameworks=active.FRAMEWORKS)
    table, _ = sweep.kept_rows(profile, wanted + sweep.more_seeds(profile))
    if table.empty:
        raise ValueError(f"there is no run of profile {profile.name!r} yet: run `supclust sweep --profile {profile.name}`")
    done = len(table.drop_duplicates(sweep.RUN))
    if done < len(wanted):
        log.warning("%d runs of %d are done; the verdicts are on these", done, len(wanted))
    return verdicts(profile, table, evidence(profile))


def _by_dataset(profile: Profile, what: str, expected: str, values: pd.Series, unit: str) -> list[Comparison]:
    parts = {name: values[values.index == name] for name in profile.datasets}
    return [_comparison(what, TITLES.get(name, name), expected, part, unit=unit) for name, part in parts.items()]


def _gains(profile: Profile, table: pd.DataFrame) -> list[Comparison]:
    panels = [panel for panel in _panels(profile, table, IMBALANCED) if panel[0] in IMBALANCED]
    measures = [measure for measure in analysis.MEASURES[:3] if measure in table]
    return [_pair(table, panel, ("supclust", "typiclust"), measure=measure) for measure in measures for panel in panels]


def _families(table: pd.DataFrame, panel: Sequence[str]) -> Comparison:
    part = analysis.panel_of(table, panel)
    sides = [part[part["strategy"].isin(family)] for family in (DIVERSITY, UNCERTAINTY)]
    lacking = [strategies.LABELS[name] for name in (*DIVERSITY, *UNCERTAINTY) if name not in set(part["strategy"])]
    less = f" (without {', '.join(lacking)})" if lacking and all(map(len, sides)) else ""
    return _comparison(f"diversity − uncertainty{less}", analysis.panel_title(*panel), ABOVE, _differences(*sides))


def _frameworks(table: pd.DataFrame, panels: Sequence[Sequence[str]]) -> Iterator[Comparison]:
    for dataset, budget in dict.fromkeys((dataset, budget) for dataset, _, budget in panels):
        parts = [analysis.panel_of(table, (dataset, framework, budget)) for framework in ("ssl", "fsl")]
        for name in (name for name in strategies.NAMES if name not in ORDER[2:]):  # the ten of Fig. 6
            values = _differences(*(part[part["strategy"] == name] for part in parts))
            yield _comparison(f"SSL − FSL, {strategies.LABELS[name]}", analysis.panel_title(dataset, "", budget), ABOVE, values)


def _coreset(table: pd.DataFrame, panel: Sequence[str]) -> Comparison:
    subject = panel[:2] == ("cifar10-lt50", "ssl")
    return _pair(table, panel, ("coreset", "random"), ABOVE if subject else BELOW, subject=subject)


def _panels(profile: Profile, table: pd.DataFrame, more: Sequence[str] = ()) -> list[tuple[str, str, str]]:
    """Those of the profile, with more data sets if a claim names them, and whatever else the table has."""
    named = [*itertools.product(dict.fromkeys([*profile.datasets, *more]), ("ssl",), profile.budgets)]
    if profile.fsl and not profile.fsl.on_request:
        named += itertools.product(profile.fsl.datasets, ("fsl",), profile.fsl.budgets)
    return list(dict.fromkeys([*named, *table[analysis.PANEL].drop_duplicates().itertuples(index=False, name=None)]))


def _pair(
    table: pd.DataFrame, panel: Sequence[str], names: Sequence[str], expected: str = ABOVE, measure: str = "accuracy", **more: bool
) -> Comparison:
    part = analysis.panel_of(table, panel)
    values = _differences(*(part[part["strategy"] == name] for name in names), measure)
    extra = "" if measure == "accuracy" else f", {measure.replace('_', ' ')}"
    return _comparison(_less(*names) + extra, analysis.panel_title(*panel), expected, values, counts=not extra, **more)


def _less(first: str, second: str) -> str:
    return " − ".join(strategies.LABELS[name].replace("SUPClust without", "without") for name in (first, second))


def _differences(first: pd.DataFrame, second: pd.DataFrame, measure: str = "accuracy") -> pd.Series:
    return analysis.seed_differences(analysis.by_round(first, measure), analysis.by_round(second, measure))


def _comparison(what: str, panel: str, expected: str, values: pd.Series, **more: str | bool) -> Comparison:
    values = values.dropna()
    return Comparison(what, panel, expected, analysis.mean_interval(values) if len(values) else None, len(values), **more)


# -- evidence from the features: claims 1 and 8 --------------------------------------------------------------------------------


def evidence(profile: Profile, *, recompute: bool = False, jobs: int = -1) -> pd.DataFrame:
    """What `measure` finds, read from evidence.csv where it was made from the same features, and else measured and kept there.

    Like the table of runs, the evidence that comes with the repository is read too. recompute=True measures anew. Nothing is
    trained: for a data set whose features would have to be, what is kept is taken.
    """
    stored = (kept.read(folder / "evidence.csv") for folder in kept.reports_to_read(profile.name))
    rows, made_from = next(filter(None, stored), (pd.DataFrame(columns=EVIDENCE), {}))
    sources = {name: _source(profile, name) for name in profile.datasets}
    valid = [name for name, now in sources.items() if now is None or (now == made_from.get(name) and not recompute)]
    rows = rows[rows["dataset"].isin(valid)]
    wanted = list(itertools.product(profile.datasets, range(profile.seeds)))
    if missing := [task for task in wanted if sources[task[0]] and task not in set(_tasks(rows))]:
        rows = pd.concat([rows, measure(profile, missing, jobs=jobs)]).infer_objects().sort_values(EVIDENCE[:2])
        made_from |= {name: now for name, now in sources.items() if now}
        kept.write(kept.reports(profile.name) / "evidence.csv", rows, made_from)
    return rows[[task in wanted for task in _tasks(rows)]].reset_index(drop=True)


def _source(profile: Profile, dataset: str) -> dict | None:
    """What the evidence on a data set is made from; None where features would have to be trained first."""
    found = [features.find(profile, dataset, seed) for seed in range(profile.seeds if features.seeded(profile, dataset) else 1)]
    if all(found):
        return {"experiment": sweep.EXPERIMENT["ssl"], "features": [one.checksum for one in found]}
    log.warning("claims 1 and 8 are not measured on %s, whose features are not there; what is kept is taken", dataset)
    return None


def _tasks(rows: pd.DataFrame) -> list[tuple[str, int]]:
    return list(zip(rows["dataset"], rows["seed"], strict=True))


def measure(profile: Profile, tasks: Sequence[tuple[str, int]] | None = None, *, jobs: int = -1) -> pd.DataFrame:
    """Correlations of SUP and typicality, and distances from queries to other clusters, in the clusters of the first tiny query.

    tasks: (dataset, seed), by default every data set of the profile at each of its seeds. Returns a row for each, with the number
    of clusters, Spearman's rho over all points and its median over clusters, and each strategy's mean distance.
    """
    tasks = list(itertools.product(profile.datasets, range(profile.seeds))) if tasks is None else tasks
    rows = joblib.Parallel(n_jobs=jobs)(joblib.delayed(_measure_one)(profile, *task, kept.folders()) for task in tasks)
    return pd.DataFrame(rows, columns=EVIDENCE)


def _measure_one(profile: Profile, dataset: str, seed: int, folders: dict[str, str]) -> tuple[str | float, ...]:
    with sweep.alone(folders):
        data = features.obtain(profile, dataset, seed)
        pool, budget = strategies.Pool(data.train, seed=seed), len(data.classes)
        details = method.explain(pool, budget)
        rho = analysis.rank_correlation(details.typicality, details.sup, details.assignments)
        picks = [strategies.query(name, pool, budget, np.random.default_rng(seed)) for name in ("typiclust", "supclust")]
    gaps = [analysis.gap(pool.points[some], details.assignments[some], details.centers).mean() for some in picks]
    return dataset, seed, budget, rho.overall, np.nanmedian(rho.per_cluster), *gaps


# -- what is written -----------------------------------------------------------------------------------------------------------


def as_table(claims: Sequence[Claim]) -> pd.DataFrame:
    """A row for each comparison: claim ("1 title"), what, panel, expected, mean, low, high, seeds, unit, counts, verdict."""
    nothing = Interval(np.nan, np.nan, np.nan)
    rows = [
        {"claim": f"{claim.number} {claim.title}", "verdict": one.verdict} | vars(one) | vars(one.interval or nothing)
        for claim in claims
        for one in claim.comparisons
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def write(profile: Profile, claims: Sequence[Claim]) -> Path:
    """Write claims.md in the profile's reports; returns its path."""
    path = kept.reports(profile.name) / "claims.md"
    kept.write_text(path, as_markdown(profile, claims))
    return path


def as_markdown(profile: Profile, claims: Sequence[Claim]) -> str:
    """The whole report: a summary, a section for each claim, and how verdicts are made."""
    return kept.template(kept.PACKAGE / "claims.md.j2").render(
        profile=profile,
        claims=claims,
        summary=summary_table(claims),
        seeds=max((one.seeds for claim in claims for one in claim.comparisons), default=0),
        verdicts=[SUPPORTED, CONTRADICTED, INCONCLUSIVE],
    )


def summary_table(claims: Sequence[Claim]) -> str:
    """A Markdown table: claim, numbers in few words, verdict."""
    rows = [f"| {one.number}. {one.title} ({one.figure}) | {in_few_words(one)} | **{one.verdict}** |" for one in claims]
    return "\n".join(["| claim | here | verdict |", "| --- | --- | --- |", *rows])


def in_few_words(claim: Claim) -> str:
    """In how many panels a claim's comparisons support and contradict it, and the range of their means."""
    if not claim.counted:
        return "not measured"
    groups: dict[str, list[Comparison]] = {}
    for one in claim.counted:
        differ = len({one.expected for one in claim.counted}) > 1
        groups.setdefault(f"{one.what} {one.expected}" if differ else one.what, []).append(one)
    if len(groups) > 6:
        groups = {"all": claim.counted}
    parts = [f"{name}: " * (len(groups) > 1) + _tally(some) for name, some in groups.items()]
    if lacking := claim.count(NO_DATA):
        parts.append(f"no data for {lacking} more comparison{'s' * (lacking > 1)}")
    return "<br>".join(parts)


def _tally(some: Sequence[Comparison]) -> str:
    unit = " points" * (some[0].unit == "points")
    if len(some) == 1:
        return some[0].in_words + unit
    low, high = (_number(extreme(one.interval.mean for one in some), some[0].unit) for extreme in (min, max))
    supported, contradicted = (sum(one.verdict == verdict for one in some) for verdict in (SUPPORTED, CONTRADICTED))
    places = "panels" if len({one.what for one in some}) == 1 else "comparisons"
    return f"supported in {supported} of {len(some)} {places}, contradicted in {contradicted} ({low} to {high}{unit})"


def _number(value: float, unit: str) -> str:
    return f"{value:+.{DIGITS[unit]}f}".replace("-", "−").replace("inf", "∞")


def update_readme(path: Path, text: str) -> None:
    """Put a text between the two markers of a file, in place of what is there; ValueError unless it has each of them once."""
    parts = re.split(f"({'|'.join(MARKERS)})", path.read_text(encoding="utf-8"))
    if parts[1::2] != MARKERS:
        raise ValueError(f"{path} must have the markers {MARKERS[0]} and {MARKERS[1]} once each, in this order")
    kept.write_text(path, "".join([*parts[:2], f"\n{text.strip()}\n", *parts[3:]]))
