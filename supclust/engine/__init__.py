"""The arithmetic under everything: points of unit length, k-means, neighbours, threads, kNN accuracy, and colours of images.

It imports nothing else of the package. `pool`, `method`, `features` and `simclr` come in here.
"""
