"""SimCLR's random views of a batch of images: crop, flip, colour jitter and grayscale, drawn per image, on the device."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from supclust.profiles import SimCLR

# Of CIFAR-10; used for every data set, so that encoders and features are interchangeable.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)

BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.4, 0.4, 0.4, 0.1  # strengths; hue in turns of the colour circle
ASPECT_RATIOS = (3 / 4, 4 / 3)
CROP_ATTEMPTS = 10  # torchvision's number of tries for a crop that fits, before it takes the whole image

LUMA = (0.299, 0.587, 0.114)
YIQ = (LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def augment(images: Tensor, config: SimCLR, generator: Generator) -> Tensor:
    """One random view of each image: float (n, 3, side, side), normalised, on the images' device.

    images: uint8, or float in [0, 1], (n, 3, height, width).
    config: side, smallest_crop, flip, jitter and grayscale are read.
    generator: on the images' device; the only source of randomness.

    The transformations are torchvision's RandomResizedCrop (without antialiasing), RandomHorizontalFlip, ColorJitter and
    RandomGrayscale, with two differences that batching brings: jitter comes in one order (brightness, contrast, saturation,
    hue) and hue turns in the YIQ plane instead of HSV.
    """
    views = random_crop(_as_float(images), config.side, config.smallest_crop, config.flip, generator)
    views = color_jitter(views, config.jitter, generator)
    return normalise(random_grayscale(views, config.grayscale, generator))


def normalise(images: Tensor) -> Tensor:
    """Images, uint8 or float in [0, 1], (n, 3, height, width), as the networks take them."""
    mean, std = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (_as_float(images) - mean) / std


def random_crop(images: Tensor, side: int, smallest: float, flip: float, generator: Generator) -> Tensor:
    """A random part of each image, scaled to side x side, mirrored with probability `flip`: (n, 3, side, side)."""
    n, device = len(images), images.device
    width, height = _crop_sizes(n, smallest, generator)
    free = torch.stack([1 - width, 1 - height])  # in coordinates from -1 to 1 the crop's centre moves within +- this
    center_x, center_y = free * _uniform((2, n), -1, 1, generator)
    mirror = 1 - 2 * _chosen(n, flip, generator).float()
    zero = torch.zeros(n, device=device)
    affine = torch.stack([mirror * width, zero, center_x, zero, height, center_y], dim=1).view(n, 2, 3)
    grid = F.affine_grid(affine, [n, 3, side, side], align_corners=False)
    # Border: near the edge, bilinear sampling would otherwise mix in black that is not part of the image.
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def color_jitter(images: Tensor, probability: float, generator: Generator) -> Tensor:
    """Random brightness, contrast, saturation and hue, for each image with the given probability."""
    n = len(images)
    chosen = _chosen(n, probability, generator).float()
    brightness, contrast, saturation, turns = (
        (chosen * _uniform((n,), -strength, strength, generator)).view(n, 1, 1, 1)
        for strength in (BRIGHTNESS, CONTRAST, SATURATION, HUE)
    )
    images = (images * (1 + brightness)).clamp(0, 1)
    images = _away_from(_gray(images).mean(dim=(2, 3), keepdim=True), images, 1 + contrast)
    images = _away_from(_gray(images), images, 1 + saturation)
    return _turn_hue(images, turns.view(n))


def random_grayscale(images: Tensor, probability: float, generator: Generator) -> Tensor:
    """Each image, with the given probability, without its colours."""
    chosen = _chosen(len(images), probability, generator).view(-1, 1, 1, 1)
    return torch.where(chosen, _gray(images), images)


def _crop_sizes(n: int, smallest: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Widths and heights (n,) of crops as shares of the image's: a uniform area, a log-uniform ratio, the first that fits."""
    area = _uniform((CROP_ATTEMPTS, n), smallest, 1, generator)
    ratio = _uniform((CROP_ATTEMPTS, n), *map(math.log, ASPECT_RATIOS), generator).exp()
    sizes = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()])
    fits = (sizes <= 1).all(dim=0)
    first = fits.float().argmax(dim=0, keepdim=True).expand(2, 1, n)
    width, height = torch.where(fits.any(dim=0), sizes.gather(1, first).squeeze(1), 1.0)
    return width, height


def _turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Colours turned about the grey axis: a rotation by 2 pi turns (n,) of the I-Q plane of each image."""
    to_yiq = torch.tensor(YIQ, device=images.device)
    cos, sin = torch.cos(2 * math.pi * turns), torch.sin(2 * math.pi * turns)
    zero, one = torch.zeros_like(cos), torch.ones_like(cos)
    turn = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], dim=1).view(-1, 3, 3)
    turned = torch.einsum("nij,njhw->nihw", torch.linalg.inv(to_yiq) @ turn @ to_yiq, images)
    return turned.clamp(0, 1)


def _away_from(base: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """Images pushed away from (factor > 1) or drawn towards (factor < 1) a base, kept in [0, 1]."""
    return (base + factor * (images - base)).clamp(0, 1)


def _gray(images: Tensor) -> Tensor:
    """Luminance, (n, 1, height, width)."""
    return torch.einsum("c,nchw->nhw", torch.tensor(LUMA, device=images.device), images)[:, None]


def _chosen(n: int, probability: float, generator: Generator) -> Tensor:
    """True with the given probability, (n,)."""
    return torch.rand(n, device=generator.device, generator=generator) < probability


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, device=generator.device, generator=generator)


def _as_float(images: Tensor) -> Tensor:
    return images if images.is_floating_point() else images.float() / 255
