"""The network against torchvision's, and the kNN accuracy against a slow, obvious one."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision
from lightly.models.modules import SimCLRProjectionHead
from torch import nn

from supclust import profiles, simclr
from supclust.engine.knn import knn_accuracy
from supclust.profiles import SimCLR
from supclust.train import hardware


def torchvisions(name):
    """Torchvision's network with the stem of small images."""
    network = getattr(torchvision.models, name)()
    network.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    network.maxpool = network.fc = nn.Identity()
    return network


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_resnet_is_torchvisions_with_a_small_stem(name):
    reference, ours = torchvisions(name).eval(), simclr.ResNet(name).eval()
    assert list(ours.state_dict()) == list(reference.state_dict())
    ours.load_state_dict(reference.state_dict())
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), reference(images))


def test_width_scales_the_features():
    assert simclr.ResNet("resnet18", width=4)(torch.zeros(2, 3, 8, 8)).shape == (2, 32)


def test_unknown_network_lists_the_known():
    with pytest.raises(ValueError, match="unknown network 'resnet50'; known: resnet18, resnet34"):
        simclr.ResNet("resnet50")


def initialised(seed):
    model = nn.Sequential(simclr.ResNet("resnet18", 8), SimCLRProjectionHead(64, 64, 16))
    for layer in (layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)):
        for parameter in layer.parameters():
            nn.init.constant_(parameter, 7.0)
    simclr.initialise(model, torch.Generator().manual_seed(seed))
    return model


def test_initialise_draws_every_weight_from_the_generator_alone():
    first, same, other = initialised(0), initialised(0), initialised(1)
    for (name, a), b, c in zip(first.named_parameters(), same.parameters(), other.parameters(), strict=True):
        assert not (a == 7).any(), name
        assert torch.equal(a, b), name
        if a.ndim > 1:
            assert not torch.equal(a, c), name


def test_initialise_has_torchvisions_and_pytorchs_scales():
    model = initialised(0)
    convolution, linear = model[0].layer4[1].conv2.weight, model[1].layers[0].weight
    assert convolution.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    assert linear.abs().max().item() == pytest.approx(1 / 64**0.5, rel=0.05)


def test_small_networks_take_one_thread_and_give_the_others_back(two_threads):
    before = torch.get_num_threads()
    assert before == 2
    with hardware.conditions(width=64, side=32):
        assert torch.get_num_threads() == before
    with hardware.conditions(width=16, side=8):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (13, 3, 8, 8), dtype=np.uint8)


def test_embed_is_the_network_in_evaluation_mode_whatever_the_batches(images):
    network = initialised(0)[0].train()
    with torch.inference_mode():
        expected = network.eval()(simclr.normalise(torch.from_numpy(images) / 255)).numpy()
    network.train()
    features = simclr.embed(network, images, side=8, batch_size=5)
    assert features.dtype == np.float32
    assert features.shape == (13, 64)
    np.testing.assert_allclose(features, expected, atol=1e-5)
    assert network.training  # as it was


def test_embed_resizes_images_that_differ(images):
    network = initialised(0)[0]
    large = np.repeat(np.repeat(images, 2, axis=2), 2, axis=3)
    assert simclr.embed(network, large, side=8).shape == (13, 64)
    resized = simclr.resize(torch.from_numpy(large), 8)
    assert resized.shape == (13, 3, 8, 8)
    assert resized.max() <= 1
    assert resized.mean().item() == pytest.approx(images.mean() / 255, abs=1e-3)
    torch.testing.assert_close(simclr.resize(torch.from_numpy(images), 8), torch.from_numpy(images) / 255)


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (4, 8, 8, 3), (3, 8, 8)])
def test_embed_refuses_what_are_no_images(shape):
    with pytest.raises(ValueError, match="images must be uint8"):
        simclr.embed(simclr.ResNet("resnet18", 4), np.zeros(shape, np.uint8), side=8)


def test_embed_refuses_floats():
    with pytest.raises(ValueError, match="not float64"):
        simclr.embed(simclr.ResNet("resnet18", 4), np.zeros((2, 3, 8, 8)), side=8)


def slow_knn_accuracy(train, train_labels, test, test_labels, k, temperature):
    """One test point, one neighbour at a time, in float64."""
    hits = 0
    for point, label in zip(test.astype(float), test_labels, strict=True):
        cosines = [row @ point / np.linalg.norm(row) / np.linalg.norm(point) for row in train.astype(float)]
        votes = dict.fromkeys(train_labels.tolist(), 0.0)
        for i in np.argsort(cosines)[::-1][:k]:
            votes[int(train_labels[i])] += np.exp(cosines[i] / temperature)
        hits += max(votes, key=votes.get) == label
    return hits / len(test)


@pytest.mark.parametrize("k", [1, 5, 20, 1000])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_knn_accuracy_is_the_slow_one(k, temperature):
    rng = np.random.default_rng(k)
    labels, test_labels = rng.choice([2, 5, 9], 80), rng.choice([2, 5, 9], 50)
    train = (rng.normal(size=(80, 6)) + 0.4 * labels[:, None] * np.eye(6)[labels % 6]).astype(np.float32)
    test = (rng.normal(size=(50, 6)) + 0.4 * test_labels[:, None] * np.eye(6)[test_labels % 6]).astype(np.float32)
    expected = slow_knn_accuracy(train, labels, test, test_labels, k, temperature)
    assert 0.4 < expected < 1
    assert knn_accuracy(train, labels, test, test_labels, k, temperature) == pytest.approx(expected)


def test_knn_weights_decide_against_the_majority():
    """One neighbour at cosine 1 outweighs two at cosine 0 by exp(10), but not at a temperature of 10."""
    train, labels = np.eye(3, dtype=np.float32), np.array([0, 1, 1])
    test, truth = np.array([[1.0, 0, 0]], dtype=np.float32), np.array([0])
    assert knn_accuracy(train, labels, test, truth, k=3) == 1
    assert knn_accuracy(train, labels, test, truth, k=3, temperature=10) == 0
    assert knn_accuracy(train, labels, test, truth, k=3, temperature=1e-3) == 1  # exp(1000) overflows


def test_knn_is_the_same_over_several_blocks():
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(50, 4)), rng.normal(size=(2500, 4))
    labels, truth = rng.integers(0, 3, 50), rng.integers(0, 3, 2500)
    parts = [knn_accuracy(train, labels, test[i::5], truth[i::5]) for i in range(5)]
    assert knn_accuracy(train, labels, test, truth) == pytest.approx(np.mean(parts))


def test_knn_refuses_features_that_are_not_finite():
    train = np.ones((5, 2))
    train[3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        knn_accuracy(train, np.zeros(5), np.ones((1, 2)), np.zeros(1))


def test_knn_refuses_labels_of_another_length():
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        knn_accuracy(np.ones((5, 2)), np.zeros(4), np.ones((1, 2)), np.zeros(1))


# --- what makes training fast ---------------------------------------------------------------------------------------------


def test_the_stem_for_large_images_is_torchvisions():
    reference = torchvision.models.resnet18()
    reference.fc = nn.Identity()
    network = simclr.ResNet("resnet18", stem="imagenet")
    network.load_state_dict(reference.state_dict())
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network.eval()(images), reference.eval()(images), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="unknown stem 'large'; known: small, imagenet"):
        simclr.ResNet("resnet18", stem="large")


@pytest.mark.parametrize("amx", [False, True])
@pytest.mark.parametrize(
    ("changes", "side", "gains"),
    [
        ({}, 32, True),
        ({}, 16, True),
        ({}, 8, False),
        ({"width": 16}, 32, False),
        ({"stem": "imagenet"}, 32, False),
        ({"stem": "imagenet"}, 64, True),
    ],
)
def test_auto_is_bfloat16_only_for_wide_networks_and_large_views_where_it_is_fast(changes, side, gains, amx, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx}, raising=False)
    assert precision_of(SimCLR(**changes), side) == (torch.bfloat16 if amx and gains else torch.float32)


@pytest.mark.parametrize("amx", [False, True])
def test_a_precision_that_is_given_is_taken(amx, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx}, raising=False)
    for name in ("float32", "bfloat16"):
        assert precision_of(SimCLR(precision=name), 32) == getattr(torch, name)


def precision_of(config, side):
    product = torch.ones(2, 2)
    with hardware.autocast(torch.device("cpu"), config, side):
        return (product @ product).dtype


def test_profiles_for_cpus_are_the_same_with_and_without_amx():
    digits, laptop = profiles.get("quick"), profiles.get("laptop")
    assert {digits.simclr.precision, digits.fsl.network.precision, laptop.simclr.precision} == {"float32"}


def test_kept_memory_is_given_back():
    """Resident memory: the block keeps what was freed in it, and its end returns that to the system."""
    script = """
import torch
from supclust.train.hardware import kept_memory
def resident(): return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
with kept_memory():
    before = resident()
    for _ in range(3): torch.ones(100, 2**18)  # 100 MiB
    kept = resident() - before
print(kept, resident() - before)
"""
    if sys.platform != "linux":
        pytest.skip("glibc only")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    kept, after = map(float, done.stdout.split())
    assert kept > 80
    assert after < 20
