"""The batched views against torchvision's one-image transformations, and against what their parameters promise."""

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop, v2

from supclust import augment as a
from supclust.profiles import SimCLR

OFF = SimCLR(side=16, smallest_crop=1.0, flip=0.0, jitter=0.0, grayscale=0.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def ramps(n, side=32):
    """Images whose first two channels are the x and y of each pixel's centre, from 0 to 1: a crop tells where it was."""
    centres = (torch.arange(side) + 0.5) / side
    image = torch.stack([centres.expand(side, side), centres[:, None].expand(side, side), torch.zeros(side, side)])
    return image.repeat(n, 1, 1, 1)


def crops(smallest, flip=0.0, n=4000, seed=0, side=32):
    """Signed width, height and centre of n random crops, read off from the middle of the views."""
    views = a.random_crop(ramps(n), side, smallest, flip, generator(seed))
    low, high, middle = side // 4, 3 * side // 4 - 1, slice(side // 4, 3 * side // 4)
    scale = side / (high - low)
    width = (views[:, 0, middle, high] - views[:, 0, middle, low]).mean(dim=1) * scale
    height = (views[:, 1, high, middle] - views[:, 1, low, middle]).mean(dim=1) * scale
    center = views[:, :2, middle, middle].mean(dim=(2, 3))
    return width.numpy(), height.numpy(), center.numpy()


@pytest.fixture(scope="module")
def photos():
    """Smooth, colourful noise, uint8."""
    coarse = torch.rand(64, 3, 4, 4, generator=generator(1))
    return (torch.nn.functional.interpolate(coarse, size=16, mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)


def test_views_are_normalised_floats_of_the_configured_side(photos):
    views = a.augment(photos, SimCLR(side=8), generator())
    assert views.shape == (64, 3, 8, 8)
    assert views.dtype == torch.float32
    low, high = ((torch.tensor(v) - torch.tensor(a.MEAN)) / torch.tensor(a.STD) for v in (0.0, 1.0))
    assert (views.amin(dim=(0, 2, 3)) >= low - 1e-5).all()
    assert (views.amax(dim=(0, 2, 3)) <= high + 1e-5).all()


def test_everything_off_is_the_identity(photos):
    views = a.augment(photos, OFF, generator())
    torch.testing.assert_close(views, a.normalise(photos), atol=1e-4, rtol=0)


def test_normalise_is_torchvisions(photos):
    reference = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(a.MEAN, a.STD)])
    torch.testing.assert_close(a.normalise(photos), reference(photos))
    torch.testing.assert_close(a.normalise(photos.float() / 255), reference(photos))


def test_same_generator_same_views_other_seed_other_views(photos):
    views = [a.augment(photos, SimCLR(side=16), generator(seed)) for seed in (0, 0, 1)]
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])


def test_each_image_is_drawn_for_itself(photos):
    same = photos[:1].repeat(20, 1, 1, 1)
    views = a.augment(same, SimCLR(side=16, grayscale=0.0), generator()).flatten(1)
    assert (torch.cdist(views, views) + torch.eye(20) * 1e9).min() > 0.1


def test_the_view_of_an_image_does_not_depend_on_the_others(photos):
    other = photos.flip(0).clone()
    other[3] = photos[3]
    views, mixed = (a.augment(batch, SimCLR(side=16), generator()) for batch in (photos, other))
    torch.testing.assert_close(views[3], mixed[3])
    assert not torch.allclose(views[4], mixed[4])


@pytest.mark.parametrize("smallest", [0.2, 0.6])
def test_crops_keep_to_their_ranges_and_inside_the_image(smallest):
    width, height, center = crops(smallest)
    assert (width > 0).all()  # not mirrored
    area, ratio = width * height, width / height
    assert area.min() >= smallest - 0.01
    assert area.max() <= 1.01
    assert area.min() < smallest + 0.05
    assert ratio.min() >= 3 / 4 - 0.01
    assert ratio.max() <= 4 / 3 + 0.01
    half = np.column_stack([width, height]) / 2
    assert (center - half >= -0.01).all()
    assert (center + half <= 1.01).all()


def test_crops_are_distributed_as_torchvisions():
    width, height, center = crops(0.2, n=6000)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image, scale, ratio = torch.zeros(3, 320, 320), [0.2, 1.0], [3 / 4, 4 / 3]
        drawn = [RandomResizedCrop.get_params(image, scale, ratio) for _ in range(3000)]
    top, left, tall, wide = np.array(drawn).T / 320
    ours, theirs = (width, height, *center.T), (wide, tall, left + wide / 2, top + tall / 2)
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine.mean() == pytest.approx(reference.mean(), abs=0.015)
        assert mine.std() == pytest.approx(reference.std(), abs=0.015)


@pytest.mark.parametrize(("flip", "share"), [(0.0, 0), (0.3, 0.3), (1.0, 1)])
def test_flip_mirrors_that_share(flip, share):
    width, height, _ = crops(0.5, flip)
    assert (width < 0).mean() == pytest.approx(share, abs=0.03)
    assert (height > 0).all()


def test_a_flip_alone_is_the_exact_mirror(photos):
    views = a.random_crop(photos.float(), 16, 1.0, 1.0, generator())
    torch.testing.assert_close(views, photos.float().flip(3), atol=1e-2, rtol=0)


def test_crop_does_not_darken_the_border():
    views = a.random_crop(torch.ones(200, 3, 8, 8), 8, 0.2, 0.5, generator())
    torch.testing.assert_close(views, torch.ones_like(views))


def test_jitter_has_torchvisions_moments(photos):
    """Mean and spread over the draws, of each image and channel. The order of operations and the hue's plane differ."""
    images = photos[:4].float() / 255
    ours = a.color_jitter(images.repeat(1000, 1, 1, 1), 0.8, generator()).view(1000, 4, 3, 16, 16)
    transform = v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = torch.stack([torch.stack([transform(image) for image in images]) for _ in range(200)])
    tones = [batch.mean(dim=(3, 4)) for batch in (ours, theirs)]
    torch.testing.assert_close(*(tone.mean(dim=0) for tone in tones), atol=0.03, rtol=0)
    torch.testing.assert_close(*(tone.std(dim=0) for tone in tones), atol=0.03, rtol=0)
    contrasts = [batch.std(dim=(3, 4)).mean(dim=0) for batch in (ours, theirs)]
    torch.testing.assert_close(*contrasts, atol=0.03, rtol=0)


def test_jitter_leaves_the_share_it_should_alone(photos):
    images = photos.repeat(30, 1, 1, 1).float() / 255
    unchanged = (a.color_jitter(images, 0.8, generator()) - images).abs().amax(dim=(1, 2, 3)) < 1e-4
    assert unchanged.float().mean().item() == pytest.approx(0.2, abs=0.03)


def test_jitter_without_colour_changes_brightness_and_contrast_only():
    images = torch.rand(100, 1, 8, 8, generator=generator()).repeat(1, 3, 1, 1)
    jittered = a.color_jitter(images, 1.0, generator())
    torch.testing.assert_close(jittered, jittered[:, :1].expand(-1, 3, -1, -1), atol=2e-3, rtol=0)
    assert not torch.allclose(jittered, images)


def test_grayscale_takes_torchvisions_luminance(photos):
    images = photos.float() / 255
    reference = v2.functional.rgb_to_grayscale(images, 3)
    torch.testing.assert_close(a.random_grayscale(images, 1.0, generator()), reference, atol=1e-3, rtol=0)
    assert torch.equal(a.random_grayscale(images, 0.0, generator()), images)
    grays = a.random_grayscale(images.repeat(30, 1, 1, 1), 0.2, generator())
    share = (grays.std(dim=1).amax(dim=(1, 2)) < 1e-6).float().mean().item()
    assert share == pytest.approx(0.2, abs=0.03)
