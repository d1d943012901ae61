"""The ratio table: its ways, its columns, and the file it is kept in."""

import numpy as np
import pytest

from supclust.bench import speed
from supclust.profiles import SimCLR


@pytest.mark.slow
def test_training_compares_the_ways_side_by_side(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (32, 3, 8, 8), dtype=np.uint8)
    config = SimCLR(width=4, side=8, batch_size=16, projection=8)
    table = speed.training(images, config, (8, 4), repeats=2)
    assert list(table.index) == [speed.STOCK, "engine, views of 8 pixels", "engine, views of 4 pixels"]
    assert list(table["pixels"]) == [8, 8, 4]
    assert (table["images per second"] > 0).all()
    np.testing.assert_allclose(table["times stock"], table["images per second"] / table["images per second"].iloc[0])
    assert np.isnan(table[speed.SHARES].iloc[0])
    assert table[speed.SHARES].iloc[1:].between(0, 1).all()


def test_operations_are_those_counted_by_hand():
    """Of a network of width 1: each layer's side^2 x kernel x inputs x outputs, two operations each, six passes."""
    layers = [(8, 27, 1, 1), *[(8, 9, 1, 1)] * 4]  # side, kernel, inputs, outputs: stem (3 inputs in the kernel), first stage
    for side, channels in ((4, 2), (2, 4), (1, 8)):
        layers += [(side, 9, channels // 2, channels), (side, 1, channels // 2, channels)]
        layers += [(side, 9, channels, channels)] * 3
    by_hand = sum(side**2 * kernel * inputs * outputs for side, kernel, inputs, outputs in layers)
    assert speed.operations(SimCLR(width=1), 8) == pytest.approx(12 * by_hand)
