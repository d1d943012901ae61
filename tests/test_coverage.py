import importlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supclust import strategies
from supclust.strategies import coverage
from tests import reference
from tests.conftest import grid, make_blobs
from tests.test_uncertainty import StubModel


def query(name, pool, budget, seed=0):
    return strategies.query(name, pool, budget, np.random.default_rng(seed))


def pool_of(features, labeled=(), **changes):
    return strategies.Pool(np.asarray(features), np.array(labeled, dtype=int), settings=strategies.Settings(**changes))


@st.composite
def pools(draw):
    """Features (n, d), some of them copies of others or zero, a budget, labelled indices, a radius or None, and K or None."""
    n, d, seed = draw(st.integers(1, 60)), draw(st.integers(1, 6)), draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    features = np.round(rng.standard_normal((n, d)), draw(st.sampled_from([0, 1, 6])))
    labeled = rng.choice(n, draw(st.integers(0, n - 1)), replace=False)
    budget = draw(st.integers(1, n - len(labeled)))
    return features, budget, labeled, draw(st.sampled_from([None, 1e-6, 0.3, 1.0, 5.0])), draw(st.sampled_from([None, 1, 2, 100]))


@given(pools(), st.sampled_from(["coreset", "probcover"]))
def test_always_the_budget_distinct_and_never_labelled(given_pool, name):
    features, budget, labeled, radius, n_classes = given_pool
    picks = query(name, pool_of(features, labeled, radius=radius, n_classes=n_classes), budget)
    assert picks.shape == (budget,)
    assert picks.dtype == np.int64
    assert len(set(picks)) == budget
    assert not set(picks) & set(labeled)


@given(pools(), st.sampled_from(["coreset", "probcover"]), st.integers(0, 99))
def test_permuting_the_pool_permutes_the_picks(given_pool, name, seed):
    """Distances may tie; copies of a point, of which nothing but their place could say which is which, are left out."""
    features, budget, labeled, radius, n_classes = given_pool
    features = features[np.unique(np.round(pool_of(features).points, 5), axis=0, return_index=True)[1]]
    labeled = labeled[labeled < len(features) - 1]
    budget, order = min(budget, len(features) - len(labeled)), np.random.default_rng(seed).permutation(len(features))
    changes = {"radius": radius, "n_classes": n_classes}
    straight = query(name, pool_of(features, labeled, **changes), budget)
    permuted = query(name, pool_of(features[order], np.argsort(order)[labeled], **changes), budget)
    np.testing.assert_array_equal(order[permuted], straight)


@pytest.mark.parametrize(("n", "d", "offset", "n_labeled"), grid((2, 30, 400), (1, 5, 64), (0.0, 1000.0), (1, 20)))
def test_coreset_is_the_slow_version(n, d, offset, n_labeled):
    """Far from the origin too, where |a|^2 + |b|^2 - 2ab in float32 has lost all digits of the distances."""
    rng = np.random.default_rng(n + d)
    features = (rng.standard_normal((n, d)) + offset).astype(np.float32)
    labeled = rng.choice(n, min(n_labeled, n // 2), replace=False)
    budget = min(25, n - len(labeled))
    picks = query("coreset", pool_of(features, labeled), budget)
    assert picks.tolist() == reference.coreset(features, labeled, budget)


def test_coreset_starts_from_a_random_point_where_nothing_is_labelled():
    features = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    starts = set()
    for seed in range(150):
        first, *others = query("coreset", pool_of(features), 4, seed)
        assert others == reference.coreset(features, [first], 3)
        starts.add(int(first))
    assert len(starts) > 30


def test_coreset_goes_by_what_the_model_has_learned_else_by_the_raw_features():
    rng = np.random.default_rng(0)
    features, learned = rng.standard_normal((2, 50, 4)).astype(np.float32)
    model = StubModel(np.zeros((50, 1)))
    assert query("coreset", pool_of(features).with_labeled([0], model), 9).tolist() == reference.coreset(features, [0], 9)
    model.learned, model.points = True, learned
    assert query("coreset", pool_of(features).with_labeled([0], model), 9).tolist() == reference.coreset(learned, [0], 9)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_coreset_does_not_depend_on_the_scale(scale):
    features = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    expected = reference.coreset(features, [3], 20)
    assert query("coreset", pool_of(features * np.float32(scale), [3]), 20).tolist() == expected


@pytest.mark.parametrize(("n", "d", "radius", "n_labeled"), grid((2, 50, 200), (2, 32), (0.05, 0.4, 1.0), (0, 10)))
def test_each_pick_of_probcover_has_the_fullest_ball_by_the_slow_version(n, d, radius, n_labeled):
    rng = np.random.default_rng(n + d)
    labeled = rng.choice(n, min(n_labeled, n // 2), replace=False)
    pool = pool_of(rng.standard_normal((n, d)), labeled, radius=radius)
    chosen, inside = list(labeled), reference.all_distances(pool.points) <= radius
    for pick in query("probcover", pool, min(20, n - len(labeled))):
        counts = reference.uncovered_in_balls(inside, chosen)
        assert counts[pick] == counts.max()
        chosen.append(pick)


def test_balls_are_exact_with_many_pairs_on_their_very_edge(monkeypatch):
    monkeypatch.setattr(coverage, "BLOCK", 7)
    angles = np.repeat(np.arange(40) * math.pi / 20, 3)
    points = np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    radius = float(np.linalg.norm(points[0].astype(float) - points[3]))
    inside = reference.all_distances(points) <= radius
    np.testing.assert_array_equal(coverage.ball_graph(points, radius).toarray(), inside)


@pytest.mark.parametrize("radius", [1e-9, 0.1, 0.7, 2.0])
def test_rows_of_zeros_are_copies_of_each_other_and_far_from_all_else(radius):
    points = np.random.default_rng(0).standard_normal((60, 5)).astype(np.float32)
    points[10:15] = 0
    points = strategies.Pool(points).points
    balls = coverage.ball_graph(points, radius).toarray()
    np.testing.assert_array_equal(balls, reference.all_distances(coverage.on_sphere(points)) <= max(radius, 1e-3))
    assert (balls.sum(axis=1)[10:15] == (60 if radius == 2 else 5)).all()


def test_more_pairs_than_fit_into_memory_are_refused(monkeypatch):
    monkeypatch.setattr(coverage, "PAIRS", 999)
    with pytest.raises(ValueError, match="more than 999 pairs of the 100 points lie within ProbCover's radius"):
        query("probcover", pool_of(np.ones((100, 3)), radius=0.4), 2)


@pytest.mark.parametrize("n_classes", [2, 7, None])
@pytest.mark.parametrize("n", [20, 150])
def test_delta_is_the_largest_radius_of_pure_balls(n, n_classes, caplog):
    caplog.set_level("INFO")
    pool = pool_of(make_blobs(10, n // 10, 5, spread=0.5), n_classes=n_classes)
    radius = coverage.radius_by_purity(pool, 4)
    assignments = pool.clusters(n_classes or 4).assignments
    assert reference.share_of_pure_balls(pool.points, assignments, radius) >= 0.95
    assert reference.share_of_pure_balls(pool.points, assignments, radius + 1e-4) < 0.95
    assert f"delta = {radius:.3f}, by purity of at least 95 % with K = {n_classes or 4}" in caplog.text
    query("probcover", pool.with_labeled([1]), 4)
    assert caplog.text.count("delta") == 1


def test_a_radius_that_is_set_needs_no_clusters(monkeypatch):
    monkeypatch.setattr(strategies.Pool, "clusters", None)
    query("probcover", pool_of(make_blobs(5, 20, 4), radius=0.3), 4)


@pytest.mark.parametrize(("n", "share"), grid((3, 40, 200), (0.01, 0.25, 1.0)))
def test_the_median_ball_holds_the_share_of_the_pool_that_is_set(n, share, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(strategies.Pool, "clusters", None)
    pool = pool_of(np.random.default_rng(n).standard_normal((n, 6)), ball_share=share)
    distances = np.sort(reference.all_distances(pool.points), axis=1)
    place = share * (n - 1)  # of the distances in order, between two of them
    low, high = distances[:, math.floor(place)], distances[:, math.ceil(place)]
    radius = coverage.radius_by_share(pool)
    assert radius == pytest.approx(np.median(low + (place % 1) * (high - low)), abs=1e-6)
    query("probcover", pool, 2)
    assert [key for key in pool._shared if key[0] == "balls"] == [("balls", radius)]
    assert caplog.text.count("where the median ball holds") == 1
    monkeypatch.setattr(coverage, "BALLS", 100)
    assert coverage.radius_by_share(pool_of(pool.features, ball_share=share)) == pytest.approx(radius, rel=0.1, abs=1e-3)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("radius", [None, 1e-9, 0.5])
@pytest.mark.parametrize("name", ["coreset", "probcover"])
def test_points_that_are_all_equal_are_picked_at_random(name, radius, value):
    pool = pool_of(np.full((2000, 16), value), [5, 6], radius=radius, n_classes=10)
    picks = query(name, pool, 300)
    assert len(set(picks) - {5, 6}) == 300
    assert set(picks) != set(query(name, pool, 300, seed=1))
    if name == "probcover":
        [balls] = [value for key, value in pool._shared.items() if key[0] == "balls"]
        assert balls.nnz == 2000**2


def test_when_everything_is_covered_the_rest_is_random():
    pool = pool_of(make_blobs(3, 20, 4), [0], radius=2.0)
    draws = [query("probcover", pool, 5, seed) for seed in range(60)]
    assert set(np.concatenate(draws)) == set(range(1, 60))
    assert set(query("probcover", pool, 59)) == set(range(1, 60))


@pytest.mark.parametrize("name", strategies.STRATEGIES)
def test_a_pool_of_one_point_and_one_smaller_than_the_classes(name):
    assert query(name, pool_of([[1.0, 2.0]], n_classes=10), 1) == [0]
    assert set(query(name, pool_of(np.eye(3), n_classes=10), 3)) == {0, 1, 2}


def labels_for(n, labeled):
    """As scikit-activeml wants them: NaN where there is none."""
    y = np.full(n, np.nan)
    y[labeled] = 0
    return y


@pytest.mark.parametrize("seed", range(3))
def test_coreset_picks_those_of_scikit_activeml(seed):
    importlib.import_module("skactiveml")
    from skactiveml.pool import CoreSet

    features = make_blobs(10, 60, 16, seed=seed, spread=0.5)
    labeled = np.random.default_rng(seed).choice(600, 12, replace=False)
    theirs = CoreSet(random_state=0).query(features.astype(float), labels_for(600, labeled), batch_size=40)
    np.testing.assert_array_equal(query("coreset", pool_of(features, labeled), 40), theirs)


@pytest.mark.filterwarnings("ignore:The maximum purity was -1")  # it looks for a delta among the one it is given
@pytest.mark.parametrize("radius", [0.2, 0.5, 0.9])
def test_each_pick_of_probcover_is_among_the_best_of_scikit_activeml(radius):
    """Given the same delta. Which of several points with equally full balls it takes is random there as here."""
    importlib.import_module("skactiveml")
    from skactiveml.pool import ProbCover

    pool, theirs = pool_of(make_blobs(10, 40, 16, spread=0.5), [7, 70], radius=radius), ProbCover(deltas=[radius])
    labeled = [7, 70]
    for pick in query("probcover", pool, 30):
        _, utilities = theirs.query(pool.points.astype(float), labels_for(400, labeled), return_utilities=True)
        assert utilities[0][pick] == np.nanmax(utilities[0])
        labeled.append(pick)


def given_clusters(assignments):
    """A cluster algorithm, as scikit-activeml takes one, that finds the clusters it is given."""

    class Given:
        def __init__(self, n_clusters):
            assert n_clusters == assignments.max() + 1

        def fit_predict(self, X):
            return assignments

    return Given


@pytest.mark.parametrize("spread", [0.3, 0.6])
def test_delta_is_that_of_scikit_activeml_but_not_on_a_grid(spread):
    """Given the same clusters. It tries deltas 0.2, 0.4 ... up to the first that is not pure enough; here a finer grid.

    Its number of clusters is the number of classes among the labels, at least 2; here it is a setting or the budget.
    """
    importlib.import_module("skactiveml")
    from skactiveml.pool import ProbCover

    pool = pool_of(make_blobs(6, 50, 8, spread=spread), n_classes=6)
    radius, grid = coverage.radius_by_purity(pool, 3), np.arange(0.001, 2, 0.001)
    given = given_clusters(pool.clusters(6).assignments)
    theirs = ProbCover(n_classes=6, deltas=grid, alpha=0.95, cluster_algo=given)
    theirs.query(pool.points.astype(float), labels_for(300, [0]))
    assert theirs.delta_max_ - 1e-4 <= radius <= theirs.delta_max_ + 0.0011


@pytest.mark.parametrize("n_labeled", [0, 3])
def test_typiclust_picks_those_of_scikit_activeml_in_clusters_of_twice_k_and_more(n_labeled):
    """Given the same clusters, plain distances, and neighbours that are sought inside the cluster, without the point itself.

    The definitions differ in clusters of fewer than 2K points, where K becomes size - 1 there and size // 2 here; in clusters of
    five points and fewer, which come last here; in a sum of distances that is larger by 1e-7 there; and once the clusters are used
    up, when a point is random there and the next round of clusters begins here. Of clusters of one size the order is random there.
    """
    importlib.import_module("skactiveml")
    from skactiveml.pool import TypiClust

    sizes = np.arange(40, 60)
    rng = np.random.default_rng(0)
    features = np.repeat(rng.standard_normal((20, 8)), sizes, axis=0) + 0.05 * rng.standard_normal((sizes.sum(), 8))
    pool = pool_of(features, np.arange(n_labeled) * 60)
    assignments = pool.clusters(20).assignments
    assert np.bincount(assignments).min() >= 40
    theirs = TypiClust(cluster_algo=given_clusters(assignments), k=20, random_state=0)
    theirs = theirs.query(pool.points.astype(float), labels_for(len(features), pool.labeled), batch_size=20 - n_labeled)
    ours = query("typiclust", pool, 20 - n_labeled)
    free_clusters = 20 - len(np.unique(assignments[pool.labeled]))
    assert set(ours[:free_clusters]) == set(theirs[:free_clusters])
