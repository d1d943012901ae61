"""Points of unit length, k-means, neighbours and threads: the arithmetic under the strategies.

It knows nothing of strategies, images or experiments. `pool` and `method` come in here.
"""
