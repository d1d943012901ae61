"""Embedding one's own images: SimCLR within a time budget, resumed or reused, and pretrained backbones that are or are not here."""

import hashlib
import json
import time

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from supclust import features, kept, simclr
from supclust.label import embedders
from supclust.label.request import EncoderOptions
from supclust.train import hardware

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
    return embedders.load(EncoderOptions(**options), seed, force=replace)


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
    with pytest.raises(ValueError, match="3 images are too few to train an encoder from scratch: 32 are needed"):
        from_scratch().embed(pictures[:3], tmp_path)


def test_training_starts_from_the_encoder_of_the_package(pictures, tmp_path):
    found, about = own(epochs=1).embed(pictures, tmp_path)
    assert found.shape == (N, 512)
    before = features.embed(simclr.load_weights(kept.shipped_weights("cifar10")), pictures)
    assert np.abs(found - before).max() > 0
    assert np.corrcoef(found.ravel(), before.ravel())[0, 1] > 0.5
    assert about["encoder"].startswith("SimCLR, 1 epochs on these images")
    assert about["config"]["small_side"] == 24
    assert sorted(file.name for file in tmp_path.iterdir()) == ["encoder.safetensors", "recipe.json"]


def test_a_number_of_epochs_gives_the_same_features_again(narrow, tmp_path):
    first, _ = from_scratch(epochs=2, seed=3).embed(narrow, tmp_path / "a")
    second, _ = from_scratch(epochs=2, seed=3).embed(narrow, tmp_path / "b")
    other, _ = from_scratch(epochs=2, seed=4).embed(narrow, tmp_path / "c")
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - other).max() > 0


def test_the_plan_fits_into_the_minutes(narrow, tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "seconds_per_image", lambda *arguments: 1 / 32)
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
    monkeypatch.setattr(hardware, "seconds_per_image", lambda *arguments: 1e-9)
    found, about = from_scratch(minutes=0.005).embed(narrow, tmp_path)
    assert np.isfinite(found).all()
    assert not about["finished"]
    assert "the time was over after" in caplog.text


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
        ({"epochs": 0}, "epochs of a training must be at least 1"),
        ({"minutes": 0, "scratch": True}, "from scratch that is not trained knows nothing"),
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


# --- backbones ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder in place of PyTorch's own, and random weights for mobilenet_v3_small under the name of official ones."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    torch.manual_seed(0)
    network = torchvision.models.get_model("mobilenet_v3_small", weights=None)
    torch.save(network.state_dict(), tmp_path / "weights")
    digits = hashlib.sha256((tmp_path / "weights").read_bytes()).hexdigest()[:8]
    url = f"https://download.example/models/mobilenet_v3_small-{digits}.pth"
    _, transforms = embedders._official("mobilenet_v3_small")
    monkeypatch.setattr(embedders, "_official", lambda name: (url, transforms))
    return network.eval(), tmp_path / "hub" / "checkpoints" / url.rsplit("/", 1)[-1], (tmp_path / "weights").read_bytes()


def test_a_backbone_is_the_classifier_without_its_last_layer(hub, pictures, tmp_path):
    network, file, content = hub
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    large = np.repeat(np.repeat(pictures[:5], 7, axis=2), 7, axis=3)
    backbone = of("mobilenet_v3_small")
    assert backbone.side == 224
    found, about = backbone.embed(large, tmp_path)
    normal = torchvision.transforms.functional.normalize(
        torch.from_numpy(large) / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    with torch.inference_mode():
        logits = network(normal).numpy()
    last = network.classifier[-1]
    np.testing.assert_allclose(found @ last.weight.detach().numpy().T + last.bias.detach().numpy(), logits, atol=1e-4)
    assert about == {"encoder": "mobilenet_v3_small of torchvision, pretrained on ImageNet", "weights": file.name}


def test_weights_that_are_not_here_are_not_fetched_without_leave(hub):
    _, file, _ = hub
    with pytest.raises(FileNotFoundError, match=r"Allow fetching them with --download, or put mobilenet.*into"):
        of("mobilenet_v3_small")
    assert not file.exists()


def test_weights_are_fetched_with_leave(hub, monkeypatch):
    _, file, content = hub

    def fetch(url, path, hash_prefix):
        assert (url.rsplit("/", 1)[-1], path) == (file.name, str(file))
        assert hashlib.sha256(content).hexdigest().startswith(hash_prefix)
        file.write_bytes(content)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    assert of("mobilenet_v3_small", download=True).side == 224


def test_without_a_network_fetching_says_so(hub, monkeypatch):
    def fetch(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    with pytest.raises(ValueError, match=r"cannot fetch https://.*no route to host. Without it, `--encoder simclr` trains"):
        of("mobilenet_v3_small", download=True)


def test_damaged_weights_are_named(hub):
    _, file, content = hub
    file.parent.mkdir(parents=True)
    file.write_bytes(content[:-1] + b"x")
    with pytest.raises(ValueError, match=r"mobilenet.*is not the official file: its SHA-256 sum differs"):
        of("mobilenet_v3_small")


def test_an_unknown_encoder_is_told_what_may_be_meant():
    with pytest.raises(ValueError, match=r"unknown encoder 'resnet5': it is simclr, .* did you mean resnet50 or"):
        of("resnet5")


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "efficientnet_b0", "convnext_tiny", "vit_b_32", "swin_t"])
def test_the_last_layer_of_each_family_is_found(name):
    network = torchvision.models.get_model(name, weights=None)
    wide = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    body = embedders._without_classifier(network).eval()
    with torch.inference_mode():
        assert body(torch.zeros(1, 3, 224, 224)).flatten(1).shape == (1, wide.in_features)
