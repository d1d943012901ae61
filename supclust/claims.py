"""The paper's eight claims, each with a verdict that is computed from paired differences over seeds.

claims.toml holds the claims as the paper makes them and the comparisons that judge them here, claims.md.j2 how verdicts are made.
"""

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
from supclust.engine import threads
from supclust.profiles import PARTS, Profile

log = logging.getLogger(__name__)

PAPER = tomllib.loads((kept.PACKAGE / "claims.toml").read_text(encoding="utf-8"))
BOUNDS: dict[str, tuple[float, float]] = PAPER["bounds"]  # where an interval must lie
SUPPORTED, CONTRADICTED, OPEN, NO_DATA = VERDICTS = "supported", "contradicted", "open", "no data"
VARIANTS = ["probcover:ball_share=0.02"]  # which extra rows need, kept in later.csv
EVIDENCE = ["dataset", "seed", "clusters", "rho_all", "rho_within", "gap_typiclust", "gap_supclust"]
MARKERS = ["<!-- claims:begin -->", "<!-- claims:end -->"]


@dataclass(frozen=True, eq=False)
class Claim:
    """A claim of the paper, its reading here, and the comparisons that judge it."""

    number: int
    title: str
    statement: str
    source: str  # section and figure of the paper
    reading: str
    universal: bool  # holds everywhere, or names an order: one clearly contrary comparison contradicts it
    compare: Mapping[str, Any]  # see claims.toml
    comparisons: pd.DataFrame  # what, note, panel, dataset, framework, budget; role, subject; and what `_comparison` adds
    mechanical: bool = False  # true by construction, and no finding

    @property
    def deciding(self) -> pd.DataFrame:
        """The comparisons that make the verdict; the others are FSL's, judged "beside" it, and "extra" ones."""
        return self.comparisons[self.comparisons["role"] == "decides"]

    @property
    def verdict(self) -> str:
        """The verdict by the rule that claims.md.j2 states."""
        found = self.deciding["verdict"]
        if not (self.deciding["subject"] & (found != NO_DATA)).any():
            return NO_DATA
        held, contrary = (found == SUPPORTED).mean(), (found == CONTRADICTED).mean()
        if self.universal:
            return CONTRADICTED if contrary else SUPPORTED if held == 1 else OPEN
        return OPEN if held and contrary else SUPPORTED if held > 0.5 else CONTRADICTED if contrary > 0.5 else OPEN


def judge(interval: analysis.Interval, expected: str) -> str:
    """The verdict on one comparison, by where the whole interval lies."""
    start, end = BOUNDS[expected]
    if np.isnan(interval.low):
        return NO_DATA
    if start < interval.low and interval.high < end:
        return SUPPORTED
    return CONTRADICTED if interval.high < start or interval.low > end else OPEN


def verdicts(profile: Profile, table: pd.DataFrame, measured: pd.DataFrame) -> list[Claim]:
    """The eight claims; table: as sweep.run gives it, runs may be missing; measured: as `evidence` gives it."""
    rows = ([*_of_evidence(profile, measured, one["compare"]), *_of_runs(profile, table, one["compare"])] for one in PAPER["claim"])
    return [Claim(**claim, comparisons=pd.DataFrame(some)) for claim, some in zip(PAPER["claim"], rows, strict=True)]


def _of_evidence(profile: Profile, measured: pd.DataFrame, of: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for (what, quantity), name in itertools.product(of.get("evidence", {}).items(), profile.datasets):
        values = measured[measured["dataset"] == name].eval(quantity)
        yield _comparison(values, of["expected"], of["unit"], what=what, dataset=name)


def _of_runs(profile: Profile, table: pd.DataFrame, of: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The comparisons in the panels of the profile, of data sets that the claim names, and of whatever else the table has."""
    panels = [(key.dataset, key.framework, key.budget) for key in sweep.keys(profile, seeds=1, frameworks=active.FRAMEWORKS)]
    of_paper = [PARTS.get(name, name) for name in profile.datasets]
    absent = [name for name in of.get("datasets", []) if name not in of_paper]
    panels += itertools.product(absent, ("ssl",), profile.budgets)
    panels += table[analysis.PANEL].drop_duplicates().itertuples(index=False, name=None)
    panels = dict.fromkeys((dataset, "" if "versus" in of else framework, budget) for dataset, framework, budget in panels)
    parts = dict(iter(table[table["round"] <= of.get("rounds", np.inf)].groupby(analysis.PANEL)))
    pairs = [(kind, *pair) for kind in ("pairs", "best", "extra") for pair in of.get(kind, {}).items()]
    for (kind, what, sides), measure, panel in itertools.product(pairs, of.get("measures", ["accuracy"]), panels):
        dataset, framework, budget = panel
        whole = PARTS.get(dataset, dataset)
        subject = whole in of.get("datasets", [whole]) and framework in of.get("frameworks", [framework])
        if not subject and "elsewhere" not in of:
            continue
        runs = [parts.get((dataset, one, budget), table[:0]) for one in of.get("versus", [framework] * 2)]
        about = dict(zip(analysis.PANEL, panel, strict=True)) | {"what": what, "subject": subject}
        if kind == "best":
            means = runs[1][runs[1]["strategy"].isin(sides[1])].groupby("strategy")[measure].mean()
            sides = [sides[0], [*means.sort_values().index[-1:]]]
            about["note"] = ", ".join(strategies.LABELS[name] for name in sides[1])
        values = analysis.seed_differences(*(_mean_of(rows, side, measure) for rows, side in zip(runs, sides, strict=True)))
        if kind == "extra" or measure != "accuracy":
            about |= {"role": "extra", "what": what + ("" if measure == "accuracy" else f", {measure.replace('_', ' ')}")}
        elif framework == "fsl" and "elsewhere" not in of:
            about["role"] = "beside"
        yield _comparison(values, "> 0" if subject else of["elsewhere"], **about)


def _mean_of(rows: pd.DataFrame, names: Sequence[str], measure: str) -> pd.Series:
    """The strategies' mean as analysis.by_round gives it; of nothing where one of them was not run."""
    rows = rows[rows["strategy"].isin(names)]
    return analysis.by_round(rows if rows["strategy"].nunique() == len(names) else rows[:0], measure)


def _comparison(values: pd.Series, expected: str, unit: str = "points", **about: Any) -> dict[str, Any]:
    """A row of a claim's comparisons; values: one for each seed."""
    values = values.dropna()
    interval = analysis.mean_interval(values) if len(values) else analysis.Interval(np.nan, np.nan, np.nan)
    row = {"framework": "", "budget": "", "role": "decides", "subject": True, "note": ""} | about
    row |= {"panel": analysis.panel_title(row["dataset"], row["framework"], row["budget"])}
    row |= {"expected": expected, **interval._asdict(), "seeds": len(values), "unit": unit, "verdict": judge(interval, expected)}
    return row | {"needed": seeds_needed(len(values), interval, expected) if row["verdict"] == OPEN else ""}


def seeds_needed(seeds: int, interval: analysis.Interval, expected: str) -> str:
    """How many seeds would decide an open comparison if its mean stayed: the interval shrinks with the root of their number."""
    half, away = interval.high - interval.mean, min(abs(interval.mean - bound) for bound in BOUNDS[expected])
    if seeds == 1 or seeds * half**2 >= 1000 * away**2:
        return "more than one seed" if seeds == 1 else "more than 1,000 seeds"
    return f"about {max(seeds + 1, float(f'{seeds * (half / away) ** 2:.2g}')):.0f} seeds"


def run(profile: Profile, table: pd.DataFrame | None = None, *, recompute: bool = False) -> list[Claim]:
    """The verdicts on the runs of a table, or on what a profile's kept one holds, seeds beyond the profile's included.

    `evidence` is measured, with recompute=True anew; no run is made. Raises ValueError where there is no run at all.
    """
    if table is None:
        wanted = sweep.keys(profile, frameworks=active.FRAMEWORKS)
        table, _ = sweep.kept_rows(profile, wanted + sweep.more_seeds(profile))
        if table.empty:
            raise ValueError(f"there is no run of profile {profile.name!r} yet: run `supclust sweep --profile {profile.name}`")
        if (done := len(table.drop_duplicates(sweep.RUN))) < len(wanted):
            log.warning("%d of %d runs are done; the verdicts use these", done, len(wanted))
    variants, _ = sweep.kept_rows(profile, sweep.keys(profile, strategies=VARIANTS), "later")
    table = table if variants.empty else pd.concat([table, variants])
    if not {*sweep.RUN, "labels", "accuracy"} <= {*table} or not pd.to_numeric(table["accuracy"], "coerce").between(0, 1).all():
        raise ValueError(f"the table of profile {profile.name!r} is no table of runs, whose accuracy is from 0 to 1: make it anew")
    return verdicts(profile, table, evidence(profile, recompute=recompute))


def evidence(profile: Profile, *, recompute: bool = False) -> pd.DataFrame:
    """A row of EVIDENCE for each data set and seed of the profile, kept in evidence.csv while the features stay the same."""
    rows, made_from = next(kept.read_all(profile.name, "evidence.csv"), (pd.DataFrame(columns=EVIDENCE), {}))
    for name in profile.datasets:
        draws = range(profile.seeds if features.seeded(profile, name) else 1)
        if not all(found := [features.find(profile, name, seed) for seed in draws]):
            log.warning("claims 1 and 8 are not measured anew on %s, whose features are missing; kept rows are used", name)
            continue
        source = {"experiment": sweep.EXPERIMENT["ssl"], "features": [one.checksum for one in found]}
        if recompute or source != made_from.get(name):
            rows = rows[rows["dataset"] != name]
        if missing := set(range(profile.seeds)) - set(rows[rows["dataset"] == name]["seed"]):
            new = joblib.Parallel(-1, initializer=threads.end_with_parent)(
                joblib.delayed(measure)(profile, name, seed, kept.folders()) for seed in missing
            )
            rows = pd.concat([rows, pd.DataFrame(new, columns=EVIDENCE)]).infer_objects().sort_values(EVIDENCE[:2])
            made_from[name] = source
            kept.write(kept.reports(profile.name) / "evidence.csv", rows, made_from)
    return rows[rows["dataset"].isin(profile.datasets) & (rows["seed"] < profile.seeds)].reset_index(drop=True)


def measure(profile: Profile, dataset: str, seed: int, folders: dict[str, str]) -> tuple[str | float, ...]:
    """One row of EVIDENCE, on the clusters of the first tiny query: rho_within is a median over clusters, gaps are means."""
    with sweep.alone(folders):
        data = features.obtain(profile, dataset, seed)
        pool, budget = strategies.Pool(data.train, seed=seed), len(data.classes)
        details = method.explain(pool, budget)
        rho = analysis.rank_correlation(details.typicality, details.sup, details.assignments)
        picks = [strategies.query(name, pool, budget, np.random.default_rng(seed)) for name in ("typiclust", "supclust")]
    gaps = [analysis.gap(pool.points[some], details.assignments[some], details.centers).mean() for some in picks]
    return dataset, seed, budget, rho.overall, np.nanmedian(rho.per_cluster), *gaps


def headline(claims: Sequence[Claim]) -> str:
    """How many claims have which verdict, the mechanical check aside: "7 claims: 2 supported, 4 contradicted, 1 open"."""
    found = [one.verdict for one in claims if not one.mechanical]
    return f"{len(found)} claims: " + ", ".join(f"{found.count(verdict)} {verdict}" for verdict in VERDICTS if verdict in found)


def as_table(claims: Sequence[Claim]) -> pd.DataFrame:
    """The comparisons of all claims, with the column claim: "1 title: verdict"."""
    rows = {f"{one.number} {one.title}: {one.verdict}": one.comparisons for one in claims}
    return pd.concat(rows, names=["claim"]).reset_index("claim")


def write(profile: Profile, claims: Sequence[Claim]) -> Path:
    """Write claims.md in the profile's reports; returns its path."""
    path = kept.reports(profile.name) / "claims.md"
    kept.write_text(path, as_markdown(claims, profile))
    return path


def as_markdown(claims: Sequence[Claim], profile: Profile | None = None) -> str:
    """A table of claim, numbers in few words, verdict; of a profile also a section for each claim, and how verdicts are made."""
    return kept.template(kept.PACKAGE / "claims.md.j2").render(profile=profile, claims=claims, headline=headline(claims))


def update_readme(path: Path, text: str) -> None:
    """Put a text between the two markers of a file, in place of what is there; ValueError unless it has each of them once."""
    parts = re.split(f"({'|'.join(MARKERS)})", path.read_text(encoding="utf-8"))
    if parts[1::2] != MARKERS:
        raise ValueError(f"{path} must have the markers {MARKERS[0]} and {MARKERS[1]} once each, in this order")
    kept.write_text(path, "".join([*parts[:2], f"\n{text.strip()}\n", *parts[3:]]))
