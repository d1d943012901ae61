"""A round's contact sheet on localhost: labels are saved as they are typed, and the page asks for the next round."""

import json
import logging
import os
import re
import secrets
import shlex
import sys
import threading
import webbrowser
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from supclust.images import files as images
from supclust.label import annotations, contact_sheet, labeling, sources, suggesting, typed
from supclust.label.request import Request
from supclust.label.results import SHEET
from supclust.label.typed import LABELS

log = logging.getLogger(__name__)

SUGGESTIONS = "suggestions"  # the folder of `supclust suggest` in that of a round
LONGEST = 2**13  # pixels of an image that is shown large
HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",  # the page itself has the rest
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def serve(folder: Path) -> None:
    """Serve the contact sheet of a round to this machine's browser, until Ctrl-C. ValueError for a folder that is no round."""
    with Server(folder.resolve()) as server:  # the folder . has a name, too
        address = f"http://127.0.0.1:{server.server_port}/?{server.token}"
        print(f"{address}\nLabels are saved in {folder / LABELS}. Ctrl-C ends.", flush=True)
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()  # lynx would keep us waiting
        with suppress(KeyboardInterrupt):
            server.serve_forever()
        if server.computing.locked():
            print("\nWaiting for the results that are being computed.", flush=True)
        with server.computing:
            last = server.parent / server.rounds[-1]
    print(f"\nThe labels are in {last / LABELS}. To go on: {shlex.join(['supclust', 'open', str(last)])}")


class Server(ThreadingHTTPServer):
    """Serves a round, and those that go on from it in folders beside it; all have the same images."""

    def __init__(self, folder: Path) -> None:
        if not images.is_round(folder):
            raise ValueError(f"{folder} is no round. This makes one: supclust label IMAGES --out ROUND --open")
        self.parent, self.rounds = folder.parent, [folder.name]
        source = sources.read(self.request(folder.name, 1))
        self.files = dict(zip(source.ids, source.files, strict=True))
        self.computing, self.token = threading.Lock(), secrets.token_urlsafe(32)
        while later := self._following(self.rounds[-1]):
            self.rounds.append(later)
        super().__init__(("127.0.0.1", 0), Handler)

    def _following(self, name: str) -> str | None:
        """The round beside this one that goes on from it: the first, if several do."""
        folder = self.parent / name
        for one, record in sources.beside(folder):
            if (one / record["asked"].get("source", "")).resolve() == folder and one.name not in self.rounds:
                return one.name
        return None

    def next_round(self, name: str, budget: int) -> str:
        """The name of the round after that one, which is picked if it is not there yet."""
        with self.computing:
            if name == self.rounds[-1]:
                request = self.request(name, budget)
                labeling.run(request)
                self.rounds.append(request.out.name)
            return self.rounds[self.rounds.index(name) + 1]

    def handle_error(self, *connection: Any) -> None:
        """Whoever breaks off is no news, be it a stranger who looks for open ports."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*connection)

    def suggest(self, name: str) -> None:
        """Write suggestions into the folder of a round."""
        with self.computing:
            suggesting.run(replace(self.request(name, 1), out=self.parent / name / SUGGESTIONS, force=True))

    def request(self, name: str, budget: int) -> Request:
        """What goes on from a round: its options, and the next free folder (picks-2 after picks)."""
        folder = self.parent / name
        stem, number = re.fullmatch(r"(.*?)(?:-([0-9]{1,9}))?", name).groups()
        names = (self.parent / f"{stem}-{k}" for k in count(int(number or 1) + 1))
        out = next(one for one in names if not os.path.lexists(one))
        asked = sources.read_record(folder / images.MARKER)["asked"]
        pictures = asked.get("pictures") and Path(os.path.normpath(folder / asked["pictures"]))
        same = {name: asked[name] for name in ("strategy", "seed", "keep_duplicates", "per_class_min") if name in asked}
        return Request(folder, out, budget, pictures=pictures, **same)


class Handler(BaseHTTPRequestHandler):
    """Answers our own page only, which is known by host and origin, and by a cookie that the first address sets."""

    server: Server
    server_version, sys_version = "supclust", ""

    def do_GET(self) -> None:
        """A page, its state, or an image of the pool."""
        first = secrets.compare_digest(self.path.encode(), f"/?{self.server.token}".encode())
        if not self._is_ours(first):
            self._send(HTTPStatus.FORBIDDEN)
        elif first or self.path == "/":
            cookie = f"{self._cookie()}; HttpOnly; SameSite=Strict; Path=/"
            name = self.server.rounds[0 if first else -1]
            self._send(HTTPStatus.SEE_OTHER, **{"Location": f"/{quote(name)}/", "Set-Cookie": cookie})
        else:
            self._answer(b"null")

    def do_POST(self) -> None:
        """Labels to save, or something to compute, as JSON."""
        if self._is_ours():
            self._answer(self.rfile.read(int(self.headers["Content-Length"] or 0)))
        else:
            self._send(HTTPStatus.FORBIDDEN)

    def _answer(self, body: bytes) -> None:
        """To a path, and to the JSON that is posted there; null for a GET."""
        server, (name, *what) = self.server, unquote(self.path[1:]).split("/", 2)
        folder = server.parent / name
        if name not in server.rounds or not (folder / images.MARKER).exists():
            return self._tell(HTTPStatus.NOT_FOUND, words=f"{name} is no longer there.")
        try:
            match what, json.loads(body):
                case [""], None:
                    self._send_page(folder / SHEET)
                case ["suggestions"], None:
                    self._send_page(folder / SUGGESTIONS / suggesting.SUGGESTION_SHEET)
                case ["image", id_], None if server.files.get(id_):
                    content = BytesIO()  # upright and with greys stretched, as the contact sheet has it
                    images.thumbnail(server.files[id_], LONGEST).save(content, "jpeg", quality=95, subsampling=0)
                    self._send(content=content.getvalue(), kind="image/jpeg")
                case ["state"], None:
                    later = server.rounds[server.rounds.index(name) + 1 :]
                    self._tell(labels=typed.read(folder), next=later[0] if later else None)
                case ["labels"], {**labels}:
                    if there := {id_: label for id_, label in labels.items() if id_ in server.files}:
                        typed.save(folder, there)
                    gone = labels.keys() - server.files.keys()
                    missed = f" These images are no longer in the round: {annotations.listing(gone)}." if gone else ""
                    self._tell(words=f"Saved in {name}/{LABELS}.{missed}")
                case ["next"], {"budget": int(budget)}:
                    self._tell(address=f"../{quote(server.next_round(name, budget))}/")
                case ["suggest"], {}:
                    server.suggest(name)
                    self._tell(address="suggestions")
                case _:
                    self._tell(HTTPStatus.NOT_FOUND, words="this is not understood.")
        except ConnectionError:
            pass  # browsers break off what they no longer need
        except PermissionError as error:
            words = f"{error.filename} cannot be used ({error.strerror}). Is it open in another program?"
            self._tell(HTTPStatus.CONFLICT, words=words)
        except Exception as error:  # whatever it is, the page has to say it
            log.warning("%s", error, exc_info=not isinstance(error, ValueError | OSError))
            self._tell(HTTPStatus.CONFLICT, words=str(error))

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

    def _send_page(self, file: Path) -> None:
        """A page of a round, which is told that its labels are saved here.

        Its head is our own: with the script and the policy in it, nothing else runs, whoever made the page.
        """
        head = contact_sheet.html(contact_sheet.Sheet(file.parent.name, {}, ())).partition("<body ")[0].encode()
        body = file.read_bytes().partition(b"<body ")[2]
        self._send(content=head + b"<body data-served " + body, kind="text/html; charset=utf-8")

    def _send(self, status: HTTPStatus = HTTPStatus.OK, content: bytes = b"", kind: str = "text/plain", **headers: str) -> None:
        self.send_response(status)
        for name, value in (HEADERS | headers | {"Content-Type": kind, "Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Requests are no news."""
