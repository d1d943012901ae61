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


def select_given_clusters(points, assignments, centers, budget, temperature, labeled=(), top_fraction=0.1, candidates=None):
    """SUPClust's picks while enough clusters of more than five points are without a label, from the paper's text.

    candidates: the points that may be picked; clusters without any are passed over.
    """
    candidates = range(len(points)) if candidates is None else candidates
    covered = {int(assignments[i]) for i in labeled}
    members = {k: np.flatnonzero(np.asarray(assignments) == k) for k in range(len(centers))}
    open_clusters = [k for k in members if k not in covered and len(members[k]) > 5 and set(members[k]) & set(candidates)]
    assert len(open_clusters) >= budget
    queried = sorted(open_clusters, key=lambda k: (-len(members[k]), k))[:budget]
    scores, picks = sup(points, assignments, centers, temperature), []
    for k in queried:
        typical = typicality(np.asarray(points)[members[k]])
        ranked = [i for i in members[k][np.argsort(-typical, kind="stable")] if i in candidates]
        top = ranked[: math.ceil(len(ranked) * round(top_fraction * 1000) / 1000 - 1e-9)]
        picks.append(int(top[np.argmax(scores[top])]))
    return picks


def uncertainties(probabilities):
    """One minus margin, one minus the largest probability, and entropy, one point at a time."""
    result = []
    for row in np.asarray(probabilities, dtype=float):
        first, second = sorted([*row, 0.0], reverse=True)[:2]
        result.append((1 - (first - second), 1 - first, -sum(p * math.log(p) for p in row if p > 0)))
    return tuple(np.array(result).T)


def bald(probabilities):
    """Mutual information of class and model, and entropy of the mean, from probabilities (passes, n, C)."""
    mean = np.mean(probabilities, axis=0)
    of_mean = uncertainties(mean)[2]
    return of_mean - np.mean([uncertainties(one)[2] for one in probabilities], axis=0), of_mean


def all_distances(points):
    """Between every two of the points, (n, n)."""
    points = np.asarray(points, dtype=float)
    return np.array([[math.dist(a, b) for b in points] for a in points])


def coreset(points, labeled, budget):
    """Greedy k-centre from the labelled points on; points that tie must not occur."""
    between, chosen = all_distances(points), list(labeled)
    for _ in range(budget):
        chosen.append(int(np.argmax(between[:, chosen].min(axis=1))))
    return chosen[len(labeled) :]


def uncovered_in_balls(inside, chosen):
    """How many points lie in the ball around each, of those in no ball around a chosen one; the chosen themselves get -1."""
    counts = (inside & ~inside[list(chosen)].any(axis=0)).sum(axis=1)
    counts[list(chosen)] = -1
    return counts


def kernel(points, s):
    """exp(-|x - y|^2 / s^2) between every two of the points, (n, n)."""
    return np.exp(-((all_distances(points) / s) ** 2))


def herding_coverage(kernel, chosen, weights):
    """Mean over all points of weight times largest kernel to a chosen one, 0 where none is."""
    return np.mean([weight * max((row[i] for i in chosen), default=0) for weight, row in zip(weights, kernel, strict=True)])


def balancing_weights(probabilities):
    """How much each point weighs where all predicted classes weigh the same, from probabilities (n, C); their mean is 1."""
    mass = [sum(row[c] for row in probabilities) for c in range(probabilities.shape[1])]
    weights = [sum(p / m for p, m in zip(row, mass, strict=True) if m > 0) for row in probabilities]
    return np.array(weights) * len(weights) / sum(weights)


def dcom_scores(points, probabilities, labeled, picked, free):
    """DCoM's score of each of the free points (n,) that is not picked yet, else -1, after these picks, one ball at a time."""
    n, classes, between = len(points), probabilities.argmax(axis=1), np.round(all_distances(points), 6)

    def balls(tau):
        """The largest pure enough ball around each labelled point: radii, and the points of all."""
        radii = []
        for i in labeled:
            own = {r: [classes[j] == classes[i] for j in range(n) if between[i, j] <= r] for r in between[i] if r <= 1.1}
            radii.append(max((r for r, same in own.items() if sum(same) >= tau * len(same)), default=0))
        return radii, {j for i, r in zip(labeled, radii, strict=True) for j in range(n) if between[i, j] <= r}

    radii, covered = balls(0.4 + 0.2 * len(balls(0.4)[1]) / n)
    competence = (1 + math.exp(-50 * (1 - 0.8))) / (1 + math.exp(-50 * (len(covered) / n - 0.8)))
    delta, free = np.mean(radii), [i for i in range(n) if free[i] and i not in picked]
    covered |= {j for i in picked for j in range(n) if between[i, j] <= delta}
    counts = [sum(between[i, j] <= delta for j in range(n) if j not in covered) for i in range(n)]
    scores, uncertain = np.full(n, -1.0), uncertainties(probabilities)[0]
    low, high, most = min(uncertain), max(uncertain[i] for i in free), max(counts[i] for i in free)
    for i in free:
        u, m = (uncertain[i] - low) / (high - low) if high - low > 1e-7 else 0, counts[i] / max(most, 1)
        scores[i] = competence * u + (1 - competence) * m
    return scores


def last_layer_gradients(probabilities, points):
    """Of the cross-entropy by the last layer's weights, were the predicted class the true one, (n, C * d), one point at a time."""
    truths = np.eye(probabilities.shape[1])[probabilities.argmax(axis=1)]
    return np.array([np.outer(p - y, x).ravel() for p, y, x in zip(probabilities, truths, points.astype(float), strict=True)])


def share_of_pure_balls(points, assignments, radius):
    """Of the closed balls of that radius, those that hold points of one cluster only."""
    inside = all_distances(points) <= radius
    return np.mean([len(set(np.asarray(assignments)[row])) == 1 for row in inside])


def fit_network(model, batches, labels, config, dropped):
    """DESIGN's protocol of supervised training in the plainest PyTorch: SGD, Nesterov, weight decay, cosine by epoch, dropout 0.5.

    batches: views and rows, by epoch; dropped: the dropout masks (n, d) of 0 and 1, one for each step.
    """
    import torch

    momenta, masks = [torch.zeros_like(p) for p in model.parameters()], iter(dropped)
    model.train()
    for epoch, steps in enumerate(batches):
        rate = config.learning_rate * (1 + math.cos(math.pi * epoch / config.epochs)) / 2
        for views, rows in steps:
            logits = model[1](model[0](views) * next(masks) * 2)
            loss = -torch.log_softmax(logits, dim=1)[torch.arange(len(rows)), labels[rows]].mean()
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for i, (parameter, gradient) in enumerate(zip(model.parameters(), gradients, strict=True)):
                    gradient = gradient + config.weight_decay * parameter
                    momenta[i] = config.momentum * momenta[i] + gradient
                    parameter -= rate * (gradient + config.momentum * momenta[i])
