"""The linear layer against a slow fit, and its dropout."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax

from supclust import learners


def slow_fit(points, labels, n_classes, weight_decay):
    """The same loss in plain numpy, minimised without a gradient of our own."""
    n, d = points.shape

    def loss(flat):
        weights, biases = flat[: n_classes * d].reshape(n_classes, d), flat[n_classes * d :]
        logits = log_softmax(points @ weights.T + biases, axis=1)
        return -logits[np.arange(n), labels].mean() + weight_decay / 2 * (weights**2).sum()

    flat = minimize(loss, np.zeros(n_classes * (d + 1)), options={"gtol": 1e-7, "maxiter": 5000}).x
    return flat[: n_classes * d].reshape(n_classes, d)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("weight_decay", [1e-2, 1e-1])
def test_linear_head_minimises_the_documented_loss(n_classes, weight_decay):
    rng = np.random.default_rng(n_classes)
    points, labels = rng.standard_normal((20, 3)), np.arange(20) % n_classes
    head = learners.fit_linear_head(points, labels, n_classes, weight_decay)
    weights = slow_fit(points, labels, n_classes, weight_decay)
    np.testing.assert_allclose(head.weights - head.weights.mean(axis=0), weights - weights.mean(axis=0), atol=2e-3)


def test_linear_head_separates_what_is_separable(blobs):
    labels = np.repeat(np.arange(12), 40)
    head = learners.fit_linear_head(blobs[::5], labels[::5], 12)
    assert (head.predict(blobs) == labels).mean() > 0.99


@pytest.mark.parametrize("present", [[3], [1, 4], [0, 2, 5]])
def test_classes_that_were_never_labelled_are_never_predicted(blobs, present):
    labels = np.array(present)[np.arange(60) % len(present)]
    head = learners.fit_linear_head(blobs[:60], labels, 6)
    assert set(head.predict(blobs)) <= set(present)
    assert len(present) == 1 or (head.predict(blobs[:60]) == labels).mean() > 1 / len(present)


def test_log_probabilities_are_those_of_the_softmax_and_know_what_was_never_labelled(blobs):
    head = learners.fit_linear_head(blobs[:120], np.arange(120) // 40, 5)
    logp = head.log_probabilities(blobs)
    np.testing.assert_allclose(np.exp(logp).sum(axis=1), 1)
    np.testing.assert_array_equal(logp.argmax(axis=1), head.predict(blobs))
    assert np.isneginf(logp[:, 3:]).all()
    assert np.isfinite(logp[:, :3]).all()


def test_dropout_drops_half_of_the_entries_before_the_last_layer(monkeypatch):
    """With weights that tell which entries were kept, each pass shows its mask: fair coins, independent, scaled by two."""
    d, n, passes = 12, 4000, 3
    monkeypatch.setattr(learners, "DROPOUT_PASSES", passes)
    weights = np.stack([2.0 ** np.arange(d), np.zeros(d)])
    head = learners.LinearHead(weights, np.zeros(2))
    logps = list(head.dropout_log_probabilities(np.ones((n, d)), np.random.default_rng(0)))
    codes = [np.rint((logp[:, 0] - logp[:, 1]) / 2).astype(int) for logp in logps]
    kept = np.array([(code[:, None] >> np.arange(d)) & 1 for code in codes])
    assert kept.shape == (passes, n, d)
    assert abs(kept.mean(axis=(0, 1)) - 0.5).max() < 5 * 0.5 / np.sqrt(passes * n)
    assert abs(np.corrcoef(kept.reshape(-1, d).T) - np.eye(d)).max() < 5 / np.sqrt(passes * n)
    assert len(np.unique(codes)) > 2000


@pytest.mark.parametrize("d", [1, 7, 8, 9, 256])
def test_dropout_has_one_coin_for_each_entry_whatever_their_number(d):
    head = learners.LinearHead(np.ones((3, d)), np.zeros(3))
    passes = list(head.dropout_log_probabilities(np.ones((5, d), np.float32), np.random.default_rng(0)))
    assert len(passes) == learners.DROPOUT_PASSES
    assert all(logp.shape == (5, 3) for logp in passes)
