"""How well features tell classes apart, without training anything on them."""

import numpy as np
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize


def knn_accuracy(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray, k: int = 20, temperature: float = 0.1
) -> float:
    """Share of test points whose class the k nearest training points tell, weighted by exp(cosine / temperature).

    train (n, d), test (m, d): features; labels: int (n,), (m,). Source: Wu et al. 2018, section 3.4.
    Raises ValueError, scikit-learn's, for features and labels of different lengths and for features that are not finite.
    """

    def weights(distances: np.ndarray) -> np.ndarray:
        return np.exp((distances[:, :1] ** 2 - distances**2) / (2 * temperature))  # relative to the nearest's: never all 0

    voters = KNeighborsClassifier(min(k, len(train)), weights=weights, algorithm="brute").fit(normalize(train), train_labels)
    return float(np.mean(voters.predict(normalize(test)) == test_labels))


def held_out_accuracy(features: np.ndarray, labels: np.ndarray, seed: int) -> float:
    """The same for a tenth of the features (n, d), drawn by the seed, among the others."""
    order = np.random.default_rng(seed).permutation(len(features))
    held_out, rest = np.split(order, [max(1, round(len(order) / 10))])
    return knn_accuracy(features[rest], labels[rest], features[held_out], labels[held_out])
