"""The feature file notices every kind of damage, and features.obtain makes, keeps and checks what a profile works on."""

import dataclasses
import functools
import json
import os

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from supclust import datasets, features, kept, profiles, simclr
from supclust.engine import knn
from supclust.features import Features
from supclust.profiles import SimCLR

FAST = profiles.get("quick", simclr=profiles.replace(profiles.DIGITS, width=4, epochs=1, batch_size=256))


def made(n=7, m=4, d=3, labelled=True, **changes):
    """Small features of nothing in particular."""
    rng = np.random.default_rng(0)
    values = {
        "train": rng.normal(size=(n, d)).astype(np.float32),
        "test": rng.normal(size=(m, d)).astype(np.float32),
        "train_labels": np.arange(n) % 3 if labelled else None,
        "test_labels": np.arange(m) % 3 if labelled else None,
        "classes": ("cat", "dog", "élan"),
        "made_by": {"dataset": "none", "config": {"seed": 0, "rate": 0.1}},
    }
    return Features(**values | changes)


def assert_same(ours, theirs):
    for name in features.ARRAYS:
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    assert (ours.classes, ours.made_by, ours.checksum) == (theirs.classes, theirs.made_by, theirs.checksum)


@pytest.fixture
def out(tmp_path, monkeypatch):
    """An empty place for artefacts."""
    monkeypatch.setenv("SUPCLUST_OUT", str(tmp_path))
    features._load_version.cache_clear()
    return tmp_path


@pytest.mark.parametrize("labelled", [True, False])
def test_features_survive_their_file(tmp_path, labelled):
    original = made(labelled=labelled)
    returned = features.save(tmp_path / "deep" / "f.safetensors", original)
    loaded = features.load(tmp_path / "deep" / "f.safetensors")
    assert_same(loaded, original)
    assert_same(returned, loaded)
    assert loaded.train.dtype == loaded.test.dtype == np.float32
    if labelled:
        assert loaded.train_labels.dtype == np.int64
    assert os.listdir(tmp_path / "deep") == ["f.safetensors"]


@pytest.mark.parametrize(("largest", "stored"), [(9, np.uint8), (300, np.uint16), (70_000, np.uint32)])
def test_labels_take_the_smallest_type(tmp_path, largest, stored):
    labels = np.array([0, 1, largest, 0, 0, 0, 0])
    loaded = features.save(tmp_path / "f.safetensors", made(train_labels=labels))
    assert safetensors.numpy.load_file(tmp_path / "f.safetensors")["train_labels"].dtype == stored
    np.testing.assert_array_equal(loaded.train_labels, labels)


def test_checksum_tells_values_shapes_and_labels_apart():
    base = made()
    changed = base.train.copy()
    changed[2, 1] = np.nextafter(changed[2, 1], 9)
    others = [
        made(train=changed),
        made(train_labels=(np.arange(7) + 1) % 3),
        made(labelled=False),
        made(train=base.train.reshape(-1, 1), test=base.test.reshape(-1, 1), train_labels=None, test_labels=None),
    ]
    assert base.checksum == made().checksum
    assert len({base.checksum, *(other.checksum for other in others)}) == 5


def test_every_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "f.safetensors"
    features.save(path, made())
    whole = path.read_bytes()
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << (position % 8)
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"f\.safetensors is damaged"):
            features.load(path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.999])
def test_truncated_file_is_named(tmp_path, share):
    path = tmp_path / "f.safetensors"
    features.save(path, made(n=100))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=f"the file {path} is damaged"):
        features.load(path)


def test_file_of_another_program_is_refused(tmp_path):
    path = tmp_path / "f.safetensors"
    safetensors.numpy.save_file({"train": np.ones((2, 2))}, path)
    with pytest.raises(ValueError, match="damaged"):
        features.load(path)


def test_absent_file_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no feature file .*nowhere.*notebook 01"):
        features.load(tmp_path / "nowhere")


def bad_row(value):
    train = np.ones((7, 3), np.float32)
    train[5, 1] = value
    return train


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": bad_row(np.nan)}, r"train features are NaN or infinite in 1 rows, the first \[5\]"),
        ({"train": bad_row(np.inf)}, r"the first \[5\]"),
        ({"train": np.ones(7, np.float32)}, r"train features must be"),
        ({"test": np.ones((4, 5), np.float32)}, r"test features must be \(n, 3\), not \(4, 5\)"),
        ({"train_labels": np.zeros(6, int)}, "6 labels for 7 features"),
        ({"test_labels": np.array([0, -1, 0, 0])}, "or negative"),
    ],
)
def test_features_that_make_no_sense(changes, message):
    with pytest.raises(ValueError, match=message):
        made(**changes)


def test_subset_keeps_rows_together_and_says_so():
    whole = made()
    part = whole.subset([4, 1])
    np.testing.assert_array_equal(part.train, whole.train[[4, 1]])
    assert part.train_labels.tolist() == [1, 1]
    np.testing.assert_array_equal(part.test, whole.test)
    assert part.checksum != whole.checksum
    assert whole.checksum in part.made_by["pool"]
    assert made(labelled=False).subset([0]).train_labels is None


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    config = SimCLR(width=4, side=8, epochs=1, batch_size=8)
    images = np.random.default_rng(0).integers(0, 256, (16, 3, 8, 8), dtype=np.uint8)
    return simclr.train(images, config, tmp_path_factory.mktemp("encoder"))


def test_embed_takes_images_of_any_size_in_any_batches(encoder):
    images = np.random.default_rng(1).integers(0, 256, (9, 3, 8, 8), dtype=np.uint8)
    whole = features.embed(encoder, images)
    assert whole.shape == (9, 32)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(features.embed(encoder, images, batch_size=2), whole, rtol=1e-4, atol=1e-4)
    large = images.repeat(3, axis=2).repeat(3, axis=3)
    assert features.embed(encoder, large).shape == (9, 32)


def test_extract_says_what_made_the_features(encoder):
    digits = datasets.load("digits").subset(range(10))
    extracted = features.extract(encoder, digits, digits.subset([1]))
    assert extracted.train.shape == (10, 32)
    np.testing.assert_allclose(extracted.test[0], extracted.train[1], rtol=1e-4, atol=1e-4)
    assert extracted.made_by["dataset"] == "digits"
    assert extracted.made_by["encoder"] == encoder.checksum
    assert extracted.made_by["config"] == dataclasses.asdict(encoder.config)
    assert {"torch", "torchvision", "numpy"} <= set(extracted.made_by["versions"])
    json.dumps(extracted.made_by)


def test_extract_claims_no_training_it_does_not_know(encoder):
    unknown = dataclasses.replace(encoder, history=())
    config = features.extract(unknown, datasets.load("digits").subset([0])).made_by["config"]
    assert config == {"network": "resnet18", "width": 4, "side": 8}


def test_knn_accuracy_is_at_hand():
    assert features.knn_accuracy is knn.knn_accuracy


def test_obtain_trains_once_then_reads(out, monkeypatch):
    epochs = []
    monkeypatch.setattr(simclr, "train", functools.partial(simclr.train, on_epoch=lambda history: epochs.append(len(history))))
    first = features.obtain(FAST, "digits")
    assert epochs == [1]
    assert first.train.shape == (1437, 32)
    assert first.test.shape == (360, 32)
    np.testing.assert_array_equal(first.test_labels, datasets.load("digits", "test").labels)
    features._load_version.cache_clear()
    again = features.obtain(FAST, "digits")
    assert epochs == [1]
    assert_same(again, first)
    assert features.obtain(FAST, "digits") is again  # read once per process
    saved = out / "artefacts" / "quick" / "digits" / "features.safetensors"
    saved.unlink()
    assert features.obtain(FAST, "digits").checksum == first.checksum
    assert epochs == [1]  # from the finished checkpoint


def test_obtain_names_a_broken_file_of_its_own_and_makes_it_anew_even_after_reading_it(out, caplog):
    first = features.obtain(FAST, "digits")
    saved = out / "artefacts" / "quick" / "digits" / "features.safetensors"
    whole = saved.read_bytes()
    saved.write_bytes(whole[:-1])
    assert features.find(FAST, "digits") is None
    assert f"the file {saved} is damaged" in caplog.text
    np.testing.assert_array_equal(features.obtain(FAST, "digits").train, first.train)
    assert features.load(saved).checksum == first.checksum


def test_a_broken_shipped_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "SHIPPED", tmp_path)
    (tmp_path / "cifar10-features.safetensors").write_bytes(b"broken")
    for function in (features.obtain, features.find):
        with pytest.raises(ValueError, match="Remove it, and make or fetch it again"):
            function(profiles.get("laptop"), "cifar10")


def test_obtain_does_not_take_the_features_of_another_config(out):
    features.obtain(FAST, "digits")
    other = dataclasses.replace(FAST, simclr=dataclasses.replace(FAST.simclr, seed=1))
    with pytest.raises(ValueError, match="seed is 0 there and 1 here"):
        features.obtain(other, "digits")


def test_obtain_reads_what_is_shipped(out, monkeypatch):
    monkeypatch.setattr(kept, "SHIPPED", out)
    laptop = profiles.get("laptop")
    for name in features.SHIPPED:
        with pytest.raises(FileNotFoundError, match="come with the package"):
            features.obtain(laptop, name)
        whole = features.save(kept.shipped_features(name), made(test=made().test + len(name)))
        assert features.obtain(laptop, name, seed=3).checksum == whole.checksum


def test_another_encoder_knows_the_long_tail_as_draw_0_of_cifar10(out):
    labels = np.repeat(np.arange(10), 5000)
    rows = np.arange(50_000, dtype=np.float32)[:, None]
    whole = made(train=rows, test=rows[:2], train_labels=labels, test_labels=np.array([0, 1]))
    features.save(features.folder("laptop", "cifar10@other") / "features.safetensors", whole)
    drawn = features.obtain(profiles.get("laptop"), "cifar10-lt50@other", seed=3)
    np.testing.assert_array_equal(drawn.train[:, 0], datasets.long_tail_indices(labels, 0))


def test_other_encoders_are_named_behind_an_at_sign(out, monkeypatch):
    two = features.obtain(FAST, "digits@2")
    assert two.made_by["config"] == dataclasses.asdict(FAST.simclr) | {"epochs": 2}
    assert features.folder("quick", "digits@2") == out / "artefacts" / "quick" / "digits@2"
    assert features.find(FAST, "digits@2").checksum == two.checksum
    assert features.find(FAST, "digits@3") is None
    assert features.obtainable(FAST, "digits@3")
    with pytest.raises(ValueError, match="epochs must be int"):
        features.obtain(FAST, "digits@many")
    monkeypatch.setattr(kept, "SHIPPED", out)
    laptop, whole = profiles.get("laptop"), made()
    assert not features.obtainable(laptop, "cifar10@older")
    with pytest.raises(FileNotFoundError, match="no feature file"):
        features.obtain(laptop, "cifar10@older")
    features.save(features.folder("laptop", "cifar10@older") / "features.safetensors", whole)
    assert features.obtain(laptop, "cifar10@older").checksum == whole.checksum
    assert features.split_encoder("/home/me@work/images") == ("/home/me@work/images", "")


def test_obtain_does_not_take_features_from_which_images_were_left_out(out, monkeypatch):
    """Where ISIC-2019 is incomplete, what was made on request is not used where it was not asked for."""
    asked, digits = [], datasets.load

    def load(name, split="train", *, missing, **_):
        asked.append(missing)
        return dataclasses.replace(digits("digits", split), name=name)

    monkeypatch.setattr(datasets, "load", load)
    monkeypatch.setattr(profiles, "CHANGES", {})
    features.obtain(profiles.replace(FAST, missing="leave out"), "isic2019")
    features.obtain(profiles.replace(FAST, missing="leave out"), "isic2019")
    features.obtain(FAST, "isic2019")
    assert asked == ["leave out", "leave out", "error", "error"]


def test_obtain_takes_a_folder_of_images_without_labels(out):
    for i in range(6):
        noise = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        (out / "mine").mkdir(exist_ok=True)
        Image.fromarray(noise).save(out / "mine" / f"{i}.png")
    mine = features.obtain(FAST, str(out / "mine"))
    assert mine.train.shape == (6, 32)
    assert mine.test.shape == (0, 32)
    assert mine.train_labels is None
    assert mine.test_labels is None


def test_obtain_lists_the_known_data_sets(out):
    with pytest.raises(ValueError, match="unknown data set 'cifar11'; known: digits, cifar10, cifar10-lt50"):
        features.obtain(FAST, "cifar11")
    assert not (out / "artefacts").exists()


@pytest.mark.parametrize("name", ["cifar10", "cifar10-lt50"])
def test_obtain_says_where_it_looked_for_absent_images(out, monkeypatch, name):
    monkeypatch.setenv("SUPCLUST_DATA", str(out))
    with pytest.raises(FileNotFoundError, match="supclust data cifar10"):
        features.obtain(FAST, name)
