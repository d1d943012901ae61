import base64
import csv
import functools
import html.parser
import io
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from supclust.label import annotations, contact_sheet
from supclust.label.contact_sheet import Card, Sheet, Tile
from tests import drawn_images

draw = functools.cache(drawn_images.draw)
FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "\nx"]
NASTY = [
    *FORMULAS,
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\" onload='x' &amp; <b>",
    "two\r\nlines, and a comma",
    " spaces  at both ends ",
    "{{ 7 * 7 }}",
    "日本語/ж/é/🦋.png",
    "\u202etxt.exe\u202c",
    "<!--\u2028]]>",
    "a" * 3000,
]


def card(k: int, **changes) -> Card:
    species = k % 8
    neighbors = tuple(Tile(f"{species}/{k}-{j}.png", draw(species, j, 48)) for j in range(4))
    values = {"order": k, "pick": Tile(f"{species}/{k}.png", draw(species, k, 96)), "neighbors": neighbors, "cluster": k + 100}
    values |= {"cluster_size": 1412, "rank": 12, "typicality": 1.25, "sup": -0.5, "why": f"Reason {k}.\nAnother one."}
    return Card(**values | changes)


def sheet(cards, **changes) -> Sheet:
    return replace(Sheet("Fifty picks", {"Strategy": "supclust", "Images": "1,797"}, cards), **changes)


def noisy(side: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8))


class Elements(html.parser.HTMLParser):
    """Of a page: every element with its attributes, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def of(self, *tags):
        return [attributes for tag, attributes in self.found if tag in tags]


def pictures_of(page: str) -> list[Image.Image]:
    sources = [image["src"] for image in Elements(page).of("img")]
    return [Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) for source in sources]


# --- the page as text ------------------------------------------------------------------------------------------------------


def test_the_page_says_what_was_picked_and_why():
    page = Elements(contact_sheet.html(sheet([card(3)])))
    for text in ("Fifty picks", "Strategy", "1,797", "cluster 103 · 1,412 images · typicality rank 12", "Reason 3.\nAnother one."):
        assert text in page.text
    assert "1.25, rank 12 of 1,412 in its cluster" in page.text
    assert "-0.5" in page.text


def test_every_image_has_a_text_in_its_place():
    page = Elements(contact_sheet.html(sheet([card(3), card(4)])))
    texts = [image["alt"] for image in page.of("img")]
    assert texts[0] == "Pick 3: 3/3.png, cluster 103"
    assert texts[1] == "Typical of cluster 103, number 1: 3/3-0.png"
    assert len(texts) == len(set(texts)) == 10


def test_the_page_asks_for_nothing_from_outside():
    page = contact_sheet.html(sheet([card(1)], title="See https://example.org"))
    links = [element.get(name) for _, element in Elements(page).found for name in ("src", "href", "srcset", "action", "poster")]
    assert all(link.startswith(("data:", "#")) for link in links if link is not None)
    assert "//" not in re.sub(r'data:[^"]*|<script>.*?</script>', "", page, flags=re.DOTALL).replace("https://example.org", "")
    assert "url(" not in page
    assert "@import" not in page
    policy = next(meta["content"] for meta in Elements(page).of("meta") if meta.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("text", NASTY)
def test_no_text_becomes_markup(text):
    plain = sheet([card(1)], classes=("x",))
    nasty = card(1, pick=Tile(text, None), neighbors=(Tile(text, draw(0, 0)),) * 4, why=text)
    tags = [tag for tag, _ in Elements(contact_sheet.html(replace(plain, cards=[card(1, pick=Tile("x", None))]))).found]
    page = contact_sheet.html(Sheet(text, {"Strategy": text, text: "1"}, [nasty], (text,)))
    assert [tag for tag, _ in Elements(page).found] == tags
    assert contact_sheet.visible(text) in Elements(page).text
    assert not any(name.startswith("on") for _, attributes in Elements(page).found for name in attributes)


@pytest.mark.parametrize("text", [*NASTY, "undecodable \udcff.png", "\x00"])
def test_the_ids_in_the_page_are_those_of_the_images(text):
    page = contact_sheet.html(sheet([card(1, pick=Tile(text, None))]))
    found = re.search(r'<script type="application/json" id="ids">(.*?)</script>', page)[1]
    assert json.loads(found) == [text.replace("\udcff", r"\udcff")]


def test_what_shows_nothing_is_made_visible():
    assert contact_sheet.visible("a\nb\u202ec\udcff\x1b d\xa0é🦋") == r"a\nb\u202ec\udcff\x1b d\xa0é🦋"
    page = contact_sheet.html(sheet([card(1, pick=Tile("\udcff\u202e\x07", draw(0, 0)))]))
    page.encode("utf-8")
    assert not set(page) & {"\u202e", "\x07"}


def test_infinite_and_missing_numbers_are_words():
    page = Elements(contact_sheet.html(sheet([card(1, typicality=math.inf, sup=math.nan)])))
    assert "infinite, rank 12" in page.text
    assert "nan" not in page.text
    assert not re.search(r"\binf\b", page.text)


def test_an_image_that_is_not_there_is_a_box_with_its_id():
    there = [Image.new("RGB", (0, 3)), None]
    for picture in there:
        nasty = card(1, pick=Tile("first.png", picture), neighbors=(Tile("second.png", picture),))
        page = Elements(contact_sheet.html(sheet([nasty])))
        assert page.of("img") == []
        boxes = [element["aria-label"] for element in page.of("span") if element.get("role") == "img"]
        assert boxes == ["Pick 1: first.png, cluster 101", "Typical of cluster 101, number 1: second.png"]
        assert contact_sheet.png(sheet([nasty])).size[0] > 0


def test_a_cluster_of_one_image_has_no_neighbours():
    page = Elements(contact_sheet.html(sheet([card(1, neighbors=(), cluster_size=1, rank=1)])))
    assert len(page.of("img")) == 1
    assert "cluster 101 · 1 image · typicality rank 1" in page.text


def test_at_most_eight_neighbours_are_shown():
    many = card(1, neighbors=(Tile("x", draw(0, 0, 32)),) * 20)
    assert len(Elements(contact_sheet.html(sheet([many]))).of("img")) == 9
    assert contact_sheet.png(sheet([many])).size == contact_sheet.png(sheet([replace(many, neighbors=many.neighbors[:8])])).size


def test_a_sheet_may_be_empty():
    assert "No picks." in contact_sheet.html(sheet([]))
    assert contact_sheet.png(sheet([])).size[1] > 0


def test_cards_are_read_one_at_a_time():
    page = contact_sheet.html(sheet(iter([card(1), card(2)])))
    assert "Reason 2." in page
    assert contact_sheet.png(sheet(card(k) for k in (1, 2))).size == contact_sheet.png(sheet([card(1), card(2)])).size


def test_the_kept_labels_are_those_of_the_same_picks():
    def key(cards, **changes):
        return Elements(contact_sheet.html(sheet(cards, **changes))).of("body")[0]["data-key"]

    same = key([card(1), card(2)])
    assert key([card(1), card(2)], title="Another", classes=("x",)) == same
    others = [[card(2), card(1)], [card(1)], [card(1), card(2, pick=Tile("2/2.png", draw(3, 0)))]]
    assert len({same, *map(key, others)}) == 4


# --- images in the page ----------------------------------------------------------------------------------------------------


def test_images_are_no_larger_than_a_sharp_display_needs():
    large = Tile("x", draw(0, 0, 400).resize((800, 400)))
    pictures = pictures_of(contact_sheet.html(sheet([card(1, pick=large, neighbors=(large,))])))
    assert [picture.size for picture in pictures] == [(256, 128), (96, 48)]


@pytest.mark.parametrize("side", [1, 8, 32])
def test_a_small_image_keeps_every_pixel(side):
    picture = noisy(side)
    page = contact_sheet.html(sheet([card(1, pick=Tile("x", picture), neighbors=(Tile("y", picture),))]))
    assert all(np.array_equal(np.asarray(found), np.asarray(picture)) for found in pictures_of(page))
    assert all("pixels" in image["class"] for image in Elements(page).of("img"))


def test_a_small_image_is_enlarged_in_squares():
    whole = np.asarray(contact_sheet.png(sheet([card(1, pick=Tile("x", noisy(8)), neighbors=())])))

    def bright(pixels):
        return {tuple(color) for color in np.unique(pixels.reshape(-1, 3), axis=0).astype(int) if np.ptp(color) > 40}

    assert bright(whole) == bright(np.asarray(noisy(8)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"])
@pytest.mark.parametrize("size", [(40, 30), (1, 3000), (3000, 1)])
def test_images_may_have_any_mode_and_size(mode, size):
    one = sheet([card(1, pick=Tile("x", Image.new(mode, size)), neighbors=())])
    (shown,) = pictures_of(contact_sheet.html(one))
    assert max(shown.size) <= 256
    assert contact_sheet.png(one).mode == "RGB"


@pytest.mark.parametrize(("kind", "largest"), [("u2", 93), ("i4", 93), ("f4", 255), ("f8", 255)])
def test_numbers_that_are_no_bytes_are_scaled_to_them(kind, largest):
    values = np.arange(1200).reshape(30, 40).astype(kind) * 20
    mode = {"u2": "I;16", "i4": "I"}.get(kind, "F")
    picture = Image.fromarray(values.astype({"f8": "f4"}.get(kind, kind)))
    assert picture.mode == mode
    (shown,) = pictures_of(contact_sheet.html(sheet([card(1, pick=Tile("x", picture), neighbors=())])))
    assert shown.getextrema() == ((0, largest),) * 3
    contact_sheet.html(sheet([card(1, pick=Tile("x", Image.new("F", (40, 30), math.nan)), neighbors=())]))


def test_what_is_transparent_is_shown_on_white():
    picture = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    (shown,) = pictures_of(contact_sheet.html(sheet([card(1, pick=Tile("x", picture), neighbors=())])))
    assert shown.getextrema() == ((255, 255),) * 3


def test_the_caller_keeps_the_images_as_they_were():
    picture = draw(1, 1, 300)
    before = picture.copy()
    one = sheet([card(1, pick=Tile("x", picture))])
    contact_sheet.html(one)
    contact_sheet.png(one)
    assert picture == before


@pytest.mark.parametrize(("count", "megabytes"), [(50, 3), pytest.param(500, 15, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["drawn", "noise"])
def test_pages_and_pictures_stay_small(count, megabytes, kind):
    pictures = [draw(k % 8, k, 256) if kind == "drawn" else noisy(256 + k) for k in range(40)]  # no two alike in a row
    tiles = [Tile(f"{k}.png", picture) for k, picture in enumerate(pictures)]
    cards = [card(k, pick=tiles[k % 40], neighbors=tuple(tiles[(k + 7 * j) % 40] for j in range(1, 5))) for k in range(count)]
    assert len(contact_sheet.html(sheet(cards)).encode()) < megabytes * 1e6
    whole = contact_sheet.png(sheet(cards))
    assert math.prod(whole.size) < 40e6
    assert 1600 <= whole.size[0] <= 2000
    assert whole.size[1] < (1.5 if count == 50 else 3) * whole.size[0]
    file = io.BytesIO()
    whole.save(file, "png")
    assert file.tell() < 12e6 * (1 if kind == "drawn" else 1.5)  # no compression makes noise smaller


# --- the picture -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [*NASTY, "\udcff", "\x00", "", "é" * 500])
def test_the_picture_takes_any_text(text):
    nasty = card(1, pick=Tile(text, None), neighbors=(Tile(text, None),), why=text, typicality=math.inf, sup=math.nan)
    assert contact_sheet.png(Sheet(text, {text: text}, [nasty])).size[0] < 2000


def test_the_picture_shows_each_pick_in_its_place():
    colors = [(200, 30, 30), (30, 160, 30), (30, 30, 200)]
    cards = [card(k, pick=Tile("x", Image.new("RGB", (100, 100), color)), neighbors=()) for k, color in enumerate(colors, 1)]
    whole = np.asarray(contact_sheet.png(sheet(cards)))
    found = [np.argwhere((whole == color).all(-1)) for color in colors]
    assert [len(places) for places in found] == [193**2] * 3
    lefts = [places[:, 1].min() for places in found]
    assert lefts == sorted(lefts)
    assert len({places[:, 0].min() for places in found}) == 1


# --- the page in a browser -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="the pages are tried in a browser through playwright")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("the pages are tried in Chromium, which this machine does not have")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a sheet in a window of its own, and watches that nothing goes wrong in it."""
    contexts, wrong = [], []

    def watch(page):
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda made: made.url.startswith(("file:", "data:", "blob:")) or wrong.append(made.url))

    def show(content, before="", **options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        watch(page)
        if before:
            page.add_init_script(before)
        (tmp_path / "sheet.html").write_bytes(contact_sheet.html(content).encode())
        page.goto((tmp_path / "sheet.html").as_uri())
        return page

    yield show
    for context in contexts:
        context.close()
    assert wrong == []


def downloaded(page, start) -> bytes:
    with page.expect_download() as waiting:
        start()
    assert waiting.value.suggested_filename == "labels.csv"
    return Path(waiting.value.path()).read_bytes()


def tab_to(page, selector: str) -> None:
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    pytest.fail(f"Tab does not reach {selector}")


def type_label(page, text: str) -> None:
    page.keyboard.type(text)
    page.keyboard.press("Enter")


def count(page) -> str:
    return page.locator("#count").inner_text()


@pytest.mark.parametrize("number", [50, 500])
def test_a_sheet_is_shown_whole_and_asks_for_nothing(opened, number):
    page = opened(sheet([card(k % 50 + 1, order=k) for k in range(1, number + 1)]))
    assert page.locator("img").count() == 5 * number
    assert page.evaluate("Promise.all([...document.images].map(image => image.decode())).then(() => true)")
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert count(page) == f"0 of {number} labelled"


@pytest.mark.parametrize("number", [50, 500])
def test_all_can_be_done_with_the_keyboard(opened, number):
    page = opened(sheet([card(k % 50 + 1, order=k, pick=Tile(f"{k}.png", draw(0, k % 9))) for k in range(1, number + 1)]))
    tab_to(page, "#label-1")
    type_label(page, "monarch")
    assert page.evaluate("document.activeElement.id") == "label-2"
    assert count(page) == f"1 of {number} labelled"
    type_label(page, "morpho")
    assert page.evaluate("document.activeElement.id") == "label-3"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.id") == "label-2"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "label-3"
    page.locator("#download").focus()
    expected = '"id","label"\r\n"1.png","monarch"\r\n"2.png","morpho"\r\n'
    expected += "".join(f'"{k}.png",""\r\n' for k in range(3, number + 1))
    assert downloaded(page, lambda: page.keyboard.press("Enter")) == expected.encode()


def test_after_the_last_pick_enter_goes_to_the_first_without_a_label(opened):
    page = opened(sheet([card(1), card(2), card(3)]))
    page.locator("#label-3").focus()
    type_label(page, "a")
    assert page.evaluate("document.activeElement.id") == "label-1"
    type_label(page, "b")
    type_label(page, "c")
    assert page.evaluate("document.activeElement.id") == "download"
    assert count(page) == "3 of 3 labelled"


def test_nasty_ids_and_labels_come_back_from_the_table(opened):
    page = opened(sheet([card(k, pick=Tile(text, None)) for k, text in enumerate([*NASTY, "\udcff"], start=1)]))
    labels = [*FORMULAS, 'with "quotes", and comma', *["plain é"] * (len(NASTY) + 1 - len(FORMULAS) - 1)]
    for k, label in enumerate(labels, start=1):
        page.locator(f"#label-{k}").fill(label)
    content = downloaded(page, page.locator("#download").click).decode("utf-8")
    header, *rows = csv.reader(io.StringIO(content, newline=""))
    guarded = [annotations.safe(text) for text in [*NASTY, r"\udcff"]]
    assert guarded != [*NASTY, r"\udcff"]
    assert header == ["id", "label"]
    assert [row[0] for row in rows] == guarded
    typed = [label.strip() for label in labels]  # and an input of one line takes no newline
    assert [row[1] for row in rows] == [annotations.safe(label) for label in typed]


def test_what_was_typed_is_there_after_a_reload(opened):
    page = opened(sheet([card(1), card(2)], classes=("luna",)))
    page.locator("#label-1").focus()
    type_label(page, "monarch")
    page.reload()
    assert page.locator("#label-1").input_value() == "monarch"
    assert count(page) == "1 of 2 labelled"
    offered = page.evaluate("[...document.querySelectorAll('#known option')].map(option => option.value)")
    assert offered == ["luna", "monarch"]
    assert page.locator("#chips button").all_inner_texts() == ["luna", "monarch"]


def test_the_page_opens_with_its_title(opened):
    page = opened(sheet([card(k) for k in range(1, 9)]), viewport={"width": 360, "height": 500})
    assert page.locator("#label-1").bounding_box()["y"] > 500  # the first card is not in sight
    assert page.evaluate("window.scrollY") == 0


@pytest.mark.parametrize("agrees", [True, False])
def test_clearing_asks_first(opened, agrees):
    page = opened(sheet([card(1), card(2)]))
    page.locator("#label-1").fill("monarch")
    page.once("dialog", lambda dialog: dialog.accept() if agrees else dialog.dismiss())
    page.locator("#clear").click()
    page.reload()
    assert count(page) == f"{0 if agrees else 1} of 2 labelled"


def test_a_click_on_a_known_label_labels_the_pick_and_goes_on(opened):
    page = opened(sheet([card(1), card(2), card(3)], classes=("luna", "<b>")))
    page.locator("#label-2").click()
    page.get_by_role("button", name="<b>").click()
    page.get_by_role("button", name="luna").click()
    assert [page.locator(f"#label-{k}").input_value() for k in (1, 2, 3)] == ["", "<b>", "luna"]
    assert page.locator("#chips-for").inner_text() == "Pick 1:"


def test_a_browser_that_keeps_nothing_says_so(opened):
    refuse = "Object.defineProperty(window, 'localStorage', { get() { throw new Error('refused'); } });"
    page = opened(sheet([card(1), card(2)]), before=refuse)
    assert page.locator("#refused").is_hidden()
    page.locator("#label-1").fill("monarch")
    assert page.locator("#refused").is_visible()
    assert b'"monarch"' in downloaded(page, page.locator("#download").click)


def test_what_is_kept_may_be_broken(opened):
    page = opened(sheet([card(1)]))
    for kept in ("{", "null", "7", "[3]", '{"length": 1}'):
        page.evaluate("kept => localStorage.setItem('supclust-labels-' + document.body.dataset.key, kept)", kept)
        page.reload()
        assert count(page) == "0 of 1 labelled"


@pytest.mark.parametrize("width", [320, 360, 1280, 2560])
def test_nothing_is_wider_than_the_window(opened, width):
    cards = [card(k, pick=Tile(text, draw(0, 0)), why="w" * 500) for k, text in enumerate(NASTY, start=1)]
    cards += [card(90, pick=Tile("x" * 400, None), neighbors=(Tile("y" * 400, None),) * 8)]
    classes = tuple(f"a class with a long name {k}" for k in range(30))
    page = opened(
        sheet(cards, title="t" * 200, facts={"f" * 90: "v" * 300}, classes=classes), viewport={"width": width, "height": 800}
    )
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    inside = "[...document.querySelectorAll('.card, .tools, header')].every(box => box.scrollWidth <= box.clientWidth)"
    assert page.evaluate(inside)


CONTRAST = """selector => {
  const numbers = color => color.match(/[\\d.]+/g).map(Number);
  const light = color => numbers(color).slice(0, 3).map(value => value / 255)
    .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, k) => sum + value * [0.2126, 0.7152, 0.0722][k], 0);
  const opaque = color => numbers(color).length < 4 || numbers(color)[3] === 1;
  const [name, part] = selector.split("::");
  const element = document.querySelector(name);
  const text = getComputedStyle(element, part && "::" + part).color;
  let behind = element;
  while (behind && !opaque(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
  const pair = [light(text), light(getComputedStyle(behind).backgroundColor)].sort((a, b) => b - a);
  return (pair[0] + 0.05) / (pair[1] + 0.05);
}"""
TEXTS = [
    "h1",
    "dt",
    "dd",
    ".guide p",
    ".legend li",
    ".legend strong",
    "#count",
    "#download",
    "#clear",
    "#chips button",
    "#chips-for",
]
TEXTS += ["#refused", "h2", ".order", ".caption", "input", "input::placeholder", "summary", ".why", ".box", ".labelled .order"]
TEXTS += [".labelled input", "#chips-hint", ".skip"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(opened, scheme):
    page = opened(sheet([card(1), card(2, pick=Tile("x", None))], classes=("luna",)), color_scheme=scheme)
    before = {text: page.evaluate(CONTRAST, text) for text in TEXTS if "labelled" not in text}
    page.locator("#label-1").fill("monarch")
    ratios = before | {text: page.evaluate(CONTRAST, text) for text in TEXTS}
    assert {text: ratio for text, ratio in ratios.items() if ratio < 4.5} == {}
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == {
        "light": "rgb(251, 251, 249)", "dark": "rgb(20, 24, 28)",
    }[scheme]  # fmt: skip


def test_without_javascript_the_page_can_be_read(opened):
    page = opened(sheet([card(1), card(2)]), java_script_enabled=False)
    assert page.locator("img").count() == 10
    assert page.locator(".note").is_visible()
    assert not page.locator("#label-1").is_visible()
    assert not page.locator(".tools").is_visible()
    page.locator("summary").first.click()
    assert page.locator(".why").first.is_visible()


def test_each_input_has_a_label_of_its_own(opened):
    page = opened(sheet([card(1), card(2)]))
    assert page.get_by_label("Label of pick 2", exact=True).get_attribute("id") == "label-2"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the picks"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "label-1"


@pytest.mark.parametrize("width", [360, 1000])
def test_the_pick_that_is_labelled_is_whole_below_the_bar(opened, width):
    page = opened(sheet([card(k) for k in range(1, 30)]), viewport={"width": width, "height": 800})
    bar = page.locator(".tools").bounding_box()["height"]
    for k in (20, 1, 29, 14):
        page.locator(f"#label-{k}").focus()
        inside = "([k, bar]) => { const box = document.getElementById(`pick-${k}`).getBoundingClientRect(); "
        page.wait_for_function(inside + "return box.top >= bar && box.bottom <= innerHeight }", arg=[k, bar], timeout=5000)


def test_the_page_can_be_printed(opened):
    page = opened(sheet([card(1), card(2)]))
    page.emulate_media(media="print")
    assert not page.locator(".tools").is_visible()
    assert page.locator(".pick").first.is_visible()
