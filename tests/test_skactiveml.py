"""SupClust against the contract of scikit-activeml's query strategies, and the loop that docs/python.md shows."""

import inspect
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest

pytest.importorskip("skactiveml")

from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from skactiveml.exceptions import MappingError
from skactiveml.pool import SubSamplingWrapper
from sklearn.base import clone

import supclust
from supclust import kept
from supclust.skactiveml import SupClust
from tests.conftest import make_blobs


def labels_of(n, labeled=()):
    """NaN but for the labelled ones."""
    y = np.full(n, np.nan)
    y[list(labeled)] = 1
    return y


def test_the_constructor_stores_its_arguments_and_nothing_else_and_has_the_defaults_of_select():
    defaults = SupClust().get_params()
    assert np.isnan(defaults["missing_label"])
    same = inspect.signature(supclust.select).parameters
    assert all(defaults[name] == same[name].default for name in ("temperature", "top_fraction", "n_neighbors", "max_clusters"))
    given_parameters = {name: object() for name in defaults}
    strategy = SupClust(**given_parameters)
    assert vars(strategy) == given_parameters
    assert clone(SupClust(random_state=3, top_fraction=0.5)).get_params() == pytest.approx(
        defaults | {"random_state": 3, "top_fraction": 0.5}, nan_ok=True
    )


@st.composite
def queries(draw):
    """Features (n, d), labelled indices, candidates or None, a batch size, and settings."""
    n, seed = draw(st.integers(4, 90)), draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    labeled = rng.choice(n, draw(st.integers(0, n // 3)), replace=False)
    unlabeled = np.setdiff1d(np.arange(n), labeled)
    some = rng.choice(unlabeled, draw(st.integers(1, len(unlabeled))), replace=False)
    candidates = some if draw(st.booleans()) else None
    batch_size = draw(st.integers(1, min(12, len(unlabeled if candidates is None else some))))
    features = np.round(rng.standard_normal((n, 4)), draw(st.sampled_from([0, 6])))
    changes = {"max_clusters": draw(st.sampled_from([1, 3, 500, None])), "top_fraction": draw(st.sampled_from([0.1, 0.5, 1.0]))}
    return features, labeled, candidates, batch_size, changes, seed


@given(queries())
@settings(deadline=None)
def test_picks_are_those_of_select_and_utilities_are_largest_at_them(query):
    features, labeled, candidates, batch_size, changes, seed = query
    strategy, n = SupClust(random_state=seed, **changes), len(features)
    picks, utilities = strategy.query(features, labels_of(n, labeled), candidates, batch_size, return_utilities=True)
    assert picks.dtype == np.array([], dtype=int).dtype
    np.testing.assert_array_equal(
        picks, supclust.select(features, batch_size, labeled, candidates=candidates, seed=seed, **changes)
    )
    np.testing.assert_array_equal(picks, strategy.query(features, labels_of(n, labeled), candidates, batch_size))
    assert utilities.shape == (batch_size, n)
    assert utilities.dtype == float
    left = set(range(n) if candidates is None else candidates) - set(labeled)
    for pick, row in zip(picks, utilities, strict=True):
        assert set(np.flatnonzero(~np.isnan(row))) == left
        assert np.isfinite(row[pick])
        assert row[pick] == np.nanmax(row)
        left.remove(pick)


def test_utilities_are_sup_of_the_most_typical_tenth_of_the_queried_cluster(blobs):
    picks, utilities = SupClust(random_state=0).query(blobs, labels_of(480), batch_size=12, return_utilities=True)
    _, details = supclust.select(blobs, 12, return_details=True)
    for pick, row in zip(picks, utilities, strict=True):
        members = np.flatnonzero(details.assignments == details.assignments[pick])
        top = members[np.argsort(-details.typicality[members])][:4]
        assert set(np.flatnonzero(np.isfinite(row))) == set(top)
        np.testing.assert_allclose(row[top], details.sup[top])
        assert np.nanargmax(row) == pick


def test_with_one_cluster_utilities_are_typicality(blobs):
    [pick], [row] = SupClust(random_state=0).query(blobs, labels_of(480), return_utilities=True)
    np.testing.assert_allclose(row, supclust.typicality(blobs / np.linalg.norm(blobs, axis=1, keepdims=True)), rtol=1e-4)
    assert row.argmax() == pick


def test_copies_of_one_sample_are_queried_once_each_with_finite_utilities():
    for batch_size in (1, 4):
        picks, utilities = SupClust(random_state=0).query(np.ones((9, 3)), labels_of(9), None, batch_size, return_utilities=True)
        assert len(set(picks)) == batch_size
        assert np.isfinite(utilities[range(batch_size), picks]).all()


def test_a_batch_larger_than_what_is_unlabelled_is_cut_with_a_warning(blobs):
    with pytest.warns(UserWarning, match="'batch_size=9' is larger"):
        picks, utilities = SupClust(random_state=0).query(blobs, labels_of(480, range(475)), None, 9, return_utilities=True)
    assert sorted(picks) == [475, 476, 477, 478, 479]
    assert utilities.shape == (5, 480)
    with pytest.warns(UserWarning, match="'batch_size=3' was set"):
        assert set(SupClust(random_state=0).query(blobs, labels_of(480), [3, 7, 11], 4)) == {3, 7, 11}


def test_labelled_candidates_are_not_queried_again(blobs):
    y = labels_of(480, [3, 7])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(SupClust(random_state=0).query(blobs, y, [3, 7, 11, 12], 2)) == {11, 12}
    with pytest.warns(UserWarning, match="'batch_size=3' is larger than the number of unlabeled candidates"):
        assert set(SupClust(random_state=0).query(blobs, y, [3, 7, 11, 12], 3)) == {11, 12}


def test_where_all_is_labelled_nothing_is_queried(blobs):
    with pytest.warns(UserWarning, match="'batch_size=0' was set"):
        picks, utilities = SupClust().query(blobs, np.zeros(480), return_utilities=True)
    assert picks.shape == (0,)
    assert picks.dtype == int
    assert utilities.shape == (0, 480)


def test_candidates_may_count_from_the_end_but_not_be_feature_vectors(blobs):
    assert set(SupClust(random_state=0).query(blobs, labels_of(480), [-1, 479, 3], 2)) == {3, 479}
    with pytest.raises(MappingError):
        SupClust().query(blobs, labels_of(480), candidates=blobs[:5])
    with pytest.raises(ValueError, match="480"):
        SupClust().query(blobs, labels_of(480), candidates=[480])


def test_random_states_are_left_as_they_are_and_repeat_the_query():
    features, y = np.random.default_rng(0).standard_normal((200, 4)), labels_of(200)
    state = np.random.RandomState(5)
    strategy, before = SupClust(random_state=state), state.get_state()[1].copy()
    first = strategy.query(features, y, batch_size=10)
    np.testing.assert_array_equal(strategy.query(features, y, batch_size=10), first)
    np.testing.assert_array_equal(SupClust(random_state=np.random.RandomState(5)).query(features, y, batch_size=10), first)
    np.testing.assert_array_equal(state.get_state()[1], before)
    assert strategy.random_state is state
    others = [SupClust(random_state=np.random.RandomState(seed)).query(features, y, batch_size=10) for seed in (6, 7)]
    assert any(set(first) != set(other) for other in others)


def test_without_a_random_state_numpys_own_is_drawn_from():
    features, y, strategy = np.random.default_rng(0).standard_normal((200, 4)), labels_of(200), SupClust()
    batches = set()
    for _ in range(4):
        np.random.seed(1)  # noqa: NPY002 -- what the library draws from
        repeated = [tuple(strategy.query(features, y, batch_size=10)) for _ in range(2)]
        batches.add(tuple(repeated))
    assert len(batches) == 1
    assert repeated[0] != repeated[1]


@pytest.mark.parametrize(
    ("y", "missing_label"),
    [
        (["cat", "dog", "nan", "nan", "nan", "nan"], "nan"),
        (np.array(["cat", "dog", None, None, None, None], dtype=object), None),
        (np.array([4, 7, None, None, None, None], dtype=object), None),
        ([0, 1, -1, -1, -1, -1], -1),
        ([0.0, 1.0, np.nan, np.nan, np.nan, np.nan], np.nan),
        (np.array([[0], [1], [-1], [-1], [-1], [-1]]), -1),
    ],
)
@pytest.mark.filterwarnings("ignore:A column-vector y")
def test_missing_labels_are_the_librarys(y, missing_label):
    features = make_blobs(3, 2, 4).tolist()
    picks, utilities = SupClust(missing_label, random_state=0).query(features, y, batch_size=4, return_utilities=True)
    assert sorted(picks) == [2, 3, 4, 5]
    assert np.isnan(utilities[0]).tolist() == [True, True, False, False, False, False]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"top_fraction": None}, "top_fraction must lie in"),
        ({"n_neighbors": 2.5}, "n_neighbors must be a whole number"),
        ({"max_clusters": 0}, "max_clusters must be a whole number"),
        ({"random_state": "state"}, "'state' cannot be used"),
        ({"random_state": -1}, "Seed must be"),
    ],
)
def test_wrong_settings_are_refused_when_queried(blobs, setting, message):
    with pytest.raises(ValueError, match=message):
        SupClust(**setting).query(blobs, labels_of(480))


def test_a_missing_label_of_another_type_is_refused_with_the_librarys_error(blobs):
    with pytest.raises(TypeError):
        SupClust(missing_label="nan").query(blobs, labels_of(480))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"X": np.full((4, 2), np.nan)}, ValueError, "NaN"),
        ({"X": np.full((4, 2), 1e300)}, ValueError, "too large for float32"),
        ({"X": np.ones(4)}, ValueError, "2D array"),
        ({"X": np.ones((4, 2, 2))}, ValueError, "2-d"),
        ({"X": np.ones((5, 2))}, ValueError, "inconsistent"),
        ({"X": sparse.eye_array(4)}, TypeError, "[Ss]parse"),
        ({"y": np.full((4, 2), np.nan)}, ValueError, "1d"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"batch_size": 1.5}, TypeError, "batch_size"),
        ({"return_utilities": "yes"}, TypeError, "return_utilities"),
        ({"candidates": []}, ValueError, "minimum of 1"),
    ],
)
def test_wrong_queries_are_refused_with_the_librarys_errors(changes, error, message):
    with pytest.raises(error, match=message):
        SupClust().query(**{"X": np.eye(4), "y": labels_of(4)} | changes)


@pytest.mark.parametrize("exclude", [False, True])
def test_the_librarys_subsampling_goes_around_it(blobs, exclude):
    wrapper = SubSamplingWrapper(SupClust(random_state=0), max_candidates=50, exclude_non_subsample=exclude, random_state=0)
    picks, utilities = wrapper.query(blobs, labels_of(480, range(5)), batch_size=6, return_utilities=True)
    assert len(set(picks)) == 6
    assert picks.min() >= 5
    assert np.isfinite(utilities[range(6), picks]).all()


def test_the_loop_of_the_docs_runs(capsys):
    page = (kept.REPOSITORY / "docs" / "python.md").read_text(encoding="utf-8")
    [loop] = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "supclust.skactiveml" in block]
    assert len(loop.splitlines()) <= 14
    features, labels = make_blobs(10, 30, 16, spread=0.2), np.repeat(np.arange(10), 30)
    world = {"features": features, "labels": labels}
    exec(loop, world)
    assert np.count_nonzero(~np.isnan(world["y"])) == 60
    assert float(capsys.readouterr().out) > 0.95


ALONE = """
import sys
sys.modules["skactiveml"] = None
import supclust, supclust.strategies, supclust.method
try:
    import supclust.skactiveml
except ImportError as error:
    assert "needs scikit-activeml: pip install supclust[skactiveml]" in str(error), error
else:
    raise AssertionError
"""


def test_without_the_library_only_this_module_is_missing_and_says_what_to_install():
    subprocess.run([sys.executable, "-c", ALONE], check=True, cwd=kept.REPOSITORY)
