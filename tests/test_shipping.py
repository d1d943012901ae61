import dataclasses

import numpy as np
import pytest

from supclust import datasets, features, kept, profiles, simclr
from supclust.engine import geometry
from supclust.train import shipping
from tests.conftest import make_features

ENCODINGS = {"two halves": ("float16", 2), "all bytes": ("uint8", None), "six bytes": ("uint8", 6)}


def test_the_most_faithful_encoding_that_fits_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(shipping, "ENCODINGS", ENCODINGS)
    full, path = make_features(n_classes=12, d=10), tmp_path / "features.safetensors"
    table = shipping.pack(full, path)
    assert table["typicality rho"].idxmax() == "all bytes"
    assert features.load(path).made_by["stored"]["encoding"] == "all bytes"
    images = len(full.train) + len(full.test)
    monkeypatch.setattr(shipping, "LARGEST", (table.loc["all bytes", "bytes"] - 1) / images)
    shipping.pack(full, path)
    kept = features.load(path)
    assert kept.made_by["stored"]["encoding"] == "six bytes"
    assert kept.train.shape == (600, 6)
    assert kept.made_by["dataset"] == "blobs"
    np.testing.assert_array_equal(kept.train_labels, full.train_labels)
    monkeypatch.setattr(shipping, "LARGEST", 1)
    with pytest.raises(ValueError, match="no encoding of these features fits into 1 bytes an image"):
        shipping.pack(full, path)


def test_a_pretrained_encoder_makes_the_features_that_a_sweep_finds(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPCLUST_OUT", str(tmp_path))
    asked, digits = [], datasets.load

    def make(images, folder):
        asked.append(images.shape)
        return images.reshape(len(images), -1).astype(np.float32) + 1, {"encoder": "pixels"}

    monkeypatch.setattr(datasets, "load", lambda name, split, side: dataclasses.replace(digits("digits", split), name=name))
    table = shipping.embed("cifar100", "pixels", 8, make)
    assert asked == [(1437, 3, 8, 8), (360, 3, 8, 8)]
    assert "uint8, all dimensions" in table.index
    found = features.find(profiles.get("laptop"), "cifar100@pixels")
    assert (found.made_by["dataset"], found.made_by["encoder"]) == ("cifar100", "pixels")
    np.testing.assert_array_equal(found.test_labels, digits("digits", "test").labels)
    assert features.knn_accuracy(found.train, found.train_labels, found.test, found.test_labels) > 0.9


def test_reducing_keeps_distances():
    full = make_features(n_classes=5, d=8)
    reduced = shipping.reduce(full, 8)
    unit = full.train / np.linalg.norm(full.train, axis=1, keepdims=True)
    np.testing.assert_allclose(reduced.train @ reduced.train.T, unit @ unit.T, atol=1e-5)


def test_half_precision_is_half_the_size_and_its_checksum_is_of_what_is_stored(tmp_path):
    original = make_features(d=64)
    half = shipping.save_encoded(tmp_path / "half.safetensors", original, "float16")
    features.save(tmp_path / "full.safetensors", original)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tmp_path / "full.safetensors").stat().st_size
    assert half.train.dtype == np.float32
    np.testing.assert_array_equal(half.train, original.train.astype(np.float16).astype(np.float32))
    assert half.checksum != original.checksum
    assert features.load(tmp_path / "half.safetensors").checksum == half.checksum


def test_a_flipped_bit_anywhere_in_an_encoded_file_is_noticed(tmp_path):
    path = tmp_path / "f.safetensors"
    labels = np.arange(4)
    points = np.arange(12, dtype=np.float32).reshape(4, 3)
    shipping.save_encoded(path, features.Features(points, points, labels, labels, ("a", "b", "c", "d"), {}), "uint8")
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << (position % 8)
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match="is damaged"):
            features.load(path)


def test_steps_of_uint8_are_half_a_step_from_the_truth(tmp_path):
    full = make_features()
    kept = shipping.save_encoded(tmp_path / "f.safetensors", full, "uint8")
    both = np.concatenate([full.train, full.test])
    assert (np.abs(kept.train - full.train) <= np.ptp(both, axis=0) / 255 * 0.501).all()
    constant = features.Features(np.ones((5, 2), np.float32), np.ones((5, 2), np.float32), None, None, (), {})
    np.testing.assert_array_equal(shipping.save_encoded(tmp_path / "c.safetensors", constant, "uint8").train, constant.train)


# --- what is shipped ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder():
    return simclr.load_weights(kept.shipped_weights("cifar10"))


def test_shipped_files_are_small_enough():
    assert kept.shipped_weights("cifar10").stat().st_size <= 25_000_000
    assert all(kept.shipped_features(name).stat().st_size <= 20_000_000 for name in features.SHIPPED)


def test_shipped_features_have_the_labels_that_their_images_have():
    cifar10, cifar100, tail, skin = (features.load(kept.shipped_features(name)) for name in features.SHIPPED)
    drawn = cifar10.train_labels[datasets.long_tail_indices(cifar10.train_labels, 0)]
    np.testing.assert_array_equal(tail.train_labels, drawn)
    np.testing.assert_array_equal(tail.test_labels, cifar10.test_labels)
    np.testing.assert_array_equal(cifar100.train_labels, np.repeat(np.arange(100), 500))
    np.testing.assert_array_equal(cifar100.test_labels, np.repeat(np.arange(100), 100))
    assert np.bincount(skin.train_labels).tolist() == [908, 5399, 403, 105, 852, 94, 115, 161]
    assert np.bincount(skin.test_labels).tolist() == [205, 1306, 111, 25, 247, 21, 27, 36]


def test_shipped_features_are_of_the_shipped_weights(encoder):
    stored = features.load(kept.shipped_features("cifar10"))
    assert stored.made_by["encoder"] == encoder.checksum
    assert encoder.head is not None  # to go on training from


def test_the_model_card_names_what_is_shipped(encoder):
    card = (kept.SHIPPED / "README.md").read_text()
    assert encoder.checksum in card
    for name in features.SHIPPED:
        stored = features.load(kept.shipped_features(name))
        assert stored.made_by["encoder"] in card
        assert stored.checksum in card
        assert f"{100 * stored.made_by['stored']['kNN']:.2f} %" in card


@pytest.mark.slow
@pytest.mark.cifar10
@pytest.mark.skipif(not (kept.data() / "cifar-10-batches-py").exists(), reason="CIFAR-10 is not in SUPCLUST_DATA")
@pytest.mark.parametrize("split", datasets.SPLITS)
def test_shipped_weights_make_the_shipped_features_of_real_images(encoder, split):
    """Angles between images: the stored features are turned, cut and rounded, which moves angles a little."""
    images = datasets.load("cifar10", split).images
    rows = np.random.default_rng(0).choice(len(images), 150, replace=False)
    fresh = geometry.normalise(features.embed(encoder, images[rows]))
    stored = geometry.normalise(getattr(features.load(kept.shipped_features("cifar10")), split)[rows])
    np.testing.assert_allclose(stored @ stored.T, fresh @ fresh.T, atol=0.12)  # half of the dimensions are cut
    wrong = np.roll(stored, 1, axis=0)
    assert np.abs(wrong @ wrong.T - fresh @ fresh.T).max() > 0.5


def test_a_linear_probe_tells_blobs_apart():
    assert shipping.linear_probe(make_features()) == 1.0
