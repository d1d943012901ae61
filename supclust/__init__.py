"""SUPClust (arXiv 2403.03741): which few images to label first, and the experiment that shows it.

Read in this order: method (Equations 1 to 3, the query), pool (what a strategy sees), strategies (the others), simclr (features
without labels), features, learners, active (one run), sweep (many), analysis and claims (what they say), plots. Under them lie
engine (points, k-means, neighbours, threads), profiles and kept; the other folders are rooms with a door each.
"""

from supclust.method import cluster_weights, select, sup, typicality

__all__ = ["cluster_weights", "select", "sup", "typicality"]
__version__ = "0.1.0"
