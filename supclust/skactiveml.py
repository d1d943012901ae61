"""SUPClust as a query strategy of scikit-activeml, for its pool loops; needs that library, which nothing else here does."""

import numbers
import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from supclust import method, strategies
from supclust.pool import Clusters

try:
    from skactiveml.base import SingleAnnotatorPoolQueryStrategy
    from skactiveml.utils import MISSING_LABEL, labeled_indices
except ImportError as error:
    raise ImportError("supclust.skactiveml needs scikit-activeml: pip install supclust[skactiveml]") from error

__all__ = ["SupClust"]


class SupClust(SingleAnnotatorPoolQueryStrategy):
    """SUPClust

    Clusters all samples, L2-normalised, into as many clusters as there are labels and samples to query, and queries, in each of the
    largest clusters without a label, of the most typical samples the one that lies nearest to other clusters [1]_.

    Parameters
    ----------
    missing_label : scalar or string or np.nan or None, default=np.nan
        Value to represent a missing label.
    random_state : None or int or np.random.RandomState, default=None
        The random state of k-means. With an int, the queried samples are those of `supclust.select(..., seed=random_state)`.
    temperature : None or float, default=None
        T of the weights between clusters, in units of distance between normalised samples. If `None`, it is a tenth of the mean
        distance between the cluster centers.
    top_fraction : float, default=0.1
        Share of the candidates of a cluster, the most typical ones, among which one is queried.
    n_neighbors : int, default=20
        Number of neighbors for the computation of typicality.
    max_clusters : None or int, default=500
        Largest number of clusters. If `None`, there is no limit.

    References
    ----------
    .. [1] Y. Ono, T. Aczel, B. Estermann, and R. Wattenhofer. SUPClust: Active Learning at the Boundaries. arXiv:2403.03741, 2024.
    """

    def __init__(
        self,
        missing_label: Any = MISSING_LABEL,
        random_state: int | np.random.RandomState | None = None,
        temperature: float | None = None,
        top_fraction: float = 0.1,
        n_neighbors: int = 20,
        max_clusters: int | None = 500,
    ) -> None:
        super().__init__(missing_label=missing_label, random_state=random_state)
        self.temperature = temperature
        self.top_fraction = top_fraction
        self.n_neighbors = n_neighbors
        self.max_clusters = max_clusters

    def query(
        self, X: ArrayLike, y: ArrayLike, candidates: ArrayLike | None = None, batch_size: int = 1, return_utilities: bool = False
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Determines for which candidate samples labels are to be queried.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training data set, including the labeled and unlabeled samples.
        y : array-like of shape (n_samples,)
            Labels of the training data set (unlabeled ones are indicated by `self.missing_label`).
        candidates : None or array-like of shape (n_candidates,), dtype=int, default=None
            - If `candidates` is `None`, the unlabeled samples from `(X, y)` are considered as `candidates`.
            - If `candidates` is of shape `(n_candidates,)` and of type `int`, it is considered as the indices of the samples in
              `(X, y)`. Labeled ones among them are not queried again.
        batch_size : int, default=1
            The number of samples to be selected in one AL cycle.
        return_utilities : bool, default=False
            If `True`, also return the utilities based on the query strategy.

        Returns
        -------
        query_indices : numpy.ndarray of shape (batch_size,)
            The indices, in `X`, of the samples whose labels are to be queried.
        utilities : numpy.ndarray of shape (batch_size, n_samples)
            `utilities[i]` is what `query_indices[i]` was selected by, of whose maximum it has the index: SUP of the most typical
            candidates of the queried cluster (with one cluster only, where there is no SUP, typicality of all candidates), -np.inf
            for other candidates, and np.nan for samples that are labeled, no candidates or selected before. Copies of a sample tie.
        """
        X, y, candidates, batch_size, return_utilities = self._validate_data(X, y, candidates, batch_size, return_utilities)
        _, mapping = self._transform_candidates(candidates, X, y, enforce_mapping=True)
        settings = strategies.Settings(self.n_neighbors, self.max_clusters, self.top_fraction, self.temperature)
        labeled = labeled_indices(y, missing_label=self.missing_label_)
        given = isinstance(self.random_state, numbers.Integral)  # an int as it is, as their strategies give it to k-means
        seed = int(self.random_state if given else self.random_state_.randint(2**31 - 1))
        candidates = np.unique(np.arange(len(X))[mapping])  # theirs may be negative
        pool = strategies.Pool(X, labeled, seed, settings, candidates=candidates)
        if (n := min(batch_size, np.count_nonzero(pool.free))) < batch_size:  # theirs counts candidates that are labeled, too
            larger = f"'batch_size={batch_size}' is larger than the number of unlabeled candidates."
            warnings.warn(f"{larger} Instead, 'batch_size={n}' was set.", stacklevel=2)
        compared = []

        def choose(clusters: Clusters, cluster: int, free: np.ndarray) -> int:
            compared.append(method.supclust_scores(pool, clusters, cluster, free))
            return compared[-1][0][np.argmax(compared[-1][1])]

        query_indices = method.query_clusters(pool, n, choose) if n else np.empty(0, dtype=int)
        if not return_utilities:
            return query_indices
        utilities, free = np.full((n, len(X)), np.nan), pool.free
        for row, pick, (points, scores) in zip(utilities, query_indices, compared, strict=True):
            row[free] = -np.inf
            row[points] = np.nan_to_num(scores)  # typicality of copies is infinite
            free[pick] = False
        return query_indices, utilities
