"""A round's contact sheet on localhost: labels are saved as they are typed, and the page asks for the next round."""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shlex
import sys
import threading
import webbrowser
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from filelock import FileLock
from PIL import Image

from supclust.images import files as images
from supclust.images.files import MARKER
from supclust.label import annotations, columns, contact_sheet, labeling, sources, suggesting
from supclust.label.request import Request
from supclust.label.results import SHEET, write_csv
from supclust.label.suggestion_sheet import SUGGESTION_SHEET

log = logging.getLogger(__name__)

LABELS = "labels.csv"
SUGGESTIONS = "suggestions"  # the folder of `supclust suggest` in that of a round
ADDRESS = ".address"  # port and token, so that an open page finds the program when it is started again
LARGEST_BODY = 2**20  # bytes
SHOWN = {"JPEG", "PNG", "WEBP", "GIF", "AVIF"}  # formats that browsers show
COLOURS = {"RGB", "P", "CMYK"}  # modes that they show as the contact sheet does, which stretches greys
LONGEST = 2**14  # pixels of an image that is converted
HTML = "text/html; charset=utf-8"
HEADERS = {
    "Content-Security-Policy": contact_sheet.policy("; connect-src 'self'; frame-ancestors 'none'"),
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def serve(folder: Path) -> None:
    """Serve the contact sheet of a round to this machine's browser, until Ctrl-C.

    Raises ValueError for a folder that is no round, and for a page that another version of the package made.
    """
    with Server(folder) as server:
        address = f"http://127.0.0.1:{server.server_port}/?{server.token}"
        print(f"{address}\nLabels are saved in {folder / LABELS}. Ctrl-C ends.", flush=True)
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()  # lynx would keep us waiting
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    last = server.rounds[server.last].folder
    print(f"\nThe labels are in {last / LABELS}. To go on: {_command(last)}")


def _command(folder: Path) -> str:
    return shlex.join(["supclust", "open", str(folder)])


# -- labels.csv ----------------------------------------------------------------------------------------------------------------


def read_labels(folder: Path) -> dict[str, str]:
    """The labels in a round's labels.csv, by id. Raises ValueError, naming the file, if it is damaged."""
    _, rows, id_, label = _table(folder / LABELS)
    return {row[id_]: row[label] for row in rows}


def save_labels(folder: Path, labels: Mapping[str, str]) -> None:
    """Change these labels, by id, in a round's labels.csv; whatever else the file holds by now stays.

    Raises ValueError and OSError, and leaves the file alone, if it is damaged or may not be changed.
    """
    path = folder / LABELS
    with FileLock(folder / f".{LABELS}.lock"):
        names, rows, id_, label = _table(path)
        if path.exists():
            open(path, "r+b").close()  # else a read-only file would be replaced
        there = {row[id_] for row in rows}
        rows += [dict.fromkeys(names, "") | {id_: name} for name in labels if name not in there]
        write_csv(path, [row | {label: labels.get(row[id_], row[label])} for row in rows])


def _table(path: Path) -> tuple[list[str], list[dict[str, str]], str, str]:
    """Columns and rows of a file of labels, and which columns are ids and labels."""
    names, rows = annotations.table(path) if path.exists() else (["id", "label"], [])
    ids, labels = columns.find(names, columns.IDS), columns.find(names, columns.LABELS)
    if not (ids and labels):
        raise ValueError(f"{path} is no table of labels: its columns are {annotations.listing(names)}")
    return names, rows, ids[0], labels[0]


# -- rounds --------------------------------------------------------------------------------------------------------------------


class Opened(NamedTuple):
    """A round that is served."""

    folder: Path
    version: int  # when its record was written, in nanoseconds
    page: bytes
    files: Mapping[str, Path | None]  # the pool: its images by their ids


def open_round(folder: Path) -> Opened:
    """What is served of a round; ValueError if the folder is none."""
    if not images.is_round(folder):
        raise ValueError(f"{folder} is no round. This makes one: supclust label IMAGES --out {folder} --open")
    version, source = (folder / MARKER).stat().st_mtime_ns, sources.read(_request(folder, 1))
    return Opened(folder, version, _page(folder / SHEET, folder), dict(zip(source.ids, source.files, strict=True)))


def _page(file: Path, folder: Path) -> bytes:
    return contact_sheet.served(file.read_text("utf-8"), _command(folder)).encode()


def _request(folder: Path, budget: int, **labels: tuple) -> Request:
    """The round after this one, with the same options, into the next folder that is not there: picks-2 after picks."""
    asked = sources.read_record(folder / MARKER)["asked"]
    stem, number = re.fullmatch(r"(.*?)(?:-([0-9]{1,9}))?", folder.name).groups()
    names = (f"{stem}-{k}" for k in count(int(number or 1) + 1))
    out = next(folder.with_name(name) for name in names if not os.path.lexists(folder.with_name(name)))
    same = {name: asked.get(name) for name in ("strategy", "seed", "keep_duplicates", "per_class_min")}
    pictures = asked["pictures"] and Path(os.path.normpath(folder / asked["pictures"]))
    return Request(folder, out, budget, pictures=pictures, **same, **labels)


class Server(ThreadingHTTPServer):
    """The rounds that are served: the first, and those that its page asks for."""

    allow_reuse_address = os.name == "posix"  # elsewhere it means that two programs may have one port

    def __init__(self, folder: Path) -> None:
        folder = folder.resolve()  # the folder . has a name, too
        self.last = folder.name
        self.rounds = {self.last: open_round(folder)}
        self.following: dict[str, str] = {}  # names of rounds, by the one before
        self.computing, self.problem = threading.Lock(), ""
        file = folder / ADDRESS
        before = re.fullmatch(r"([0-9]{1,5}) ([\w-]{43})", file.read_text() if file.exists() else "")
        self.token = before[2] if before else secrets.token_urlsafe(32)
        try:
            super().__init__(("127.0.0.1", int(before[1]) if before else 0), Handler)
        except (OSError, OverflowError):  # another program has the port by now
            super().__init__(("127.0.0.1", 0), Handler)
        with open(file, "w", opener=partial(os.open, mode=0o600)) as opened:
            opened.write(f"{self.server_port} {self.token}")

    def round(self, name: str) -> Opened:
        """A round as it is now, as another run may have replaced it. KeyError if it is not served, OSError if it has gone."""
        if (self.rounds[name].folder / MARKER).stat().st_mtime_ns != self.rounds[name].version:
            self.rounds[name] = open_round(self.rounds[name].folder)
        return self.rounds[name]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Browsers break off what they no longer need; everything else is printed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def start(self, name: str, budget: int | None) -> None:
        """Go on from a round in a thread: see `_compute`. ValueError while another one does."""
        if not self.computing.acquire(blocking=False):
            raise ValueError("Something is being computed already. Wait until it is done.")
        self.problem = ""
        threading.Thread(target=self._compute, args=(name, budget), daemon=True).start()

    def _compute(self, name: str, budget: int | None) -> None:
        """The next round of that budget, unless it is there; None: suggestions. Both from all labels of the rounds so far."""
        try:
            labeled = tuple(file for one in self.rounds.values() if (file := one.folder / LABELS).exists())
            typed = {label for file in labeled for label in read_labels(file.parent).values()}
            classes = tuple(sorted(filter(annotations.MISSING.fullmatch, typed)))  # who types None here means a class
            request = _request(self.rounds[name].folder, 1 if budget is None else budget, labeled=labeled, classes=classes)
            if budget is None:
                suggesting.run(replace(request, out=request.source / SUGGESTIONS, force=True))
            elif name not in self.following:
                labeling.run(request)
                self.rounds[request.out.name] = open_round(request.out)
                self.following[name] = self.last = request.out.name
        except Exception as error:  # whatever it is, the page has to say it
            log.warning("%s", error, exc_info=not isinstance(error, ValueError | OSError))
            self.problem = f"That did not work: {error}"
        finally:
            self.computing.release()


# -- requests ------------------------------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """Answers our own page only, which is known by host and origin, and by a cookie that the first address sets."""

    server: Server
    server_version, sys_version = "supclust", ""

    def do_GET(self) -> None:
        """A page, its state, or an image of the pool by its number."""
        first = secrets.compare_digest(self.path.encode(), f"/?{self.server.token}".encode())
        if not self._is_ours(first):
            self._send(HTTPStatus.FORBIDDEN)
        elif first or self.path == "/":
            cookie = f"{self._cookie()}; HttpOnly; SameSite=Strict; Path=/"
            self._send(HTTPStatus.SEE_OTHER, **{"Location": f"/{quote(self.server.last)}/", "Set-Cookie": cookie})
        else:
            self._answer(None)

    def do_POST(self) -> None:
        """Labels to save, or a next round to compute, as JSON."""
        length = self.headers["Content-Length"] or ""
        short = re.fullmatch("[0-9]{1,7}", length) and int(length) <= LARGEST_BODY
        body = self.rfile.read(int(length)) if short else b""
        if not self._is_ours():
            self._send(HTTPStatus.FORBIDDEN)
        elif not short:
            self._send(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:
            with suppress(ValueError, RecursionError):
                return self._answer(json.loads(body))
            self._send(HTTPStatus.BAD_REQUEST)

    def _answer(self, given: Any) -> None:
        """To a path, and to what is posted there; None for a GET."""
        server, (name, *what) = self.server, unquote(self.path[1:]).split("/")
        try:
            opened = server.round(name)
            match what, given:
                case [""], None:
                    self._send(content=opened.page, kind=HTML)
                case ["suggestions"], None:
                    self._send(content=_page(opened.folder / SUGGESTIONS / SUGGESTION_SHEET, opened.folder), kind=HTML)
                case ["state"], None:
                    computing = server.computing.locked()  # before what it leads to
                    progress = {"computing": computing, "words": server.problem, "next": server.following.get(name)}
                    self._tell(labels=read_labels(opened.folder), **progress)
                case ["image", number], None if number.isdecimal():
                    self._send(**_image(list(opened.files.values())[int(number)]))
                case ["labels"], {**labels} if all(isinstance(label, str) for label in labels.values()):
                    self._save(opened, labels)
                case ["next"], {"budget": int(budget)}:
                    server.start(name, budget)
                    self._tell()
                case ["suggest"], {}:
                    server.start(name, None)
                    self._tell()
                case _:
                    self._send(HTTPStatus.NOT_FOUND)
        except (KeyError, IndexError, FileNotFoundError):
            self._tell(HTTPStatus.NOT_FOUND, words=f"{name} is no longer there.")
        except ValueError as error:
            self._tell(HTTPStatus.CONFLICT, words=str(error))
        except OSError as error:
            words = f"{error.filename} cannot be used ({error.strerror}). Is it open in another program?"
            self._tell(HTTPStatus.CONFLICT, words=words)

    def _save(self, opened: Opened, labels: Mapping[str, str]) -> None:
        if there := {name: label.strip() for name, label in labels.items() if name in opened.files}:
            save_labels(opened.folder, there)
        if gone := labels.keys() - opened.files.keys():
            self._tell(HTTPStatus.NOT_FOUND, words=f"Not saved, as they are no longer in this round: {annotations.listing(gone)}")
        else:
            self._tell(words=f"Saved in {opened.folder.name}/{LABELS}.")

    def _is_ours(self, first: bool = False) -> bool:
        """Whether a request is from our page: other names can lead to this machine, and other pages can send forms here."""
        host, cookies = self.headers["Host"], self.headers.get("Cookie", "").split("; ")
        known = first or any(secrets.compare_digest(one.encode(), self._cookie().encode()) for one in cookies)
        here = host in {f"{name}:{self.server.server_port}" for name in ("127.0.0.1", "localhost")}
        return known and here and self.headers["Origin"] in (None, f"http://{host}")

    def _cookie(self) -> str:
        return f"supclust-{self.server.server_port}={self.server.token}"  # browsers keep one set of cookies for all ports

    def _tell(self, status: HTTPStatus = HTTPStatus.OK, **facts: Any) -> None:
        self._send(status, json.dumps(facts).encode(), "application/json")

    def _send(self, status: HTTPStatus = HTTPStatus.OK, content: bytes = b"", kind: str = "text/plain", **headers: str) -> None:
        self.send_response(status)
        for name, value in (HEADERS | headers | {"Content-Type": kind, "Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Requests are no news."""


def _image(file: Path | None) -> dict[str, Any]:
    """An image as browsers show it: the file itself, or a JPEG of it. ValueError if it cannot be read."""
    if file is None:
        raise FileNotFoundError
    with suppress(Exception), Image.open(file, formats=images.FORMATS) as opened:  # what is damaged is told below
        if opened.format in SHOWN and opened.mode in COLOURS and not opened.has_transparency_data:
            return {"content": file.read_bytes(), "kind": Image.MIME[opened.format]}
    content = BytesIO()
    images.thumbnail(file, LONGEST).save(content, "jpeg", quality=95)
    return {"content": content.getvalue(), "kind": "image/jpeg"}
