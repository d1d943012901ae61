"""The contact sheet: one page, or one picture, of the images that were picked and why, where they can be labelled."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard

from markupsafe import Markup
from PIL import Image, ImageDraw, ImageFont

from supclust import kept
from supclust.images import files as images

HERE = Path(__file__).parent  # its templates

SHOWN = 8  # neighbours of a pick, at most: more would leave no room for it
COLUMN = 4  # neighbours one below the other beside a pick, which is as high as they are
PICK, NEIGHBOR = 256, 96  # longer side in the page's files: what a sharp display can use
PICK_BYTES, NEIGHBOR_BYTES = 12_400, 2_000  # so that a page of 500 stays below 15 MB, whatever the images
PIXEL_ART = 64  # an image whose longer side is this or less is enlarged in squares: blur would hide what is there
TINY = 32  # an image this small is kept exactly
QUALITIES = (82, 70, 55, 40)  # of JPEG, the first that fits
ID_LENGTH = 42  # characters of an id before its middle is left out

# Of the picture: everything follows from the side of a neighbour, which is smaller where there are many picks.
WIDTH, NARROWEST, MARGIN = 1920, 900, 44
LARGEST, SMALLEST = 46, 12
PICTURE_BYTES, BYTES_PER_PIXEL = 9_500_000, 2.2  # of a PNG that shows photographs
PAPER, WELL, INK, SOFT = "#fbfbf9", "#edeff0", "#1d2329", "#5b6670"  # as the page has them in light
HOW_TO_READ = (
    "The large image of each card is a pick, to be labelled. Beside it are the most typical images of its cluster: the group of "
    "look-alikes that it stands for."
)


@dataclass(frozen=True)
class Tile:
    """An image of the sheet."""

    id: str  # any text
    picture: Image.Image | None  # any mode and size, upright; None: a box with the id stands for it


@dataclass(frozen=True)
class Card:
    """A pick, and what it stands for."""

    order: int  # 1, 2, ...: of the queries
    pick: Tile
    neighbors: tuple[Tile, ...]  # the most typical other images of its cluster, most typical first; the first 8 are shown
    cluster: int
    cluster_size: int  # images, the pick included
    rank: int  # of the pick by typicality in its cluster, 1 = most typical
    typicality: float  # inf for an image with copies
    sup: float  # nan where there is a single cluster
    why: str  # a few sentences; a newline begins a line


@dataclass(frozen=True)
class Sheet:
    """All that a contact sheet shows."""

    title: str
    facts: Mapping[str, str]  # what was done, in the order to be read
    cards: Iterable[Card]  # gone through once by `html` and once by `png`, holding one card at a time
    classes: tuple[str, ...] = ()  # labels of earlier rounds, offered again


# --- texts that anyone may have written ------------------------------------------------------------------------------------


def visible(text: str, keep: str = "") -> str:
    r"""Text with each character that shows nothing, or turns the text around, as Python writes it: \n, \u202e, \udcff.

    keep has characters that stay. What comes back can be written as UTF-8, whatever was in the name of a file.
    """
    return "".join(char if char.isprintable() or char in keep else repr(char)[1:-1] for char in text)


def _shortened(text: str, length: int) -> str:
    """At most so many characters, without its middle: the end of a path tells more than its folders."""
    if len(text) <= length:
        return text
    tail = length * 2 // 3
    return f"{text[: length - tail - 1]}…{text[-tail:]}"


def _number(value: float) -> str:
    if math.isnan(value):
        return "none"
    return f"{value:.3g}" if math.isfinite(value) else "infinite"


def _caption(card: Card) -> str:
    images = "image" if card.cluster_size == 1 else "images"
    return f"cluster {card.cluster} · {card.cluster_size:,} {images} · typicality rank {card.rank:,}"


# --- the page --------------------------------------------------------------------------------------------------------------


def html(sheet: Sheet) -> str:
    """One page that needs nothing else: images, style and script are in it, and nothing is fetched or sent.

    Labels that are typed there stay in the browser until they are downloaded as labels.csv: header id,label, all fields quoted,
    UTF-8, with a ' before a field that a spreadsheet would take for a formula. What UTF-8 cannot hold is written as `visible` does.
    """
    cards, ids, digest = [], [], hashlib.sha256()
    for card in sheet.cards:
        view = _view(card)
        cards.append(view)
        ids.append(card.pick.id.encode("utf-8", "backslashreplace").decode("utf-8"))
        digest.update(json.dumps([ids[-1], view["pick"]["source"]]).encode())
    style, script = (Markup((HERE / f"contact_sheet.{end}").read_text("utf-8")) for end in ("css", "js"))
    template = kept.template(HERE / "contact_sheet.html.j2", visible=visible, checksum=_checksum)
    return template.render(
        sheet=sheet, cards=cards, ids=ids, key=digest.hexdigest()[:16], how=HOW_TO_READ, style=style, script=script
    )  # fmt: skip


def _checksum(text: str) -> str:
    """As a Content-Security-Policy names a script or a style that may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _view(card: Card) -> dict[str, Any]:
    """What the page shows of a card, with its pictures as texts."""
    neighbors = [
        _shown(tile, NEIGHBOR, NEIGHBOR_BYTES) | {"alt": f"Typical of cluster {card.cluster}, number {k}: {visible(tile.id)}"}
        for k, tile in enumerate(card.neighbors[:SHOWN], start=1)
    ]
    return {
        "order": card.order,
        "pick": _shown(card.pick, PICK, PICK_BYTES)
        | {"alt": f"Pick {card.order}: {visible(card.pick.id)}, cluster {card.cluster}"},
        "neighbors": neighbors,
        "caption": _caption(card),
        "why": visible(card.why, keep="\n"),
        "numbers": {
            "Typicality": f"{_number(card.typicality)}, rank {card.rank:,} of {card.cluster_size:,} in its cluster",
            "SUP": _number(card.sup),
        },
    }


def _shown(tile: Tile, side: int, limit: int) -> dict[str, Any]:
    name = visible(tile.id)
    shown = {"name": name, "short": _shortened(name, ID_LENGTH), "source": None}
    if not _is_there(tile.picture):
        return shown
    small = _at_most(tile.picture, side)
    return shown | {"source": _data_uri(small, limit), "size": small.size, "pixels": max(tile.picture.size) <= PIXEL_ART}


def _is_there(picture: Image.Image | None) -> TypeGuard[Image.Image]:
    return picture is not None and 0 not in picture.size


def _at_most(picture: Image.Image, side: int) -> Image.Image:
    """The picture as RGB with a longer side of at most so many pixels."""
    picture = images.rgb(picture)
    scale = side / max(picture.size)
    if scale >= 1:
        return picture
    return picture.resize(_scaled(picture.size, scale), Image.Resampling.LANCZOS, reducing_gap=3)


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _data_uri(picture: Image.Image, limit: int) -> str:
    """The best of the encodings that fits into so many bytes, and else the last."""
    for kind, content in _encodings(picture):
        if len(content) <= limit or (kind == "png" and max(picture.size) <= TINY):
            break
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _encodings(picture: Image.Image) -> Iterator[tuple[str, bytes]]:
    if max(picture.size) <= PIXEL_ART:
        yield "png", _encoded(picture, "png", optimize=True)
    for side in (max(picture.size), max(picture.size) // 2):
        for quality in QUALITIES:
            yield "jpeg", _encoded(_at_most(picture, side), "jpeg", quality=quality, optimize=True)


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return content.getvalue()


# --- the picture -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """Where things are in the picture, in pixels."""

    unit: int  # side of a neighbour
    gap: int  # between the images of a card
    beside: int  # columns of neighbours
    count: int  # cards

    @property
    def pick(self) -> int:
        return COLUMN * self.unit + (COLUMN - 1) * self.gap

    @property
    def card(self) -> tuple[int, int]:
        return self.pick + self.beside * (self.unit + self.gap), self.pick + 3 * self.letters + self.gap

    @property
    def letters(self) -> int:
        return max(10, round(0.32 * self.unit))

    @property
    def between(self) -> int:
        """Cards."""
        return max(14, self.unit // 2)

    @property
    def columns(self) -> int:
        fit = (WIDTH - 2 * MARGIN + self.between) // (self.card[0] + self.between)
        return max(1, min(fit, self.count))

    @property
    def width(self) -> int:
        return max(NARROWEST, 2 * MARGIN + self.columns * (self.card[0] + self.between) - self.between)

    @property
    def height(self) -> int:
        return math.ceil(self.count / self.columns) * (self.card[1] + self.between)

    def corner(self, k: int) -> tuple[int, int]:
        """Of card k, below the heading."""
        row, column = divmod(k, self.columns)
        return MARGIN + column * (self.card[0] + self.between), row * (self.card[1] + self.between)


def png(sheet: Sheet) -> Image.Image:
    """The same as one picture, RGB and at most 1920 pixels wide: a card for each pick, the smaller the more there are.

    Ids are shortened, and characters that Pillow's own font lacks are boxes. A PNG file of 500 photographs has about 10 MB.
    """
    cards = [_reduced(card) for card in sheet.cards]
    layout = _layout(cards)
    lines = _heading(sheet, layout.width - 2 * MARGIN)
    top = MARGIN + sum(_line_height(size) for _, size, _ in lines) + MARGIN * 2 // 3
    picture = Image.new("RGB", (layout.width, top + layout.height + MARGIN // 2), PAPER)
    _write_heading(ImageDraw.Draw(picture), lines)
    for k, card in enumerate(cards):
        x, y = layout.corner(k)
        _draw_card(picture, card, layout, (x, top + y))
    return picture


def _reduced(card: Card) -> Card:
    """The card with pictures no larger than the largest that `png` draws."""
    pick = replace(card.pick, picture=_thumbnail(card.pick, 5 * LARGEST))
    return replace(
        card, pick=pick, neighbors=tuple(replace(tile, picture=_thumbnail(tile, LARGEST)) for tile in card.neighbors[:SHOWN])
    )


def _thumbnail(tile: Tile, side: int) -> Image.Image | None:
    return _at_most(tile.picture, side) if _is_there(tile.picture) else None


def _layout(cards: Sequence[Card]) -> _Layout:
    most = max((len(card.neighbors) for card in cards), default=0)
    pixels = PICTURE_BYTES / BYTES_PER_PIXEL / max(1, len(cards))
    unit = min(LARGEST, max(SMALLEST, math.isqrt(int(pixels / (COLUMN * COLUMN + max(most, COLUMN))))))
    return _Layout(unit, gap=max(2, unit // 15), beside=max(1, math.ceil(most / COLUMN)), count=len(cards))


def _heading(sheet: Sheet, width: int) -> list[tuple[str, int, str]]:
    """Lines with the size and the colour of their letters."""
    facts = "   ".join(f"{visible(name)}: {visible(value)}" for name, value in sheet.facts.items())
    below = "Below: number and id of the pick, its cluster, the images in there, its rank by typicality (1 = most typical)."
    texts = ((visible(sheet.title), 40, INK), (facts, 20, INK), (f"{HOW_TO_READ} {below}", 17, SOFT))
    return [(line, size, color) for text, size, color in texts for line in _wrapped(text, _font(size), width)]


def _write_heading(pen: ImageDraw.ImageDraw, lines: Iterable[tuple[str, int, str]]) -> None:
    y = MARGIN
    for line, size, color in lines:
        pen.text((MARGIN, y), line, color, _font(size))
        y += _line_height(size)


def _draw_card(picture: Image.Image, card: Card, layout: _Layout, corner: tuple[int, int]) -> None:
    (x, y), step = corner, layout.unit + layout.gap
    _draw_tile(picture, card.pick, (x, y), layout.pick)
    for k, tile in enumerate(card.neighbors):
        column, row = divmod(k, COLUMN)
        _draw_tile(picture, tile, (x + layout.pick + layout.gap + column * step, y + row * step), layout.unit)
    _write_caption(ImageDraw.Draw(picture), card, layout, (x, y + layout.pick + layout.letters // 2))


def _draw_tile(picture: Image.Image, tile: Tile, corner: tuple[int, int], side: int) -> None:
    pen, (x, y) = ImageDraw.Draw(picture), corner
    pen.rectangle((x, y, x + side - 1, y + side - 1), WELL)
    if tile.picture is None:
        _write_in_box(pen, tile.id, corner, side)
        return
    small = _filling(tile.picture, side)
    picture.paste(small, (x + (side - small.width) // 2, y + (side - small.height) // 2))


def _filling(picture: Image.Image, side: int) -> Image.Image:
    """With a longer side of that many pixels."""
    enlarged = max(picture.size) < side and max(picture.size) <= PIXEL_ART
    resampling = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
    return picture.resize(_scaled(picture.size, side / max(picture.size)), resampling)


def _write_in_box(pen: ImageDraw.ImageDraw, text: str, corner: tuple[int, int], side: int) -> None:
    font = _font(max(9, side // 12))
    pen.text((corner[0] + 3, corner[1] + side // 3), _fitting([visible(text)], font, side - 6), SOFT, font)


def _write_caption(pen: ImageDraw.ImageDraw, card: Card, layout: _Layout, corner: tuple[int, int]) -> None:
    (x, y), font, width = corner, _font(layout.letters), layout.card[0]
    pen.text((x, y), number := f"{card.order:,}", INK, font, stroke_width=0.4)
    indent = font.getlength(f"{number}  ")
    pen.text((x + indent, y), _fitting([visible(card.pick.id)], font, width - indent), INK, font)
    images = f"{card.cluster_size:,}"
    texts = [f"cluster {card.cluster} · {images} images · rank {card.rank:,}"]
    texts += [f"c{card.cluster} · {images} · rank {card.rank:,}", f"c{card.cluster} · {images} · {card.rank}"]
    pen.text((x, y + round(1.3 * layout.letters)), _fitting(texts, font, width), SOFT, font)


# --- words in the picture --------------------------------------------------------------------------------------------------


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _line_height(size: int) -> int:
    return round(1.5 * size)


def _drawable(text: str) -> str:
    """Text with letters of the Latin alphabet in place of those with accents, which Pillow's own font lacks."""
    plain = (unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode() for char in text)
    return "".join(char if char in "·…" else letters or char for char, letters in zip(text, plain, strict=True))


def _fitting(texts: Sequence[str], font: ImageFont.FreeTypeFont, width: float) -> str:
    """The first of the texts that is no wider than that, and else the last one, shortened."""
    texts = [_drawable(_shortened(text, 200)) for text in texts]
    shorter = (_shortened(texts[-1], length) for length in range(len(texts[-1]), 0, -1))
    return next((text for text in itertools.chain(texts, shorter) if font.getlength(text) <= width), "")


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """The text in lines no wider than that; a word that is wider is shortened."""
    lines: list[str] = []
    for word in (_fitting([word], font, width) for word in text.split(" ")):
        if lines and font.getlength(longer := f"{lines[-1]} {word}") <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
