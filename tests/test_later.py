import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from supclust import active, learners, strategies
from supclust.strategies import later
from tests import reference
from tests.conftest import check_picks, grid, make_blobs
from tests.test_uncertainty import StubModel


def query(name, pool, budget, seed=0):
    return strategies.query(name, pool, budget, np.random.default_rng(seed))


def pool_of(features, labeled=(), classes=3, candidates=None, **changes):
    """A pool with a linear layer trained on its labelled points, the i-th of class i modulo the classes."""
    pool = strategies.Pool(
        np.asarray(features), np.array(labeled, dtype=int), 0, strategies.Settings(**changes), candidates=candidates
    )
    if not len(labeled):
        return pool
    head = learners.fit_linear_head(pool.points[pool.labeled], np.arange(len(labeled)) % classes, classes)
    return pool.with_labeled(pool.labeled, active.Outputs(head, lambda: pool.points, learned=False))


@st.composite
def pools(draw):
    """A pool with a model where it has labels, and a budget."""
    n, d, seed = draw(st.integers(2, 60)), draw(st.integers(1, 6)), draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    features = np.round(rng.standard_normal((n, d)), draw(st.sampled_from([0, 1, 6])))
    labeled = rng.choice(n, draw(st.integers(0, n - 1)), replace=False)
    pool = pool_of(features, labeled, draw(st.integers(1, 4)), radius=draw(st.sampled_from([None, 1e-9, 0.3, 5.0])))
    return pool, draw(st.integers(1, n - len(labeled)))


@given(st.sampled_from(strategies.LATER), pools())
def test_always_the_budget_distinct_and_never_labelled(name, given_pool):
    pool, budget = given_pool
    check_picks(query(name, pool, budget), budget, pool)


@pytest.mark.parametrize("name", strategies.LATER)
@pytest.mark.parametrize(("n_labeled", "seed"), [(0, 0), (9, 1), (30, 2)])
def test_permuting_the_pool_permutes_the_picks(name, n_labeled, seed):
    rng, n_labeled = np.random.default_rng(seed), n_labeled or 3 * (name in strategies.MODEL_BASED)  # whose first batch is random
    features, labeled, order = make_blobs(6, 30, 8, spread=0.5), rng.choice(180, n_labeled, replace=False), rng.permutation(180)
    straight = query(name, pool_of(features, labeled), 8)
    permuted = query(name, pool_of(features[order], np.argsort(order)[labeled]), 8)
    np.testing.assert_array_equal(order[permuted], straight)


@pytest.mark.parametrize("name", strategies.LATER)
@pytest.mark.parametrize("n_labeled", [0, 5, 40])
def test_picks_are_candidates_until_none_is_left(name, n_labeled):
    labeled, candidates = np.arange(n_labeled), np.arange(30, 90)
    picks = query(name, pool_of(make_blobs(6, 30, 8, spread=0.5), labeled, candidates=candidates), 90 - max(30, n_labeled))
    assert set(picks) == set(candidates) - set(labeled)


@pytest.mark.parametrize("name", strategies.LATER)
def test_points_that_are_all_equal_are_picked_at_random(name):
    pool = pool_of(np.ones((200, 16)), [5, 6])
    picks = query(name, pool, 30)
    assert len(set(picks) - {5, 6}) == 30
    if name not in ("tcm", "kmeans-centroid"):  # of equal points these take the first
        assert set(picks) != set(query(name, pool, 30, seed=1))


CASES = grid((2, 20, 90), (2, 32), (0.1, 0.5, 1.0), (0, 1, 20), ("maxherding", "uherding", "balanced-herding"))


@pytest.mark.parametrize(("n", "d", "s", "n_labeled", "name"), CASES)
def test_each_pick_of_the_herding_ones_gains_most_by_the_slow_version(n, d, s, n_labeled, name):
    labeled = np.random.default_rng(n).choice(n, min(n_labeled, n // 2), replace=False)
    pool = pool_of(np.random.default_rng(d).standard_normal((n, d)), labeled, radius=s)
    weights = np.ones(n)
    if name == "uherding" and len(labeled):
        weights = reference.uncertainties(np.exp(pool.model.log_probabilities()))[0]
    if name == "balanced-herding" and len(labeled):
        weights = reference.balancing_weights(np.exp(pool.model.log_probabilities()))
    chosen, kernel = list(labeled), reference.kernel(pool.points, s)
    for pick in query(name, pool, min(6, n - len(labeled))):
        left = np.setdiff1d(np.arange(n), chosen)
        best = max(reference.herding_coverage(kernel, [*chosen, i], weights) for i in left)
        assert reference.herding_coverage(kernel, [*chosen, pick], weights) >= best - 1e-6
        chosen.append(pick)


def test_balanced_herding_gives_a_rare_class_as_much_weight_as_a_common_one(monkeypatch):
    features, asked = np.concatenate([make_blobs(1, 90, 6), 9 + make_blobs(1, 10, 6)]), []
    monkeypatch.setattr(later, "_herd", lambda pool, budget, rng, s, weights: asked.append(weights))
    pool = pool_of(features, [0, 90], classes=2)
    query("balanced-herding", pool, 3)
    predicted = pool.model.head.predict(pool.points)
    assert np.bincount(predicted).tolist() == [90, 10]
    assert asked[0].sum() == pytest.approx(100)
    assert 0.7 < asked[0][predicted == 1].sum() / asked[0][predicted == 0].sum() < 1.4  # with equal weights: a ninth


def test_s_is_one_for_maxherding_and_for_uherding_the_smallest_distance_of_labelled_points_that_are_no_copies(monkeypatch):
    asked, features = [], make_blobs(4, 20, 5, spread=0.6)
    features[1] = features[0]
    monkeypatch.setattr(later, "_herd", lambda pool, budget, rng, s, weights: asked.append(s))
    for name, labeled in itertools.product(("maxherding", "uherding"), ([], [0, 1], [0, 1, 30, 60])):
        query(name, pool_of(features, labeled), 3)
    between = reference.all_distances(pool_of(features).points[[0, 30, 60]])
    assert asked == pytest.approx([1, 1, 1, 1, 1, between[np.triu_indices(3, 1)].min()], abs=1e-9)


def test_in_a_large_pool_the_herding_ones_go_by_a_random_part_that_covers_nearly_as_well(monkeypatch):
    pool = pool_of(make_blobs(10, 40, 16, spread=0.4), np.arange(5))
    kernel, of_all = reference.kernel(pool.points, 1.0), query("maxherding", pool, 10)
    monkeypatch.setattr(later, "HERDED", 120)
    draws = [query("maxherding", pool, 10, seed) for seed in range(5)]
    assert len({tuple(picks) for picks in draws}) == 5
    for picks in draws:
        best, value = (reference.herding_coverage(kernel, [*pool.labeled, *some], np.ones(400)) for some in (of_all, picks))
        assert 0.97 * best < value <= best * 1.001
    assert len(set(query("maxherding", pool, 300))) == 300


@pytest.mark.parametrize("n_labeled", [0, 12])
def test_herding_picks_are_those_of_scikit_activeml(n_labeled):
    """Its kernel is exp(-gamma |x - y|^2), and its mean goes over the unlabelled points; labelled ones gain nothing in ours."""
    from skactiveml.pool import MaxHerding

    labeled = np.random.default_rng(0).choice(300, n_labeled, replace=False)
    pool, y = pool_of(make_blobs(10, 30, 16, spread=0.5), labeled, radius=0.7), np.full(300, np.nan)
    y[labeled] = 0
    theirs = MaxHerding(metric_dict={"gamma": 1 / 0.7**2}, random_state=0).query(pool.points.astype(float), y, batch_size=25)
    np.testing.assert_array_equal(query("maxherding", pool, 25), theirs)


@pytest.mark.parametrize("n_labeled", [0, 7])
def test_kmeans_centroid_takes_the_nearest_to_the_centres_of_the_clusters_of_typiclust(n_labeled):
    pool = pool_of(make_blobs(12, 40, 8), np.arange(n_labeled) * 40)
    clusters = pool.clusters_for(5)
    picks, typical = query("kmeans-centroid", pool, 5), query("typiclust", pool, 5)
    np.testing.assert_array_equal(clusters.assignments[picks], clusters.assignments[typical])
    for pick in picks:
        members = np.flatnonzero(clusters.assignments == clusters.assignments[pick])
        gaps = [math.dist(pool.points[i], clusters.centers[clusters.assignments[pick]]) for i in members]
        assert pick == members[np.argmin(gaps)]


def test_tcm_is_typiclust_for_three_rounds_and_margin_after_them():
    pool, picked = pool_of(make_blobs(12, 40, 8, spread=0.5)), []
    for number in range(5):
        picks = query("tcm", pool, 10)
        np.testing.assert_array_equal(picks, query("typiclust" if number < 3 else "margin", pool, 10))
        pool = pool_of(pool.features, np.concatenate([pool.labeled, picks]))
        picked.append(picks)
    assert len(pool.labeled) == 50
    np.testing.assert_array_equal(query("tcm", pool.with_labeled(pool.labeled), 10), query("typiclust", pool, 10))


class SomeDropout:
    """A head that answers with given classes: first the plain ones, then those of each pass; it keeps what it was asked for."""

    def __init__(self, answers):
        self.answers, self.asked = iter(answers), []

    def predict(self, points):
        self.asked.append(points)
        return next(self.answers)


def given_answers(features, labeled, answers):
    """A pool in whose canonical order a model gives these answers."""
    pool = pool_of(features, labeled)
    head = SomeDropout(np.asarray(answers)[:, pool.normalised.order])
    return pool.with_labeled(labeled, active.Outputs(head, lambda: pool.points, learned=False))


def slow_dropquery(pool, answers, budget):
    """The nearest to each centre of scikit-learn's k-means, of the points that change class in two of three passes."""
    changes = sum(np.asarray(answers[0]) != one for one in answers[1:])
    some = [i for i in range(len(changes)) if changes[i] >= 2 and i not in pool.labeled]
    centers = KMeans(budget, n_init=20, random_state=0).fit(pool.points[some].astype(float)).cluster_centers_
    return {min(some, key=lambda i: math.dist(pool.points[i], center)) for center in centers}


def test_dropquery_picks_the_centres_of_what_changes_class_in_most_passes():
    rng = np.random.default_rng(0)
    features = make_blobs(8, 60, 8, spread=0.1)
    answers = rng.integers(0, 2, (4, 480))
    pool = given_answers(features, np.arange(0, 480, 50), answers)
    assert set(query("dropquery", pool, 8)) == slow_dropquery(pool, answers, 8)
    plain, *dropped = pool.model.head.asked
    np.testing.assert_array_equal(plain, pool.points[pool.normalised.order])
    for points in dropped:
        assert np.mean(points == 0) == pytest.approx(0.75, abs=0.02)
        np.testing.assert_allclose(points[points != 0], 4 * plain[points != 0], rtol=1e-6)


def test_dropquery_picks_those_of_scikit_activeml():
    """Given the clusters, the changes, and clusters whose nearest points are theirs alone."""
    from skactiveml.base import SkactivemlClassifier
    from skactiveml.pool import DropQuery
    from sklearn.base import BaseEstimator

    answers, y = np.random.default_rng(1).integers(0, 2, (4, 480)), np.full(480, np.nan)
    pool = given_answers(make_blobs(8, 60, 8, spread=0.1), np.arange(0, 480, 50), answers)
    y[pool.labeled] = 0
    given = iter(answers[:, np.isnan(y)])

    class Given(SkactivemlClassifier, BaseEstimator):
        def fit(self, X, y, sample_weight=None):
            return self

        def predict_proba(self, X):
            raise NotImplementedError

        def predict(self, X):
            return next(given)

    theirs = DropQuery(n_dropout_samples=3, cluster_algo_dict={"n_init": 20, "random_state": 0}, random_state=0)
    theirs = theirs.query(pool.points.astype(float), y, Given(classes=[0, 1]), fit_clf=False, batch_size=8)
    assert set(query("dropquery", pool, 8)) == set(theirs)


def test_dropquery_takes_what_changes_most_where_too_little_changes_in_most_passes_and_starts_from_centroids():
    answers = np.zeros((4, 100), dtype=int)
    answers[1, :10] = answers[2, :4] = 1
    features = np.random.default_rng(0).standard_normal((100, 4))
    draws = [set(query("dropquery", given_answers(features, [0], answers), 6, seed)) for seed in range(20)]
    assert all({1, 2, 3} <= picks <= set(range(1, 10)) for picks in draws)
    assert len(set(map(frozenset, draws))) > 5
    np.testing.assert_array_equal(query("dropquery", pool_of(features), 6), query("kmeans-centroid", pool_of(features), 6))


@pytest.mark.parametrize(
    ("n", "spread", "copies", "n_labeled", "budget", "seed", "sure"),
    grid((30, 90), (0.2, 0.6, 1.0), (0, 10), (1, 4, 12), (2, 8), range(3), (True, False)),
)
def test_each_pick_of_dcom_has_the_largest_score_of_the_slow_version(monkeypatch, n, spread, copies, n_labeled, budget, seed, sure):
    monkeypatch.setattr(later, "ROWS", (256, 5))
    rng, features = np.random.default_rng(seed), make_blobs(3, n // 3, 6, seed, spread)
    features[:copies] = features[copies : 2 * copies]
    pool, picked = pool_of(features, rng.choice(n, n_labeled, replace=False), candidates=rng.permutation(n)[: n - 5]), []
    probabilities = np.exp(pool.model.log_probabilities())
    if not sure:  # of any point, labelled ones too
        probabilities = 0.2 * np.repeat(np.eye(3), n // 3, axis=0) + 0.8 * rng.dirichlet([10, 10, 10], n)
        pool = pool.with_labeled(pool.labeled, StubModel(np.log(probabilities)))
    for pick in query("dcom", pool, budget, seed):
        scores = reference.dcom_scores(pool.points, probabilities, pool.labeled, picked, pool.free)
        assert scores[pick] >= scores.max() - 1e-9
        picked.append(pick)


@pytest.mark.parametrize(
    ("purity", "angle", "share"), [(0.1, 0.3, 0.4), (0.4, 0.3, 0.4), (0.41, 0.2, 0.5), (0.5, 0.2, 0.5), (0.7, 0.0, 1)]
)
def test_a_pure_ball_of_dcom_ends_where_the_share_of_its_class_is_last_reached(purity, angle, share):
    """On an arc around the first point, on both sides of which lie two of its points and two others, and beyond 1.1 its own."""
    angles, rotation = np.array([0, 0.1, -0.1, 0.2, -0.3, 1.5, 1.6]), np.linalg.qr(np.random.default_rng(0).random((5, 5)))[0]
    points = (np.column_stack([np.cos(angles), np.sin(angles)]) @ rotation[:2]).astype(np.float32)
    classes = np.array([0, 1, 0, 1, 1, 0, 0])
    (radius, _), covered = later._pure_balls(points, classes, np.array([0, 5]), purity)
    assert radius == pytest.approx(2 * math.sin(angle / 2), abs=1e-6)
    assert np.mean(classes[:5][covered[:5]] == 0) == share


def test_dcom_scales_uncertainty_from_the_surest_point_to_the_least_sure_of_the_free_ones():
    """Balls of the labelled points cover 0.8 of the pool: S is 1/2, and 0.4 / 2 + 7/7 / 2 is less than 1 / 2 + 3/7 / 2."""
    cluster, labeled = np.repeat(np.arange(6), [10, 10, 10, 10, 7, 3]), [0, 10, 20, 30]
    uncertain = np.array([0.2, 0.2, 0.2, 0.2, 0.36, 0.6])[cluster]
    uncertain[labeled[0]] = 0.99
    probabilities = (1 - uncertain[:, None] / 2) * np.eye(6)[cluster] + uncertain[:, None] / 2 * np.eye(6)[cluster - 1]
    pool = pool_of(np.eye(6)[cluster]).with_labeled(labeled, StubModel(np.log(probabilities + 1e-30)))
    assert cluster[query("dcom", pool, 1)] == [5]


@pytest.mark.parametrize("changes", [{}, {"radius": 0.4}, {"ball_share": 0.1}, {"n_classes": 5}])
@pytest.mark.parametrize("labeled", [[], [3, 50, 80]])
def test_dcom_without_a_model_is_probcover(labeled, changes):
    pool = pool_of(make_blobs(6, 20, 8, spread=0.5), labeled, **changes).with_labeled(labeled)
    np.testing.assert_array_equal(query("dcom", pool, 9), query("probcover", pool, 9))


@pytest.mark.parametrize("spread", [0, 0.01])
def test_where_much_is_not_covered_dcom_goes_by_a_random_part_of_it(monkeypatch, spread):
    """Of twelve clusters apart, in two of which points are labelled, it takes others, the largest first, and each once."""
    sizes, rng = np.arange(12, 0, -1) * 20, np.random.default_rng(0)
    features = np.repeat(np.linalg.qr(rng.standard_normal((12, 12)))[0], sizes, axis=0)
    features += spread * rng.standard_normal(features.shape)
    pool, cluster = pool_of(features, [0, 300], classes=2), np.repeat(np.arange(12), sizes)
    exact = query("dcom", pool, 10)
    assert cluster[exact].tolist() == list(range(2, 12))
    monkeypatch.setattr(later, "HERDED", 400)
    draws = [query("dcom", pool, 5, seed) for seed in range(5)]
    assert len({tuple(cluster[picks]) for picks in draws}) > 1
    for picks in draws:
        assert len(set(cluster[picks])) == 5
        assert cluster[picks].min() >= 2
        assert cluster[picks].max() <= 8


def test_badge_starts_at_the_longest_gradient_and_draws_by_squared_distances():
    """A thousand draws of the next two picks: shares of points come within five standard errors of the slow version's."""
    pool = pool_of(make_blobs(3, 6, 4, spread=0.6), [0, 6, 12])
    gradients = reference.last_layer_gradients(np.exp(pool.model.log_probabilities()), pool.points)
    draws = [query("badge", pool, 3, seed) for seed in range(1000)]
    free = np.setdiff1d(np.arange(18), pool.labeled)
    [first] = {picks[0] for picks in draws}
    assert first == free[np.argmax([math.hypot(*gradients[i]) for i in free])]
    squares = np.array([math.dist(one, gradients[first]) ** 2 if i in free else 0 for i, one in enumerate(gradients)])
    shares, expected = np.bincount([picks[1] for picks in draws], minlength=18) / 1000, squares / squares.sum()
    assert (np.abs(shares - expected) <= 5 * np.sqrt(expected / 1000)).all()
    second = np.bincount([picks[1] for picks in draws]).argmax()
    thirds = [picks[2] for picks in draws if picks[1] == second]
    squares = np.minimum(squares, [math.dist(one, gradients[second]) ** 2 for one in gradients])
    shares, expected = np.bincount(thirds, minlength=18) / len(thirds), squares / squares.sum()
    assert (np.abs(shares - expected) <= 5 * np.sqrt(expected / len(thirds))).all()


def test_badge_weights_are_those_of_scikit_activeml_but_for_the_origin():
    """Theirs are squared distances to the nearest pick or the origin, whichever is nearer; the first picks are the same."""
    from skactiveml.base import SkactivemlClassifier
    from skactiveml.pool import Badge
    from sklearn.base import BaseEstimator

    pool, y = pool_of(make_blobs(5, 20, 6, spread=0.6), np.arange(0, 100, 10)), np.full(100, np.nan)
    y[pool.labeled] = 0

    class Given(SkactivemlClassifier, BaseEstimator):
        def fit(self, X, y, sample_weight=None):
            return self

        def predict_proba(self, X):
            return np.exp(pool.model.head.log_probabilities(X))

    options = {"fit_clf": False, "batch_size": 2, "return_utilities": True}
    theirs, utilities = Badge(random_state=0).query(pool.points, y, Given(classes=[0, 1, 2]), **options)
    assert query("badge", pool, 2)[0] == theirs[0]
    gradients = reference.last_layer_gradients(np.exp(pool.model.log_probabilities()), pool.points)
    squares = np.minimum((gradients**2).sum(axis=1), ((gradients - gradients[theirs[0]]) ** 2).sum(axis=1))[np.isnan(y)]
    np.testing.assert_allclose(np.nan_to_num(utilities[1][np.isnan(y)]), squares / squares.sum(), atol=1e-6)
