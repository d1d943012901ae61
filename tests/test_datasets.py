"""The data sets: known sizes and orders, folders of every arrangement, and clear errors for what is absent or damaged."""

import hashlib
import os
import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader
from torchvision.datasets import CIFAR10, CIFAR100

from supclust import datasets, kept, simclr
from supclust.images import cifar, isic2019
from supclust.images import files as images
from supclust.images.files import ImageFiles

needs_cifar10 = pytest.mark.skipif(
    not (kept.data() / CIFAR10.base_folder).exists(), reason="CIFAR-10 is not in the folder that SUPCLUST_DATA names"
)
needs_isic2019 = pytest.mark.skipif(
    not (kept.data() / "isic2019").exists(), reason="ISIC-2019 is not in the folder that SUPCLUST_DATA names"
)
ISIC_SIZES = (20, 60, 15, 10, 12, 5, 6, 7)  # images of each class in the fabricated ISIC-2019


def write_image(path, color=(200, 30, 30), size=(12, 9), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **options)
    return path


@pytest.fixture
def labelled(tmp_path):
    """Two classes, 2 + 1 training images and 1 + 1 test images; the cat of each is red, the dog blue."""
    for split, cats in (("train", 2), ("test", 1)):
        for i in range(cats):
            write_image(tmp_path / split / "cat" / f"{i}.png", (200, 0, 0))
        write_image(tmp_path / split / "dog" / "only.PNG", (0, 0, 200))
    return tmp_path


def write_labels(folder, labels):
    """The CSV file of ISIC-2019 for these classes, in its own format; returns its path."""
    table = pd.DataFrame(np.eye(9)[labels], columns=[*isic2019.COUNTS, "UNK"])
    table.insert(0, "image", [f"ISIC_{i:07d}" for i in range(len(labels))])
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / isic2019.LABELS, index=False)
    return folder / isic2019.LABELS


@pytest.fixture
def isic(tmp_path, monkeypatch):
    """A small ISIC-2019, whole; each image has its number in red and its class in green."""
    monkeypatch.setenv("SUPCLUST_DATA", str(tmp_path))
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(8), ISIC_SIZES))
    write_labels(tmp_path / "isic2019", labels)
    for i, label in enumerate(labels):
        write_image(tmp_path / "isic2019" / isic2019.IMAGES / f"ISIC_{i:07d}.jpg", (i, 30 * label, 0), quality=95)
    return tmp_path / "isic2019"


@pytest.fixture
def noisy(tmp_path):
    """Seven files of noise, of several formats and sizes, as ImageFiles."""
    rng, names = (
        np.random.default_rng(0),
        [f"{i}.{kind}" for i, kind in enumerate(["png", "jpg", "tiff", "jpg", "bmp", "png", "jpg"])],
    )
    (tmp_path / "below").mkdir()
    names[2] = "below/" + names[2]
    for i, name in enumerate(names):
        Image.fromarray(rng.integers(0, 256, (20 + i, 33 - i, 3), dtype=np.uint8)).save(tmp_path / name)
    return ImageFiles(tmp_path, tuple(names), 16)


def test_digits_are_split_once_and_for_all():
    train, test = datasets.load("digits"), datasets.load("digits", "test", seed=5)
    assert train.images.shape == (1437, 3, 8, 8)
    assert test.images.shape == (360, 3, 8, 8)
    assert train.images.dtype == np.uint8
    assert train.labels.dtype == np.int64
    assert train.classes == tuple("0123456789")
    assert np.ptp(np.bincount(test.labels)) <= 2  # stratified
    again = datasets.load("digits", seed=5)
    np.testing.assert_array_equal(train.images, again.images)


def test_digits_are_scikit_learns_each_in_one_split():
    source = load_digits()
    both = [datasets.load("digits", split) for split in datasets.SPLITS]
    ours = np.concatenate([d.images[:, 0].reshape(len(d), -1) * (16 / 255) for d in both]).round().astype(int)
    rows = np.column_stack([ours, np.concatenate([d.labels for d in both])])
    expected = np.column_stack([source.data.astype(int), source.target])
    assert sorted(map(tuple, rows)) == sorted(map(tuple, expected))
    assert both[0].images.max() == 255


def test_subset_keeps_rows_together():
    digits = datasets.load("digits")
    part = digits.subset([5, 2])
    assert len(part) == 2
    np.testing.assert_array_equal(part.images, digits.images[[5, 2]])
    np.testing.assert_array_equal(part.labels, digits.labels[[5, 2]])
    assert part.classes == digits.classes


def test_long_tail_draws_the_counts_of_each_class():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 5000))
    drawn = datasets.long_tail_indices(labels, seed=3)
    assert len(drawn) == 13_996
    assert (np.diff(drawn) > 0).all()  # sorted and distinct
    assert tuple(np.bincount(labels[drawn])) == datasets.LONG_TAIL_50
    np.testing.assert_array_equal(drawn, datasets.long_tail_indices(labels, seed=3))
    assert not np.array_equal(drawn, datasets.long_tail_indices(labels, seed=4))


def test_long_tail_counts_are_those_of_imbalance_50():
    assert tuple(int(5000 * 0.02 ** (i / 9)) for i in range(10)) == datasets.LONG_TAIL_50


def test_long_tail_needs_enough_of_each_class():
    with pytest.raises(ValueError, match="3237 images of class 1, and there are 12"):
        datasets.long_tail_indices(np.repeat([0, 1], [5000, 12]), seed=0)


@pytest.mark.parametrize("name", ["cifar", "", "/nowhere/at/all"])
def test_unknown_data_set_lists_the_known(name):
    with pytest.raises(ValueError, match="known: digits, cifar10, cifar10-lt50, cifar100, isic2019, ham10000, or the path"):
        datasets.load(name)


def test_unknown_split_lists_the_known():
    with pytest.raises(ValueError, match="unknown split 'valid'; known: train, test"):
        datasets.load("digits", "valid")


@pytest.mark.parametrize("side", [0, -1])
def test_side_is_at_least_one_pixel(side):
    with pytest.raises(ValueError, match=f"side must be at least 1 pixel, not {side}"):
        datasets.load("digits", side=side)


def test_missing_is_error_or_leave_out():
    with pytest.raises(ValueError, match="missing must be one of 'error', 'leave out', not 'skip'"):
        datasets.load("digits", missing="skip")


def test_absent_cifar10_says_where_and_how(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPCLUST_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError) as caught:
        datasets.load("cifar10-lt50")
    for part in (str(tmp_path / "cifar-10-batches-py"), "supclust data cifar10", "SUPCLUST_DATA"):
        assert part in str(caught.value)


def test_cifar10_file_with_another_md5_is_named_and_not_unpickled(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPCLUST_DATA", str(tmp_path))
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_3").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(ValueError, match="data_batch_3 is not the official CIFAR-10 file"):
        datasets.load("cifar10")


def fabricate_cifar100(root, monkeypatch):
    """Files as CIFAR-100's, 5 + 3 images of noise and two classes, which torchvision takes for the official ones."""
    folder, rng = root / CIFAR100.base_folder, np.random.default_rng(0)
    folder.mkdir()
    digests = {}
    for name, n in (("train", 5), ("test", 3)):
        content = {
            "data": rng.integers(0, 256, (n, 3072), dtype=np.uint8),
            "fine_labels": [1, 0, 1, 0, 0][:n],
            "coarse_labels": [7] * n,
        }
        digests[name] = write_pickle(folder / name, content)
    digests["meta"] = write_pickle(folder / "meta", {"fine_label_names": ["apple", "worm"]})
    for name in ("train", "test"):
        monkeypatch.setattr(CIFAR100, f"{name}_list", [[name, digests[name]]])
    monkeypatch.setattr(CIFAR100, "meta", CIFAR100.meta | {"md5": digests["meta"]})
    monkeypatch.setenv("SUPCLUST_DATA", str(root))
    return folder


def write_pickle(path, content):
    """Returns its MD5 sum."""
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def test_cifar100_has_its_fine_labels_in_order_of_class_and_pixels(tmp_path, monkeypatch):
    folder = fabricate_cifar100(tmp_path, monkeypatch)
    train, test = datasets.load("cifar100"), datasets.load("cifar100", "test")
    raw = pickle.loads((folder / "test").read_bytes())["data"]
    order = sorted(range(3), key=lambda i: ([1, 0, 1][i], raw[i].tobytes()))
    np.testing.assert_array_equal(test.images, raw.reshape(3, 3, 32, 32)[order])
    assert test.labels.tolist() == [0, 1, 1]
    assert train.labels.tolist() == [0, 0, 0, 1, 1]
    assert train.labels.dtype == np.int64
    assert train.classes == ("apple", "worm")
    assert train.name == "cifar100"


def test_folders_of_cifar100_are_the_official_files_whatever_the_images_are_called(tmp_path, monkeypatch):
    folder = fabricate_cifar100(tmp_path, monkeypatch)
    official = [datasets.load("cifar100", split) for split in datasets.SPLITS]
    for split in datasets.SPLITS:
        content = pickle.loads((folder / split).read_bytes())
        for i, (row, label) in enumerate(zip(content["data"], content["fine_labels"], strict=True)):
            image = tmp_path / "cifar100" / split / ("apple", "worm")[label] / f"{9 - i}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(row.reshape(3, 32, 32).transpose(1, 2, 0)).save(image)
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match="train holds 5 of the 50000 images"):
        datasets.load("cifar100")
    monkeypatch.setattr(cifar, "SIZES", {"train": 5, "test": 3})
    for split, before in zip(datasets.SPLITS, official, strict=True):
        again = datasets.load("cifar100", split)
        np.testing.assert_array_equal(again.images, before.images)
        np.testing.assert_array_equal(again.labels, before.labels)
        assert again.classes == before.classes


def test_damaged_cifar100_file_is_named(tmp_path, monkeypatch):
    folder = fabricate_cifar100(tmp_path, monkeypatch)
    (folder / "train").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"cifar-100-python/train is not the official CIFAR-100 file.*`supclust data cifar100`"):
        datasets.load("cifar100")


def test_absent_cifar100_says_where_and_how(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPCLUST_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"CIFAR-100 is not.*cifar-100-python.*`supclust data cifar100`"):
        datasets.load("cifar100", "test")


@pytest.mark.cifar10
@needs_cifar10
def test_cifar10_is_the_official_one_in_its_order():
    train, test = datasets.load("cifar10"), datasets.load("cifar10", "test")
    assert train.images.shape == (50_000, 3, 32, 32)
    assert test.images.shape == (10_000, 3, 32, 32)
    assert train.labels[:5].tolist() == [6, 9, 9, 4, 1]  # frog, truck, truck, deer, automobile
    assert test.labels[:5].tolist() == [3, 8, 8, 0, 6]
    assert train.classes[6] == "frog"
    assert train.images[0, :, 0, 0].tolist() == [59, 62, 63]


@pytest.mark.cifar10
@needs_cifar10
def test_long_tailed_cifar10_has_a_drawn_pool_and_the_balanced_test_set():
    full, pool = datasets.load("cifar10"), datasets.load("cifar10-lt50", seed=1)
    np.testing.assert_array_equal(pool.images, full.images[datasets.long_tail_indices(full.labels, 1)])
    assert tuple(np.bincount(pool.labels)) == datasets.LONG_TAIL_50
    assert np.bincount(datasets.load("cifar10-lt50", "test", seed=1).labels).tolist() == [1000] * 10


@pytest.mark.cifar10
@needs_cifar10
def test_one_flipped_byte_in_cifar10_is_named(tmp_path, monkeypatch):
    shutil.copytree(kept.data() / CIFAR10.base_folder, tmp_path / CIFAR10.base_folder)
    monkeypatch.setenv("SUPCLUST_DATA", str(tmp_path))
    with (tmp_path / CIFAR10.base_folder / "test_batch").open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)[0]
        file.seek(1_000_000)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(ValueError, match="test_batch is not the official"):
        datasets.load("cifar10")


def test_folder_with_labels(labelled):
    train, test = datasets.load(str(labelled), side=6), datasets.load(str(labelled), "test", side=6)
    assert train.images.shape == (3, 3, 6, 6)
    assert train.images.dtype == np.uint8
    assert train.classes == test.classes == ("cat", "dog")
    assert train.labels.tolist() == [0, 0, 1]
    assert test.labels.tolist() == [0, 1]
    assert train.images[:, 0, 3, 3].tolist() == [200, 200, 0]
    assert train.images[:, 2, 3, 3].tolist() == [0, 0, 200]


def test_flat_and_nested_folders_have_no_labels_and_sorted_files(tmp_path):
    for i, file in enumerate(["b.png", "a.png", "deep/er/c.png"]):
        write_image(tmp_path / file, (10 * (i + 1), 0, 0))
    (tmp_path / "notes.txt").write_text("not an image")
    write_image(tmp_path / ".hidden" / "d.png")
    pool = datasets.load(str(tmp_path), side=4)
    assert pool.labels is None
    assert pool.classes == ()
    assert pool.images[:, 0, 0, 0].tolist() == [20, 10, 30]
    assert pool.subset([1]).labels is None


def test_flat_folder_has_no_test_split(tmp_path):
    write_image(tmp_path / "a.png")
    with pytest.raises(ValueError, match="has no test split"):
        datasets.load(str(tmp_path), "test")


def test_folder_without_images(tmp_path):
    with pytest.raises(ValueError, match=f"no image in {tmp_path}"):
        datasets.load(str(tmp_path))


def test_labelled_folder_without_test_split(labelled):
    shutil.rmtree(labelled / "test")
    with pytest.raises(ValueError, match=r"no test split: there is no folder .*test"):
        datasets.load(str(labelled), "test")


def test_class_without_training_images(labelled):
    (labelled / "train" / "horse").mkdir()
    with pytest.raises(ValueError, match=r"no image in .*train of the classes horse"):
        datasets.load(str(labelled))


def test_training_images_outside_class_folders(tmp_path):
    write_image(tmp_path / "train" / "a.png")
    with pytest.raises(ValueError, match="there is no class folder"):
        datasets.load(str(tmp_path))


def test_test_class_that_training_does_not_know(labelled):
    write_image(labelled / "test" / "horse" / "a.png")
    with pytest.raises(ValueError, match=r"not in .*train: horse"):
        datasets.load(str(labelled), "test")


def test_class_list_comes_from_training(labelled):
    shutil.rmtree(labelled / "test" / "cat")
    test = datasets.load(str(labelled), "test")
    assert test.classes == ("cat", "dog")
    assert test.labels.tolist() == [1]


@pytest.mark.parametrize("keep", [0, 40])
def test_unreadable_image_is_named(labelled, keep):
    file = write_image(labelled / "train" / "cat" / "torn.jpg", size=(64, 64))
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"cannot read the image .*torn\.jpg"):
        datasets.load(str(labelled))


def test_image_cut_short_is_named_even_if_its_header_is_whole(labelled):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = labelled / "train" / "cat" / "torn.png"
    Image.fromarray(noise).save(file)
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"cannot read the image .*torn\.png"):
        datasets.load(str(labelled))


def test_images_are_turned_upright_by_their_exif(tmp_path):
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[:4] = 255  # bright above
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter to the right: bright on the right
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    image = datasets.load(str(tmp_path), side=8).images[0]
    assert image[:, :, 6].min() == 255
    assert image[:, :, 1].max() == 0


def test_the_whole_image_is_seen_and_its_middle_only_where_that_is_asked_for(tmp_path):
    pixels = np.zeros((8, 24, 3), dtype=np.uint8)
    pixels[:, :8] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    whole = datasets.load(str(tmp_path), side=8).images
    assert whole[0, 0, 4, [0, 7]].tolist() == [255, 0]
    for key in (0, [0]):
        assert ImageFiles(tmp_path, ("wide.png",), 8, whole=False)[key].max() == 0
        np.testing.assert_array_equal(ImageFiles(tmp_path, ("wide.png",), 8)[[0]], whole)


@pytest.mark.parametrize("size", [(50, 50), (16, 16), (7, 7)])
def test_of_a_square_image_both_are_the_same(tmp_path, size):
    Image.effect_noise(size, 80).convert("RGB").save(tmp_path / "a.png")
    cut, whole = (ImageFiles(tmp_path, ("a.png",), 16, whole=whole)[0] for whole in (False, True))
    np.testing.assert_array_equal(cut, whole)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_every_colour_mode_becomes_rgb(tmp_path, mode):
    Image.new("RGB", (9, 9), (255, 255, 255)).convert(mode).save(tmp_path / "a.tiff")
    image = datasets.load(str(tmp_path), side=8).images
    assert image.shape == (1, 3, 8, 8)
    assert image.min() >= 250


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    Image.fromarray(np.full((9, 9), 257 * 100, dtype=np.uint16)).save(tmp_path / "xray.png")
    assert (datasets.load(str(tmp_path), side=8).images == 100).all()


def test_class_folders_without_train_are_read_without_labels_and_said_so(tmp_path, caplog):
    write_image(tmp_path / "cat" / "a.png")
    assert datasets.load(str(tmp_path)).labels is None
    assert "read without labels" in caplog.text


def test_the_identity_of_a_folder_changes_with_its_files(tmp_path):
    for folder in ("one/images", "two/images"):
        write_image(tmp_path / folder / "a.png")
    first, second = (datasets.identity(str(tmp_path / name / "images")) for name in ("one", "two"))
    assert first.startswith("images-")
    assert first != second
    write_image(tmp_path / "one" / "images" / "b.png")
    assert datasets.identity(str(tmp_path / "one" / "images")) != first
    assert datasets.identity("cifar10") == "cifar10"


# --- images that stay in their files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [slice(None), slice(1, 6, 2), slice(0, 0), [3, 3, -1], [], np.array([6, 0]), np.arange(7) > 4])
def test_lazy_images_are_the_eager_ones_pixel_by_pixel(noisy, key):
    eager = images.read_all([noisy.folder / name for name in noisy.names], 16)
    assert noisy.shape == eager.shape
    assert (noisy.dtype, len(noisy)) == (eager.dtype, len(eager))
    for found in (noisy[key], noisy.take(key)[:]):
        np.testing.assert_array_equal(found, eager[key])
        assert found.dtype == np.uint8
        assert found.flags.c_contiguous


@pytest.mark.parametrize("key", [0, -7, np.int64(3), torch.tensor(5)])
def test_one_lazy_image(noisy, key):
    np.testing.assert_array_equal(noisy[key], noisy[:][key])
    assert noisy[key].shape == (3, 16, 16)


@pytest.mark.parametrize("key", [7, -8, [0, 7], (0, 1), np.ones(6, bool), 1.5])
def test_lazy_images_know_their_bounds(noisy, key):
    with pytest.raises(IndexError):
        noisy[key]


def test_subset_of_lazy_images_reads_nothing(noisy):
    (noisy.folder / noisy.names[1]).unlink()
    part = datasets.Dataset("x", noisy, np.arange(7), ("a",)).subset([4, 1])
    assert isinstance(part.images, ImageFiles)
    assert part.labels.tolist() == [4, 1]
    assert part.images.names == (noisy.names[4], noisy.names[1])
    with pytest.raises(ValueError, match=f"cannot read the image .*{noisy.names[1]}"):
        part.images[:]


def test_lazy_images_pass_for_an_array_where_it_is_checked(noisy):
    simclr.check_images(noisy)
    with pytest.raises(ValueError, match="images must be"):
        simclr.check_images(noisy.take([]))


def test_checksum_tells_files_and_sides_apart(noisy):
    first, file = noisy.checksum(), noisy.folder / noisy.names[1]
    assert len(first) == 64
    assert pickle.loads(pickle.dumps(noisy)).checksum() == first
    others = {
        noisy.take([0, 1]).checksum(),
        noisy.take(slice(None, None, -1)).checksum(),
        ImageFiles(noisy.folder, noisy.names, 8).checksum(),
        ImageFiles(noisy.folder, noisy.names, 16, whole=False).checksum(),
    }
    os.utime(file, (1, 1))
    assert noisy.checksum() == first  # unpacked again, on another machine
    write_image(file)
    others.add(noisy.checksum())
    assert len(others | {first}) == 6


def test_checksum_does_not_depend_on_where_the_folder_is(noisy, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "moved"
    shutil.copytree(noisy.folder, elsewhere)  # with times
    assert ImageFiles(elsewhere, noisy.names, 16).checksum() == noisy.checksum()


def test_workers_of_a_data_loader_read_lazy_images(noisy):
    batches = list(DataLoader(pickle.loads(pickle.dumps(noisy)), batch_size=3, num_workers=2))  # as where workers are spawned
    assert [len(batch) for batch in batches] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(batches), noisy[:])


def test_large_folders_stay_in_their_files(labelled, monkeypatch):
    eager = datasets.load(str(labelled), side=6)
    monkeypatch.setattr(images, "LARGEST_ARRAY", eager.images.size - 1)
    lazy = datasets.load(str(labelled), side=6)
    assert isinstance(lazy.images, ImageFiles)
    np.testing.assert_array_equal(lazy.images[:], eager.images)
    np.testing.assert_array_equal(lazy.labels, eager.labels)
    assert isinstance(datasets.load(str(labelled / "train"), side=12).images, ImageFiles)  # and without labels


def test_lazy_images_of_a_folder_outlive_a_change_of_directory(labelled, monkeypatch):
    monkeypatch.setattr(images, "LARGEST_ARRAY", 0)
    monkeypatch.chdir(labelled)
    lazy = datasets.load("train", side=4)
    monkeypatch.chdir("/")
    assert lazy.images[:].shape == (3, 3, 4, 4)


def test_folders_have_32_pixels_unless_asked(labelled):
    assert datasets.load(str(labelled)).images.shape == (3, 3, 32, 32)


@pytest.mark.parametrize(
    ("size", "orientation"),
    [*zip([(900, 640), (401, 333), (129, 513), (60, 60)] * 2, range(1, 9), strict=True), ((900, 640), 6)],
)
def test_large_jpegs_are_decoded_small_and_look_the_same(tmp_path, size, orientation):
    picture = Image.radial_gradient("L").resize(size).convert("RGB")
    ImageDraw.Draw(picture).ellipse((size[0] // 3, size[1] // 4, size[0] // 2, size[1] // 3), fill=(200, 80, 20))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "a.jpg", quality=95, exif=exif)
    with Image.open(tmp_path / "a.jpg") as opened:
        whole = ImageOps.exif_transpose(opened).convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)
    difference = np.abs(datasets.load(str(tmp_path)).images[0].transpose(1, 2, 0).astype(int) - np.asarray(whole))
    assert difference.mean() < 0.6
    assert difference.max() <= 12


# --- ISIC-2019 ------------------------------------------------------------------------------------------------------------


def test_split_is_stratified_disjoint_whole_and_of_the_seed():
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(8), ISIC_SIZES))
    for seed in range(5):
        pool, test = isic2019.stratified_split(labels, seed)
        assert sorted([*pool, *test]) == list(range(len(labels)))
        assert np.bincount(labels[test]).tolist() == [round(0.2 * size) for size in ISIC_SIZES]
        assert (np.diff(pool) > 0).all()
        np.testing.assert_array_equal(test, isic2019.stratified_split(labels, seed)[1])
        assert not np.array_equal(test, isic2019.stratified_split(labels, seed + 1)[1])


def test_isic2019_is_lazy_and_its_labels_go_with_its_images(isic):
    train, test = datasets.load("isic2019", side=8), datasets.load("isic2019", "test", side=8)
    assert train.classes == test.classes == ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
    assert len(train) + len(test) == sum(ISIC_SIZES)
    numbers = np.concatenate([d.images[:][:, 0].mean(axis=(1, 2)) for d in (train, test)])
    np.testing.assert_allclose(np.sort(numbers), np.arange(sum(ISIC_SIZES)), atol=2)
    for part in (train, test):
        assert isinstance(part.images, ImageFiles)
        assert part.labels.dtype == np.int64
        np.testing.assert_allclose(part.images[:][:, 1].mean(axis=(1, 2)), 30 * part.labels, atol=3)


def test_isic2019_has_224_pixels_unless_asked(isic):
    assert datasets.load("isic2019", "test").images[0].shape == (3, 224, 224)


def test_isic2019_split_is_of_the_seed(isic):
    first, again, other = (datasets.load("isic2019", "test", seed=seed).images.names for seed in (3, 3, 4))
    assert first == again != other


def test_missing_images_are_counted_with_what_to_do(isic):
    names = datasets.load("isic2019", "test").images.names
    for name in names[:4]:
        (isic / isic2019.IMAGES / name).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        datasets.load("isic2019", "test")
    message = str(caught.value)
    assert message.startswith(f"4 of the {len(names)} images of ISIC-2019's test split are not in {isic}")
    for part in ("challenge.isic-archive.com", "SUPCLUST_DATA", 'missing="leave out"'):
        assert part in message
    assert len(datasets.load("isic2019", "train")) == sum(ISIC_SIZES) - len(names)


def test_missing_images_can_be_left_out_and_change_no_split(isic, caplog):
    whole = {split: datasets.load("isic2019", split, side=4) for split in datasets.SPLITS}
    gone = {name for part in whole.values() for name in part.images.names[::3]}
    for name in gone:
        (isic / isic2019.IMAGES / name).unlink()
    for split, before in whole.items():
        part = datasets.load("isic2019", split, side=4, missing="leave out")
        kept = [i for i, name in enumerate(before.images.names) if name not in gone]
        assert part.images.names == before.images.take(kept).names
        assert part.labels.tolist() == before.labels[kept].tolist()
        assert part.images[:].shape == (len(kept), 3, 4, 4)
        missing = len(before) - len(kept)
        assert f"{missing} of the {len(before)} images of ISIC-2019's {split} split are missing and left out" in caplog.text


@pytest.mark.parametrize("missing", datasets.MISSING)
def test_isic2019_without_any_image(isic, missing):
    shutil.rmtree(isic / isic2019.IMAGES)
    with pytest.raises(FileNotFoundError, match="of the 109 images of ISIC-2019's train split are not in"):
        datasets.load("isic2019", missing=missing)


def test_broken_image_of_isic2019_is_named(isic):
    test = datasets.load("isic2019", "test", side=8)
    file = isic / isic2019.IMAGES / test.images.names[2]
    file.write_bytes(file.read_bytes()[:200])
    for key in (2, slice(None)):
        with pytest.raises(ValueError, match=f"cannot read the image {file}"):
            test.images[key]


def test_another_number_of_labels_is_another_split_and_said_so(isic, caplog):
    datasets.load("isic2019")
    assert f"labels {sum(ISIC_SIZES)} images, the official one 25331" in caplog.text


def test_isic2019_is_fetched_by_hand(isic):
    with pytest.raises(ValueError, match=r"by hand.*challenge\.isic-archive\.com"):
        datasets.load("isic2019", download=True)


def test_absent_isic2019_says_where_and_how(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPCLUST_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError) as caught:
        datasets.load("isic2019", missing="leave out")
    for part in (str(tmp_path / "isic2019" / isic2019.LABELS), "challenge.isic-archive.com", "SUPCLUST_DATA"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("line", "replacement", "message"),
    [
        (0, "image,MEL,NV", "must have the columns image, MEL, .*, SCC, UNK"),
        (0, "image,NV,MEL,BCC,AK,BKL,DF,VASC,SCC,UNK", "must have the columns"),
        (2, "ISIC_0000001,1.0,1.0,0,0,0,0,0,0,0", r"ISIC_0000001 has not exactly one class \(1 such rows\)"),
        (2, "ISIC_0000001,0,0,0,0,0,0,0,0,0", "ISIC_0000001 has not exactly one class"),
        (2, "ISIC_0000001,0,0,0,0,0,0,0,0,1", "ISIC_0000001 has not exactly one class"),
        (2, "ISIC_0000001,0.5,1,0,0,0,0,0,0,0", "ISIC_0000001 has not exactly one class"),
        (2, "ISIC_0000001,yes,1,0,0,0,0,0,0,0", r"ISIC_0000001 has not exactly one class \(1 such rows\)"),
        (2, "ISIC_0000001,1", "ISIC_0000001 has not exactly one class"),
        (2, "ISIC_0000000,0,1,0,0,0,0,0,0,0", "ISIC_0000000 has the name of an earlier row"),
        (2, "ISIC_0000001,0,1,0,0,0,0,0,0,0,0,0,0", "cannot read .*Expected 10 fields"),
    ],
)
def test_bad_labels_are_named_with_their_file(isic, line, replacement, message):
    file = isic / isic2019.LABELS
    lines = file.read_text().splitlines()
    lines[line] = replacement
    file.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message) as caught:
        datasets.load("isic2019")
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x81", b"image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK\n"])
def test_label_file_without_rows_is_named(isic, content):
    (isic / isic2019.LABELS).write_bytes(content)
    with pytest.raises(ValueError, match=isic2019.LABELS):
        datasets.load("isic2019")


@needs_isic2019
def test_isic2019_has_its_official_counts_whatever_images_are_here():
    names, labels = isic2019.read_labels(kept.data() / "isic2019" / isic2019.LABELS)
    assert len(names) == 25_331
    assert dict(zip(isic2019.COUNTS, np.bincount(labels), strict=True)) == isic2019.COUNTS
    pool, test = isic2019.stratified_split(labels, 0)
    assert (len(pool), len(test)) == (20_264, 5_067)
    assert [names[row][-3:] for row in test[:3]] == ["003", "004", "009"]


@pytest.mark.parametrize("split", datasets.SPLITS)
def test_ham10000_is_the_part_of_each_split_with_its_numbers_and_asks_for_no_other_image(isic, monkeypatch, split):
    monkeypatch.setattr(isic2019, "HAM10000", range(30, 70))
    whole = datasets.load("isic2019", split, side=4)
    wanted = [row for row, name in enumerate(whole.images.names) if 30 <= int(name[5:12]) < 70]
    for name in set(whole.images.names) - {whole.images.names[row] for row in wanted}:
        (isic / isic2019.IMAGES / name).unlink()
    part = datasets.load("ham10000", split, side=4)
    assert (part.name, part.classes) == ("ham10000", whole.classes)
    np.testing.assert_array_equal(part.labels, whole.labels[wanted])
    np.testing.assert_array_equal(part.images[:], whole.images.take(wanted)[:])


@needs_isic2019
def test_ham10000_has_its_official_images():
    pool, test = (datasets.load("ham10000", split) for split in datasets.SPLITS)
    assert (len(pool), len(test)) == (8_037, 1_978)


@needs_isic2019
def test_real_images_of_isic2019_are_read():
    test = datasets.load("isic2019", "test", missing="leave out")
    some = test.images[:20]
    assert some.shape == (20, 3, 224, 224)
    assert 20 < some.std() < 120
    assert some[:, 0].mean() > some[:, 2].mean()  # skin
