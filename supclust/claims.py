"""The paper's eight claims, each with a verdict that is computed from paired differences over seeds.

A comparison is one number per seed: a difference of two strategies' (or two frameworks') accuracies, averaged over the rounds, or a
quantity of the first query. Only seeds that both sides have count, and their number is given. The mean over the seeds gets a
Student-t interval at 95 %; with one seed it is infinite, and nothing is clear.

* A comparison is *supported* if the whole interval lies where the claim says (above zero, below zero, or within the margin),
  *contradicted* if the whole interval lies on the other side (for a margin: outside of it), else *inconclusive*; *no data* if no
  seed has both sides.
* A claim is *supported* if every comparison with data is, and *no data* if none has any, or none about its subject. A claim that
  holds "everywhere", or that names an order, is *contradicted* by one clearly contrary comparison, and not supported as long as
  comparisons lack data; a claim about a tendency is contradicted only if all are clearly contrary. Anything else is *inconclusive*.
  Extra rows are shown and do not count. Panels are those that the profile runs, and data sets that a claim names.
* Each interval is 95 % on its own, without correction for their number: of m comparisons about m/20 miss the true mean, and where
  nothing differs about m/40 come out clear on either side by chance. A claim with many comparisons is therefore hard to find
  supported and easy to find contradicted: read the counts with the verdict.
* The seeds vary k-means, the drawn pools and what a strategy draws; where the pool is not drawn from the seed they share one
  encoder, and the intervals say nothing about how results differ between encoders.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import pandas as pd

from supclust import active, analysis, features, kept, plots, selection, strategies, sweep
from supclust.analysis import Interval
from supclust.engine import geometry
from supclust.profiles import Profile

log = logging.getLogger(__name__)

MARGIN = 0.1  # |rho| below it counts as uncorrelated
SUPPORTED, CONTRADICTED, INCONCLUSIVE, NO_DATA = "supported", "contradicted", "inconclusive", "no data"
ABOVE, BELOW, WITHIN = "> 0", "< 0", f"within ±{MARGIN}"  # what a claim says of a mean
DIGITS = {"points": 1, "rho": 2, "distance": 3}  # after the point, by unit
UNITS = {"points": " points", "rho": "", "distance": ""}

DIVERSITY = ("coreset", "typiclust", "probcover", "supclust")
UNCERTAINTY = ("margin", "least-confidence", "entropy", "bald", "dbal")
ORDER = ("supclust", "typiclust", "supclust-no-sup", "supclust-no-typicality")  # claim 2, the best first
IMBALANCED = ("cifar10-lt50", "isic2019")  # claim 3
EVIDENCE = ["dataset", "seed", "clusters", "rho_all", "rho_within", "gap_typiclust", "gap_supclust"]
MARKERS = "<!-- claims:begin -->", "<!-- claims:end -->"
LONG = 24  # rows; a longer table is folded


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


@dataclass(frozen=True)
class Claim:
    """What the paper says, how it is read here, and the comparisons that it is judged by."""

    number: int
    title: str
    statement: str
    figure: str  # of the paper
    reading: str
    universal: bool  # holds everywhere, or names an order: one clearly contrary comparison contradicts it
    decides: str  # what would decide it, if it is inconclusive
    rests_on: str  # what a contradiction rests on
    comparisons: tuple[Comparison, ...] = ()

    @property
    def counted(self) -> list[Comparison]:
        """The comparisons that have data and count."""
        return [one for one in self.comparisons if one.counts and one.verdict != NO_DATA]

    @property
    def verdict(self) -> str:
        """By the rule at the top of this module."""
        found = [one.verdict for one in self.counted]
        subject = [one for one in self.comparisons if one.counts and one.subject]
        if not found or all(one.verdict == NO_DATA for one in subject):
            return NO_DATA
        if set(found) == {SUPPORTED}:
            return INCONCLUSIVE if self.universal and self.count(NO_DATA) else SUPPORTED
        contrary = any if self.universal else all
        return CONTRADICTED if contrary(one == CONTRADICTED for one in found) else INCONCLUSIVE

    def count(self, verdict: str) -> int:
        """How many of the comparisons that count have that verdict."""
        return sum(one.counts and one.verdict == verdict for one in self.comparisons)


PAPER = (
    Claim(
        1,
        "SUP and typicality are uncorrelated",
        "The two scores that SUPClust combines are uncorrelated.",
        "Fig. 4",
        f"Spearman's ρ of SUP and typicality in the clusters of the first query: over all points, and within clusters (median), "
        f"where the strategy compares them. Uncorrelated means a mean within ±{MARGIN}.",
        False,
        "The seeds vary k-means only where they share an encoder, so encoders trained from other seeds would say most.",
        "It rests on these features and on the default temperature: another T changes which centres SUP looks at.",
    ),
    Claim(
        2,
        "Order of the ablations",
        "SUPClust is better than TypiClust, which is better than SUPClust without SUP; without typicality it reaches none of them.",
        "Fig. 5",
        "Every pair of the order, in every panel: the better one's accuracy less the other's.",
        True,
        "More seeds narrow the open comparisons; the order itself may depend on the encoder.",
        "It rests on these features: where clusters mix classes, the point nearest to another cluster often belongs to it. A "
        "better encoder could change it; the paper's unpublished T alone hardly does (notebook 07).",
    ),
    Claim(
        3,
        "Strong gain over TypiClust on imbalanced data",
        "SUPClust gains strongly on TypiClust on CIFAR-10-LT50 and ISIC-2019.",
        "Fig. 6",
        "SUPClust's accuracy less TypiClust's must be above zero; no size is printed that would make a gain strong. Balanced "
        "accuracy, and recall on the rarest third of the classes, are extra rows.",
        True,
        "More seeds of the long-tailed draw, each with an encoder of its own as in the paper.",
        "It rests on the encoder and on the test set's balance; an encoder trained on the long-tailed pool alone could change it.",
    ),
    Claim(
        4,
        "Diversity beats uncertainty",
        "At these budgets diversity-based strategies beat uncertainty-based ones.",
        "Fig. 6",
        "The mean accuracy of Coreset, TypiClust, ProbCover and SUPClust less that of margin, least confidence, entropy, BALD and "
        "DBAL, at the seeds that all of them have.",
        False,
        "More seeds where it is open; where panels disagree, the better question is at which budget uncertainty takes over.",
        "It rests on the first batch, which is random and shared by all model-based strategies, and on the means of two groups.",
    ),
    Claim(
        5,
        "SSL beats FSL everywhere",
        "A linear layer on self-supervised features beats a network trained from scratch, everywhere.",
        "Fig. 6",
        "SSL's accuracy less FSL's for the same data set, budget, strategy and seed.",
        True,
        "The strategies, budgets and data sets that have not been run in the fully supervised framework.",
        "It rests on the encoder, and on the networks that the profile affords: those of the laptop profile have half the channels "
        "and see images of 16 pixels.",
    ),
    Claim(
        6,
        "Coreset does well on CIFAR-10-LT50 in SSL only",
        "Coreset does surprisingly well on CIFAR-10-LT50 with self-supervised features, and only there.",
        "Fig. 6",
        "Coreset's accuracy less Random's: above zero on CIFAR-10-LT50 in SSL, below zero in the other panels.",
        True,
        "More seeds: an open comparison elsewhere leaves it open that Coreset does well there too.",
        "It rests on the word *only*. That Coreset does very well on CIFAR-10-LT50 in SSL is supported in both budgets. Read as in "
        "SSL but not in FSL, the claim is open until Coreset is run in FSL.",
    ),
    Claim(
        7,
        "No cold start",
        "SUPClust has no cold start: it beats Random from the first round on.",
        "Fig. 6",
        "SUPClust's accuracy less Random's after the first round.",
        True,
        "More seeds: the first round has the fewest labels and the largest spread.",
        "It rests on the clusters of the first round; where they mix classes, a cluster's label says little.",
    ),
    Claim(
        8,
        "SUPClust's queries lie nearer to other clusters",
        "The queries of SUPClust lie nearer to other clusters than those of TypiClust.",
        "Fig. 3",
        "Mean distance from the first queries to the nearest other centre, SUPClust's less TypiClust's, in the same clusters.",
        False,
        "More seeds of k-means.",
        "It rests on the default T, at which SUP looks at several centres and not at the nearest alone.",
    ),
)


# -- from runs and evidence to verdicts ----------------------------------------------------------------------------------------


def judge(interval: Interval | None, expected: str) -> str:
    """The verdict on one comparison: is the whole interval where the claim says, or all of it elsewhere?"""
    if interval is None:
        return NO_DATA
    low, high = interval.low, interval.high
    if expected == WITHIN:
        inside, outside = low > -MARGIN and high < MARGIN, low > MARGIN or high < -MARGIN
    else:
        inside, outside = (low > 0, high < 0) if expected == ABOVE else (high < 0, low > 0)
    return SUPPORTED if inside else CONTRADICTED if outside else INCONCLUSIVE


def verdicts(profile: Profile, table: pd.DataFrame, evidence: pd.DataFrame | None = None) -> list[Claim]:
    """The eight claims with their comparisons.

    table: a row per round, as sweep.run gives it; runs may be missing. evidence: as `measure` gives it; None = not measured.
    """
    evidence = pd.DataFrame(columns=EVIDENCE) if evidence is None else evidence
    found = (
        _correlations(profile, evidence),
        _ablations(profile, table),
        _gains(profile, table),
        _families(profile, table),
        _frameworks(profile, table),
        _coreset(profile, table),
        _first_round(profile, table),
        _nearness(profile, evidence),
    )
    return [dataclasses.replace(claim, comparisons=tuple(some)) for claim, some in zip(PAPER, found, strict=True)]


def run(profile: Profile) -> list[Claim]:
    """The verdicts on what a profile's kept table holds, seeds beyond the profile's included; no run is made.

    Evidence that is not kept is measured where the features are at hand.
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


def _correlations(profile: Profile, evidence: pd.DataFrame) -> Iterable[Comparison]:
    for dataset, (column, where) in itertools.product(
        profile.datasets, (("rho_within", "within clusters"), ("rho_all", "over all points"))
    ):
        values = evidence[evidence["dataset"] == dataset][column].dropna()
        yield _comparison(f"ρ {where}", plots.TITLES.get(dataset, dataset), WITHIN, values, "rho")


def _nearness(profile: Profile, evidence: pd.DataFrame) -> Iterable[Comparison]:
    for dataset in profile.datasets:
        rows = evidence[evidence["dataset"] == dataset]
        values = (rows["gap_supclust"] - rows["gap_typiclust"]).dropna()
        yield _comparison(_less("supclust", "typiclust"), plots.TITLES.get(dataset, dataset), BELOW, values, "distance")


def _ablations(profile: Profile, table: pd.DataFrame) -> Iterable[Comparison]:
    for (first, second), panel in itertools.product(itertools.combinations(ORDER, 2), _panels(profile, table)):
        yield _pair(table, panel, first, second)


def _gains(profile: Profile, table: pd.DataFrame) -> Iterable[Comparison]:
    panels = [panel for panel in _panels(profile, table, IMBALANCED) if panel[0] in IMBALANCED]
    for measure, panel in itertools.product(analysis.MEASURES[:3], panels):
        if measure == "accuracy" or measure in table:
            yield _pair(table, panel, "supclust", "typiclust", measure=measure)


def _families(profile: Profile, table: pd.DataFrame) -> Iterable[Comparison]:
    for panel in _panels(profile, table):
        part = analysis.panel_of(table, panel)
        known = [[name for name in family if name in set(part["strategy"])] for family in (DIVERSITY, UNCERTAINTY)]
        sides = [part[part["strategy"].isin(names)] for names in known]
        lacking = [plots.STRATEGIES[name][0] for name in (*DIVERSITY, *UNCERTAINTY) if name not in itertools.chain(*known)]
        less = f" (without {', '.join(lacking)})" if lacking and all(known) else ""
        yield _comparison(f"diversity − uncertainty{less}", plots.panel_title(panel), ABOVE, _differences(*sides))


def _frameworks(profile: Profile, table: pd.DataFrame) -> Iterable[Comparison]:
    panels = dict.fromkeys((dataset, budget) for dataset, _, budget in _panels(profile, table))
    for dataset, budget in panels:
        ssl, fsl = (analysis.panel_of(table, (dataset, framework, budget)) for framework in ("ssl", "fsl"))
        for name in (name for name in strategies.NAMES if name not in ORDER[2:]):  # the ten of Fig. 6
            values = _differences(ssl[ssl["strategy"] == name], fsl[fsl["strategy"] == name])
            yield _comparison(f"SSL − FSL, {plots.STRATEGIES[name][0]}", plots.panel_title((dataset, "", budget)), ABOVE, values)


def _coreset(profile: Profile, table: pd.DataFrame) -> Iterable[Comparison]:
    for panel in _panels(profile, table, ("cifar10-lt50",)):
        subject = panel[:2] == ("cifar10-lt50", "ssl")
        yield dataclasses.replace(_pair(table, panel, "coreset", "random", ABOVE if subject else BELOW), subject=subject)


def _first_round(profile: Profile, table: pd.DataFrame) -> Iterable[Comparison]:
    for panel in _panels(profile, table):
        yield _pair(table[table["round"] == 1], panel, "supclust", "random")


def _panels(profile: Profile, table: pd.DataFrame, more: Sequence[str] = ()) -> list[tuple[str, str, str]]:
    """Those of the profile, with more data sets if a claim names them, and whatever else the table has."""
    named = [*itertools.product(dict.fromkeys([*profile.datasets, *more]), ("ssl",), profile.budgets)]
    if profile.fsl and not profile.fsl.on_request:
        named += itertools.product(profile.fsl.datasets, ("fsl",), profile.fsl.budgets)
    return list(dict.fromkeys([*named, *table[analysis.PANEL].drop_duplicates().itertuples(index=False, name=None)]))


def _pair(
    table: pd.DataFrame, panel: Sequence[str], first: str, second: str, expected: str = ABOVE, measure: str = "accuracy"
) -> Comparison:
    part = analysis.panel_of(table, panel)
    values = _differences(part[part["strategy"] == first], part[part["strategy"] == second], measure)
    extra = "" if measure == "accuracy" else f", {measure.replace('_', ' ')}"
    return _comparison(_less(first, second) + extra, plots.panel_title(panel), expected, values, counts=not extra)


def _less(first: str, second: str) -> str:
    names = (plots.STRATEGIES[name][0].replace("SUPClust without", "without") for name in (first, second))
    return " − ".join(names)


def _differences(first: pd.DataFrame, second: pd.DataFrame, measure: str = "accuracy") -> pd.Series:
    """By seed, averaged over the rounds; empty if a side has no run."""
    if first[measure].dropna().empty or second[measure].dropna().empty:
        return pd.Series(dtype=float)
    return analysis.seed_differences(analysis.by_round(first, measure), analysis.by_round(second, measure))


def _comparison(what: str, panel: str, expected: str, values: pd.Series, unit: str = "points", counts: bool = True) -> Comparison:
    interval = analysis.mean_interval(values) if len(values) else None
    return Comparison(what, panel, expected, interval, len(values), unit, counts)


# -- evidence from the features: claims 1 and 8 --------------------------------------------------------------------------------


def evidence(profile: Profile, *, recompute: bool = False, jobs: int = -1) -> pd.DataFrame:
    """What `measure` finds, read from evidence.csv where it was made from the same features, and else measured and kept there.

    Like the table of runs, the evidence that comes with the repository is read too. recompute=True measures anew. Of a data set
    whose features are not at hand what is kept is taken; nothing is trained.
    """
    stored, made_from = _kept(profile)
    at_hand = _at_hand(profile)
    valid = {name: not recompute if made_from.get(name) == source else source is None for name, source in at_hand.items()}
    rows = stored[stored["dataset"].map(valid).eq(True)]
    wanted = list(itertools.product(profile.datasets, range(profile.seeds)))
    if missing := [task for task in wanted if at_hand[task[0]] and task not in _tasks(rows)]:
        measured = measure(profile, missing, jobs=jobs)
        rows = (pd.concat([rows, measured]) if len(rows) else measured).sort_values(EVIDENCE[:2], ignore_index=True)
        sources = {name: source or made_from.get(name) for name, source in at_hand.items()}
        kept.write(kept.reports(profile.name) / "evidence.csv", rows, sources)
    return rows[[task in wanted for task in _tasks(rows)]].reset_index(drop=True)


def _at_hand(profile: Profile) -> dict[str, dict | None]:
    """What the evidence on each data set is made from; None where features are not at hand, so that it cannot be measured."""
    sources = {}
    for name in profile.datasets:
        seeds = range(profile.seeds) if features.seeded(profile, name) else (0,)
        found = [features.find(profile, name, seed) for seed in seeds]
        complete = all(one is not None for one in found)
        sources[name] = {"experiment": sweep.EXPERIMENT["ssl"], "features": [one.checksum for one in found]} if complete else None
        if not complete:
            log.warning("claims 1 and 8 are not measured on %s, whose features are not at hand; what is kept is taken", name)
    return sources


def _kept(profile: Profile) -> tuple[pd.DataFrame, dict[str, dict]]:
    """The rows of evidence.csv, of one's own or else as it comes with the repository, and what they were made from."""
    for folder in kept.reports_to_read(profile.name):
        if found := kept.read(folder / "evidence.csv"):
            return found
    return pd.DataFrame(columns=EVIDENCE), {}


def _tasks(rows: pd.DataFrame) -> list[tuple[str, int]]:
    return list(rows[EVIDENCE[:2]].itertuples(index=False, name=None))


def measure(profile: Profile, tasks: Sequence[tuple[str, int]] | None = None, *, jobs: int = -1) -> pd.DataFrame:
    """Correlations of SUP and typicality, and distances from queries to other clusters, in the clusters of the first tiny query.

    tasks: (dataset, seed), by default every data set of the profile at each of its seeds. Returns a row for each, with the number
    of clusters, Spearman's rho over all points and its median over clusters, and each strategy's mean distance.
    """
    tasks = list(itertools.product(profile.datasets, range(profile.seeds))) if tasks is None else tasks
    rows = joblib.Parallel(n_jobs=jobs)(joblib.delayed(_measure_one)(profile, *task, kept.folders()) for task in tasks)
    return pd.DataFrame(rows, columns=EVIDENCE)


def _measure_one(profile: Profile, dataset: str, seed: int, folders: dict[str, str]) -> dict[str, str | float]:
    with sweep.alone(folders):
        data = features.obtain(profile, dataset, seed)
        pool, budget = strategies.Pool(data.train, seed=seed), len(data.classes)
        details = selection.explain(pool, budget)
        found = analysis.rank_correlation(details.typicality, details.sup, details.assignments)
        picks = {name: strategies.query(name, pool, budget, np.random.default_rng(seed)) for name in ("typiclust", "supclust")}
    gaps = {f"gap_{name}": float(distance_to_other_centers(pool.points, details, some).mean()) for name, some in picks.items()}
    rho = {"rho_all": found.overall, "rho_within": float(np.nanmedian(found.per_cluster))}
    return {"dataset": dataset, "seed": seed, "clusters": budget} | rho | gaps


def distance_to_other_centers(points: np.ndarray, details: selection.Details, picks: np.ndarray) -> np.ndarray:
    """Distance (B,) from each of the picks (B,) among the normalised points (n, d) to the nearest centre of another cluster."""
    between = geometry.distances(points[picks], details.centers)
    between[np.arange(len(picks)), details.assignments[picks]] = np.inf
    return between.min(axis=1)


# -- what is written -----------------------------------------------------------------------------------------------------------


def as_table(claims: Sequence[Claim]) -> pd.DataFrame:
    """A row per comparison: claim ("1 title"), what, panel, expected, mean, low, high, seeds, unit, counts, verdict."""
    rows = [
        {
            "claim": f"{claim.number} {claim.title}",
            **{name: getattr(one, name) for name in ("what", "panel", "expected")},
            **vars(one.interval or Interval(np.nan, np.nan, np.nan)),
            **{name: getattr(one, name) for name in ("seeds", "unit", "counts", "verdict")},
        }
        for claim in claims
        for one in claim.comparisons
    ]
    return pd.DataFrame(rows)


def write(profile: Profile, claims: Sequence[Claim]) -> Path:
    """Write claims.md in the profile's reports; returns its path."""
    path = kept.reports(profile.name) / "claims.md"
    kept.write_text(path, as_markdown(profile, claims))
    return path


def as_markdown(profile: Profile, claims: Sequence[Claim]) -> str:
    """The whole report: a summary, a section for each claim, and how verdicts are made."""
    title = f"# The paper's claims, profile `{profile.name}`"
    seeds = f"Up to {max((one.seeds for claim in claims for one in claim.comparisons), default=0)} seeds a comparison."
    rules = "## How verdicts are made\n\n" + inspect.cleandoc(__doc__ or "").partition("\n\n")[2]
    return "\n\n".join([title, seeds, summary_table(claims), *map(_section, claims), rules]) + "\n"


def summary_table(claims: Sequence[Claim]) -> str:
    """A Markdown table: claim, numbers in few words, verdict."""
    rows = [(f"{claim.number}. {claim.title} ({claim.figure})", in_few_words(claim), f"**{claim.verdict}**") for claim in claims]
    return _markdown_table(("claim", "here", "verdict"), rows)


def update_readme(path: Path, text: str) -> None:
    """Put a text between the two markers of a file, in place of what is there; ValueError unless it has each of them once."""
    content = path.read_text(encoding="utf-8")
    if any(content.count(marker) != 1 for marker in MARKERS) or content.index(MARKERS[0]) > content.index(MARKERS[1]):
        raise ValueError(f"{path} must have the markers {MARKERS[0]} and {MARKERS[1]} once each, in this order")
    before, rest = content.split(MARKERS[0])
    after = rest.split(MARKERS[1])[1]
    kept.write_text(path, f"{before}{MARKERS[0]}\n{text.strip()}\n{MARKERS[1]}{after}")


def in_few_words(claim: Claim) -> str:
    """How many of the comparisons are for and against the claim, and the range of their means."""
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for one in claim.counted:
        groups.setdefault((one.what, one.expected), []).append(one)
    if not groups:
        return "not measured"
    if len(groups) > 6:
        groups = {("all", ""): claim.counted}
    ambiguous = len({what for what, _ in groups}) < len(groups)
    names = [f"{what} {expected}: " if ambiguous else f"{what}: " for what, expected in groups]
    parts = [name * (len(groups) > 1) + _tally(some) for name, some in zip(names, groups.values(), strict=True)]
    unmeasured = claim.count(NO_DATA)
    return "<br>".join([*parts, *([f"no data for {unmeasured} more"] if unmeasured else [])])


def _tally(some: Sequence[Comparison]) -> str:
    unit = some[0].unit
    if len(some) == 1:
        return f"{_in_words(some[0])}{UNITS[unit]}"
    low, high = (_number(extreme(one.interval.mean for one in some), unit) for extreme in (min, max))
    verdict = [one.verdict for one in some]
    return f"{verdict.count(SUPPORTED)} of {len(some)} for, {verdict.count(CONTRADICTED)} against ({low} to {high}{UNITS[unit]})"


def _section(claim: Claim) -> str:
    head = f"## {claim.number}. {claim.title}: {claim.verdict}"
    counts = ", ".join(
        f"{claim.count(verdict)} {word}"
        for verdict, word in ((SUPPORTED, "for"), (CONTRADICTED, "against"), (INCONCLUSIVE, "open"), (NO_DATA, "without data"))
    )
    body = [f"{claim.statement} ({claim.figure} of the paper)", f"*Read as:* {claim.reading}", f"Comparisons: {counts}."]
    return "\n\n".join([head, *body, *filter(None, [outlook(claim)]), _comparison_table(claim.comparisons)])


def _comparison_table(comparisons: Sequence[Comparison]) -> str:
    rows = [
        (one.what, one.panel, one.expected, _in_words(one), str(one.seeds), one.verdict + ("" if one.counts else " (extra)"))
        for one in comparisons
    ]
    table = _markdown_table(("comparison", "panel", "claimed", "mean [95 % interval]", "seeds", "verdict"), rows)
    folded = f"<details>\n<summary>{len(rows)} comparisons</summary>\n\n{table}\n\n</details>"
    return folded if len(rows) > LONG else table


def outlook(claim: Claim) -> str:
    """What would decide an inconclusive claim, or what a contradiction rests on; nothing for the others."""
    if claim.verdict == CONTRADICTED:
        chance = (
            f"By chance alone about {len(claim.counted) / 40:.1f} of {len(claim.counted)} comparisons would be clearly contrary."
        )
        return f"*What it rests on:* {chance} {claim.rests_on}"
    if claim.verdict != INCONCLUSIVE:
        return ""
    for_it, against = claim.count(SUPPORTED), claim.count(CONTRADICTED)
    mixed = f"{for_it} comparisons are clearly for it and {against} clearly against: more seeds will not make these agree."
    unmeasured = f"{claim.count(NO_DATA)} comparisons have no data yet."
    parts = [*[mixed] * bool(for_it and against), *[unmeasured] * bool(claim.count(NO_DATA))]
    return " ".join(["*What would decide it:*", *parts, *filter(None, [_more_seeds(claim)]), claim.decides])


def _more_seeds(claim: Claim) -> str:
    """How many seeds the open comparisons need, if means and spreads stay as they are."""
    needed = sorted(seeds_needed(one) for one in claim.counted if one.verdict == INCONCLUSIVE)
    if not needed or math.isinf(needed[0]):
        return ""
    half = needed[(len(needed) - 1) // 2]
    most = f", {half:,.0f} half of them" if half > needed[0] and math.isfinite(half) else ""
    which = "The open comparison would" if len(needed) == 1 else f"Of the {len(needed)} open comparisons the nearest would"
    return f"{which} be clear with about {needed[0]:,.0f} seeds{most}, if means and spreads stay."


def seeds_needed(one: Comparison) -> float:
    """Number of seeds at which the interval is clear of its bound if mean and spread stay; infinite where that is unknown."""
    mean, half = abs(one.interval.mean), (one.interval.high - one.interval.low) / 2
    room = abs(mean - MARGIN) if one.expected == WITHIN else mean
    return math.ceil(one.seeds * (half / room) ** 2) if room and math.isfinite(half) else math.inf


def _in_words(one: Comparison) -> str:
    if one.interval is None:
        return "–"
    mean, low, high = (_number(value, one.unit) for value in dataclasses.astuple(one.interval))
    return f"{mean} [{low}, {high}]"


def _number(value: float, unit: str) -> str:
    if math.isinf(value):
        return "−∞" if value < 0 else "∞"
    return f"{value:+.{DIGITS[unit]}f}".replace("-", "−")


def _markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
