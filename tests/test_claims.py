import dataclasses

import numpy as np
import pandas as pd
import pytest

from supclust import claims, kept, profiles, strategies, sweep
from supclust.analysis import Interval
from supclust.claims import CONTRADICTED, NO_DATA, OPEN, SUPPORTED
from tests.conftest import keep_digits, make_features

ABOVE, BELOW, WITHIN = claims.BOUNDS
NOTHING = Interval(np.nan, np.nan, np.nan)
HERE = ("cifar10", "cifar10-lt50")
FSL = profiles.Supervised(HERE, budgets=("tiny",))
PROFILE = dataclasses.replace(profiles.get("laptop"), datasets=HERE, budgets=("tiny",), seeds=3, fsl=FSL)
QUICK = dataclasses.replace(profiles.get("quick"), seeds=2)
LADDER = {  # accuracy of each strategy if everything that the paper says of Figures 5 and 6 holds
    "supclust": 0.60,
    "typiclust": 0.58,
    "supclust-no-sup": 0.56,
    "supclust-no-typicality": 0.40,
    "probcover": 0.57,
    "coreset": 0.49,
    "random": 0.50,
    **dict.fromkeys(("margin", "least-confidence", "entropy", "bald", "dbal"), 0.45),
}


def make_runs(accuracy=None, *, dataset="cifar10", framework="ssl", seeds=range(4), rounds=2, spread=0.001):
    """Runs whose accuracy is the same in all rounds and rises a little from seed to seed, by a share of its own for each."""
    levels = LADDER if accuracy is None else accuracy
    rows = [
        (dataset, framework, name, "tiny", seed, number, 10 * number, value := level + spread * seed * (1 + i % 3), value, value, 5)
        for i, (name, level) in enumerate(levels.items())
        for seed in seeds
        for number in range(1, rounds + 1)
    ]
    columns = ["dataset", "framework", "strategy", "budget", "seed", "round", "labels"]
    return pd.DataFrame(rows, columns=[*columns, "accuracy", "balanced_accuracy", "tail_accuracy", "classes"])


@pytest.mark.parametrize(
    "harm",
    [
        lambda rows: rows.drop(columns="accuracy"),
        lambda rows: rows.assign(accuracy="high"),
        lambda rows: rows.assign(accuracy=np.nan),
        lambda rows: rows.assign(accuracy=70),
    ],
)
def test_a_table_that_holds_no_accuracies_is_refused(workplace, harm):
    with pytest.raises(ValueError, match="is no table of runs, whose accuracy is from 0 to 1"):
        claims.run(PROFILE, harm(make_runs()))


def make_world():
    """A table in which claims 2 to 7 hold."""
    tail = LADDER | {"coreset": 0.63}
    lower = {name: level - 0.2 for name, level in LADDER.items()}
    return pd.concat(
        [
            make_runs(dataset="cifar10"),
            make_runs(tail, dataset="cifar10-lt50"),
            make_runs(lower, dataset="cifar10", framework="fsl"),
            make_runs(lower, dataset="cifar10-lt50", framework="fsl"),
        ]
    )


def make_evidence(within=0.0, overall=0.0, nearer=-0.1, seeds=4):
    rows = [
        (name, seed, 10, overall + 0.01 * (-1) ** seed, within + 0.01 * (-1) ** seed, 0.6, 0.6 + nearer + 0.001 * seed)
        for name in PROFILE.datasets
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows, columns=claims.EVIDENCE)


def claim(number, table, profile=PROFILE, evidence=None):
    """One of the claims; all of them take a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(claims.PAPER, "claim", [claims.PAPER["claim"][number - 1]])
        return claims.verdicts(profile, table, make_evidence(seeds=0) if evidence is None else evidence)[0]


def verdict_of(number, table):
    return claim(number, table).verdict


def comparisons_of(number, table, profile=PROFILE, evidence=None):
    """A named tuple for each comparison of a claim."""
    return list(claim(number, table, profile, evidence).comparisons.itertuples())


@pytest.mark.parametrize(
    ("low", "high", "expected", "verdict"),
    [
        (0.1, 2, ABOVE, SUPPORTED),
        (-2, -0.1, ABOVE, CONTRADICTED),
        (-1, 2, ABOVE, OPEN),
        (0, 2, ABOVE, OPEN),
        (-2, -0.1, BELOW, SUPPORTED),
        (0.1, 2, BELOW, CONTRADICTED),
        (-np.inf, np.inf, BELOW, OPEN),
        (-0.05, 0.09, WITHIN, SUPPORTED),
        (0.11, 0.2, WITHIN, CONTRADICTED),
        (-0.4, -0.3, WITHIN, CONTRADICTED),
        (0.05, 0.2, WITHIN, OPEN),
        (-0.2, 0.2, WITHIN, OPEN),
        (-np.inf, np.inf, WITHIN, OPEN),
    ],
)
def test_a_comparison_is_judged_by_where_its_whole_interval_lies(low, high, expected, verdict):
    assert claims.judge(Interval((low + high) / 2, low, high), expected) == verdict


def test_a_comparison_without_data_says_so():
    assert claims.judge(NOTHING, ABOVE) == NO_DATA


@pytest.mark.parametrize(
    ("universal", "signs", "verdict"),
    [
        (True, "++", SUPPORTED),
        (True, "+-", CONTRADICTED),
        (True, "-0", CONTRADICTED),
        (True, "+0", OPEN),
        (False, "+-", OPEN),
        (False, "-0", OPEN),
        (False, "--", CONTRADICTED),
        (False, "--+", OPEN),
        (False, "++-", OPEN),
        (False, "++0", SUPPORTED),
        (False, "--0", CONTRADICTED),
        (False, "+0?", OPEN),
        (False, "+?", OPEN),
        (True, "+?", OPEN),
        (True, "-?", CONTRADICTED),
        (True, "?B", NO_DATA),
        (True, "?b", NO_DATA),
        (True, "+b", CONTRADICTED),
        (True, "+B", SUPPORTED),
        (True, "??", NO_DATA),
        (True, "", NO_DATA),
        (True, "+x", SUPPORTED),
    ],
)
def test_the_rule_for_a_whole_claim(universal, signs, verdict):
    verdicts = {"+": SUPPORTED, "-": CONTRADICTED, "0": OPEN, "?": NO_DATA, "x": CONTRADICTED}
    verdicts |= {"B": SUPPORTED, "b": CONTRADICTED}  # no part of the claim's subject
    rows = [(verdicts[sign], "extra" if sign == "x" else "decides", sign not in "bB") for sign in signs]
    some = pd.DataFrame(rows, columns=["verdict", "role", "subject"])
    assert claims.Claim(1, "title", "statement", "Fig. 1", "reading", universal, {}, some).verdict == verdict


@pytest.mark.parametrize(("seeds", "mean", "half"), [(10, 0.5, 1.5), (4, 0.25, 0.75), (5, -1.0, 3.0)])
def test_as_many_seeds_as_an_open_comparison_needs_make_it_clear(seeds, mean, half):
    needed = float(claims.seeds_needed(seeds, Interval(mean, mean - half, mean + half), ABOVE).split()[1])
    for more, verdict in ((1.1 * needed, SUPPORTED if mean > 0 else CONTRADICTED), (0.9 * needed, OPEN)):
        shorter = half * np.sqrt(seeds / more)
        assert claims.judge(Interval(mean, mean - shorter, mean + shorter), ABOVE) == verdict


def test_seeds_that_no_one_has_are_not_counted():
    assert claims.seeds_needed(10, Interval(0.0, -2.0, 2.0), ABOVE) == "more than 1,000 seeds"
    assert claims.seeds_needed(1, Interval(1.0, -np.inf, np.inf), ABOVE) == "more than one seed"
    assert claims.seeds_needed(5, Interval(1.0, 0.0, 2.0), ABOVE) == "about 6 seeds"
    assert claims.seeds_needed(4, Interval(0.05, -0.05, 0.15), WITHIN) == "about 16 seeds"  # the nearer end of the margin


def test_all_claims_are_supported_where_they_hold():
    found = claims.verdicts(PROFILE, make_world(), make_evidence())
    assert [claim.number for claim in found] == list(range(1, 9))
    others = {claim.number: claim.verdict for claim in found if claim.verdict != SUPPORTED}
    assert others == {3: OPEN}  # there is no ISIC-2019 in this world
    assert claims.headline(found) == "7 claims: 6 supported, 1 open"  # claim 8 is a mechanical check


def test_turned_upside_down_none_is_supported_and_those_that_say_everywhere_are_contradicted():
    table = make_world().assign(accuracy=lambda t: 1 - t["accuracy"])
    found = claims.verdicts(PROFILE, table, make_evidence(within=0.5, overall=-0.5, nearer=0.1))
    assert {claim.number: claim.verdict for claim in found} == dict.fromkeys(range(1, 9), CONTRADICTED)


def test_differences_are_in_points_averaged_over_rounds_with_the_number_of_seeds():
    table = make_runs({"supclust": 0.6, "random": 0.5}, spread=0)
    table.loc[(table["strategy"] == "supclust") & (table["round"] == 2), "accuracy"] = 0.4
    (first, *_) = comparisons_of(7, table)
    assert (first.panel, first.seeds, first.mean) == ("CIFAR-10, SSL, tiny", 4, pytest.approx(10))  # first round only
    table = make_runs({"supclust": 0.6, "typiclust": 0.5}, spread=0)
    table.loc[(table["strategy"] == "supclust") & (table["round"] == 2), "accuracy"] = 0.4
    assert comparisons_of(2, table)[0].mean == pytest.approx(0)


def test_only_seeds_that_both_have_count():
    table = pd.concat([make_runs({"supclust": 0.6}, seeds=(0, 1, 2)), make_runs({"random": 0.5}, seeds=(1, 2, 3))])
    assert comparisons_of(7, table)[0].seeds == 2
    one = table[~((table["strategy"] == "random") & (table["seed"] == 2))]
    comparison = comparisons_of(7, one)[0]
    assert (comparison.seeds, comparison.verdict) == (1, OPEN)
    none = table[(table["strategy"] == "supclust") | (table["seed"] == 3)]
    assert comparisons_of(7, none)[0].verdict == NO_DATA


def test_an_empty_table_is_no_data_and_no_error():
    found = claims.verdicts(PROFILE, make_runs({}), make_evidence(seeds=0))
    assert {claim.verdict for claim in found} == {NO_DATA}
    assert "not measured" in claims.as_markdown(found, PROFILE)


def test_a_part_of_a_data_set_of_the_paper_stands_for_it():
    profile = dataclasses.replace(PROFILE, datasets=(*PROFILE.datasets, "ham10000"))
    part = make_runs({"supclust": 0.7, "typiclust": 0.6}).assign(dataset="ham10000")
    gain = next(one for one in claims.verdicts(profile, pd.concat([make_world(), part]), make_evidence()) if one.number == 3)
    assert set(gain.deciding["panel"].str.partition(",")[0]) == {"CIFAR-10-LT50", "ISIC-2019 (HAM10000)"}
    assert (gain.verdict, set(gain.deciding["verdict"])) == (SUPPORTED, {SUPPORTED})


def test_what_a_claim_names_and_the_profile_lacks_is_no_data():
    gain = claim(3, make_world())
    assert dict(zip(gain.deciding["panel"], gain.deciding["verdict"], strict=True))["ISIC-2019, SSL, tiny"] == NO_DATA
    assert gain.verdict == OPEN
    assert "<br>To decide: runs for 1 more comparison, in ISIC-2019, SSL, tiny. |" in claims.as_markdown([gain], PROFILE)
    assert set(gain.comparisons[gain.comparisons["role"] == "extra"]["what"]) == {
        "SUPClust − TypiClust, balanced accuracy",
        "SUPClust − TypiClust, tail accuracy",
    }


def test_families_are_compared_at_the_seeds_that_all_have_and_only_where_all_were_run():
    table = make_runs()
    first = comparisons_of(4, table[~((table["strategy"] == "bald") & (table["seed"] == 0))])[0]
    assert (first.what, first.seeds) == ("diversity − uncertainty", 3)
    assert first.mean == pytest.approx(100 * ((0.60 + 0.58 + 0.57 + 0.49) / 4 - 0.45), abs=0.5)
    assert comparisons_of(4, table[table["strategy"] != "bald"])[0].verdict == NO_DATA


def test_probcover_does_not_decide_whether_diversity_beats_uncertainty_alone():
    table = pd.concat([make_runs(LADDER | {"probcover": 0.1}), make_runs({"probcover:ball_share=0.02": 0.57})])
    diversity = claim(4, table).comparisons.dropna(subset=["mean"]).set_index("what")
    assert list(diversity["role"]) == ["decides", "extra", "extra"]
    by_hand = {"diversity − uncertainty": 0.4425, "without ProbCover": 0.5567, "ProbCover, radius by share": 0.56}
    assert diversity["mean"].to_dict() == pytest.approx({what: 100 * (value - 0.45) for what, value in by_hand.items()}, abs=0.5)


def test_ssl_decides_and_fsl_stands_beside_it_except_where_a_claim_names_it():
    world = make_world()
    lost = world["accuracy"] - (world["framework"] == "fsl") * (world["strategy"] == "supclust")
    gain = claim(7, world.assign(accuracy=lost))
    assert gain.verdict == SUPPORTED
    assert gain.comparisons.set_index("framework")["verdict"].groupby("framework").agg(set).to_dict() == {
        "fsl": {CONTRADICTED},
        "ssl": {SUPPORTED},
    }
    assert "2 of 2 SSL panels (+10.0 to +10.0 points); 0 of 2 FSL panels, 2 against" in claims.as_markdown([gain], PROFILE)
    won = world["accuracy"] + (world["framework"] == "fsl") * (world["strategy"] == "coreset")
    assert verdict_of(6, world.assign(accuracy=won)) == CONTRADICTED


def test_ssl_is_compared_with_fsl_strategy_by_strategy_without_the_control():
    table = pd.concat(
        [make_runs(LADDER | {"class-balanced": 0.9}, framework=name, seeds=range(n)) for name, n in (("ssl", 4), ("fsl", 2))]
    )
    some = [one for one in comparisons_of(5, table) if one.panel == "CIFAR-10, tiny"]
    ten = [name for name in strategies.NAMES if not name.startswith("supclust-")]
    assert [one.what.removeprefix("SSL − FSL, ") for one in some] == [strategies.LABELS[name] for name in ten]
    assert {one.seeds for one in some} == {2}


def test_coreset_must_do_well_there_and_badly_elsewhere():
    world = make_world()
    assert verdict_of(6, world) == SUPPORTED
    everywhere = world.assign(accuracy=world["accuracy"] + 0.2 * (world["strategy"] == "coreset"))
    assert verdict_of(6, everywhere) == CONTRADICTED


def test_coreset_is_held_against_the_best_of_those_that_were_run():
    world = make_world()
    best, mean, _ = (rows.iloc[0] for _, rows in claim(6, world).comparisons.groupby("what", sort=False))
    assert (best["note"], best["role"], best["mean"]) == ("SUPClust", "decides", pytest.approx(-11, abs=0.5))
    others = [level for name, level in LADDER.items() if not name.startswith("supclust-") and name != "coreset"]
    assert (mean["role"], mean["mean"]) == ("extra", pytest.approx(100 * (0.49 - np.mean(others)), abs=0.5))
    (first, *rest) = comparisons_of(6, world[world["strategy"] != "supclust"])
    assert (first.note, first.mean) == ("TypiClust", pytest.approx(-9, abs=0.5))
    assert np.isnan(next(one.mean for one in rest if one.what == "Coreset − mean of the others"))


def test_the_report_is_written_from_the_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPCLUST_OUT", str(tmp_path))
    found = claims.verdicts(PROFILE, make_world(), make_evidence(within=-0.4))
    path = claims.write(PROFILE, found)
    assert path == tmp_path / "reports" / "laptop" / "claims.md"
    text = path.read_text()
    assert text.startswith("# The paper's claims, profile `laptop`")
    assert "## 1. SUP and typicality are uncorrelated: open" in text
    assert "7 claims: 5 supported, 2 open; and one mechanical check. Up to 4 seeds in a comparison." in text
    assert "*To decide:* more seeds would not, as the comparisons are clear and disagree." in text
    assert "## 7. No cold start: supported" in text
    assert "| ρ within clusters | CIFAR-10 | within ±0.1 | −0.40 [−0.42, −0.38] | 4 | contradicted |" in text
    assert "of m comparisons about m/20 miss" in text
    assert text.count("<details>") == text.count("</details>")


def test_the_summary_has_a_row_for_each_claim():
    lines = claims.as_markdown(claims.verdicts(PROFILE, make_world(), make_evidence())).strip().splitlines()
    assert lines[0] == "| claim | here | verdict |"
    assert len(lines) == 13  # below it: what its words mean
    assert all(line.count("|") == 4 for line in lines[:10])
    assert lines[9].startswith("| 8. Mechanical check: ")
    assert "2 of 2 data sets (−0.098 to −0.098)" in lines[9]


def test_comparisons_as_a_table():
    table = claims.as_table(claims.verdicts(PROFILE, make_world(), make_evidence()))
    shown = {"claim", "what", "panel", "expected", "mean", "low", "high", "seeds", "unit", "role", "verdict"}
    assert shown <= set(table.columns)
    assert table["claim"].nunique() == 8
    assert table[table["verdict"] == NO_DATA]["mean"].isna().all()


def test_readme_carries_the_summary_between_its_markers(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- claims:begin -->\nold\n<!-- claims:end -->\nafter ± \n", encoding="utf-8")
    claims.update_readme(path, "| new |\n")
    claims.update_readme(path, "| new |\n")
    assert path.read_text(encoding="utf-8") == "before\n<!-- claims:begin -->\n| new |\n<!-- claims:end -->\nafter ± \n"


@pytest.mark.parametrize(
    "text",
    ["", "<!-- claims:begin -->", "<!-- claims:end --> <!-- claims:begin -->", "<!-- claims:begin --> <!-- claims:end -->" * 2],
)
def test_markers_that_are_absent_doubled_or_turned_round_are_an_error_and_nothing_is_written(tmp_path, text):
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(ValueError, match="markers"):
        claims.update_readme(path, "new")
    assert path.read_text() == text


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An output folder, and a repository without reports, in which the digits' features are clear blobs."""
    monkeypatch.setenv("SUPCLUST_OUT", str(tmp_path))
    monkeypatch.setattr(claims.kept, "REPOSITORY", tmp_path / "repository")
    write_features(tmp_path)
    return tmp_path


def write_features(folder, size=50):
    keep_digits(folder, QUICK, make_features(size=size))


def test_evidence_is_measured_for_each_data_set_and_seed(workplace):
    found = claims.evidence(QUICK)
    assert list(found.columns) == claims.EVIDENCE
    assert found[["dataset", "seed", "clusters"]].to_numpy().tolist() == [["digits", 0, 4], ["digits", 1, 4]]
    assert found[["rho_all", "rho_within"]].abs().le(1).all(axis=None)
    assert (found["gap_supclust"] <= found["gap_typiclust"]).all()


def test_evidence_is_kept_and_measured_anew_only_where_it_must_be(workplace, monkeypatch, caplog):
    asked = []
    monkeypatch.setattr(claims, "measure", lambda *args, measure=claims.measure: asked.append(args[1:3]) or measure(*args))
    first = claims.evidence(QUICK)
    pd.testing.assert_frame_equal(first, claims.evidence(QUICK))
    more = claims.evidence(dataclasses.replace(QUICK, seeds=3))
    pd.testing.assert_frame_equal(more[:2], first)
    assert len(claims.evidence(QUICK)) == 2
    assert asked == [("digits", 0), ("digits", 1), ("digits", 2)]
    claims.evidence(QUICK, recompute=True)
    assert asked[3:] == [("digits", 0), ("digits", 1)]
    write_features(workplace, size=60)
    assert not claims.evidence(QUICK).equals(first)
    path = workplace / "reports" / "quick" / "evidence.csv"
    path.write_text(path.read_text().replace("digits,0", "digits,9"))
    claims.evidence(QUICK)
    assert "evidence.csv" in caplog.text
    assert len(asked) == 9  # both seeds, twice more


def test_evidence_on_features_that_are_gone_is_taken_as_kept(workplace):
    first = claims.evidence(QUICK)
    (workplace / "artefacts" / "quick" / "digits" / "features.safetensors").unlink()
    pd.testing.assert_frame_equal(first, claims.evidence(QUICK))


def test_a_data_set_that_is_not_there_is_left_out_with_a_warning(workplace, caplog):
    profile = dataclasses.replace(QUICK, datasets=("digits", "isic2019"))
    found = claims.evidence(profile)
    assert set(found["dataset"]) == {"digits"}
    assert "claims 1 and 8 are not measured anew on isic2019, whose features are missing" in caplog.text
    assert comparisons_of(8, make_runs({}), profile, found)[1].verdict == NO_DATA


def test_verdicts_of_a_profile_rest_on_the_runs_that_are_done_seeds_beyond_the_profile_included(workplace, caplog):
    with pytest.raises(ValueError, match="no run of profile 'quick' yet: run `supclust sweep --profile quick`"):
        claims.run(QUICK)
    sweep.run(QUICK, strategies=["supclust", "random"], budgets=["tiny"], seeds=3)
    sweep.write_table(QUICK)
    found = claims.run(QUICK)
    assert found[6].deciding["seeds"].tolist() == [3, 0]
    assert found[7].verdict != NO_DATA
    assert f"6 of {len(sweep.keys(QUICK))} runs are done" in caplog.text


def test_claim_6_is_about_the_long_tail_and_says_nothing_without_it():
    digits = make_world()
    digits = digits[digits["dataset"] != "cifar10-lt50"]
    assert verdict_of(6, digits) == NO_DATA
    assert verdict_of(6, digits.assign(accuracy=1 - digits["accuracy"])) == NO_DATA


def test_every_strategy_that_a_claim_names_exists():
    kinds = [claim["compare"].get(kind, {}) for claim in claims.PAPER["claim"] for kind in ("pairs", "best", "extra")]
    named = {name for kind in kinds for pair in kind.values() for side in pair for name in side}
    assert sum(map(len, kinds)) == 24
    assert named - set(strategies.NAMES) == set(claims.VARIANTS)
    assert set(strategies.CONTROLS).isdisjoint(named)


def test_the_committed_verdicts_are_those_of_the_committed_tables(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPCLUST_OUT", str(tmp_path))
    laptop = profiles.get("laptop")
    found = claims.run(laptop)
    committed = kept.REPOSITORY / "reports" / "laptop" / "claims.md"
    assert claims.as_markdown(found, laptop) == committed.read_text(encoding="utf-8")
    assert claims.as_markdown(found).strip() in (kept.REPOSITORY / "README.md").read_text(encoding="utf-8")
