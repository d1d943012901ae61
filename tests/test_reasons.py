import itertools
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from supclust import active, analysis, learners, method, profiles
from supclust.pool import Pool
from supclust.studies import reasons
from tests.conftest import keep_digits, make_features

QUICK = profiles.get("quick", seeds=2)
MIXED = make_features(spread=0.9)  # blobs that touch, so that clusters mix classes


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An output folder, and a repository without reports, in which the digits' features are blobs that touch."""
    monkeypatch.setenv("SUPCLUST_OUT", str(tmp_path))
    monkeypatch.setattr(reasons.kept, "REPOSITORY", tmp_path / "repository")
    keep_digits(tmp_path, QUICK, MIXED)
    return tmp_path


def run(strategy, oracle=reasons.AS_IT_IS):
    return list(reasons.rounds(MIXED, Pool(MIXED.train, seed=3), strategy, "tiny", oracle))


@pytest.mark.parametrize("strategy", [*reasons.COMPARED, reasons.MEMBER, "supclust:max_clusters=10"])
def test_a_run_is_that_of_the_experiment(strategy):
    expected = list(active.run(MIXED, Pool(MIXED.train, seed=3), strategy, "tiny"))
    found = [(row["accuracy"], row["classes"], tuple(picks)) for row, _, picks in run(strategy)]
    assert found == [(one.accuracy, one.classes, one.picks) for one in expected]


def test_matches_and_purity_are_shares_of_the_most_frequent_classes():
    for row, clusters, picks in run("typiclust"):
        pairs = list(zip(clusters.assignments, MIXED.train_labels, strict=True))
        right = [
            max(Counter(c for k, c in pairs if k == own).items(), key=lambda n: (n[1], -n[0]))[0] == mine for own, mine in pairs
        ]
        assert row["purity"] == pytest.approx(np.mean(right))
        assert row["match"] == pytest.approx(np.mean([right[pick] for pick in picks]))


@pytest.mark.parametrize("share", reasons.STEPS)
def test_a_quantile_of_sup_is_taken_among_the_typical(share):
    pool = Pool(MIXED.train, seed=1).with_settings(top_fraction=0.3)
    details = method.explain(pool, 8)
    for pick in reasons.at_quantile(share)(pool, 8, None):
        members = np.flatnonzero(details.assignments == details.assignments[pick])
        typical = members[np.argsort(-details.typicality[members])[: int(np.ceil(0.3 * len(members)))]]
        scores = sorted(details.sup[typical])
        assert details.sup[pick] == pytest.approx(scores[round(share * (len(typical) - 1))])


def test_the_last_quantile_is_supclust():
    pool = Pool(MIXED.train, seed=1)
    assert reasons.at_quantile(1.0)(pool, 8, None).tolist() == method.supclust(pool, 8, np.random.default_rng()).tolist()


def test_who_asks_the_majority_only_always_gets_it():
    assert min(row["match"] for row, *_ in run("supclust-no-typicality")) < 1
    asked = run("supclust-no-typicality", reasons.ASKED)
    assert {row["match"] for row, *_ in asked} == {1}


def test_who_is_told_the_majority_learns_it():
    told = {}
    for row, clusters, picks in run("supclust-no-typicality", reasons.TOLD):
        for pick in picks:
            members = clusters.assignments == clusters.assignments[pick]
            told[pick] = Counter(sorted(MIXED.train_labels[members])).most_common(1)[0][0]
        head = learners.fit_linear_head(Pool(MIXED.train).points[list(told)], np.array(list(told.values())), 4)
        right = head.predict(MIXED.test / np.linalg.norm(MIXED.test, axis=1, keepdims=True)) == MIXED.test_labels
        assert row["accuracy"] == pytest.approx(right.mean(), abs=0.011)  # one test point
    assert any(told[pick] != MIXED.train_labels[pick] for pick in told)


def test_looks_are_those_of_slow_code():
    data, pool = MIXED, Pool(MIXED.train, seed=0)
    points, clusters, some = pool.points.astype(float), pool.clusters(5), np.array([3, 50, 77])
    head = learners.fit_linear_head(pool.points, data.train_labels, 4)
    slow = []
    for one in some:
        p = sorted(np.exp(head.log_probabilities(points[[one]])[0]))
        near = np.argsort(np.linalg.norm(points - points[one], axis=1))[1:21]
        counts = Counter(data.train_labels[near]).values()
        own, *others = np.argsort(np.arange(5) != clusters.assignments[one], kind="stable")
        to = np.linalg.norm(clusters.centers - points[one], axis=1)
        slow.append((p[-1] - p[-2], -sum(c / 20 * np.log2(c / 20) for c in counts), min(to[others]) - to[own]))
    found = reasons.looks(data, pool, clusters, some)
    assert list(found) == reasons.LOOKS
    assert list(found.values()) == pytest.approx(np.mean(slow, axis=0), abs=1e-4)


def test_points_move_along_the_line_to_the_mean_of_their_class():
    points = Pool(MIXED.train).points
    np.testing.assert_allclose(reasons.moved(MIXED, 0).train, points, atol=1e-6)
    means = reasons.moved(MIXED, 1)
    for one in range(4):
        mean = points[MIXED.train_labels == one].mean(axis=0)
        np.testing.assert_allclose(means.train[MIXED.train_labels == one] - mean, 0, atol=1e-6)
        np.testing.assert_allclose(means.test[MIXED.test_labels == one] - mean, 0, atol=1e-6)
    halfway = reasons.moved(MIXED, 0.5)
    np.testing.assert_allclose(2 * halfway.train, points + means.train, atol=1e-6)
    np.testing.assert_allclose(reasons.moved(MIXED, -1).train, 2 * points - means.train, atol=1e-6)


def test_clusters_of_points_that_moved_are_purer():
    shares = [
        analysis.purity(MIXED.train_labels, Pool(reasons.moved(MIXED, one).train).clusters(4).assignments) for one in (-1, 0, 0.6)
    ]
    assert shares == sorted(shares)
    assert shares[0] < 0.9 < shares[-1]


def test_each_question_is_answered_in_each_of_its_settings(workplace, monkeypatch):
    monkeypatch.setattr(reasons, "SIZES", (80, 100))
    monkeypatch.setattr(reasons, "ROUNDS", 2)
    monkeypatch.setattr(reasons, "MOVES", (0.0, 0.4))
    monkeypatch.setattr(reasons, "CHANGES", ["supclust:top_fraction=0.2", "supclust:max_clusters=5"])
    table = reasons.table(QUICK)
    assert list(table.columns) == reasons.COLUMNS
    runs = table.drop_duplicates(["question", "budget", "setting", "strategy", "seed"]).groupby("question").size()
    expected = {"oracles": 9, "picks": 5, "purity": 6, "settings": 4 * 5, "neighbors": 4 * 3, "sign": 5, "sizes": 10}
    assert runs.to_dict() == {question: 2 * count for question, count in expected.items()}
    assert sorted(table.loc[table["question"] == "picks", "round"].unique()) == [1, 2]
    assert table.drop(columns=["match", "purity", "accuracy", "classes", *reasons.LOOKS]).notna().all(axis=None)
    nearest = table[(table["question"] == "sign") & (table["setting"] == "1.0")]["accuracy"].to_numpy()
    as_it_is = table[(table["question"] == "oracles") & (table["setting"] == "as it is") & (table["strategy"] == "supclust")]
    assert nearest == pytest.approx(as_it_is["accuracy"].to_numpy())


def test_the_table_is_kept_its_records_too_and_both_are_made_anew_for_other_features(workplace, monkeypatch):
    asked = []

    def ask(question, data, pool, budget):
        asked.append(pool.seed)
        yield {"setting": "as it is", "strategy": "supclust", "accuracy": 0.5, "round": 0}

    monkeypatch.setattr(reasons, "QUESTIONS", {"few": (("digits", "cifar10"), ("tiny",), 2)})
    monkeypatch.setattr(reasons, "means", ask)
    first = reasons.table(QUICK)
    assert asked == [0, 1, 2, 3]
    pd.testing.assert_frame_equal(first, reasons.table(QUICK, recompute=True))
    assert asked == [0, 1, 2, 3]
    keep_digits(workplace, QUICK, make_features(spread=0.8))
    reasons.table(QUICK)
    assert asked == [0, 1, 2, 3] * 2


def test_a_lead_is_a_difference_at_the_same_seed_and_setting():
    cells = itertools.product((0.1, 0.2), reasons.COMPARED, range(4), (1, 2))
    table = pd.DataFrame(cells, columns=["setting", "strategy", "seed", "round"]).assign(dataset="digits", budget="tiny")
    table["accuracy"] = np.random.default_rng(0).random(len(table))
    found = reasons.leads(table)
    assert len(found) == 2 * 2 * 4
    for row in found.itertuples():
        of = {
            name: table.query(f"setting == {row.setting} and seed == {row.seed} and strategy == {name!r}")
            for name in reasons.COMPARED
        }
        assert row.lead == pytest.approx(100 * (of["supclust"]["accuracy"].mean() - of[row.rival]["accuracy"].mean()))
