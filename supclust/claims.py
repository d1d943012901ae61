"""The paper's eight claims, each with a verdict that is computed from paired differences over seeds.

claims.toml holds the claims as the paper makes them and the comparisons that judge them here, claims.md.j2 how verdicts are made.
"""

from __future__ import annotations

import itertools
import logging
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd

from supclust import active, analysis, features, kept, method, strategies, sweep
from supclust.analysis import Interval
from supclust.profiles import TITLES, Profile

log = logging.getLogger(__name__)

PAPER = tomllib.loads((kept.PACKAGE / "claims.toml").read_text(encoding="utf-8"))
BOUNDS: dict[str, tuple[float, float]] = PAPER["bounds"]  # where an interval must lie
SUPPORTED, CONTRADICTED, INCONCLUSIVE, NO_DATA = "supported", "contradicted", "inconclusive", "no data"
EVIDENCE = ["dataset", "seed", "clusters", "rho_all", "rho_within", "gap_typiclust", "gap_supclust"]
MARKERS = ["<!-- claims:begin -->", "<!-- claims:end -->"]


@dataclass(frozen=True, eq=False)
class Claim:
    """What the paper says, how it is read here, and the comparisons that judge it."""

    number: int
    title: str
    statement: str
    figure: str  # of the paper
    reading: str
    universal: bool  # holds everywhere, or names an order: one clearly contrary comparison contradicts it
    compare: Mapping[str, Any]  # see claims.toml
    comparisons: pd.DataFrame  # see as_table

    @property
    def counted(self) -> pd.DataFrame:
        """The comparisons that have data and count."""
        return self.comparisons[self.comparisons["counts"] & (self.comparisons["verdict"] != NO_DATA)]

    @property
    def verdict(self) -> str:
        """The verdict by the rule that claims.md.j2 states."""
        found = self.counted["verdict"]
        if not self.counted["subject"].any():
            return NO_DATA
        if (found == SUPPORTED).all():
            return INCONCLUSIVE if self.universal and self.count(NO_DATA) else SUPPORTED
        contrary = found == CONTRADICTED
        return CONTRADICTED if (contrary.any() if self.universal else contrary.all()) else INCONCLUSIVE

    def count(self, verdict: str) -> int:
        """How many of the comparisons that count have that verdict."""
        return int((self.comparisons["counts"] & (self.comparisons["verdict"] == verdict)).sum())


def judge(interval: Interval, expected: str) -> str:
    """The verdict on one comparison: is the whole interval where the claim says, or all of it elsewhere?"""
    start, end = BOUNDS[expected]
    if np.isnan(interval.mean):
        return NO_DATA
    if start < interval.low and interval.high < end:
        return SUPPORTED
    return CONTRADICTED if interval.high < start or interval.low > end else INCONCLUSIVE


def verdicts(profile: Profile, table: pd.DataFrame, evidence: pd.DataFrame | None = None) -> list[Claim]:
    """The eight claims with their comparisons.

    table: a row for each round, as sweep.run gives it; runs may be missing. evidence: as `measure` gives it; None = not measured.
    """
    measured, claims = pd.DataFrame(columns=EVIDENCE) if evidence is None else evidence, []
    for claim in PAPER["claim"]:
        of = claim["compare"]
        rows = _of_evidence(profile, measured, of) if "evidence" in of else _of_runs(profile, table, of)
        claims.append(Claim(**claim, comparisons=pd.DataFrame(rows)))
    return claims


def _of_evidence(profile: Profile, measured: pd.DataFrame, of: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for (what, quantity), name in itertools.product(of["evidence"].items(), profile.datasets):
        values = measured[measured["dataset"] == name].eval(quantity)
        yield _comparison(values, of["expected"], of["unit"], what=what, panel=TITLES.get(name, name))


def _of_runs(profile: Profile, table: pd.DataFrame, of: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    panels = _panels(profile, table, of.get("datasets", []))
    if "versus" in of:  # a panel then holds both frameworks
        panels = list(dict.fromkeys((dataset, "", budget) for dataset, _, budget in panels))
    table = table[table["round"] <= of.get("rounds", np.inf)]
    for (what, sides), measure, panel in itertools.product(of["pairs"].items(), of.get("measures", ["accuracy"]), panels):
        dataset, framework, budget = panel
        subject = dataset in of.get("datasets", [dataset]) and framework in of.get("frameworks", [framework])
        if not subject and "elsewhere" not in of:
            continue
        runs = [analysis.panel_of(table, (dataset, one, budget)) for one in of.get("versus", [framework] * 2)]
        parts = [rows[rows["strategy"].isin(side)] for rows, side in zip(runs, sides, strict=True)]
        values = analysis.seed_differences(*(analysis.by_round(part, measure) for part in parts))
        counts, title = measure == "accuracy", what if measure == "accuracy" else f"{what}, {measure.replace('_', ' ')}"
        there = set(pd.concat(parts)["strategy"])
        if not any(part.empty for part in parts) and (lacking := [name for name in sum(sides, []) if name not in there]):
            title += f" (without {', '.join(strategies.LABELS[name] for name in lacking)})"
        about = {"what": title, "panel": analysis.panel_title(*panel), "counts": counts, "subject": subject}
        yield _comparison(values, "> 0" if subject else of["elsewhere"], **about)


def _panels(profile: Profile, table: pd.DataFrame, more: Sequence[str]) -> list[tuple[str, str, str]]:
    """The panels of the profile, with more data sets if a claim names them, and whatever else the table has."""
    named = [*itertools.product(dict.fromkeys([*profile.datasets, *more]), ("ssl",), profile.budgets)]
    if profile.fsl and not profile.fsl.on_request:
        named += itertools.product(profile.fsl.datasets, ("fsl",), profile.fsl.budgets)
    return list(dict.fromkeys([*named, *table[analysis.PANEL].drop_duplicates().itertuples(index=False, name=None)]))


def _comparison(
    values: pd.Series, expected: str, unit: str = "points", *, what: str, panel: str, counts: bool = True, subject: bool = True
) -> dict[str, Any]:
    """A row of the comparisons; values: one for each seed. subject=False: what the claim sets its subject apart from."""
    values = values.dropna()
    interval = analysis.mean_interval(values) if len(values) else Interval(np.nan, np.nan, np.nan)
    row = {"what": what, "panel": panel, "expected": expected, **vars(interval), "seeds": len(values), "unit": unit}
    return row | {"counts": counts, "subject": subject, "verdict": judge(interval, expected)}


def run(profile: Profile) -> list[Claim]:
    """The verdicts on what a profile's kept table holds, seeds beyond the profile's included; no run is made.

    Evidence that is not kept is measured where the features can be read.
    Raises ValueError, saying what to do, where there is no run at all.
    """
    wanted = sweep.keys(profile, frameworks=active.FRAMEWORKS)
    table, _ = sweep.kept_rows(profile, wanted + sweep.more_seeds(profile))
    if table.empty:
        raise ValueError(f"there is no run of profile {profile.name!r} yet: run `supclust sweep --profile {profile.name}`")
    if (done := len(table.drop_duplicates(sweep.RUN))) < len(wanted):
        log.warning("%d runs of %d are done; the verdicts are on these", done, len(wanted))
    return verdicts(profile, table, evidence(profile))


def evidence(profile: Profile, *, recompute: bool = False, jobs: int = -1) -> pd.DataFrame:
    """What `measure` finds at the seeds of the profile, kept in evidence.csv.

    Data sets whose features have changed are measured anew, with recompute=True all. Nothing is trained: of a data set whose
    features would have to be, the kept rows are taken.
    """
    stored = (kept.read(folder / "evidence.csv") for folder in kept.reports_to_read(profile.name))
    rows, made_from = next(filter(None, stored), (pd.DataFrame(columns=EVIDENCE), {}))
    for name in profile.datasets:
        seeds = range(profile.seeds if features.seeded(profile, name) else 1)
        if not all(found := [features.find(profile, name, seed) for seed in seeds]):
            log.warning("claims 1 and 8 are not measured on %s, whose features are not there; what is kept is taken", name)
            continue
        source = {"experiment": sweep.EXPERIMENT["ssl"], "features": [one.checksum for one in found]}
        if recompute or source != made_from.get(name):
            rows = rows[rows["dataset"] != name]
        known = set(rows[rows["dataset"] == name]["seed"])
        if missing := [(name, seed) for seed in range(profile.seeds) if seed not in known]:
            rows = pd.concat([rows, measure(profile, missing, jobs=jobs)]).infer_objects().sort_values(EVIDENCE[:2])
            made_from[name] = source
            kept.write(kept.reports(profile.name) / "evidence.csv", rows, made_from)
    return rows[rows["dataset"].isin(profile.datasets) & (rows["seed"] < profile.seeds)].reset_index(drop=True)


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


def as_table(claims: Sequence[Claim]) -> pd.DataFrame:
    """The comparisons of all claims, with the column claim: "1 title"."""
    return pd.concat({f"{one.number} {one.title}": one.comparisons for one in claims}, names=["claim"]).reset_index("claim")


def write(profile: Profile, claims: Sequence[Claim]) -> Path:
    """Write claims.md in the profile's reports; returns its path."""
    path = kept.reports(profile.name) / "claims.md"
    kept.write_text(path, as_markdown(profile, claims))
    return path


def as_markdown(profile: Profile, claims: Sequence[Claim]) -> str:
    """The whole report: a summary, a section for each claim, and how verdicts are made."""
    return _template().render(profile=profile, claims=claims, seeds=as_table(claims)["seeds"].max())


def summary_table(claims: Sequence[Claim]) -> str:
    """A Markdown table: claim, numbers in few words, verdict."""
    template = _template()
    return "".join(template.blocks["summary"](template.new_context({"claims": claims}))).strip()


def _template() -> Any:
    return kept.template(kept.PACKAGE / "claims.md.j2", number=_number)


def _number(value: float, unit: str) -> str:
    return f"{value:+.{PAPER['digits'][unit]}f}".replace("-", "−").replace("inf", "∞")


def update_readme(path: Path, text: str) -> None:
    """Put a text between the two markers of a file, in place of what is there; ValueError unless it has each of them once."""
    parts = re.split(f"({'|'.join(MARKERS)})", path.read_text(encoding="utf-8"))
    if parts[1::2] != MARKERS:
        raise ValueError(f"{path} must have the markers {MARKERS[0]} and {MARKERS[1]} once each, in this order")
    kept.write_text(path, "".join([*parts[:2], f"\n{text.strip()}\n", *parts[3:]]))
