"""Changes of colour, each image by its own amount: torchvision's, for a whole batch at once.

Images are float in [0, 1], (n, 3, height, width).
"""

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)


def adjust(images: Tensor, changes: Tensor) -> Tensor:
    """Images with other brightness, contrast and saturation, in [0, 1]; changes (n, 3): what factors are beside 1.

    Up to clipping, the three commute: the mean luma scales with brightness, and saturation leaves luma alone.
    """
    brightness, contrast, saturation = (1 + changes)[:, :, None, None, None].unbind(dim=1)
    gray = luma(images)
    base = contrast * (1 - saturation) * gray + (1 - contrast) * gray.mean(dim=(2, 3), keepdim=True)
    return torch.addcmul(brightness * base, brightness * contrast * saturation, images).clamp_(0, 1)


def turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Images with their hue in HSV moved by -1/6 to 1/6 turns (n, 1).

    A channel is low + chroma * clamp(2 - d, 0, 1), d sixths of a turn from its pure colour; without the clamp, it is
    2 * channel - middle. A turn makes d longer or shorter, as the greater of the other two channels tells.
    """
    red, green, blue = images.split(1, dim=1)
    less, more = torch.minimum(red, green), torch.maximum(red, green)
    low, middle, high = torch.minimum(less, blue), torch.maximum(less, torch.minimum(more, blue)), torch.maximum(more, blue)
    way = torch.cat([green - blue, blue - red, red - green], dim=1).sign_()
    shorter = way.mul_(-6 * turns[:, :, None, None] * (high - low))
    return shorter.add_(images, alpha=2).sub_(middle).clamp_(low, high)


def luma(images: Tensor) -> Tensor:
    """Brightness as the eye sees it, (n, 1, height, width)."""
    red, green, blue = images.split(1, dim=1)
    return (LUMA[0] * red).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])
