"""Random views of a batch of images, drawn per image, on the device: SimCLR's, and the shifts of supervised training.

Drawing and rendering are apart: processes that share a batch draw for all of it, then each renders its own rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from supclust.profiles import SimCLR

# Of CIFAR-10; used for every data set, so that encoders and features are interchangeable.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)

BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.4, 0.4, 0.4, 0.1  # strengths; hue in turns of the colour circle, at most 1/6
ASPECT_RATIOS = (3 / 4, 4 / 3)
CROP_ATTEMPTS = 10  # torchvision's number of tries for a crop that fits, before it takes the whole image

LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, eq=False)
class Draws:
    """All that is random about the views of n images. `draws[rows]` are those of a part of the images."""

    size: Tensor  # (n, 2) width and height of the crop as shares of the image's; a negative width mirrors
    center: Tensor  # (n, 2) of the crop: x and y from 0 to 1
    before: Tensor  # (n, 3) factors of brightness, contrast and saturation that apply before the hue turns; 1: unchanged
    hue: Tensor  # (n,) turns of the colour circle
    after: Tensor  # (n, 3) factors that apply after it
    gray: Tensor  # (n,) 1: without colours, 0: with

    def __len__(self) -> int:
        return len(self.hue)

    def __getitem__(self, rows: slice | Tensor) -> Draws:
        return self._each(lambda tensor: tensor[rows])

    def to(self, target: torch.device | str | torch.dtype) -> Draws:
        """The same draws on another device, or in another float type."""
        return self._each(lambda tensor: tensor.to(target))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Draws:
        return Draws(*(change(t) for t in (self.size, self.center, self.before, self.hue, self.after, self.gray)))


def augment(images: Tensor, config: SimCLR, generator: Generator, side: int | None = None) -> Tensor:
    """One random view of each image: float (n, 3, side, side), normalised, on the images' device.

    images: uint8, or float in [0, 1], (n, 3, height, width).
    config: side (if none is given), smallest_crop, flip, jitter and grayscale are read.
    generator: on the images' device; the only source of randomness.

    The transformations are torchvision's RandomResizedCrop (with antialiasing; crops end between pixels too),
    RandomHorizontalFlip, ColorJitter (in random order) and RandomGrayscale.
    """
    return render(images, draw(len(images), config, generator), side or config.side)


def draw(n: int, config: SimCLR, generator: Generator) -> Draws:
    """The random part of n views, float32 on the generator's device.

    config: smallest_crop, flip, jitter and grayscale are read.
    """
    size, mirrored = _crop_sizes(n, config.smallest_crop, generator), _chosen(n, config.flip, generator)
    center = 0.5 + (1 - size) * _uniform((n, 2), -0.5, 0.5, generator)
    size = torch.stack([torch.where(mirrored, -size[:, 0], size[:, 0]), size[:, 1]], dim=1)
    before, hue, after = _draw_jitter(n, config.jitter, generator)
    return Draws(size, center, before, hue, after, _chosen(n, config.grayscale, generator).float())


def render(images: Tensor, draws: Draws, side: int) -> Tensor:
    """The views that were drawn: float32 (n, 3, side, side), normalised; float64 if the images are.

    images: uint8, or float in [0, 1], (n, 3, height, width), on the draws' device.

    Nothing here is random and no step depends on values, so that torch.compile takes it whole.
    """
    images = _as_float(images)
    draws = draws.to(images.dtype)
    views = crop(images, draws.size, draws.center, side)
    views = jitter(views, draws.before, draws.hue, draws.after)
    return normalise(views.lerp_(_gray(views), draws.gray.view(-1, 1, 1, 1)))


def shift(images: Tensor, padding: int, flip: float, generator: Generator) -> Tensor:
    """Each image moved by up to `padding` pixels in x and y, black where it came from, and mirrored with probability `flip`.

    The augmentation of supervised training on CIFAR (He et al. 2016, section 4.2): a crop of the padded image.
    images: (n, 3, height, width) of any type, on the generator's device; returns the same shape and type.
    """
    n, _, height, width = images.shape
    padded = nn.functional.pad(images, [padding] * 4)
    offsets = torch.randint(2 * padding + 1, (2, n, 1), device=images.device, generator=generator)
    rows = offsets[0] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(n, width)
    columns = offsets[1] + torch.where(_chosen(n, flip, generator)[:, None], columns.flip(1), columns)
    each = torch.arange(n, device=images.device)[:, None, None]
    return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def normalise(images: Tensor) -> Tensor:
    """Images, uint8 or float in [0, 1], (n, 3, height, width), as the networks take them."""
    images = _as_float(images)
    return (images - _per_channel(MEAN, images)).div_(_per_channel(STD, images))


def crop(images: Tensor, size: Tensor, center: Tensor, side: int) -> Tensor:
    """A part of each image, scaled to side x side: (n, 3, side, side).

    images: float (n, 3, height, width). size, center: (n, 2), see `Draws`.

    Bilinear, with torchvision's antialiasing where it shrinks (grid_sample has none). Scaling is separable: one matrix product
    for columns, one for rows.
    """
    columns, rows = (_resampling(size[:, i], center[:, i], images.shape[3 - i], side) for i in range(2))
    return torch.einsum("nyh,nchw,nxw->ncyx", rows, images, columns)


def jitter(images: Tensor, before: Tensor, hue: Tensor, after: Tensor) -> Tensor:
    """Images with other brightness, contrast, saturation and hue: float in [0, 1], (n, 3, height, width).

    images: float in [0, 1]. before, after (n, 3) and hue (n,): see `Draws`.

    Torchvision's ColorJitter but for its clipping between brightness, contrast and saturation, which so become one map before
    and one after the hue. On CIFAR-10, mean, spread within images and spread over draws are within 0.5 % of torchvision's
    (spread over draws with hue as a rotation in YIQ, the usual shortcut: 6 % off).
    """
    return _adjust(_turn_hue(_adjust(images, before), hue), after)


def _adjust(images: Tensor, factors: Tensor) -> Tensor:
    """Brightness x -> b x, contrast x -> c x + (1 - c) mean luma and saturation x -> s x + (1 - s) luma, in [0, 1].

    They commute, up to clipping: the mean luma scales with brightness, and saturation leaves luma alone.
    """
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(dim=1)
    gray = _gray(images)
    base = contrast * (1 - saturation) * gray + (1 - contrast) * gray.mean(dim=(2, 3), keepdim=True)
    return torch.addcmul(brightness * base, brightness * contrast * saturation, images).clamp_(0, 1)


def _turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Images with their hue in HSV moved by -1/6 to 1/6 turns (n,), without the way to HSV and back.

    Let d, from 0 to 3 sixths of a turn, be the distance of a pixel's hue from a channel's pure colour. By HSV, that channel
    is low + chroma * clamp(2 - d, 0, 1), and low + chroma * (2 - d) is 2 * channel - middle. A turn makes d longer or
    shorter, as the greater of the other two channels tells.
    """
    red, green, blue = images.split(1, dim=1)
    low, middle, high = _sorted(red, green, blue)
    way = torch.cat([green - blue, blue - red, red - green], dim=1).sign_()
    shorter = way.mul_(-6 * turns.view(-1, 1, 1, 1) * (high - low))
    return shorter.add_(images, alpha=2).sub_(middle).clamp_(low, high)


def _sorted(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Element by element: the lowest, the middle and the highest."""
    less, more = torch.minimum(a, b), torch.maximum(a, b)
    return torch.minimum(less, c), torch.maximum(less, torch.minimum(more, c)), torch.maximum(more, c)


def _resampling(size: Tensor, center: Tensor, extent: int, side: int) -> Tensor:
    """Weights (n, side, extent) of the source's pixels in the view's, along one axis; rows sum to 1.

    size, center (n,): of the crop along that axis, as shares. A triangle about each place of the view, one source pixel
    wide to each side, or one view's pixel where that is more. At the border, the weights of missing pixels go to the others.
    """
    steps = (torch.arange(side, device=size.device) + 0.5) / side - 0.5
    places = (center[:, None] + size[:, None] * steps) * extent
    reach = (size.abs() * extent / side).clamp(min=1)[:, None, None]
    pixels = torch.arange(extent, device=size.device) + 0.5
    weights = (reach - (places[:, :, None] - pixels).abs_()).clamp_(min=0)
    return weights.div_(weights.sum(dim=2, keepdim=True))


def _crop_sizes(n: int, smallest: float, generator: Generator) -> Tensor:
    """Widths and heights (n, 2) of crops as shares of the image's: a uniform area, a log-uniform ratio, the first that fits."""
    area = _uniform((n, CROP_ATTEMPTS), smallest, 1, generator)
    ratio = _uniform((n, CROP_ATTEMPTS), *map(math.log, ASPECT_RATIOS), generator).exp()
    sizes = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], dim=2)
    fits = (sizes <= 1).all(dim=2)
    first = fits.float().argmax(dim=1)
    return torch.where(fits.any(dim=1)[:, None], sizes[torch.arange(n, device=first.device), first], 1.0)


def _draw_jitter(n: int, probability: float, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Factors (n, 3) before the hue's turn, turns (n,) and factors (n, 3) after it, in a random order of the four."""
    strengths = torch.tensor([BRIGHTNESS, CONTRAST, SATURATION, HUE]).to(generator.device, non_blocking=True)
    changes = strengths * _uniform((n, 4), -1, 1, generator) * _chosen(n, probability, generator)[:, None]
    places = torch.rand((n, 4), device=generator.device, generator=generator)
    first = places[:, :3] < places[:, 3:]
    before, after = (1 + torch.where(chosen, changes[:, :3], 0.0) for chosen in (first, ~first))
    return before, changes[:, 3], after


def _gray(images: Tensor) -> Tensor:
    """Luminance, (n, 1, height, width)."""
    red, green, blue = images.split(1, dim=1)
    return (LUMA[0] * red).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def _chosen(n: int, probability: float, generator: Generator) -> Tensor:
    """True with the given probability, (n,)."""
    return torch.rand(n, device=generator.device, generator=generator) < probability


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, device=generator.device, generator=generator)


def _per_channel(values: tuple[float, ...], images: Tensor) -> Tensor:
    """Constants beside the images, sent without waiting for the device."""
    return torch.tensor(values, dtype=images.dtype).to(images.device, non_blocking=True).view(1, 3, 1, 1)


def _as_float(images: Tensor) -> Tensor:
    return images if images.is_floating_point() else images / 255
