"""Features past the memory or the patience of one machine: mapped files, Dask shards, and approximate neighbours.

`Pool` comes in here by itself for features that are large; its users come in for `Shards`.
"""

from supclust.scale.points import Shards as Shards
