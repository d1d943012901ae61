"""The arithmetic under everything: points of unit length, k-means, neighbours, threads, kNN accuracy, and colours of images."""
