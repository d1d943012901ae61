import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax
from torch import nn

from supclust import learners, profiles, simclr
from supclust.profiles import FSL
from tests import reference


def slow_fit(points, labels, n_classes, weight_decay):
    """The same loss in plain numpy, minimised without a gradient of our own."""
    n, d = points.shape

    def loss(flat):
        weights, biases = flat[: n_classes * d].reshape(n_classes, d), flat[n_classes * d :]
        logits = log_softmax(points @ weights.T + biases, axis=1)
        return -logits[np.arange(n), labels].mean() + weight_decay / 2 * (weights**2).sum()

    flat = minimize(loss, np.zeros(n_classes * (d + 1)), options={"gtol": 1e-7, "maxiter": 5000}).x
    return flat[: n_classes * d].reshape(n_classes, d)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("weight_decay", [1e-2, 1e-1])
def test_linear_head_minimises_the_documented_loss(n_classes, weight_decay):
    rng = np.random.default_rng(n_classes)
    points, labels = rng.standard_normal((20, 3)), np.arange(20) % n_classes
    head = learners.fit_linear_head(points, labels, n_classes, weight_decay)
    weights = slow_fit(points, labels, n_classes, weight_decay)
    np.testing.assert_allclose(head.weights - head.weights.mean(axis=0), weights - weights.mean(axis=0), atol=2e-3)


def test_linear_head_separates_what_is_separable(blobs):
    labels = np.repeat(np.arange(12), 40)
    head = learners.fit_linear_head(blobs[::5], labels[::5], 12)
    assert (head.predict(blobs) == labels).mean() > 0.99


@pytest.mark.parametrize("present", [[3], [1, 4], [0, 2, 5]])
def test_classes_that_were_never_labelled_are_never_predicted(blobs, present):
    labels = np.array(present)[np.arange(60) % len(present)]
    head = learners.fit_linear_head(blobs[:60], labels, 6)
    assert set(head.predict(blobs)) <= set(present)
    assert len(present) == 1 or (head.predict(blobs[:60]) == labels).mean() > 1 / len(present)


def test_log_probabilities_are_those_of_the_softmax_and_know_what_was_never_labelled(blobs):
    head = learners.fit_linear_head(blobs[:120], np.arange(120) // 40, 5)
    logp = head.log_probabilities(blobs)
    np.testing.assert_allclose(np.exp(logp).sum(axis=1), 1)
    np.testing.assert_array_equal(logp.argmax(axis=1), head.predict(blobs))
    assert np.isneginf(logp[:, 3:]).all()
    assert np.isfinite(logp[:, :3]).all()


def test_dropout_drops_half_of_the_entries_before_the_last_layer():
    """With weights that tell which entries were kept, each pass shows its mask: fair coins, independent, scaled by two."""
    d, n, passes = 12, 4000, 3
    weights = np.stack([2.0 ** np.arange(d), np.zeros(d)])
    head = learners.LinearHead(weights, np.zeros(2))
    logps = list(head.dropout_log_probabilities(np.ones((n, d)), np.random.default_rng(0), passes))
    codes = [np.rint((logp[:, 0] - logp[:, 1]) / 2).astype(int) for logp in logps]
    kept = np.array([(code[:, None] >> np.arange(d)) & 1 for code in codes])
    assert kept.shape == (passes, n, d)
    assert abs(kept.mean(axis=(0, 1)) - 0.5).max() < 5 * 0.5 / np.sqrt(passes * n)
    assert abs(np.corrcoef(kept.reshape(-1, d).T) - np.eye(d)).max() < 5 / np.sqrt(passes * n)
    assert len(np.unique(codes)) > 2000


@pytest.mark.parametrize("d", [1, 7, 8, 9, 256])
def test_dropout_has_one_coin_for_each_entry_whatever_their_number(d):
    head = learners.LinearHead(np.ones((3, d)), np.zeros(3))
    passes = list(head.dropout_log_probabilities(np.ones((5, d), np.float32), np.random.default_rng(0)))
    assert len(passes) == learners.DROPOUT_PASSES
    assert all(logp.shape == (5, 3) for logp in passes)


TINY = FSL(width=4, side=8, epochs=30, learning_rate=0.1, flip=0.0)


def stripes(n, seed=0):
    """Images (n, 3, 8, 8) of two classes: with stripes that run across, or down."""
    rng, labels = np.random.default_rng(seed), np.arange(n) % 2
    across = np.tile((np.arange(8)[:, None] % 4 < 2) * 200, (1, 8))
    images = np.stack([across if label == 0 else across.T for label in labels])[:, None] + rng.integers(0, 50, (n, 3, 8, 8))
    return images.astype(np.uint8), labels


def test_a_network_learns_what_a_few_labels_tell():
    network = learners.fit_network(*stripes(10), 2, TINY, (0,))
    images, labels = stripes(100, seed=1)
    assert (network.predict(images) == labels).mean() > 0.95


@pytest.mark.parametrize("n", [1, 3, 101])
def test_a_network_trains_on_any_number_of_labels_of_any_of_the_classes(n):
    images, labels = stripes(n)
    network = learners.fit_network(images, labels + 1, 7, profiles.replace(TINY, epochs=2), (0,))
    logp = network.head.log_probabilities(network.embed(images))
    assert logp.shape == (n, 7)
    assert np.isfinite(logp).all()


def test_the_seed_alone_decides_what_a_network_becomes():
    config = profiles.replace(TINY, epochs=2)
    torch.manual_seed(1)
    first = learners.fit_network(*stripes(6), 2, config, (3, 6)).head.weights
    torch.manual_seed(2)
    np.testing.assert_array_equal(first, learners.fit_network(*stripes(6), 2, config, (3, 6)).head.weights)
    assert not np.array_equal(first, learners.fit_network(*stripes(6), 2, config, (4, 6)).head.weights)


def test_an_epoch_holds_every_image_and_fills_its_last_batch():
    generator = torch.Generator().manual_seed(0)
    for n, batches in ((1, 1), (10, 1), (99, 1), (100, 1), (101, 2), (250, 3)):
        rows = list(learners._filled_batches(n, 100, generator))
        assert [len(batch) for batch in rows] == [100] * batches
        counts = torch.cat(rows).bincount(minlength=n)
        assert counts.min() >= 1
        assert counts.max() - counts.min() <= 1


def test_labels_that_do_not_fit_and_losses_that_explode_are_said():
    images, labels = stripes(4)
    with pytest.raises(ValueError, match=r"in 0\.\.1, not \[1, 2\]"):
        learners.fit_network(images, labels + 1, 2, TINY, (0,))
    with pytest.raises(FloatingPointError, match="smaller learning rate"):
        learners.fit_network(images, labels, 2, profiles.replace(TINY, learning_rate=1e30), (0,))


def test_training_is_the_protocol_step_by_step(monkeypatch):
    """Against the plainest loop, fed with the same views, rows and dropout masks: the weights are the same."""
    config = profiles.replace(TINY, epochs=3, batch_size=8, weight_decay=1.0, learning_rate=0.002)
    images, labels = stripes(12)
    seen = record_randomness(monkeypatch)
    trained = learners.fit_network(images, labels, 2, config, (5,))
    monkeypatch.undo()
    assert len(seen["rows"]) == 3 * 2
    masks = torch.stack(seen["masks"])
    assert abs(masks.float().mean() - 0.5) < 0.1
    steps = [(simclr.normalise(views), rows) for views, rows in zip(seen["views"], seen["rows"], strict=True)]
    model = nn.Sequential(simclr.resnet(config.network, config.width), nn.Linear(8 * config.width, 2))
    simclr.initialise(model, simclr.generator(torch.device("cpu"), (5, learners.WEIGHTS_STREAM)))
    reference.fit_network(model, [steps[0:2], steps[2:4], steps[4:6]], torch.from_numpy(labels), config, seen["masks"])
    np.testing.assert_allclose(trained.head.weights, model[1].weight.detach().numpy(), rtol=0, atol=3e-6)
    for fast, slow in zip(trained.body.parameters(), model[0].parameters(), strict=True):
        torch.testing.assert_close(fast, slow, rtol=0, atol=3e-6)


def record_randomness(monkeypatch):
    """What `fit_network` draws on its way: rows of each batch, views and dropout masks."""
    seen = {"rows": [], "views": [], "masks": []}
    batches, shift, rand = learners._filled_batches, simclr.shift, torch.rand

    def recorded_batches(*args):
        for rows in batches(*args):
            seen["rows"].append(rows)
            yield rows

    def recorded_shift(*args):
        seen["views"].append(shift(*args))
        return seen["views"][-1]

    def recorded_rand(*args, **kwargs):
        drawn = rand(*args, **kwargs)
        if drawn.ndim == 2:
            seen["masks"].append(drawn >= 0.5)
        return drawn

    monkeypatch.setattr(learners, "_filled_batches", recorded_batches)
    monkeypatch.setattr(simclr, "shift", recorded_shift)
    monkeypatch.setattr(torch, "rand", recorded_rand)
    return seen
