"""The data sets: known sizes and orders, folders of every arrangement, and clear errors for what is absent or damaged."""

import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10

from supclust import datasets, paths

needs_cifar10 = pytest.mark.skipif(
    not (paths.data() / CIFAR10.base_folder).exists(), reason="CIFAR-10 is not in the folder that SUPCLUST_DATA names"
)


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
    with pytest.raises(ValueError, match="known: digits, cifar10, cifar10-lt50, or the path"):
        datasets.load(name)


def test_unknown_split_lists_the_known():
    with pytest.raises(ValueError, match="unknown split 'valid'; known: train, test"):
        datasets.load("digits", "valid")


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
    shutil.copytree(paths.data() / CIFAR10.base_folder, tmp_path / CIFAR10.base_folder)
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


def test_images_are_cropped_to_their_centre_not_squeezed(tmp_path):
    pixels = np.zeros((8, 24, 3), dtype=np.uint8)
    pixels[:, 8:16] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert datasets.load(str(tmp_path), side=8).images.min() == 255


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
