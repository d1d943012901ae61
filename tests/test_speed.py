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
