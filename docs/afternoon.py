"""An afternoon with 20,000 photographs, of which a program labels 150 in the page, as a person would with the keys.

python docs/afternoon.py WORK makes WORK/photos of the images in WORK/trashnet and WORK/isic2019 (in sub-folders by class), opens
the page, labels three rounds of fifty, asks for suggestions, and prints how long each step took and how good the suggestions are.
Then python docs/suggest_study.py WORK afternoon@photos compares such labels with random ones.
"""

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
from PIL import Image, ImageEnhance, ImageOps
from playwright.sync_api import Page, sync_playwright

from supclust.label import embeddings

SIZE, VIEWS = 20_000, 10  # images; views of each photograph of TrashNet. The rest are images of ISIC-2019, once each


def make(work: Path) -> None:
    """Cropped, mirrored, coloured and enlarged to some 800 pixels, in folders by year; truth.csv has their classes."""
    rng = random.Random(0)
    trash, lesions = (sorted((work / name).rglob("*.jpg")) for name in ("trashnet", "isic2019"))
    files = trash * VIEWS + rng.sample(lesions, SIZE - len(trash) * VIEWS)
    rng.shuffle(files)
    with open(work / "truth.csv", "w") as truth:
        print("id,class", file=truth)
        for number, file in enumerate(files):
            name = f"{2015 + number // 2000}/IMG_{number:05d}.jpg"
            print(f"{name},{file.parent.name}", file=truth)
            (work / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
            view(Image.open(file).convert("RGB"), rng).save(work / "photos" / name, quality=rng.randint(75, 92))


def view(image: Image.Image, rng: random.Random) -> Image.Image:
    """Another photograph of the same thing."""
    width, height = (side * rng.uniform(0.6, 1) for side in image.size)
    x, y = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
    long = rng.randint(700, 900)
    image = image.resize((long, int(long * height / width)), Image.Resampling.BICUBIC, (x, y, x + width, y + height))
    image = ImageOps.mirror(image) if rng.random() < 0.5 else image
    for change in (ImageEnhance.Brightness, ImageEnhance.Color, ImageEnhance.Contrast):
        image = change(image).enhance(rng.uniform(0.75, 1.3))
    return image


def label(page: Page, truth: pd.Series) -> str:
    """Label all picks of a page: a class that has a key by its key, another one by typing it."""
    ids, keys, typed = json.loads(page.locator("#data").text_content())["ids"], 0, 0
    for _ in ids:
        k = page.locator(".card").evaluate_all("cards => cards.findIndex((card) => card.ariaCurrent)")
        name = truth[ids[k][0]]
        if key := page.locator("#chips button", has_text=name).evaluate_all("all => all.map((one) => one.ariaKeyShortcuts)"):
            page.keyboard.press(key[0])
            keys += 1
        else:
            page.locator(".card input").nth(k).fill(name)
            page.keyboard.press("Enter")
            page.keyboard.press("Escape")
            typed += 1
    page.wait_for_timeout(1000)
    return f"{page.locator('#count').text_content()}, {keys} by a key, {typed} typed. {page.locator('#said').text_content()}"


def main(work: Path) -> None:
    if not (work / "truth.csv").exists():
        make(work)
    truth, start = pd.read_csv(work / "truth.csv").set_index("id")["class"], time.time()
    words = ["-m", "supclust", "label", work / "photos", "--budget", "50", "--out", work / "round-1", "--open"]
    program = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True)
    address = next(line for line in program.stdout if line.startswith("http"))
    print(f"round-1: {time.time() - start:.0f} s")
    with sync_playwright() as browsers:
        page = browsers.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"]).new_page()
        page.set_default_timeout(600_000)
        page.goto(address)
        for button, goal in (("follow", "**/round-2/"), ("follow", "**/round-3/"), ("suggest", "**/suggestions")):
            print(label(page, truth))
            start = time.time()
            page.click(f"#{button}")
            page.wait_for_url(goal)
            print(f"{goal.strip('*/')}: {time.time() - start:.0f} s")
    program.send_signal(signal.SIGINT)
    program.wait()
    table = pd.read_csv(work / "round-3" / "suggestions" / "suggestions.csv", dtype={"id": str})
    table["right"] = table["suggestion"] == table["id"].map(truth)
    print(table.groupby(table["confidence"].mul(10).astype(int).clip(upper=9).div(10))["right"].agg(["size", "mean"]))
    found = embeddings.read(work / "round-1" / "embeddings.npz")
    (work / "afternoon@photos").mkdir(exist_ok=True)
    named = replace(found, ids=tuple(f"{truth[name]}/{name}" for name in found.ids), paths=None)
    embeddings.write(work / "afternoon@photos" / "embeddings.npz", named)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
