import numpy as np
import pytest

from supclust import features, shipping
from tests.conftest import make_features

CANDIDATES = (shipping.Encoding("float16", 2), shipping.Encoding("uint8", None), shipping.Encoding("uint8", 6))


def test_the_most_faithful_encoding_that_fits_is_kept(tmp_path):
    full, path = make_features(n_classes=12, d=10), tmp_path / "features.safetensors"
    table = shipping.pack(full, path, CANDIDATES)
    assert table["typicality rho"].idxmax() == "uint8, all dimensions"
    assert features.load(path).made_by["stored"]["encoding"] == "uint8, all dimensions"
    limit = int(table.loc["uint8, all dimensions", "bytes"]) - 1
    shipping.pack(full, path, CANDIDATES, largest=limit)
    kept = features.load(path)
    assert kept.made_by["stored"]["encoding"] == "uint8, 6 dimensions"
    assert kept.train.shape == (600, 6)
    assert kept.made_by["dataset"] == "blobs"
    np.testing.assert_array_equal(kept.train_labels, full.train_labels)
    with pytest.raises(ValueError, match="no encoding"):
        shipping.pack(full, path, CANDIDATES, largest=10)


def test_reducing_keeps_distances():
    full = make_features(n_classes=5, d=8)
    reduced = shipping.reduce(full, 8)
    unit = full.train / np.linalg.norm(full.train, axis=1, keepdims=True)
    np.testing.assert_allclose(reduced.train @ reduced.train.T, unit @ unit.T, atol=1e-5)


def test_steps_of_uint8_are_half_a_step_from_the_truth(tmp_path):
    full = make_features()
    kept = features.save(tmp_path / "f.safetensors", full, "uint8")
    both = np.concatenate([full.train, full.test])
    assert (np.abs(kept.train - full.train) <= np.ptp(both, axis=0) / 255 * 0.501).all()
    constant = features.Features(np.ones((5, 2), np.float32), np.ones((5, 2), np.float32), None, None, (), {})
    np.testing.assert_array_equal(features.save(tmp_path / "c.safetensors", constant, "uint8").train, constant.train)
