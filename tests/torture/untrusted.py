"""What strangers hand in: pickles, bombs, links, names that are code, foreign rounds, requests, downloads, parameters."""

import ast
import contextlib
import csv
import hashlib
import io
import itertools
import json
import logging
import os
import pickle
import random
import re
import resource
import shutil
import socket
import string
import struct
import subprocess
import threading
import time
import zipfile
import zlib
from html.parser import HTMLParser
from pathlib import Path
from unittest import mock
from xml.etree import ElementTree

import numpy as np
import safetensors.torch
import timm
import torch
from papermill.translators import translate_parameters
from PIL import Image

from supclust import __main__, datasets, features, kept, simclr
from supclust.images import files
from supclust.label import annotations, embedders, embeddings, results, serving, sources, typed
from supclust.label.embeddings import Embeddings
from supclust.label.request import EncoderOptions
from supclust.report import reproduce
from supclust.scale import points
from supclust.train import checkpoints
from tests.conftest import make_blobs
from tests.drawn_images import draw
from tests.torture import SEED, Case, command, environment, listing, often, run

# What runs or hides in a page, a spreadsheet, a terminal, a template, a shell, Markdown.
EVIL = (
    "<img src=x onerror=hooked=1>", "</script><script>hooked=1</script>", "\"><svg onload=hooked=1>", "' onmouseover='hooked=1",
    "javascript:hooked=1", "{{7*7}}", "${7*7}", "{% include 'x' %}", "=HYPERLINK(\"http://stranger.example/\")", "@SUM(1)", "+1",
    "-1", "=cmd|'/C calc'!A0", "\uff1d1+1", " =1+1", "\u200b=1+1", "\tx", "\rx", "'=1", "\x1b]0;title\x07", "\x1b[2J", "\x9b2J",
    "\u202egnp.exe", "[x](http://stranger.example/)", "![](http://stranger.example/)", "`code`", "*b*", "$(touch hooked)",
    "; touch hooked", "--force", "&lt;", "&#0;", "]]>", "<!--", "a\nb", 'a"b', "a,b", "a;b", "\u2028", "..", "../x", "C:\\x",
    "con", "%2e%2e%2f", "é" * 30, "x" * 120,
)  # fmt: skip
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def said(*line: object) -> tuple[int, str]:
    """The exit status of `supclust` in this process, and all that it prints."""
    with contextlib.redirect_stderr(io.StringIO()) as out, contextlib.redirect_stdout(out):
        logging.getLogger().handlers.clear()  # the command makes its own, for this stderr
        try:
            return __main__.main([*map(str, line)]), out.getvalue()
        except SystemExit as error:
            return error.code, out.getvalue()


# -- pickles -------------------------------------------------------------------------------------------------------------------


class Harmful:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), "w")


def pickles(work: Path, share: float) -> Case:
    """Each reader of a file gets a pickle that makes a file, bare and in each container."""
    found, hooked, rng = Case("pickles, in each reader of a file"), work / "hooked", random.Random(f"0{SEED}")
    folder = work / "cifar-10-batches-py"
    folder.mkdir()
    network = torch.nn.Linear(1, 1)
    readers = {
        ".npy": (embeddings.read, lambda path: points._checked(str(path), 0)),
        ".npz": (embeddings.read,),
        ".parquet": (embeddings.read,),
        ".csv": (annotations.read, kept.load),
        ".json": (annotations.read, kept.load, sources.read_record),
        ".safetensors": (features.load, kept.load, simclr.load_weights),
        ".pt": (_timm, lambda path: checkpoints.resume(_with_checksum(path), {}, {"network": network}, "cpu")),
        ".jpg": (lambda path: files.read(path, 8),),
        "": (lambda path: shutil.copy(path, folder / "data_batch_1") and datasets.load("cifar10"),),
    }
    containers = (_bare, _in_torch, _in_npy, _in_npz, _in_parquet)
    cases = [(s, read, make) for s, some in readers.items() for read in some for make in containers]
    for number in range(often(10 * len(cases), share)):
        (suffix, read, make), protocol = cases[number % len(cases)], rng.randint(0, 5)
        make(path := work / f"it{suffix}", Harmful(hooked), protocol)
        found.trials += 1
        with mock.patch.dict(os.environ, {"SUPCLUST_DATA": str(work)}), contextlib.redirect_stderr(io.StringIO()):
            try:
                read(path)
                found.expect(False, f"{suffix} of {make.__name__} is accepted")
            except (ValueError, FileNotFoundError):
                pass
            except Exception as error:
                found.expect(False, f"{suffix} of {make.__name__}: {type(error).__name__} instead of a sentence")
        found.expect(not hooked.exists(), f"a pickle runs, {make.__name__} as {suffix}")
        hooked.unlink(missing_ok=True)
    return found


def _with_checksum(path: Path) -> Path:
    content = path.read_bytes()
    path.write_bytes(content + hashlib.sha256(content).digest())
    return path


def _timm(path: Path) -> None:
    embedders.load(EncoderOptions(f"timm:resnet10t@{path}"))


def _bare(path: Path, harm: Harmful, protocol: int) -> None:
    path.write_bytes(pickle.dumps(harm, protocol))


def _in_torch(path: Path, harm: Harmful, protocol: int) -> None:
    torch.save({"made_from": {}, "network": harm}, path, pickle_protocol=max(protocol, 2))


def _in_npy(path: Path, harm: Harmful, protocol: int) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([[harm]], dtype=object))


def _in_npz(path: Path, harm: Harmful, protocol: int) -> None:
    with path.open("wb") as file:
        np.savez(file, features=np.ones((2, 2)), ids=np.array([harm, harm], dtype=object))


def _in_parquet(path: Path, harm: Harmful, protocol: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    table = pa.table({"features": pa.array([pickle.dumps(harm, protocol)] * 2)}, metadata={"pandas": pickle.dumps(harm, 0)})
    pa.parquet.write_table(table, path)


# -- bombs ---------------------------------------------------------------------------------------------------------------------

GIGABYTE = 2**30


def bombs(work: Path, share: float) -> Case:
    """Small files that say they are huge: images of a folder, and tables; each command has 8 GB of addresses and a minute."""
    found, side = Case("bombs: images, archives, tables"), 60_000
    images = work / "images"
    images.mkdir()
    for k in range(12):
        draw(k % 4, k, 40).save(images / f"good-{k}.png")
    rows = zlib.compress(bytes(side // 8 + 1) * 4_000, 9)
    png = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b"")]
    chunks = (struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in png)
    (images / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    text = zlib.compress(bytes(300_000_000), 9)
    draw(0, 0, 40).save(whole := io.BytesIO(), "png")
    body = b"a\0\0" + text
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    (images / "text.png").write_bytes(whole.getvalue()[:33] + chunk + whole.getvalue()[33:])
    (images / "huge.gif").write_bytes(b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\x80\0\0" + bytes(6) + b"," + bytes(20))
    for kind in ("tiff", "webp", "bmp", "ppm", "jp2"):
        Image.new("RGB", (9, 9)).save(small := io.BytesIO(), {"jp2": "JPEG2000", "ppm": "PPM"}.get(kind, kind))
        (images / f"huge.{kind}").write_bytes(_enlarged(kind, small.getvalue()))
    Image.new("1", (12_000, 12_000)).save(images / "allowed.tiff", compression="group4")  # 144 million pixels in a kilobyte
    laughs = "".join(f'<!ENTITY l{k} "{f"&l{k - 1};" * 10}">' for k in range(1, 20))
    for name in ("laughs.svg", "laughs.png"):
        (images / name).write_text(f'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY l0 "ha">{laughs}]><svg>&l19;</svg>')
    with zipfile.ZipFile(images / "zip.png", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../x", bytes(GIGABYTE // 4))
    sheets = {"images": images}
    for name, header in {"declared": (10**12, 8), "ids": (12, 8)}.items():
        with zipfile.ZipFile(path := work / f"{name}.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("features.npy", _npy(header, "<f4", bytes(12 * 8 * 4)))
            if name == "ids":
                archive.writestr("ids.npy", _npy((12,), "<U900000000", bytes(100)))
                archive.writestr("../../../escaped.npy", _npy((1,), "<f4", bytes(4)))
        sheets[name] = path
    np.savez_compressed(work / "zeros.npz", features=np.zeros((600_000, 1000), "f4"))  # 2.4 GB in 2 MB
    sheets["zeros"] = work / "zeros.npz"
    (work / "labels.csv").write_text("id,label\n" + '"' + "a" * 200_000 + '",x\n')
    for name, source in sheets.items():
        out = work / f"out-{name}"
        line = command("label", source, "--budget", 5, "--out", out, "--encoder", "simclr", "--train-minutes", 0)
        begun, found.trials = time.monotonic(), found.trials + (len(list(source.iterdir())) - 12 if source.is_dir() else 1)
        limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (8 * GIGABYTE,) * 2)  # noqa: E731  (PyTorch alone takes three)
        try:
            done = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=120, preexec_fn=limit)
        except subprocess.TimeoutExpired:
            found.expect(False, f"{name}: two minutes are not enough")
            continue
        found.expect("Traceback" not in done.stderr, f"{name}: {done.stderr[-300:]}")
        found.expect((done.returncode == 0) == source.is_dir(), f"{name} ends with {done.returncode}: {done.stderr[-300:]}")
        found.expect(time.monotonic() - begun < 60, f"{name} takes {time.monotonic() - begun:.0f} s")
        if source.is_dir() and done.returncode == 0:
            left_out = len(list(csv.DictReader((out / results.SKIPPED).open())))
            found.expect(left_out == len(list(source.iterdir())) - 13, f"of the bombs, {left_out} are left out")
    found.expect(not any((parent / "escaped.npy").exists() for parent in work.parents), "an archive's ../ is followed")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    found.note = f"at most {peak:.1f} GB"
    return found


def _npy(shape: tuple[int, ...], kind: str, body: bytes) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": kind, "fortran_order": False, "shape": shape})
    return header.getvalue() + body


def _enlarged(kind: str, content: bytes) -> bytes:
    """An image of 9 x 9 pixels whose header says 60,000 x 60,000 (WebP: 16,384)."""
    if kind == "webp":
        at = content.index(b"VP8 ") + 14
        return content[:at] + struct.pack("<HH", 16383, 16383) + content[at + 4 :]
    if kind == "ppm":
        return content.replace(b"9 9", b"60000 60000", 1)
    if kind == "tiff":  # short entries of the tags 256 and 257
        for tag in (256, 257):
            head = struct.pack("<HHI", tag, 3, 1)
            content = content.replace(head + struct.pack("<H", 9), head + struct.pack("<H", 60_000))
            head = struct.pack("<HHI", tag, 4, 1)
            content = content.replace(head + struct.pack("<I", 9), head + struct.pack("<I", 60_000))
        return content
    order = "<" if kind == "bmp" else ">"
    return content.replace(struct.pack(f"{order}II", 9, 9), struct.pack(f"{order}II", 60_000, 60_000))


# -- links and foreign rounds --------------------------------------------------------------------------------------------------


def _images(folder: Path, n: int = 12) -> Path:
    for k in range(n):
        path = folder / str(k % 3) / f"{k:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(k % 4, k, 40).save(path)
    return folder


def links(work: Path, share: float) -> Case:
    """Links in a folder of images: round about, out of it, and to what is no file."""
    found, folder = Case("links in folders of images"), _images(work / "images")
    secret = work / "secret"
    secret.write_text("the secret")
    there = {
        "itself": folder, "around": work, "root": Path("/"), "nowhere": work / "none", "loop": folder / "loop", "up": Path(".."),
        "twice": folder / "0", "device.png": Path("/dev/zero"), "random.jpg": Path("/dev/urandom"),
        "memory.png": Path("/proc/self/mem"),
        "secret.png": secret, "passwd.tiff": Path("/etc/passwd"), "hidden": work / ".hidden",
    }  # fmt: skip
    for name, to in there.items():
        (folder / name).symlink_to(to)
    os.mkfifo(folder / "pipe.png")
    begun = time.monotonic()
    line = ("label", folder, "--budget", 6, "--out", work / "out", "--copy", work / "copies", "--train-minutes", 0)
    try:
        done = run(*line, timeout=120)
    except subprocess.TimeoutExpired:
        found.expect(False, "a link or a pipe is waited for")
        return found
    found.trials = len(there) + 1
    found.expect(done.returncode == 0, f"refused as a whole: {done.stderr[-200:]}")
    found.expect(time.monotonic() - begun < 60, f"takes {time.monotonic() - begun:.0f} s")
    if done.returncode == 0:
        ids = embeddings.read(work / "out" / results.EMBEDDINGS).ids
        found.expect(sorted({Path(one).name for one in ids}) == sorted(f"{k:02}.png" for k in range(12)), f"ids are {ids}")
        inside = [path for path in (*(work / "out").rglob("*"), *(work / "copies").rglob("*")) if path.is_file()]
        found.expect(not any(b"the secret" in path.read_bytes() for path in inside), "a linked file's content is in the results")
    return found


def rounds(work: Path, share: float) -> Case:
    """Records and embeddings of a foreign round that lead elsewhere: nothing there is changed, and nothing but images is read."""
    found, rng = Case("foreign rounds that lead elsewhere"), random.Random(f"0{SEED}")
    own, foreign = work / "own", work / "foreign"
    _images(own / "images")
    (own / "secret.txt").write_text("the secret")
    (own / ".ssh").mkdir()
    (own / ".ssh" / "id_rsa").write_text("the secret")
    ids = tuple(f"{k}.png" for k in range(40))
    embeddings.write(work / "first.npz", Embeddings(make_blobs(4, 10, 8), ids))
    said("label", work / "first.npz", "--budget", 5, "--out", work / "made")
    elsewhere = ["../own", "/", "..", "../../../../etc/passwd", "../own/secret.txt", "../own/.ssh", "../own/images", "file:///etc"]
    elsewhere += [
        "javascript:x",
        "x\0y",
        "//stranger/share",
        "\\\\stranger\\share\\x",
        "timm:resnet10t@../own/secret.txt",
        5,
        None,
        [],
    ]
    keys = [("first",), ("folder",), ("asked", "source"), ("asked", "pictures"), ("asked", "strategy"), ("asked", "seed")]
    keys += [("source", "load"), ("source", "name"), ("embeddings",)]
    cases, before = [*itertools.product(keys, elsewhere)], listing(own)
    for key, value in rng.sample(cases, often(len(cases), share)):
        for folder in (foreign, work / "copies"):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(work / "made", foreign)
        texts = ("../own/secret.txt", "../own/.ssh/id_rsa", "../own/images/0/00.png", *["/etc/passwd"] * (found.trials % 2))
        paths = [rng.choice(texts) for _ in ids]
        embeddings.write(foreign / "embeddings.npz", Embeddings(make_blobs(4, 10, 8), ids, tuple(paths)))
        record = json.loads((foreign / files.MARKER).read_text())
        record["embeddings"] = "embeddings.npz"
        (record if len(key) == 1 else record[key[0]])[key[-1]] = value
        (foreign / files.MARKER).write_text(json.dumps(record))
        found.trials += 1
        for line in (
            ["label", foreign, "--out", foreign / "next", "--copy", foreign.with_name("copies")],
            ["label", foreign, "--added"],
        ):
            try:
                said(*line, "--budget", 5, "--out", foreign / "next")
            except Exception as error:
                found.expect(False, f"{'.'.join(key)} = {value!r}: {type(error).__name__}: {error}")
        with contextlib.suppress(ValueError, OSError):
            typed.of_chain(foreign)
        read = [path for path in (*foreign.rglob("*"), *(work / "copies").rglob("*")) if path.is_file()]
        found.expect(not any(b"the secret" in path.read_bytes() for path in read), f"{key} = {value!r}: the secret is read")
        found.expect(listing(own) == before, f"{key} = {value!r}: something else is changed")
    return found


# -- names ---------------------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What could run in a page, or lead out of it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts, self.wrong = [], []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        given = dict(attributes)
        self.scripts += [given.get("type", "")] if tag == "script" else []
        self.wrong += [tag] if tag in ("iframe", "object", "embed", "base", "svg") else []
        self.wrong += [f"{name}={value}" for name, value in attributes if name.startswith("on")]
        out = [given.get(name) or "" for name in ("href", "src", "action")]
        self.wrong += [one for one in out if re.match(r"\s*(javascript|https?|//|vbscript)", one)]


def names(work: Path, share: float) -> Case:
    """Files, ids, labels and classes whose names are code, through label, suggest and compare: every file that is written."""
    found, rng = Case("names that are code, into pages, tables, XML, JSON, Markdown, the terminal"), random.Random(f"0{SEED}")
    pages = []
    for turn in range(often(10, share)):
        folder = work / str(turn)
        some = rng.sample(EVIL, 14)
        ids = tuple(f"{one}-{k}" if rng.random() < 0.5 else f"{one}{k}.png" for k, one in enumerate(some * 4))
        here = [name if "/" not in name and len(name.encode()) < 200 and k % 2 else None for k, name in enumerate(ids)]
        (folder / "images").mkdir(parents=True)
        for name in filter(None, here):
            draw(1, len(name), 40).save(folder / "images" / name, "png")
        paths = tuple(name and f"images/{name}" for name in here)
        embeddings.write(folder / "e.npz", Embeddings(make_blobs(7, 8, 8, seed=turn), ids, paths))
        labels = [
            visible for one in rng.sample(EVIL, 20) if (visible := one.strip()) and not annotations.MISSING.fullmatch(visible)
        ]
        rows = [{"id": name, "label": labels[k % len(labels)]} for k, name in enumerate(ids[:30])]
        results.write_csv(folder / "labels.csv", rows)
        found.trials += len(ids) + len(labels)
        given = {one.id: one.label for one in annotations.read(folder / "labels.csv")}
        found.expect(given == {row["id"]: row["label"] for row in rows}, "labels do not come back as they were")
        classes = [f"--classes={name}" for name in labels if not CONTROL.search(name) and "\n" not in name]
        line = ["--labeled", folder / "labels.csv"]
        outcome = [said("label", folder / "e.npz", "--out", folder / "r", "--budget", 9, "--explain", *line, *classes)]
        outcome.append(said("suggest", folder / "r"))
        for status, text in outcome:
            found.expect(status == 0, f"refused: {text[-300:]}")
            found.expect(
                not CONTROL.search(text),
                f"the terminal gets {text[CONTROL.search(text).start() :][:20]!r}" if CONTROL.search(text) else "",
            )
        for path in sorted((folder / "r").rglob("*")):
            text = path.read_text("utf-8") if path.suffix in (".csv", ".html", ".xml", ".json", ".md") else ""
            if path.suffix == ".csv":
                cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
                bad = [
                    cell
                    for cell in cells
                    if re.match(r"[\s\u200b]*[=+@\uff1d-]|[\t\r]", cell) and not re.fullmatch(r"-?[\d.e+-]+|-inf", cell)
                ]
                found.expect(not bad, f"{path.name} holds the formula {bad[:1]}")
            elif path.suffix == ".html":
                page = Page(text)
                found.expect(
                    page.scripts == ["", "application/json"] and not page.wrong, f"{path.name}: {page.scripts} {page.wrong[:2]}"
                )
                pages.append(path)
            elif path.suffix == ".xml":
                values = [choice.get("value") for choice in ElementTree.fromstring(text).iter("Choice")]
                found.expect(
                    set(map(str.strip, values)) >= {name for name in labels if not CONTROL.search(name)} - {""},
                    f"choices are {values}",
                )
            elif path.name == results.TASKS:
                addresses = [task["data"]["image"] for task in json.loads(text)]
                bad = [one for one in addresses if not re.fullmatch(r"/data/local-files/\?d=images/[^/<>\"'\s&#?]+", one)]
                found.expect(not bad, f"tasks lead to {bad[:1]}")
            elif path.suffix == ".md":
                found.expect(not re.search(r"(?<!\\)<(?=[a-z/!])|\](?=\()", text), "about.md holds a tag or a link")
    found.note = _in_browser(pages, work, found)
    return found


def _in_browser(pages: list[Path], work: Path, found: Case) -> str:
    """Open the pages in Chromium, give labels, accept suggestions: no hook may be set, nothing asked for."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        program = None
    if program is None:
        return "without a browser"
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        for path in pages:
            page, asked = browser.new_page(), []
            page.on("request", lambda made, asked=asked: asked.append(made.url))
            page.on("dialog", lambda dialog, asked=asked: asked.append("a dialog") or dialog.dismiss())
            page.goto(path.as_uri())
            for key in ("1", "2", "Enter", "Escape", "j", "z", "z", "Enter", "u"):
                page.keyboard.press(key)
            found.expect(page.evaluate("typeof hooked") == "undefined", f"{path.name}: a script runs in the page")
            out = [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
            found.expect(not out, f"{path.name} asks for {out[:1]}")
            page.close()
        browser.close()
    return f"{len(pages)} pages in Chromium"


# -- requests ------------------------------------------------------------------------------------------------------------------


def server(work: Path, share: float) -> Case:
    """What others on this machine, and pages of strangers, may send to `supclust open`: nothing but refusals comes back."""
    found, rng = Case("requests to the labelling page"), random.Random(f"0{SEED}")
    images, folder = _images(work / "images"), work / "round"
    said("label", images, "--budget", 4, "--out", folder, "--train-minutes", 0)
    (work / "secret").write_text("the secret")
    with serving.Server(folder) as serves, contextlib.redirect_stderr(io.StringIO()) as printed:
        thread = threading.Thread(target=serves.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        port, cookie = serves.server_port, f"supclust-{serves.server_port}={serves.token}"
        paths = ["/", "/round/", "/round/state", "/round/image/0%2F00.png", "/../secret", "/round/../secret", "/%2e%2e/secret"]
        paths += [
            "/round/%2e%2e%2fsecret",
            "/round/image/..%2F..%2Fsecret",
            "/round/image//etc/passwd",
            "//etc/passwd",
            "/?",
            "/?x",
        ]
        paths += [
            f"http://127.0.0.1:{port}/round/",
            "*",
            "/round\0/",
            "/round/labels",
            "/round/next",
            "/round/suggest",
            "/" + "a" * 9000,
        ]
        hosts = (f"127.0.0.1:{port}", f"localhost:{port}", "stranger.example", "", f"127.0.0.1:{port}.stranger.example")
        origins = ("", f"http://127.0.0.1:{port}", "null", "http://stranger.example", f"http://stranger.example:{port}")
        before = listing(work)
        for _ in range(often(2000, share)):
            path, host, origin = rng.choice(paths), rng.choice(hosts), rng.choice(origins)
            method = rng.choice(("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE", "get", "\x16\x03\x01"))
            ours = (host in hosts[:2]) and origin in ("", f"http://{host}")
            with_cookie = rng.random() < 0.5 and not (ours and method == "POST")
            length = rng.choice(("2", "-1", "x", "99999999999999", ""))
            lines = [f"{method} {path} HTTP/1.{rng.randint(0, 1)}", f"Host: {host}", *[f"Origin: {origin}"] * bool(origin)]
            lines += [f"Content-Length: {length}"] * bool(length) + [f"Cookie: {cookie}"] * with_cookie
            answer = _sent(port, "\r\n".join([*lines, "", "{}GET /round/ HTTP/1.1\r\n\r\n"]).encode("latin-1"))
            found.trials += 1
            allowed = with_cookie and ours and method == "GET"
            found.expect(
                allowed or not re.match(rb"HTTP/1.\d [23]", answer), f"{method} {path} from {host}, {origin}: {answer[:40]!r}"
            )
            inside = b"the secret" in answer or b"root:" in answer or serves.token.encode() in answer.split(b"Set-Cookie")[0]
            found.expect(not inside, f"{method} {path} gives away what it should not")
        found.expect(listing(work) == before, "a refused request changes a file")
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(often(300, share))]
        for one in idle:
            one.sendall(b"GET / HTTP/1.1\r\nHost: ")  # and nothing more
        begun = time.monotonic()
        answer = _sent(port, f"GET /round/state HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nCookie: {cookie}\r\n\r\n".encode())
        found.expect(answer.startswith(b"HTTP/1.0 200"), f"beside {len(idle)} idle connections the page gets {answer[:30]!r}")
        found.expect("BrokenPipe" not in printed.getvalue(), "whoever breaks off leaves a traceback in the terminal")
        found.note = f"beside {len(idle)} idle connections an answer takes {time.monotonic() - begun:.2f} s"
        for one in idle:
            one.close()
        serves.shutdown()
    return found


def _sent(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection, contextlib.suppress(OSError):
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(2**16), b""))
    return b""


# -- downloads and parameters --------------------------------------------------------------------------------------------------


def downloads(work: Path, share: float) -> Case:
    """Nothing is fetched without --download; with it, one file of one place, and not used if its checksum differs."""
    found, asked = Case("downloads, with the network taken away"), []

    link, blob = work / "model.safetensors", work / ("0" * 64)
    safetensors.torch.save_file(timm.create_model("resnet10t").state_dict(), blob)  # weights, but not those of that checksum
    link.symlink_to(blob)

    def connect(self: socket.socket, address: object) -> None:
        asked.append(address)
        raise OSError("there is no network")

    def fetch(hub: str, file: str, local_files_only: bool) -> str:
        asked.append((hub, file))
        return str(link)

    images = _images(work / "images", 4)
    with (
        mock.patch.object(socket.socket, "connect", connect),
        mock.patch.dict(os.environ, {"SUPCLUST_DATA": str(work), "HF_HOME": str(work)}),
    ):
        names = "timm:resnet10t timm:vit_tiny_patch16_224 timm:hf-hub:stranger/x timm:local-dir:/x timm:../x hf:x"
        for name in names.split():
            status, _ = said("label", images, "--budget", 2, "--out", work / "o", "--encoder", name)
            found.trials += 1
            found.expect(status == 2 and not asked, f"{name} without --download: {status}, {asked[:1]}")
        asked.clear()
        with mock.patch("huggingface_hub.hf_hub_download", fetch):
            for name in ("timm:resnet10t", "timm:hf-hub:stranger/x"):
                status, _ = said("label", images, "--budget", 2, "--out", work / "o", "--encoder", name, "--download")
                found.trials += 1
                found.expect(status == 2, f"{name}, fetched but changed, is used")
        found.expect(asked == [("timm/resnet10t.c3_in1k", "model.safetensors")], f"asked for {asked}")
        asked.clear()
        with mock.patch(
            "torchvision.datasets.utils.urllib.request.urlopen",
            side_effect=lambda request, **_: asked.append(request.full_url) or 1 / 0,
        ):
            for name in ("cifar10", "cifar100"):
                found.trials += 1
                with contextlib.suppress(Exception):
                    said("data", name)
    places = {re.sub(r"/[^/]*$", "", url) for url in asked}
    found.expect(places == {"https://www.cs.toronto.edu/~kriz"}, f"data sets come from {places}")
    return found


def parameters(work: Path, share: float) -> Case:
    """Values of notebooks' parameters stay values, and names of profiles, notebooks and data sets are none of paths."""
    found, rng = Case("parameters that are code, names that are paths"), random.Random(f"0{SEED}")
    signs = "\"'\\\n\r\t{}()[];:#%$`\0" + string.ascii_letters
    for number in range(often(2000, share)):
        value = EVIL[number] if number < len(EVIL) else "".join(rng.choices(signs, k=rng.randint(1, 30)))
        made = translate_parameters("python3", "python", {"profile": value}, "Parameters")
        tree = ast.parse(made).body
        found.trials += 1
        alone = len(tree) == 1 and isinstance(tree[0], ast.Assign) and isinstance(tree[0].value, ast.Constant)
        found.expect(alone and tree[0].value.value == value, f"the parameter {value!r} becomes {made!r}")
    before = listing(work)
    with mock.patch.dict(os.environ, {"SUPCLUST_OUT": str(work / "out")}):
        for name in ("../../x", "/etc/passwd", "laptop/../x", "", "x\0y", *EVIL):
            lines = [[command, "--profile", name] for command in ("figures", "sweep", "claims")]
            lines += [["figures", f"./{name}x"], ["sweep", "--datasets", name], ["train", name, "--recipe", "../x"]]
            for line in lines:
                found.trials += 1
                try:
                    status, text = said(*line)
                    found.expect(status == 2 and not CONTROL.search(text), f"{line}: {status}, {text[-100:]!r}")
                except Exception as error:
                    found.expect(False, f"{line}: {type(error).__name__}: {error}")
    found.expect(listing(work) == before, "a refused name writes something")
    with contextlib.suppress(ValueError):
        reproduce.plan("laptop", reproduce.find_notebooks(["00"]), {"__import__('os')": "x"}, False)
        found.expect(False, "a parameter that the notebook does not have is taken")
    return found


CASES = [pickles, bombs, links, rounds, names, server, downloads, parameters]
