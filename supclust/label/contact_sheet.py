"""The contact sheet: one page, or one picture, of the images that were picked and why, where they can be labelled."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image, ImageDraw, ImageFont, ImageOps

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
# DejaVu Sans comes with matplotlib, which is not imported: it would write a list of fonts into the user's cache.
FONT = Path(find_spec("matplotlib").origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
LETTER = 0.58  # width of a letter, as a share of its height
PAPER, WELL, INK, SOFT = "#fbfbf9", "#edeff0", "#1d2329", "#5b6670"  # as the page has them in light
HOW_TO_READ = (
    "The large image of each card is a pick, to be labelled. Beside it are the most typical images of its cluster: the group of "
    "look-alikes that it stands for."
)
BELOW = "Below: number and id of the pick, its cluster, the images in there, its rank by typicality (1 = most typical)."


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
    cards: Iterable[Card]  # gone through once by `html` and once by `png`
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
    return {"nan": "none", "inf": "infinite"}.get(str(value), f"{value:.3g}")


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
    name, some = visible(card.pick.id), "image" if card.cluster_size == 1 else "images"
    return {
        "order": card.order,
        "pick": _shown(card.pick, PICK, PICK_BYTES, f"Pick {card.order}: {name}, cluster {card.cluster}"),
        "neighbors": [
            _shown(tile, NEIGHBOR, NEIGHBOR_BYTES, f"Typical of cluster {card.cluster}, number {k}: {visible(tile.id)}")
            for k, tile in enumerate(card.neighbors[:SHOWN], start=1)
        ],
        "caption": f"cluster {card.cluster} · {card.cluster_size:,} {some} · typicality rank {card.rank:,}",
        "why": visible(card.why, keep="\n"),
        "numbers": {
            "Typicality": f"{_number(card.typicality)}, rank {card.rank:,} of {card.cluster_size:,} in its cluster",
            "SUP": _number(card.sup),
        },
    }


def _shown(tile: Tile, side: int, limit: int, alt: str) -> dict[str, Any]:
    name = visible(tile.id)
    shown = {"name": name, "short": _shortened(name, ID_LENGTH), "alt": alt, "source": None}
    if tile.picture is None or 0 in tile.picture.size:
        return shown
    small = _at_most(tile.picture, side)
    return shown | {"source": _data_uri(small, limit), "size": small.size, "pixels": max(tile.picture.size) <= PIXEL_ART}


def _at_most(picture: Image.Image, side: int) -> Image.Image:
    """The picture as RGB with a longer side of at most so many pixels."""
    picture = images.rgb(picture)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3)
    return picture


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


def png(sheet: Sheet) -> Image.Image:
    """The same as one picture, RGB and at most 1920 pixels wide: a card for each pick, the smaller the more there are.

    Ids are shortened, and characters that the font lacks are boxes. A PNG file of 500 photographs has about 10 MB.
    """
    cards = list(sheet.cards)
    most = max((len(card.neighbors[:SHOWN]) for card in cards), default=0)
    pixels = PICTURE_BYTES / BYTES_PER_PIXEL / max(1, len(cards))
    unit = min(LARGEST, max(SMALLEST, math.isqrt(int(pixels / (COLUMN * COLUMN + max(most, COLUMN))))))  # side of a neighbour
    gap, letters, between = max(2, unit // 15), max(10, round(0.3 * unit)), max(14, unit // 2)
    side, beside = COLUMN * unit + (COLUMN - 1) * gap, max(1, math.ceil(most / COLUMN)) * (unit + gap)  # of a pick, next to it
    step_x, step_y = side + beside + between, side + 3 * letters + gap + between  # from card to card
    columns = max(1, min((WIDTH - 2 * MARGIN + between) // step_x, len(cards)))
    width = max(NARROWEST, 2 * MARGIN + columns * step_x - between)
    facts = "   ".join(f"{visible(name)}: {visible(value)}" for name, value in sheet.facts.items())
    words, top = [], MARGIN  # words: where they begin, the text, its size in pixels, its colour
    for text, size, color in ((visible(sheet.title), 36, INK), (facts, 18, INK), (f"{HOW_TO_READ} {BELOW}", 16, SOFT)):
        for line in textwrap.wrap(_shortened(text, 600), int((width - 2 * MARGIN) / (LETTER * size))):
            words.append(((MARGIN, top), line, size, color))
            top += round(1.6 * size)
    top += MARGIN * 2 // 3
    page = Image.new("RGB", (width, top + math.ceil(len(cards) / columns) * step_y + MARGIN // 2), PAPER)
    fitting = int((side + beside) / (LETTER * letters))  # letters below a card
    unit_of_size, rank = (" images", "rank ") if fitting > 28 else ("", "")
    for k, card in enumerate(cards):
        x, y = MARGIN + k % columns * step_x, top + k // columns * step_y
        page.paste(_filling(card.pick, side), (x, y))
        for j, tile in enumerate(card.neighbors[:SHOWN]):
            page.paste(_filling(tile, unit), (x + side + gap + j // COLUMN * (unit + gap), y + j % COLUMN * (unit + gap)))
        facts = f"c{card.cluster} · {card.cluster_size:,}{unit_of_size} · {rank}{card.rank:,}"
        below = (f"{card.order:,}  {visible(card.pick.id)}", INK), (facts, SOFT)
        for line, (text, color) in enumerate(below):
            words.append(((x, y + side + round((0.5 + 1.3 * line) * letters)), _shortened(text, fitting), letters, color))
    pen = ImageDraw.Draw(page)
    for corner, text, size, color in words:
        pen.text(corner, text, color, ImageFont.truetype(FONT, size))
    return page


def _filling(tile: Tile, side: int) -> Image.Image:
    """The image in the middle of a square, enlarged or reduced to its side; the empty square for one that is not there."""
    if tile.picture is None or 0 in tile.picture.size:
        return Image.new("RGB", (side, side), WELL)
    longest = max(tile.picture.size)
    resampling = Image.Resampling.NEAREST if longest < side and longest <= PIXEL_ART else Image.Resampling.LANCZOS
    return ImageOps.pad(images.rgb(tile.picture), (side, side), resampling, WELL)
