"""SUPClust (arXiv 2403.03741): which few images to label first, and the experiment that shows it."""

from supclust.scores import cluster_weights, sup, typicality
from supclust.selection import select

__all__ = ["cluster_weights", "select", "sup", "typicality"]
__version__ = "0.1.0"
