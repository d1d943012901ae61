import numpy as np
import pandas as pd
import pytest
from scipy import stats

from supclust import analysis, profiles
from tests.conftest import make_features


def make_table(offset: float, noise: float = 0.01, seeds: int = 10) -> pd.DataFrame:
    """Two strategies over two rounds, the second better by offset, whose accuracy shares a large part from seed to seed."""
    rng, rows = np.random.default_rng(0), []
    for seed in range(seeds):
        shared = rng.normal(0, 0.1)
        for number in (1, 2):
            for strategy, gain in (("a", 0.0), ("b", offset)):
                accuracy = 0.5 + shared + gain + rng.normal(0, noise)
                rows.append(("data", "ssl", strategy, "tiny", seed, number, 10 * number, accuracy))
    return pd.DataFrame(rows, columns=["dataset", "framework", "strategy", "budget", "seed", "round", "labels", "accuracy"])


def test_mean_interval_is_students():
    values = [1.0, 2.0, 4.0, 9.0]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    interval = analysis.mean_interval(values)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((4.0, *expected))


def test_intervals_of_one_value_are_infinite_and_of_none_an_error():
    assert analysis.mean_interval([3.0]).low == -np.inf
    with pytest.raises(ValueError, match="at least one value"):
        analysis.mean_interval([])


def test_pairing_by_seed_finds_what_the_spread_of_seeds_would_hide():
    table = make_table(0.02)
    assert (table.groupby(["strategy", "labels"])["accuracy"].std() > 0.05).all()
    row = analysis.compare(table, "b", "a").iloc[0]
    assert row["verdict"] == "higher"
    assert row["mean"] == pytest.approx(2, abs=1)
    assert analysis.compare(table, "a", "b").iloc[0]["verdict"] == "lower"


def test_no_difference_is_called_none():
    assert analysis.compare(make_table(0.0), "b", "a").iloc[0]["verdict"] == "no clear difference"


def test_final_accuracy_is_that_of_the_last_round():
    table = make_table(0.1, noise=0)
    final = analysis.final_accuracy(table)
    values = 100 * table[(table["strategy"] == "b") & (table["round"] == 2)]["accuracy"]
    assert final.loc["b"].item() == f"{values.mean():.1f} ± {values.std():.1f}"


def test_unknown_strategy_is_named():
    with pytest.raises(ValueError, match="no strategy 'c'; it has: a, b"):
        analysis.compare(make_table(0), "c", "a")


def rows(strategy, values, *, dataset="data", labels=(10, 20), classes=None, **columns):
    """A table of one strategy from its accuracies, {seed: (round 1, round 2, ...)}."""
    return pd.DataFrame(
        {
            "dataset": dataset,
            "framework": "ssl",
            "strategy": strategy,
            "budget": "tiny",
            "seed": seed,
            "round": number + 1,
            "labels": labels[number],
            "accuracy": accuracy,
            "balanced_accuracy": accuracy / 2,
            "tail_accuracy": np.nan,
            "classes": number + 1 if classes is None else classes,
        }
        | columns
        for seed, accuracies in values.items()
        for number, accuracy in enumerate(accuracies)
    )


def test_differences_by_hand():
    table = pd.concat([rows("a", {0: (0.5, 0.6), 1: (0.4, 0.5), 2: (0.3, 0.9)}), rows("b", {0: (0.4, 0.4), 1: (0.3, 0.4)})])
    found = analysis.compare(table, "a", "b").iloc[0]
    assert found["mean"] == pytest.approx((15 + 10) / 2)
    half = 12.706204736 * np.std([15, 10], ddof=1) / np.sqrt(2)  # Student's t at 97.5 %, one degree of freedom
    assert (found["low"], found["high"]) == pytest.approx((12.5 - half, 12.5 + half))
    assert (found["seeds"], found["verdict"]) == (2, "no clear difference")
    assert analysis.compare(table, "a", "b", "balanced_accuracy").iloc[0]["mean"] == pytest.approx(6.25)
    assert analysis.compare(table, "a", "b", "classes").iloc[0]["mean"] == 0


def test_leads_are_told_in_words():
    table = make_table(0.05).replace({"a": "random", "b": "supclust"})
    more = table[table["strategy"] == "supclust"].assign(dataset="digits")
    found = analysis.leads(pd.concat([table, more, more.assign(strategy="coreset")]), "supclust", ["random", "coreset", "margin"])
    assert found.pop("over Margin").tolist() == ["not run"] * 2
    mean, low, high = analysis.compare(table, "supclust", "random").iloc[0][["mean", "low", "high"]]
    assert found.to_dict("index") == {
        "data, tiny": {"seeds": 10, "over Random": f"+{mean:.1f} [+{low:.1f}, +{high:.1f}] ahead", "over Coreset": "not run"},
        "Digits, tiny": {"seeds": 10, "over Random": "not run", "over Coreset": "+0.0 [+0.0, +0.0]"},
    }


def test_a_seed_that_lacks_a_round_is_not_averaged_with_the_others():
    first, second = (analysis.by_round(rows("a", {0: (0.5, 0.6), 1: (0.4, last)})) for last in (0.9, np.nan))
    assert analysis.seed_differences(first, second).to_dict() == {0: 0.0}
    assert len(analysis.seed_differences(first, analysis.by_round(rows("a", {7: (0.5, 0.6)})))) == 0


def test_one_seed_is_never_a_clear_difference():
    table = pd.concat([rows("a", {0: (0.9, 0.9)}), rows("b", {0: (0.1, 0.1)})])
    assert analysis.compare(table, "a", "b").iloc[0]["verdict"] == "no clear difference"
    assert np.isnan(analysis.win_matrix(table, ["a", "b"]).loc["a", "b"])


def test_a_measure_that_a_panel_does_not_have_leaves_the_panel_out():
    table = pd.concat([rows("a", {0: (0.5,), 1: (0.7,)}), rows("a", {0: (0.5,), 1: (0.7,)}, dataset="tailed", tail_accuracy=0.1)])
    assert list(analysis.final_accuracy(table, "tail_accuracy").columns) == [("tailed", "ssl", "tiny")]
    assert len(analysis.compare(table, "a", "a", "tail_accuracy")) == 1
    nowhere = rows("a", {0: (0.5,), 1: (0.7,)})
    assert analysis.final_accuracy(nowhere, "tail_accuracy").empty
    assert analysis.final_accuracy(rows("a", {0: (0.5,)})).loc["a"].item() == "50.0"


def test_win_matrix_counts_the_cells_that_a_paired_test_finds():
    up, level = (0.5, 0.52, 0.51), (0.5, 0.6, 0.4)
    table = pd.concat(
        [
            rows("a", {seed: (0.1 + up[seed], level[seed]) for seed in range(3)}),
            rows("b", {seed: (up[seed] + 0.001 * seed, level[2 - seed]) for seed in range(3)}),
        ]
    )
    wins = analysis.win_matrix(table, ["a", "b", "c"])
    tests = [stats.ttest_rel(*(part[part["strategy"] == s]["accuracy"] for s in "ab")).pvalue for _, part in table.groupby("round")]
    assert (np.array(tests) < 0.05).tolist() == [True, False]
    np.testing.assert_array_equal(wins, [[0, 0.5, np.nan], [0, 0, np.nan], [np.nan, np.nan, np.nan]])


def test_rank_correlation_over_all_and_within():
    first, groups = np.arange(12.0), np.repeat([0, 1, 2], [5, 5, 2])
    second = np.concatenate([np.arange(5) - 100, -np.arange(5), [7, 8]])
    found = analysis.rank_correlation(first, second, groups)
    np.testing.assert_allclose(found.per_cluster, [1, -1, np.nan])
    assert found.overall == pytest.approx(stats.spearmanr(first, second).statistic)


def test_purity_is_the_share_that_has_the_most_frequent_class_of_its_cluster():
    labels, assignments = np.array([0, 0, 1, 1, 1, 0]), np.array([0, 0, 0, 1, 1, 1])
    assert analysis.in_majority(labels, assignments).tolist() == [True, True, False, True, True, False]
    assert analysis.purity(labels, assignments) == pytest.approx(2 / 3)


def test_the_gap_leaves_out_ones_own_centre():
    centers = np.array([[0.0, 0], [3, 4]])
    np.testing.assert_allclose(analysis.gap(np.array([[0.0, 0], [3, 5]]), np.array([0, 1]), centers), [5, np.sqrt(34)])


# -- maps of the embedding -----------------------------------------------------------------------------------------------------


def test_maps_are_made_once_and_kept_for_the_same_features(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPCLUST_OUT", str(tmp_path))
    calls = []

    def make_maps(features, n_points, seed, also):
        calls.append(n_points)
        assert len(set(also)) > 10  # the queries of two strategies
        indices = np.arange(0, len(features), 2)
        return {"indices": indices, "t-SNE": features[indices, :2], "UMAP": features[indices, 2:4]}

    monkeypatch.setattr(analysis, "make_maps", make_maps)
    profile, features = profiles.get("quick"), make_features()
    first, again = analysis.embedding_maps(profile, features), analysis.embedding_maps(profile, features)
    assert calls == [profile.embedding_points]
    assert list(first.places) == ["t-SNE", "UMAP"]
    np.testing.assert_array_equal(first.places["UMAP"], again.places["UMAP"])
    np.testing.assert_array_equal(first.indices, again.indices)
    analysis.embedding_maps(profile, make_features(size=60))
    analysis.embedding_maps(profile, features, recompute=True)
    path = tmp_path / "reports" / "quick" / "embedding-0.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    analysis.embedding_maps(profile, features)
    assert len(calls) == 4


def test_a_point_is_placed_where_it_or_its_nearest_drawn_neighbour_is():
    features = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]], dtype=np.float32)
    maps = analysis.Maps(np.array([0, 2]), {"UMAP": np.array([[5.0, 5.0], [7.0, 7.0]])})
    np.testing.assert_array_equal(maps.place(features, np.array([0, 1, 3, 2]), "UMAP"), [[5, 5], [5, 5], [7, 7], [7, 7]])


@pytest.mark.night
def test_both_methods_keep_clear_blobs_apart():
    features = make_features(n_classes=3, size=40)
    found = analysis.make_maps(features.train, 90)
    indices = found.pop("indices")
    labels = features.train_labels[indices]
    assert len(indices) == 90
    for places in found.values():
        centers = np.stack([places[labels == k].mean(axis=0) for k in range(3)])
        nearest = ((places[:, None] - centers) ** 2).sum(axis=2).argmin(axis=1)
        assert (nearest == labels).mean() > 0.95


@pytest.mark.night
def test_points_asked_for_are_on_the_maps():
    features = make_features(n_classes=3, size=40).train
    indices = analysis.make_maps(features, 40, 0, [7, 3, 7])["indices"]
    assert {3, 7} <= set(indices)
    assert len(set(indices)) == len(indices) <= 42
