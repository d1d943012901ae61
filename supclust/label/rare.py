"""Picks for the classes that have few labels so far."""

import numpy as np
from scipy.spatial.distance import pdist
from sklearn.metrics import pairwise_distances_argmin_min

from supclust.engine import geometry
from supclust.pool import Pool
from supclust.strategies import later, uncertainty


def likeliest(pool: Pool, counts: np.ndarray, wanted: int, most: int) -> dict[int, int]:
    """Points that may be queried, at most that many, each with the class that it is picked for, of those with too few labels.

    The classes take turns, the rarest one first: each picks the point left that the pool's model finds likeliest to be of it (the
    most likely positive of Warmuth et al., 2002), until its labels and picks are as many as wanted. counts (C,): labels of classes.
    A pick is no nearer to a labelled point or another pick than two labelled points are: likely ones resemble known ones, and
    UHerding measures by the smallest distance.
    """
    points, likely, picks = pool.points, uncertainty.probabilities(pool), {}
    apart = pdist(points[pool.labeled])
    apart = apart[apart > later.COPIES].min(initial=2)
    likely[~pool.free | (pairwise_distances_argmin_min(points, points[pool.labeled])[1] < apart)] = -1
    turns = sorted((turn, count, number) for number, count in enumerate(counts) for turn in range(min(wanted - count, most)))
    for _, _, number in turns[:most]:
        point = int(likely[:, number].argmax())
        if likely[point, number] < 0:
            break
        picks[point], likely[point] = number, -1
        likely[geometry.distances(points, points[[point]])[:, 0] < apart] = -1
    return picks
