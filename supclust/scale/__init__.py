"""Features past the memory or the patience of one machine: Dask shards, and approximate neighbours.

`select` takes `Shards` in place of an array; very large clusters come here by themselves.
"""
