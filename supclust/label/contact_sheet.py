"""The contact sheet: one page, or one picture, of the images that were picked and why, where they can be labelled."""

import base64
import hashlib
import io
import json
import math
import textwrap
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from markupsafe import Markup
from PIL import Image, ImageDraw, ImageFont, ImageOps

from supclust import kept
from supclust.label.annotations import counted, visible
from supclust.label.rounds import NEIGHBORS, Pick

HERE = Path(__file__).parent  # its templates

PICK, NEIGHBOR = 256, 96  # longer side of their pictures: what a sharp display can use
PIXEL_ART = 32  # an image whose longer side is this or less is kept exactly and enlarged in squares: blur would hide what is there
QUALITY = 70  # of JPEG: a page of 500 picks stays below 15 MB
ID_LENGTH = 42  # characters of an id before its middle is left out

# Of the picture: everything follows from the side of a neighbour, which is smaller where there are many picks.
WIDTH, MARGIN = 1920, 44
LARGEST, SMALLEST = 46, 12
PIXELS = 4_300_000  # of all images in the picture: as a PNG of photographs, less than 10 MB
# DejaVu Sans comes with matplotlib, which is not imported: it would write a list of fonts into the user's cache.
FONT = Path(find_spec("matplotlib").origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
LETTER = 0.58  # width of a letter, as a share of its height
PAPER, WELL, INK, SOFT = "#fbfbf9", "#edeff0", "#1d2329", "#5b6670"  # as the page has them in light
HOW_TO_READ = (
    "The large image of each card is a pick, to be labelled. Beside it are the most typical images of its cluster, the group of "
    "look-alikes that it stands for, the most typical one on top."
)
HOW_TO_ACCEPT = (
    "Each card shows images that may share a label: first clusters, their most typical images on top, then single images, the most "
    "doubtful first. Accept the suggestion, type another label, or go on to the next card."
)
BELOW = "Below: number and id of the pick, its cluster, the images in there, its rank by typicality (1 = most typical)."


@dataclass(frozen=True)
class Tile:
    """An image of the sheet."""

    id: str  # any text
    picture: Image.Image | None  # RGB, upright, at most PICK or NEIGHBOR pixels long; None: a box with the id stands for it
    link: str | None = None  # address of the image itself


@dataclass(frozen=True)
class Card:
    """A pick, and what it stands for."""

    pick: Pick
    image: Tile
    neighbors: tuple[Tile, ...]  # the most typical other images of its cluster, most typical first, at most NEIGHBORS


@dataclass(frozen=True)
class Guess:
    """Images that may have one label: those of a cluster, or one of which that is doubtful."""

    ids: tuple[str, ...]
    tiles: tuple[Tile, ...]  # some of them, the first one first
    label: str
    name: str
    caption: str


@dataclass(frozen=True)
class Sheet:
    """All that a contact sheet shows."""

    title: str
    facts: Mapping[str, str]  # what was done, in the order to be read
    cards: Sequence[Card]
    classes: tuple[str, ...] = ()  # labels of earlier rounds, offered again
    guesses: Sequence[Guess] = ()  # instead of cards


def _shortened(text: str, length: int = ID_LENGTH) -> str:
    """At most so many characters, without its middle: the end of a path tells more than its folders."""
    tail = length * 2 // 3
    return text if len(text) <= length else f"{text[: length - tail - 1]}…{text[-tail:]}"


def html(sheet: Sheet) -> str:
    """One page that needs nothing else: images, style and script are in it; as a file, it fetches and sends nothing.

    Labels that are typed there stay in the browser until they are downloaded as labels.csv: header id,label, all fields quoted,
    UTF-8, with a ' before a field that a spreadsheet would take for a formula.
    """
    tiles = [card.image for card in sheet.cards] + [guess.tiles[0] for guess in sheet.guesses]
    ids = [[card.image.id] for card in sheet.cards] + [guess.ids for guess in sheet.guesses]
    pictures = [zlib.crc32(tile.picture.tobytes()) for tile in tiles if tile.picture]
    template = kept.template(HERE / "contact_sheet.html.j2", visible=visible, shortened=_shortened, uri=_data_uri)
    values = {"sheet": sheet, "how": HOW_TO_ACCEPT if sheet.guesses else HOW_TO_READ, "pixel_art": PIXEL_ART, "counted": counted}
    values |= {"key": kept.sha256(json.dumps([ids, pictures]))[:16]}  # of what the browser keeps for these images
    values |= {"data": {"ids": ids, "classes": [*map(visible, sheet.classes)]}}
    style, script = ((HERE / f"contact_sheet.{end}").read_text("utf-8") for end in ("css", "js"))
    own = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]  # nothing else may run
    policy = (
        f"default-src 'none'; img-src 'self' file: data:; connect-src 'self'; style-src 'sha256-{own[0]}'; "
        f"script-src 'sha256-{own[1]}'; base-uri 'none'; form-action 'none'"
    )
    return template.render(**values, policy=Markup(policy), style=Markup(style), script=Markup(script))


def _data_uri(picture: Image.Image) -> str:
    kind, options = ("png", {}) if max(picture.size) <= PIXEL_ART else ("jpeg", {"quality": QUALITY})
    content = io.BytesIO()
    picture.save(content, kind, optimize=True, **options)
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"


def png(sheet: Sheet) -> Image.Image:
    """The same as one picture, RGB and 1920 pixels wide: a card for each pick, the smaller the more there are.

    Ids are shortened, and characters that the font lacks are boxes. A PNG file of 500 photographs has about 10 MB.
    """
    shares = NEIGHBORS * (NEIGHBORS + 1) * len(sheet.cards)  # neighbours that have the area of all images
    unit = min(LARGEST, max(SMALLEST, math.isqrt(PIXELS // shares)))  # side of a neighbour
    gap, letters, between = max(2, unit // 15), max(10, round(0.3 * unit)), max(14, unit // 2)
    side = NEIGHBORS * (unit + gap) - gap  # of a pick
    width, height = side + gap + unit, side + gap + 3 * letters  # of a card
    columns = (WIDTH - 2 * MARGIN + between) // (width + between)
    facts = "   ".join(f"{name}: {value}" for name, value in sheet.facts.items())
    texts = (_shortened(visible(text), 600) for text in (facts, f"{HOW_TO_READ} {BELOW}"))
    lines = [line for text in texts for line in textwrap.wrap(text, 170)]
    top = 3 * MARGIN + 30 * len(lines)
    page = Image.new("RGB", (WIDTH, top + math.ceil(len(sheet.cards) / columns) * (height + between) + MARGIN // 2), PAPER)
    pen, font = ImageDraw.Draw(page), ImageFont.truetype(FONT, letters)
    pen.text((MARGIN, MARGIN), _shortened(visible(sheet.title), 85), INK, ImageFont.truetype(FONT, 36))
    for k, line in enumerate(lines):
        pen.text((MARGIN, MARGIN + 60 + 30 * k), line, SOFT, ImageFont.truetype(FONT, 18))
    for k, card in enumerate(sheet.cards):
        x, y, pick = MARGIN + k % columns * (width + between), top + k // columns * (height + between), card.pick
        page.paste(_filling(card.image, side), (x, y))
        for j, tile in enumerate(card.neighbors):
            page.paste(_filling(tile, unit), (x + side + gap, y + j * (unit + gap)))
        name, about = f"{pick.order:,}  {visible(card.image.id)}", f"c{pick.cluster} · {pick.cluster_size:,} · {pick.rank:,}"
        fitting = int(width / (LETTER * letters))
        pen.text((x, y + side + round(0.5 * letters)), _shortened(name, fitting), INK, font)
        pen.text((x, y + side + round(1.8 * letters)), _shortened(about, fitting), SOFT, font)
    return page


def _filling(tile: Tile, side: int) -> Image.Image:
    """The image in the middle of a square, enlarged or reduced to its side; the empty square for one that is not there."""
    if tile.picture is None:
        return Image.new("RGB", (side, side), WELL)
    longest = max(tile.picture.size)
    resampling = Image.Resampling.NEAREST if longest <= min(side, PIXEL_ART) else Image.Resampling.LANCZOS
    return ImageOps.pad(tile.picture, (side, side), resampling, WELL)
