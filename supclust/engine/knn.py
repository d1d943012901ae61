"""How well features tell classes apart, without training anything on them."""

from __future__ import annotations

import numpy as np
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize


def knn_accuracy(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray, k: int = 20, temperature: float = 0.1
) -> float:
    """Share of test points whose class the k nearest training points tell, weighted by exp(cosine / temperature).

    train (n, d), test (m, d): features; labels: int (n,), (m,). Source: Wu et al. 2018, section 3.4.
    Raises ValueError for features and labels of different lengths and for features that are not finite.
    """
    for name, features, labels in (("train", train, train_labels), ("test", test, test_labels)):
        if features.ndim != 2 or len(features) == 0 or len(features) != len(labels):
            raise ValueError(f"{name}: features {features.shape} do not go with labels {np.shape(labels)}")
        if len(bad := np.flatnonzero(~np.isfinite(features).all(axis=1))):
            raise ValueError(f"{name}: features are NaN or infinite in {len(bad)} rows, the first {bad[:5].tolist()}")

    def weights(distances: np.ndarray) -> np.ndarray:
        return np.exp((distances[:, :1] ** 2 - distances**2) / (2 * temperature))  # relative to the nearest's: never all 0

    voters = KNeighborsClassifier(min(k, len(train)), weights=weights, algorithm="brute").fit(normalize(train), train_labels)
    return float(np.mean(voters.predict(normalize(test)) == test_labels))
