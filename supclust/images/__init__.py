"""Image files: found in folders, read whatever they are, and left on disk until they are needed.

`datasets.load` comes in here for folders, CIFAR and ISIC-2019, `label` by `files`.
"""
