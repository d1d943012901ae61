"""Slow, obvious float64 versions of the paper's equations, to test the fast ones against."""

import math

import numpy as np


def typicality(points, n_neighbors=20):
    """Eq. 1, one point at a time."""
    points = np.asarray(points, dtype=float)
    k = max(1, min(n_neighbors, len(points) // 2))
    result = []
    for i, x in enumerate(points):
        others = sorted(math.dist(x, other) for j, other in enumerate(points) if j != i)
        result.append(1 / (sum(others[:k]) / k))
    return np.array(result)


def cluster_weights(centers, temperature):
    """Eq. 2, one pair at a time."""
    centers = np.asarray(centers, dtype=float)
    weights = np.zeros((len(centers), len(centers)))
    for i, a in enumerate(centers):
        logits = {j: -math.dist(a, b) / temperature for j, b in enumerate(centers) if j != i}
        top = max(logits.values())
        total = sum(math.exp(logit - top) for logit in logits.values())
        for j, logit in logits.items():
            weights[i, j] = math.exp(logit - top) / total
    return weights


def sup(points, assignments, centers, temperature):
    """Eq. 3, one point at a time."""
    weights = cluster_weights(centers, temperature)
    return np.array(
        [
            -sum(weights[i, j] * math.dist(x, c) for j, c in enumerate(np.asarray(centers, dtype=float)) if j != i)
            for x, i in zip(np.asarray(points, dtype=float), assignments, strict=True)
        ]
    )


def select_given_clusters(points, assignments, centers, budget, temperature, labeled=(), top_fraction=0.1):
    """SUPClust's picks while enough clusters of more than five points are without a label, from the paper's text."""
    covered = {int(assignments[i]) for i in labeled}
    members = {k: np.flatnonzero(np.asarray(assignments) == k) for k in range(len(centers))}
    open_clusters = [k for k in members if k not in covered and len(members[k]) > 5]
    assert len(open_clusters) >= budget
    queried = sorted(open_clusters, key=lambda k: (-len(members[k]), k))[:budget]
    scores, picks = sup(points, assignments, centers, temperature), []
    for k in queried:
        typical = typicality(np.asarray(points)[members[k]])
        keep = math.ceil(len(members[k]) * round(top_fraction * 1000) / 1000 - 1e-9)
        candidates = members[k][np.argsort(-typical, kind="stable")[:keep]]
        picks.append(int(candidates[np.argmax(scores[candidates])]))
    return picks
