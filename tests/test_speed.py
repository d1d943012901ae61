"""The ratio table: its ways, its columns, and its rates."""

import numpy as np
import pytest

from supclust.bench import speed
from supclust.profiles import SimCLR


@pytest.mark.slow
def test_training_compares_the_ways_side_by_side():
    table = speed.training(SimCLR(width=4, side=8, batch_size=16, projection=8), repeats=1)
    assert list(table["way"]) == [speed.STOCK, *(f"engine, views of {side} pixels" for side in (8, 6, 4))]
    assert list(table["pixels"]) == [8, 8, 6, 4]
    assert (table["images per second"] > 0).all()
    np.testing.assert_allclose(table["times stock"], table["images per second"] / table["images per second"].iloc[0])
    assert np.isnan(table[speed.SHARES].iloc[0])
    assert table[speed.SHARES].iloc[1:].between(0, 1).all()
