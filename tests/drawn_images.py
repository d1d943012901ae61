"""Butterflies of eight species, drawn: images to show and to test with that are nobody's."""

import cmath
import colorsys
import math
import random

from PIL import Image, ImageDraw, ImageFilter

# Colour (HSV) of the wings and of what is on them, lengths of fore and hind wing, depth of cuts, spots; broad veins, eyes, tails.
SPECIES = [
    ((0.07, 0.88, 0.96), (0.05, 0.55, 0.14), 0.46, 0.33, 0.02, 8, True, False, False),
    ((0.58, 0.80, 0.92), (0.62, 0.75, 0.22), 0.45, 0.35, 0.01, 0, False, False, False),
    ((0.14, 0.66, 0.99), (0.10, 0.60, 0.16), 0.44, 0.34, 0.05, 6, True, False, True),
    ((0.02, 0.72, 0.72), (0.03, 0.60, 0.24), 0.42, 0.36, 0.06, 0, False, True, False),
    ((0.12, 0.05, 0.99), (0.60, 0.12, 0.30), 0.43, 0.34, 0.01, 2, False, False, False),
    ((0.27, 0.42, 0.82), (0.30, 0.45, 0.50), 0.42, 0.37, 0.00, 0, False, True, True),
    ((0.74, 0.42, 0.78), (0.76, 0.60, 0.30), 0.38, 0.32, 0.00, 5, False, False, False),
    ((0.99, 0.74, 0.80), (0.97, 0.60, 0.10), 0.47, 0.28, 0.02, 4, True, False, False),
]


def draw(species: int, seed: int, side: int = 96) -> Image.Image:
    """A butterfly of species 0 to 7 before leaves out of focus, RGB, side x side; the same for the same numbers."""
    rng, large = random.Random(1000 * seed + species), 3 * side
    scene, wings = _leaves(rng, large), _butterfly(rng, SPECIES[species], large).rotate(rng.gauss(0, 28), Image.BICUBIC)
    x, y = round(rng.gauss(0, 0.02) * large), round(rng.gauss(0, 0.02) * large)
    shadow = wings.getchannel("A").point(lambda value: value * 0.4).filter(ImageFilter.GaussianBlur(large / 45))
    scene.paste("black", (x + large // 60, y + large // 30), shadow)
    scene.paste(wings, (x, y), wings)
    return scene.resize((side, side), Image.LANCZOS)


def _color(hue: float, saturation: float, value: float) -> tuple[int, ...]:
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue % 1, min(max(saturation, 0), 1), min(max(value, 0), 1)))


def _leaves(rng: random.Random, side: int) -> Image.Image:
    hue = rng.choice([0.22, 0.27, 0.33, 0.43, 0.53, 0.12, 0.93])
    scene = Image.new("RGB", (side, side), _color(hue, 0.30, 0.72))
    for _ in range(16):
        color = _color(rng.gauss(hue, 0.03), rng.uniform(0.2, 0.5), rng.uniform(0.5, 0.95))
        ImageDraw.Draw(scene).circle((rng.random() * side, rng.random() * side), rng.uniform(0.06, 0.3) * side, color)
    return scene.filter(ImageFilter.GaussianBlur(side / 16))


def _butterfly(rng: random.Random, species: tuple, side: int) -> Image.Image:
    (hue, saturation, value), mark, fore, hind, cut, spots, broad, eyes, tails = species
    base, half = (rng.gauss(hue, 0.012), rng.gauss(saturation, 0.05), rng.gauss(value, 0.04)), Image.new("RGBA", (side, side))
    scale, turn = side * rng.gauss(0.9, 0.05), rng.gauss(0, 0.08)
    for length, start, end, tail in ((hind, -1.42, 0.12, tails), (fore, -0.12, 1.2, False)):
        _paint(ImageDraw.Draw(half), _wing(scale * length, start + turn, end + turn, cut, tail), base, mark, spots, broad, eyes)
    whole = Image.alpha_composite(half, half.transpose(Image.FLIP_LEFT_RIGHT))
    pen, dark = ImageDraw.Draw(whole), _color(*mark[:2], mark[2] * 0.6)
    for way in (-1, 1):
        pen.line([(side * (0.5 + way * 0.08 * t), side * (0.42 - 0.14 * t**0.6)) for t in (0, 0.3, 0.6, 1)], dark, side // 110)
    pen.ellipse((side * 0.482, side * 0.41, side * 0.518, side * 0.64), dark)
    return whole


def _wing(length: float, start: float, end: float, cut: float, tail: bool) -> list[complex]:
    """The edge of a right wing seen from its joint, from the angle start to the angle end."""
    edge = []
    for t in (i / 60 for i in range(61)):
        reach = math.sin(math.pi * t) ** 0.42 * (0.86 + 0.26 * t + cut * math.cos(14 * math.pi * t))
        edge.append(cmath.rect(reach * (1 + 0.55 * math.exp(-(((t - 0.24) / 0.045) ** 2)) * tail), -start - (end - start) * t))
    return [length * point for point in edge]


def _paint(pen: ImageDraw.ImageDraw, edge: list, base: tuple, mark: tuple, spots: int, broad: bool, eyes: bool) -> None:
    joint, dark, light = pen.im.size[0] * complex(0.505, 0.5), _color(*mark), _color(base[0], base[1] * 0.25, 1)
    at = [[((joint + share * p).real, (joint + share * p).imag) for p in edge] for share in [i / 100 for i in range(101)]]
    pen.polygon(at[100], dark)
    for step in range(12):  # from the edge of the colour to the joint, ever lighter
        pen.polygon(at[86 - 5 * step], _color(base[0], base[1] * (1 - 0.025 * step), base[2] * (0.86 + 0.02 * step)))
    for i in range(8, 56, 8):
        pen.line([at[10][i], at[90][i]], dark, max(1, round(abs(edge[30]) / (22 if broad else 70))))
    for i in (round(8 + 44 * (k + 0.5) / spots) for k in range(spots)):
        pen.circle(at[92 if broad else 60][i], abs(edge[i]) * (0.035 if broad else 0.07), light if broad else dark)
    for r, color in ((0.17, dark), (0.14, _color(0.13, 0.5, 0.98)), (0.10, _color(0.6, 0.7, 0.35)), (0.04, light)) if eyes else ():
        pen.circle(at[64][36], abs(edge[36]) * r, color)
