"""What is trained on the labelled images: in the SSL framework, one linear layer on frozen features."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

WEIGHT_DECAY = 3e-4  # as in the paper's networks


@dataclass(frozen=True)
class LinearHead:
    """A linear layer: weights (C, d), biases (C,), of which classes that were never labelled have a bias of -inf."""

    weights: np.ndarray
    biases: np.ndarray

    def predict(self, points: np.ndarray) -> np.ndarray:
        """Class of each point (n, d), as int64 (n,)."""
        return (points @ self.weights.T + self.biases).argmax(axis=1)


def fit_linear_head(points: np.ndarray, labels: np.ndarray, n_classes: int, weight_decay: float = WEIGHT_DECAY) -> LinearHead:
    """Softmax regression on points (l, d) with labels (l,) in 0..n_classes-1, trained to convergence by L-BFGS.

    The loss is the mean cross-entropy plus weight_decay / 2 times the squared weights, what SGD with that weight decay converges
    to. A class without a labelled point is never predicted.
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
        model.fit(points.astype(float), labels)
    if len(present) == 2:
        weights[present] = np.concatenate([-model.coef_, model.coef_]) / 2
        biases[present] = np.concatenate([-model.intercept_, model.intercept_]) / 2
    else:
        weights[present], biases[present] = model.coef_, model.intercept_
    return LinearHead(weights, biases)
