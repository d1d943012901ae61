import base64
import csv
import functools
import html.parser
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from supclust.label import annotations, contact_sheet
from supclust.label.contact_sheet import Card, Guess, Sheet, Tile
from supclust.label.rounds import Pick
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
    values = {"image": Tile(f"{species}/{k}.png", draw(species, 9, 96)), "neighbors": neighbors}
    values |= {name: changes.pop(name) for name in values if name in changes}
    scores = {"cluster": k + 100, "cluster_size": 1412, "rank": 12, "typicality": 1.25, "sup": -0.5}
    return Card(Pick(**{"order": k, "point": k, "why": f"Reason {k}.\nAnother one.", **scores} | changes), **values)


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
    assert "Id: 3/3.png" in page.text


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
    nasty = card(1, image=Tile(text, None), neighbors=(Tile(text, draw(0, 0)),) * 4, why=text)
    tags = [tag for tag, _ in Elements(contact_sheet.html(replace(plain, cards=[card(1, image=Tile("x", None))]))).found]
    page = contact_sheet.html(Sheet(text, {"Strategy": text, text: "1"}, [nasty], (text,)))
    assert [tag for tag, _ in Elements(page).found] == tags
    assert contact_sheet.visible(text) in Elements(page).text
    assert not any(name.startswith("on") for _, attributes in Elements(page).found for name in attributes)


def test_the_ids_in_the_page_are_those_of_the_images():
    texts = [*NASTY, "\x00"]
    page = contact_sheet.html(sheet([card(k, image=Tile(text, None)) for k, text in enumerate(texts)]))
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1])
    assert data == {"ids": [[text] for text in texts], "classes": []}


def test_what_shows_nothing_is_made_visible():
    assert contact_sheet.visible("a\nb\u202ec\udcff\x1b d\xa0é🦋") == r"a\nb\u202ec\udcff\x1b d\xa0é🦋"
    page = contact_sheet.html(sheet([card(1, image=Tile("\udcff\u202e\x07", draw(0, 0)))]))
    page.encode("utf-8")
    assert not set(page) & {"\u202e", "\x07"}


def test_an_image_that_is_not_there_is_a_box_with_its_id():
    one = sheet([card(1, image=Tile("first.png", None), neighbors=(Tile("second.png", None),))])
    page = Elements(contact_sheet.html(one))
    assert page.of("img") == []
    boxes = [element["aria-label"] for element in page.of("span") if element.get("role") == "img"]
    assert boxes == ["Pick 1: first.png, cluster 101", "Typical of cluster 101, number 1: second.png"]
    assert contact_sheet.png(one).size[0] == 1920


def test_a_cluster_of_one_image_has_no_neighbours():
    page = Elements(contact_sheet.html(sheet([card(1, neighbors=(), cluster_size=1, rank=1)])))
    assert len(page.of("img")) == 1
    assert "cluster 101 · 1 image · typicality rank 1" in page.text


def test_the_kept_labels_are_those_of_the_same_picks():
    def key(cards, **changes):
        return Elements(contact_sheet.html(sheet(cards, **changes))).of("body")[0]["data-key"]

    same = key([card(1), card(2)])
    assert key([card(1), card(2)], title="Another", classes=("x",)) == same
    others = [[card(2), card(1)], [card(1)], [card(1), card(2, image=Tile("2/2.png", draw(3, 0)))]]
    assert len({same, *map(key, others)}) == 4


# --- images in the page ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [1, 8, 32])
def test_a_small_image_keeps_every_pixel(side):
    picture = noisy(side)
    page = contact_sheet.html(sheet([card(1, image=Tile("x", picture), neighbors=(Tile("y", picture),))]))
    assert all(np.array_equal(np.asarray(found), np.asarray(picture)) for found in pictures_of(page))
    assert all("pixels" in image["class"] for image in Elements(page).of("img"))


def test_a_small_image_is_enlarged_in_squares():
    whole = np.asarray(contact_sheet.png(sheet([card(1, image=Tile("x", noisy(8)), neighbors=())])))

    def bright(pixels):
        return {tuple(color) for color in np.unique(pixels.reshape(-1, 3), axis=0).astype(int) if np.ptp(color) > 40}

    assert bright(whole) == bright(np.asarray(noisy(8)))


def test_the_caller_keeps_the_images_as_they_were():
    picture = draw(1, 1, 300)
    before = picture.copy()
    one = sheet([card(1, image=Tile("x", picture))])
    contact_sheet.html(one)
    contact_sheet.png(one)
    assert picture == before


def test_pages_and_pictures_stay_small():
    tiles = [(Tile(f"{k}.png", draw(k, k, 256)), Tile(f"{k}.png", draw(k, k, 96))) for k in range(8)]
    cards = [card(k, image=tiles[k % 8][0], neighbors=tuple(tiles[(k + j) % 8][1] for j in range(1, 5))) for k in range(500)]
    assert len(contact_sheet.html(sheet(cards[:50])).encode()) < 1.5e6
    whole, file = contact_sheet.png(sheet(cards)), io.BytesIO()
    assert whole.size[1] < 3 * whole.size[0]
    assert contact_sheet.png(sheet(cards[:50])).size[1] < 1.5 * 1920
    whole.save(file, "png")
    assert file.tell() < 12e6


# --- the picture -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [*NASTY, "\x00", "", "é" * 500])
def test_the_picture_takes_any_text(text):
    nasty = card(1, image=Tile(text, None), neighbors=(Tile(text, None),), why=text, typicality=math.inf, sup=math.nan)
    assert contact_sheet.png(Sheet(text, {text: text}, [nasty])).size[0] == 1920


def test_the_picture_shows_each_pick_in_its_place():
    colors = [(200, 30, 30), (30, 160, 30), (30, 30, 200)]
    cards = [card(k, image=Tile("x", Image.new("RGB", (100, 100), color)), neighbors=()) for k, color in enumerate(colors, 1)]
    whole = np.asarray(contact_sheet.png(sheet(cards)))
    found = [np.argwhere((whole == color).all(-1)) for color in colors]
    assert [len(places) for places in found] == [193**2] * 3
    lefts = [places[:, 1].min() for places in found]
    assert lefts == sorted(lefts)
    assert len({places[:, 0].min() for places in found}) == 1


# --- the page in a browser -------------------------------------------------------------------------------------------------


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


def type_label(page, text: str) -> None:
    page.keyboard.type(text)
    page.keyboard.press("Enter")


def count(page) -> str:
    return page.locator("#count").inner_text()


def focused(page) -> str:
    return page.evaluate("document.activeElement.id")


def test_all_can_be_done_with_the_keyboard(opened):
    number = 20
    cards = [card(k, image=Tile(f"{k}.png", draw(0, k % 9))) for k in range(1, number + 1)]
    page = opened(sheet(cards), viewport={"width": 1000, "height": 800})
    # the page opens with its title, whole, and asks for nothing
    assert page.evaluate("window.scrollY") == 0
    assert page.locator("img").count() == 5 * number
    assert page.evaluate("Promise.all([...document.images].map(image => image.decode())).then(() => true)")
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert count(page) == f"0 of {number} labelled"
    # each input has a label of its own, and a link leads to the first
    assert page.get_by_label("Label of pick 2", exact=True).get_attribute("id") == "label-2"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the picks"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert focused(page) == "label-1"
    # Enter goes to the next pick without a label
    type_label(page, "monarch")
    assert focused(page) == "label-2"
    assert count(page) == f"1 of {number} labelled"
    type_label(page, "morpho")
    assert focused(page) == "label-3"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    assert focused(page) == "label-2"
    page.keyboard.press("Enter")
    assert focused(page) == "label-3"
    # the pick that is labelled is whole below the bar
    bar = page.locator(".tools").bounding_box()["height"]
    for k in (15, 1, number, 11):
        page.locator(f"#label-{k}").focus()
        inside = "([k, bar]) => { const box = document.getElementById(`pick-${k}`).getBoundingClientRect(); "
        page.wait_for_function(inside + "return box.top >= bar && box.bottom <= innerHeight }", arg=[k, bar], timeout=5000)
    # the table
    page.locator("#download").focus()
    expected = '"id","label"\r\n"1.png","monarch"\r\n"2.png","morpho"\r\n'
    expected += "".join(f'"{k}.png",""\r\n' for k in range(3, number + 1))
    assert downloaded(page, lambda: page.keyboard.press("Enter")) == expected.encode()
    # after the last pick, Enter goes to the first without a label
    page.locator(f"#label-{number}").focus()
    type_label(page, "a")
    assert focused(page) == "label-3"
    for k in range(4, number):
        page.locator(f"#label-{k}").fill("b")
    page.locator("#label-3").focus()
    type_label(page, "c")
    assert focused(page) == "download"
    assert count(page) == f"{number} of {number} labelled"


def test_nasty_ids_and_labels_come_back_from_the_table_and_fit_the_window(opened):
    cards = [card(k, image=Tile(text, draw(0, 0) if k % 2 else None), why="w" * 500) for k, text in enumerate(NASTY, start=1)]
    cards += [card(90, image=Tile("x" * 400, None), neighbors=(Tile("y" * 400, None),) * 4)]
    classes = ("<b>", *(f"a class with a long name {k}" for k in range(30)))
    page = opened(sheet(cards, title="t" * 200, facts={"f" * 90: "v" * 300}, classes=classes))
    labels = [*FORMULAS, 'with "quotes", and comma', *["plain é"] * (len(cards) - len(FORMULAS) - 1)]
    for k, label in enumerate(labels, start=1):
        page.locator(f"#label-{k}").fill(label)
    content = downloaded(page, page.locator("#download").click).decode("utf-8")
    header, *rows = csv.reader(io.StringIO(content, newline=""))
    ids = [one.image.id for one in cards]
    assert [annotations.safe(text) for text in ids] != ids
    assert header == ["id", "label"]
    assert [row[0] for row in rows] == [annotations.safe(text) for text in ids]
    typed = [label.strip() for label in labels]  # and an input of one line takes no newline
    assert [row[1] for row in rows] == [annotations.safe(label) for label in typed]
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    inside = "[...document.querySelectorAll('.card, .tools, header')].every(box => box.scrollWidth <= box.clientWidth)"
    for width in (320, 1280, 2560):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(inside)
    page.emulate_media(media="print")
    assert not page.locator(".tools").is_visible()
    assert page.locator(".pick").first.is_visible()


def test_what_was_typed_is_there_after_a_reload(opened):
    page = opened(sheet([card(1), card(2), card(3)], classes=("luna", "<b>")), viewport={"width": 360, "height": 500})
    assert page.locator("#label-1").bounding_box()["y"] > 500  # the first card is not in sight: the page opens with its title
    # a click on a known label labels the pick and goes on
    page.locator("#label-2").click()
    page.get_by_role("button", name="<b>").click()
    page.get_by_role("button", name="luna").click()
    assert [page.locator(f"#label-{k}").input_value() for k in (1, 2, 3)] == ["", "<b>", "luna"]
    assert page.locator("#chips-for").inner_text() == "Pick 1:"
    # after a reload
    page.locator("#label-1").focus()
    type_label(page, "monarch")
    page.reload()
    assert page.locator("#label-1").input_value() == "monarch"
    assert count(page) == "3 of 3 labelled"
    offered = page.evaluate("[...document.querySelectorAll('#known option')].map(option => option.value)")
    assert offered == ["luna", "<b>", "monarch"]
    assert page.locator("#chips button").all_inner_texts() == ["luna", "<b>", "monarch"]
    # what is kept may be broken
    for kept in ("{", "null", "7", "[3]", '{"length": 1}'):
        page.evaluate("kept => localStorage.setItem('supclust-labels-' + document.body.dataset.key, kept)", kept)
        page.reload()
        assert count(page) == "0 of 3 labelled"


def test_keys_label_move_undo_and_zoom_where_no_field_is_typed_in(opened, tmp_path):
    draw(1, 1, 400).save(tmp_path / "a #1.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "b.tiff")
    links = ["a%20%231.png", "b.tiff", None]
    tiles = [Tile(f"{k}.png", draw(0, k) if link else None, link) for k, link in enumerate(links)]
    classes = tuple(f"class {k}" for k in range(40))
    page = opened(sheet([card(k, image=tile) for k, tile in enumerate(tiles)], classes=classes))

    def press(*keys):
        for key in keys:
            page.keyboard.press(key)
        values = [page.locator(f"#label-{k}").input_value().removeprefix("class ") for k in (1, 2, 3)]
        return [*values, page.locator("[aria-current=true]").get_attribute("id")]

    assert press() == ["", "", "", "pick-1"]
    assert press("2") == ["1", "", "", "pick-2"]
    assert page.locator("#count").inner_text() == "1 of 3 labelled"
    assert press("y") == ["1", "30", "", "pick-3"]  # the last class that has a key
    assert press("k", "ArrowUp", "ArrowLeft") == ["1", "30", "", "pick-1"]
    assert page.evaluate("document.activeElement.id") == "pick-1"
    assert press("j", "ArrowDown", "ArrowRight", "3") == ["1", "30", "2", "pick-3"]
    assert press("Control+z") == ["1", "30", "", "pick-3"]
    assert press("u") == ["1", "", "", "pick-2"]
    assert press("Control+3", "Alt+3", "Z", "F2") == ["1", "", "", "pick-2"]
    # in a field, keys are text, and a typed label is undone as a whole
    assert press("Enter", "1", "j", "Escape") == ["1", "1j", "", "pick-2"]
    assert page.evaluate("document.activeElement.id") == "pick-2"
    assert press("u") == ["1", "", "", "pick-2"]
    assert press("u", "u", "u")[:3] == ["", "", ""]
    assert page.locator("#said").inner_text() == "There is no label to take back."
    # the image itself, or what the page has of it where a browser cannot show that; labels can be given meanwhile
    assert press(" ")[-1] == "pick-1"
    width = "() => document.querySelector('#large img').naturalWidth"
    page.wait_for_function(f"{width} === 400")
    assert page.locator("#original").get_attribute("href") == (tmp_path / "a #1.png").as_uri().replace("#", "%23")
    assert press("1") == ["0", "", "", "pick-2"]
    page.wait_for_function(f"{width} === 96")
    press("j")
    assert page.locator("#large span").inner_text() == "2.png"
    assert page.locator("#original").is_hidden()
    press("Escape")
    assert page.locator("#zoom").is_hidden()
    page.locator("#pick-1 a").click()
    assert page.locator("#zoom").is_visible()
    press("z")
    assert page.evaluate("document.activeElement.parentElement.parentElement.id") == "pick-1"  # the link
    press("?")
    assert page.locator("#help").is_visible()
    assert press("1", "?")[1] == ""
    assert page.locator("#help").is_hidden()


def test_a_browser_that_keeps_nothing_says_so(opened):
    refuse = "Object.defineProperty(window, 'localStorage', { get() { throw new Error('refused'); } });"
    page = opened(sheet([card(1), card(2)]), before=refuse)
    page.locator("#label-1").fill("monarch")
    assert "This browser keeps nothing" in page.locator("#said").inner_text()
    assert b'"monarch"' in downloaded(page, page.locator("#download").click)


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
    ".guide",
    "#count",
    "#download",
    "#chips button",
    "#chips-for",
]
TEXTS += ["h2", ".order", ".caption", "input", "input::placeholder", "summary", ".why", ".box", ".labelled .order"]
TEXTS += [".labelled input", "#chips-hint", ".skip", "#said", "#help dd", "#help kbd", "#original", "#large-name"]


def test_every_text_stands_out_from_what_is_behind_it(opened):
    page = opened(sheet([card(1), card(2, image=Tile("x", None))], classes=("luna",)))
    for scheme, paper in (("light", "rgb(251, 251, 249)"), ("dark", "rgb(20, 24, 28)")):
        page.emulate_media(color_scheme=scheme)
        page.locator("#label-1").fill("")
        before = {text: page.evaluate(CONTRAST, text) for text in TEXTS if "labelled" not in text}
        page.locator("#label-1").fill("monarch")
        ratios = before | {text: page.evaluate(CONTRAST, text) for text in TEXTS}
        assert {text: ratio for text, ratio in ratios.items() if ratio < 4.5} == {}
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == paper


def test_without_javascript_the_page_can_be_read(opened):
    page = opened(sheet([card(1), card(2)]), java_script_enabled=False)
    assert page.locator("img").count() == 10
    assert page.locator(".note").is_visible()
    assert not page.locator("#label-1").is_visible()
    assert not page.locator(".tools").is_visible()
    page.locator("summary").first.click()
    assert page.locator(".why").first.is_visible()


# --- suggestions -----------------------------------------------------------------------------------------------------------


def test_all_members_of_a_cluster_get_its_label_in_the_table(opened):
    clusters = [(("a", "b"), "<b>"), (("c", "d", "e"), "=x"), (("f",), "g")]
    guesses = [Guess(ids, tuple(Tile(one, draw(0, 0)) for one in ids), label, "name", "caption") for ids, label in clusters]
    page = opened(sheet((), classes=("<b>", "other"), guesses=guesses))
    assert [page.locator(".card").nth(k).locator(".accept").inner_text() for k in (0, 2)] == ["All 2 are <b>", "It is g"]
    page.keyboard.press("Enter")
    page.keyboard.press("j")
    page.keyboard.press("2")
    content = downloaded(page, page.locator("#download").click).decode("utf-8")
    rows = [*csv.reader(io.StringIO(content, newline=""))][1:]
    assert rows == [["a", "<b>"], ["b", "<b>"], ["c", ""], ["d", ""], ["e", ""], ["f", "other"]]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("text", NASTY)
def test_no_suggestion_becomes_markup(text):
    def tags(text):
        page = contact_sheet.html(sheet((), guesses=[Guess((text, text), (Tile(text, None),), text, text, text)]))
        return [tag for tag, _ in Elements(page).found]

    assert tags(text) == tags("x")
