"""Networks trained from scratch: what they learn, and every step against the plainest loop; the views they train on."""

import numpy as np
import pytest
import torch
from torch import nn

from supclust import profiles, simclr
from supclust.profiles import FSL
from supclust.train import supervised
from tests import reference

TINY = FSL(width=4, side=8, epochs=30, learning_rate=0.1, flip=0.0)


def stripes(n, seed=0):
    """Images (n, 3, 8, 8) of two classes: with stripes that run across, or down."""
    rng, labels = np.random.default_rng(seed), np.arange(n) % 2
    across = np.tile((np.arange(8)[:, None] % 4 < 2) * 200, (1, 8))
    images = np.stack([across if label == 0 else across.T for label in labels])[:, None] + rng.integers(0, 50, (n, 3, 8, 8))
    return images.astype(np.uint8), labels


def test_a_network_learns_what_a_few_labels_tell():
    body, head = supervised.fit_network(*stripes(10), 2, TINY, (0,))
    images, labels = stripes(100, seed=1)
    assert (head.predict(supervised.embed(body, images, TINY)) == labels).mean() > 0.95


@pytest.mark.parametrize("n", [1, 3, 101])
def test_a_network_trains_on_any_number_of_labels_of_any_of_the_classes(n):
    images, labels = stripes(n)
    body, head = supervised.fit_network(images, labels + 1, 7, profiles.replace(TINY, epochs=2), (0,))
    logp = head.log_probabilities(supervised.embed(body, images, TINY))
    assert logp.shape == (n, 7)
    assert np.isfinite(logp).all()


def test_the_seed_alone_decides_what_a_network_becomes():
    config = profiles.replace(TINY, epochs=2)
    torch.manual_seed(1)
    first = supervised.fit_network(*stripes(6), 2, config, (3, 6))[1].weights
    torch.manual_seed(2)
    np.testing.assert_array_equal(first, supervised.fit_network(*stripes(6), 2, config, (3, 6))[1].weights)
    assert not np.array_equal(first, supervised.fit_network(*stripes(6), 2, config, (4, 6))[1].weights)


def test_a_network_looks_at_images_in_the_precision_that_it_was_trained_in():
    images, labels = stripes(20)
    config = profiles.replace(TINY, width=16, epochs=2, precision="float32")
    body, _ = supervised.fit_network(images, labels, 2, config, (0,))
    exact, rough = (supervised.embed(body, images, profiles.replace(config, precision=p)) for p in ("float32", "bfloat16"))
    assert rough.dtype == exact.dtype == np.float32
    assert 0 < np.abs(rough - exact).max() < 0.05 * np.abs(exact).max()


def test_an_epoch_holds_every_image_and_fills_its_last_batch():
    generator = torch.Generator().manual_seed(0)
    for n, batches in ((1, 1), (10, 1), (99, 1), (100, 1), (101, 2), (250, 3)):
        rows = list(supervised._filled_batches(n, 100, generator))
        assert [len(batch) for batch in rows] == [100] * batches
        counts = torch.cat(rows).bincount(minlength=n)
        assert counts.min() >= 1
        assert counts.max() - counts.min() <= 1


def test_losses_that_explode_are_said():
    images, labels = stripes(4)
    with pytest.raises(FloatingPointError, match="smaller learning rate"):
        supervised.fit_network(images, labels, 2, profiles.replace(TINY, learning_rate=1e30), (0,))


def test_training_is_the_protocol_step_by_step(monkeypatch):
    """Against the plainest loop, fed with the same views, rows and dropout masks: the weights are the same."""
    config = profiles.replace(TINY, epochs=3, batch_size=8, weight_decay=1.0, learning_rate=0.002)
    images, labels = stripes(12)
    seen = record_randomness(monkeypatch)
    body, head = supervised.fit_network(images, labels, 2, config, (5,))
    monkeypatch.undo()
    assert len(seen["rows"]) == 3 * 2
    masks = torch.stack(seen["masks"])
    assert abs(masks.float().mean() - 0.5) < 0.1
    steps = [(simclr.normalise(views), rows) for views, rows in zip(seen["views"], seen["rows"], strict=True)]
    model = nn.Sequential(simclr.ResNet(config.network, config.width), nn.Linear(8 * config.width, 2))
    simclr.initialise(model, simclr.generator(torch.device("cpu"), (5, supervised.WEIGHTS_STREAM)))
    reference.fit_network(model, [steps[0:2], steps[2:4], steps[4:6]], torch.from_numpy(labels), config, seen["masks"])
    np.testing.assert_allclose(head.weights, model[1].weight.detach().numpy(), rtol=0, atol=3e-6)
    for fast, slow in zip(body.parameters(), model[0].parameters(), strict=True):
        torch.testing.assert_close(fast, slow, rtol=0, atol=3e-6)


def record_randomness(monkeypatch):
    """What `fit_network` draws on its way: rows of each batch, views and dropout masks."""
    seen = {"rows": [], "views": [], "masks": []}
    batches, shift, rand = supervised._filled_batches, supervised.shift, torch.rand

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

    monkeypatch.setattr(supervised, "_filled_batches", recorded_batches)
    monkeypatch.setattr(supervised, "shift", recorded_shift)
    monkeypatch.setattr(torch, "rand", recorded_rand)
    return seen


def test_a_shift_is_a_crop_of_the_padded_image_mirrored_or_not():
    images = torch.randint(1, 255, (40, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    moved = supervised.shift(images, 2, 0.5, torch.Generator().manual_seed(1))
    assert moved.dtype == images.dtype
    found = [places(image, view) for image, view in zip(images, moved, strict=True)]
    assert all(len(place) == 1 for place in found)
    places_seen = {place for (place,) in found}
    assert {y for y, _, _ in places_seen} == {x for _, x, _ in places_seen} == set(range(5))
    assert {mirrored for _, _, mirrored in places_seen} == {False, True}


def places(image, view):
    """All the crops (y, x, mirrored) of the padded image that the view is."""
    padded = torch.nn.functional.pad(image, [2] * 4)
    height, width = view.shape[1:]
    return [
        (y, x, mirrored)
        for y in range(5)
        for x in range(5)
        for mirrored in (False, True)
        if torch.equal(view.flip(2) if mirrored else view, padded[:, y : y + height, x : x + width])
    ]


def test_without_padding_and_flip_a_shift_changes_nothing():
    images = torch.rand(4, 3, 8, 8)
    assert torch.equal(supervised.shift(images, 0, 0.0, torch.Generator()), images)
