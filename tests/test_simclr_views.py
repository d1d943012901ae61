"""The batched views against torchvision's one-image transformations, and against what their parameters promise."""

import colorsys
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms import RandomResizedCrop, v2

from supclust import simclr as a
from supclust.engine import colours
from supclust.profiles import SimCLR

OFF = SimCLR(side=16, smallest_crop=1.0, flip=0.0, jitter=0.0, grayscale=0.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draws(n, seed=0, **config):
    return a.draw(n, SimCLR(**config), generator(seed))


def augment(images, config, generator, side=None):
    return a.render(images, a.draw(len(images), config, generator), side or config.side)


def crop(images, places, side):
    """Views without other colours, not normalised. places (n, 4): size and center, the first columns of the draws."""
    views = a.render(images, torch.cat([places[:, :4], torch.zeros(len(images), 5)], dim=1), side)
    return views * torch.tensor(a.STD).view(3, 1, 1) + torch.tensor(a.MEAN).view(3, 1, 1)


def jitter(images, draws):
    return colours.turn_hue(colours.adjust(images, draws[:, 4:7]), draws[:, 7:8])


def jittered(images, probability=1.0, seed=0):
    return jitter(images, draws(len(images), seed, jitter=probability))


def box(top, left, height, width, extent):
    """A crop in pixels as size and center of one draw, (1, 4)."""
    return torch.tensor([[width, height, left + width / 2, top + height / 2]]) / extent


def sampled(image, place, side):
    """The same crop by grid_sample, which does not antialias."""
    size, center = place.split(2, dim=1)
    steps = (torch.arange(side) + 0.5) / side - 0.5
    x, y = 2 * (center[0, :, None] + size[0, :, None] * steps) - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]
    return F.grid_sample(image[None], grid, padding_mode="border", align_corners=False)[0]


def ramps(n, side=32):
    """Images whose first two channels are the x and y of each pixel's centre, from 0 to 1: a crop tells where it was."""
    centres = (torch.arange(side) + 0.5) / side
    image = torch.stack([centres.expand(side, side), centres[:, None].expand(side, side), torch.zeros(side, side)])
    return image.repeat(n, 1, 1, 1)


def crops(smallest, flip=0.0, n=4000, seed=0, side=32):
    """Signed width, height and centre of n random crops, read off from the middle of the views."""
    drawn = draws(n, smallest_crop=smallest, flip=flip, seed=seed)
    views = crop(ramps(n), drawn, side)
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
    views = augment(photos, SimCLR(side=8), generator())
    assert views.shape == (64, 3, 8, 8)
    assert views.dtype == torch.float32
    low, high = ((torch.tensor(v) - torch.tensor(a.MEAN)) / torch.tensor(a.STD) for v in (0.0, 1.0))
    assert (views.amin(dim=(0, 2, 3)) >= low - 1e-5).all()
    assert (views.amax(dim=(0, 2, 3)) <= high + 1e-5).all()


def test_everything_off_is_the_identity(photos):
    views = augment(photos, OFF, generator())
    torch.testing.assert_close(views, a.normalise(photos / 255), atol=1e-4, rtol=0)


def test_normalise_is_torchvisions(photos):
    reference = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(a.MEAN, a.STD)])
    torch.testing.assert_close(a.normalise(photos / 255), reference(photos))


def test_same_generator_same_views_other_seed_other_views(photos):
    views = [augment(photos, SimCLR(side=16), generator(seed)) for seed in (0, 0, 1)]
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])


def test_each_image_is_drawn_for_itself(photos):
    same = photos[:1].repeat(20, 1, 1, 1)
    views = augment(same, SimCLR(side=16, grayscale=0.0), generator()).flatten(1)
    assert (torch.cdist(views, views) + torch.eye(20) * 1e9).min() > 0.1


def test_the_view_of_an_image_does_not_depend_on_the_others(photos):
    other = photos.flip(0).clone()
    other[3] = photos[3]
    views, mixed = (augment(batch, SimCLR(side=16), generator()) for batch in (photos, other))
    torch.testing.assert_close(views[3], mixed[3])
    assert not torch.allclose(views[4], mixed[4])


def test_a_process_renders_its_rows_as_the_whole_batch_would(photos):
    drawn = draws(64)
    whole = a.render(photos, drawn, 16)
    for rows in (slice(0, 20), slice(20, 64), torch.arange(0, 64, 2)):
        assert len(drawn[rows]) == len(whole[rows])
        torch.testing.assert_close(a.render(photos[rows], drawn[rows], 16), whole[rows], atol=1e-5, rtol=0)


def test_rendering_changes_neither_images_nor_draws(photos):
    images, drawn = photos.float() / 255, draws(64)
    views = a.render(images, drawn, 16)
    assert torch.equal(images, photos.float() / 255)
    assert torch.equal(a.render(images, drawn, 16), views)


def test_precision_and_type_of_the_images_make_no_difference(photos):
    drawn = draws(64).to(torch.float64).to("cpu")
    views = a.render(photos, drawn, 12)
    torch.testing.assert_close(a.render(photos.float() / 255, drawn, 12), views)
    exact = a.render(photos.double() / 255, drawn, 12)
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact.float(), views, atol=1e-4, rtol=0)


def test_rendering_has_no_control_flow_that_stops_the_compiler(photos):
    compiled = torch.compile(a.render, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(photos, draws(64), 12), a.render(photos, draws(64), 12))


def test_images_need_not_be_square(photos):
    wide = photos[:, :, :8]
    assert augment(wide, SimCLR(side=12), generator()).shape == (64, 3, 12, 12)
    views = augment(wide, OFF, generator(), side=16)
    assert torch.allclose(views, F.interpolate(a.normalise(wide / 255), size=(16, 16), mode="bilinear"), atol=1e-4)


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
    drawn = draws(64, smallest_crop=1.0, flip=1.0)
    torch.testing.assert_close(crop(photos, drawn, 16), photos.flip(3) / 255, atol=1e-4, rtol=0)


def test_crop_does_not_darken_the_border():
    drawn = draws(200)
    views = crop(torch.ones(200, 3, 8, 8), drawn, 8)
    torch.testing.assert_close(views, torch.ones_like(views))


@pytest.mark.parametrize("side", [32, 40])
def test_an_enlarged_crop_is_grid_samples(side):
    image = torch.rand(3, 32, 32, generator=generator())
    place = box(3.3, 0, 20.5, 31.2, 32)
    torch.testing.assert_close(crop(image[None], place, side)[0], sampled(image, place, side), atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", [8, 16, 24])
@pytest.mark.parametrize(("top", "left", "height", "width"), [(0, 0, 32, 32), (4, 2, 26, 28), (7, 0, 20, 25)])
def test_a_shrunk_crop_is_torchvisions_antialiased(side, top, left, height, width):
    """Exactly, but where ours sees beyond the crop's edge; without antialiasing, the finest pattern comes out badly wrong."""
    image = torch.rand(3, 32, 32, generator=generator())
    reference = v2.functional.resized_crop(image, top, left, height, width, [side, side], antialias=True)
    place = box(top, left, height, width, 32)
    view = crop(image[None], place, side)[0]
    torch.testing.assert_close(view[:, 1:-1, 1:-1], reference[:, 1:-1, 1:-1], atol=1e-5, rtol=0)
    error, aliased = ((v - reference).abs().mean() for v in (view, sampled(image, place, side)))
    assert error < 0.015
    if max(height, width) > side:
        assert error < aliased / 3


def slow_jitter(image, order, brightness, contrast, saturation, turns):
    """One operation after the other, pixel by pixel where need be; float64 (3, height, width)."""
    for operation in order:
        luma = np.tensordot(colours.LUMA, image, 1)
        if operation == "brightness":
            image = brightness * image
        elif operation == "contrast":
            image = contrast * image + (1 - contrast) * luma.mean()
        elif operation == "saturation":
            image = saturation * image + (1 - saturation) * luma
        else:
            hsv = [colorsys.rgb_to_hsv(*pixel) for pixel in image.reshape(3, -1).T]
            image = np.array([colorsys.hsv_to_rgb((h + turns) % 1, s, v) for h, s, v in hsv]).T.reshape(image.shape)
    assert image.min() > 0
    assert image.max() < 1
    return image


@pytest.mark.parametrize("order", list(itertools.permutations(["brightness", "contrast", "saturation"])))
def test_jitter_is_the_four_operations_and_the_hue_comes_last(order):
    """In float64, where nothing clips: the order of the other three makes no difference."""
    images = np.random.default_rng(0).uniform(0.3, 0.6, (4, 3, 5, 5))
    images[0, 1:, 0] = images[0, :1, 0]  # two channels alike
    images[1] = images[1, :1]  # gray
    factors = np.random.default_rng(1).uniform([0.7, 0.7, 0.7, -0.1], [1.3, 1.3, 1.3, 0.1], (4, 4))
    drawn = np.concatenate([np.zeros((4, 4)), factors - [1, 1, 1, 0]], axis=1)
    slow = np.stack([slow_jitter(image, [*order, "hue"], *row) for image, row in zip(images, factors, strict=True)])
    np.testing.assert_allclose(jitter(torch.from_numpy(images), torch.from_numpy(drawn)).numpy(), slow, atol=1e-12)


@pytest.mark.parametrize("turns", [-1 / 6, -0.1, -0.03, 0.0, 0.1, 1 / 6])
def test_hue_turns_as_torchvisions(photos, turns):
    levels = torch.tensor([0.0, 0.2, 1.0])
    corners = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 3, 9)  # grays, pure colours, black
    for images in (photos.float() / 255, corners):
        ours = colours.turn_hue(images, torch.full((len(images), 1), turns))
        torch.testing.assert_close(ours, v2.functional.adjust_hue(images, turns), atol=2e-6, rtol=0)


def one_by_one(image, changes):
    """Torchvision's operations, with its clipping, in our order."""
    functions = [v2.functional.adjust_brightness, v2.functional.adjust_contrast, v2.functional.adjust_saturation]
    for function, change in zip(functions, changes[:3], strict=True):
        image = function(image, 1 + float(change))
    return v2.functional.adjust_hue(image, float(changes[3]))


def test_jitter_is_torchvisions_at_the_same_draws(photos):
    """Mean, spread over draws and contrast to 1 %: torchvision clips between the operations too. Colours as in photographs."""
    images, drawn = photos.repeat(10, 1, 1, 1).float() / 255 * 0.6 + 0.2, draws(640)
    ours = jitter(images, drawn)
    theirs = torch.stack([one_by_one(*row) for row in zip(images, drawn[:, 4:8], strict=True)])
    assert (ours - theirs).abs().mean() < 0.003
    tones = [batch.mean(dim=(2, 3)) for batch in (ours, theirs)]
    for measure in (torch.mean, torch.std):
        torch.testing.assert_close(*(measure(tone, dim=0) for tone in tones), atol=0, rtol=0.01)
    contrasts = [batch.std(dim=(2, 3)).mean(dim=0) for batch in (ours, theirs)]
    torch.testing.assert_close(*contrasts, atol=0, rtol=0.01)


def test_views_have_torchvisions_moments(photos):
    """Mean and spread over the draws of each image and channel, all transformations together; 300 draws of torchvision's."""
    images = photos[:4].float() / 255
    ours = augment(images.repeat(2000, 1, 1, 1), SimCLR(side=16), generator()).view(2000, 4, 3, 16, 16)
    jitter = v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)
    crop = v2.RandomResizedCrop(16, scale=(0.2, 1.0))
    transform = v2.Compose([crop, v2.RandomHorizontalFlip(), jitter, v2.RandomGrayscale(0.2), v2.Normalize(a.MEAN, a.STD)])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = torch.stack([torch.stack([transform(image) for image in images]) for _ in range(300)])
    tones = [batch.mean(dim=(3, 4)) for batch in (ours, theirs)]
    torch.testing.assert_close(*(tone.mean(dim=0) for tone in tones), atol=0.12, rtol=0)  # in units of the normalised images
    torch.testing.assert_close(*(tone.std(dim=0) for tone in tones), atol=0.06, rtol=0)
    contrasts = [batch.std(dim=(3, 4)).mean(dim=0) for batch in (ours, theirs)]
    torch.testing.assert_close(*contrasts, atol=0.06, rtol=0)


def test_draws_are_distributed_as_torchvisions():
    """Uniform in their ranges, and independent."""
    changes, strengths = draws(20_000, jitter=1.0)[:, 4:8], torch.tensor(a.JITTER)
    assert (changes.abs().amax(dim=0) <= strengths + 1e-6).all()
    torch.testing.assert_close(changes.mean(dim=0), torch.zeros(4), atol=0.01, rtol=0)
    torch.testing.assert_close(changes.std(dim=0), strengths / 3**0.5, atol=0, rtol=0.02)
    torch.testing.assert_close(changes.T.corrcoef(), torch.eye(4), atol=0.03, rtol=0)


def test_jitter_leaves_the_share_it_should_alone(photos):
    images = photos.repeat(30, 1, 1, 1).float() / 255
    unchanged = (jittered(images, 0.8) - images).abs().amax(dim=(1, 2, 3)) < 1e-4
    assert unchanged.float().mean().item() == pytest.approx(0.2, abs=0.03)


def test_jitter_without_colour_changes_brightness_and_contrast_only():
    images = torch.rand(100, 1, 8, 8, generator=generator()).repeat(1, 3, 1, 1)
    views = jittered(images)
    torch.testing.assert_close(views, views[:, :1].expand(-1, 3, -1, -1), atol=1e-6, rtol=0)
    assert not torch.allclose(views, images)


def test_grayscale_takes_torchvisions_luminance(photos):
    images = photos.repeat(30, 1, 1, 1)
    options = dict(side=16, smallest_crop=1.0, flip=0.0, jitter=0.0)
    grays = augment(photos, SimCLR(grayscale=1.0, **options), generator())
    reference = a.normalise(v2.functional.rgb_to_grayscale(photos.float() / 255, 3))
    torch.testing.assert_close(grays, reference, atol=1e-3, rtol=0)
    views = augment(images, SimCLR(grayscale=0.2, **options), generator())
    colours = (views * torch.tensor(a.STD).view(3, 1, 1) + torch.tensor(a.MEAN).view(3, 1, 1)).std(dim=1)
    assert (colours.amax(dim=(1, 2)) < 1e-6).float().mean().item() == pytest.approx(0.2, abs=0.03)
