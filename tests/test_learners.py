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
