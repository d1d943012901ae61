"""What SSL trains on the labelled images: a linear layer on frozen features."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from supclust.engine.geometry import slices

DROPOUT, DROPOUT_PASSES = 0.5, 25  # before the last layer; passes of BALD and DBAL
ROWS_PER_BLOCK = 1024  # whose features and probabilities stay in a core's cache


@dataclass(frozen=True)
class LinearHead:
    """A linear layer: weights (C, d), biases (C,), of which classes that were never labelled have a bias of -inf."""

    weights: np.ndarray
    biases: np.ndarray

    def predict(self, points: np.ndarray) -> np.ndarray:
        """Class of each point (n, d), as int64 (n,)."""
        return (points @ self.weights.T + self.biases).argmax(axis=1)

    def log_probabilities(self, points: np.ndarray) -> np.ndarray:
        """Logarithms of the class probabilities of points (n, d), (n, C) float64; -inf for classes that were never labelled."""
        return log_softmax(points @ self.weights.T + self.biases, axis=1)

    def dropout_log_probabilities(self, points: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Log-probabilities (n, C) of forward passes, one by one; each drops entries with probability DROPOUT and scales the rest.

        Dropout stands before the last layer only (Gal et al. 2017), so what comes before it is computed once.
        """
        (n, d), weights = points.shape, self.weights.T.astype(points.dtype)
        for _ in range(DROPOUT_PASSES):
            logs = np.empty((n, len(self.biases)))
            for block in slices(n, ROWS_PER_BLOCK):
                coins = rng.integers(256, size=(block.stop - block.start, -(-d // 8)), dtype=np.uint8)  # eight in each byte
                logits = (points[block] * np.unpackbits(coins, axis=1, count=d).view(bool)) @ weights
                logs[block] = log_softmax(logits.astype(float) / (1 - DROPOUT) + self.biases, axis=1)
            yield logs


def fit_linear_head(points: np.ndarray, labels: np.ndarray, n_classes: int, weight_decay: float = 3e-4) -> LinearHead:
    """Softmax regression on points (l, d) with labels (l,) in 0..n_classes-1, trained to convergence by L-BFGS.

    The loss is the mean cross-entropy plus weight_decay / 2 times the squared weights, what SGD with that weight decay (the
    paper's) converges to. A class without a labelled point is never predicted.
    """
    weights, biases = np.zeros((n_classes, points.shape[1])), np.full(n_classes, -np.inf)
    present = np.unique(labels)
    if len(present) == 1:
        biases[present] = 0
        return LinearHead(weights, biases)
    # Of two classes scikit-learn fits the difference w of their weights, w / 2 and -w / 2 here, whose penalty is half of w's.
    strength = weight_decay * len(points) / (2 if len(present) == 2 else 1)
    model = LogisticRegression(C=1 / strength, max_iter=2000, tol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%")  # as it is with one label a class
        model.fit(points.astype(float), labels)
    halves = np.array([[-0.5], [0.5]]) if len(present) == 2 else 1
    weights[present], biases[present] = halves * model.coef_, np.ravel(halves * model.intercept_)
    return LinearHead(weights, biases)
