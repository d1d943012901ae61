"""Labelling in the page that a program on this machine serves: what is saved, what is refused, and the next round."""

import http.client
import io
import json
import os
import shutil
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from supclust import __main__, kept
from supclust.label import annotations, labeling, serving, typed
from supclust.label.labeling import EncoderOptions, Request
from supclust.label.results import write_csv
from tests.drawn_images import draw

NASTY = ["a, b", 'say "x"', "<img src=x onerror=alert(1)>", "🦋", "فراشة", "=1+1", "none", "'quoted", "</script>"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of forty butterflies and a round of five picks, to copy from."""
    root = tmp_path_factory.mktemp("made")
    for i in range(40):
        path = root / "images" / f"{i % 4}" / f"{i:02} #%41é.{['jpg', 'png', 'tiff'][i % 3]}"
        path.parent.mkdir(exist_ok=True, parents=True)
        draw(i % 4, i, 48).save(path)
    labeling.run(Request(root / "images", root / "round-1", 5, classes=("left", "<b>"), encoder=EncoderOptions("simclr", 0)))
    return root


@pytest.fixture
def round_(made, tmp_path):
    """A round of one's own, beside links to the images."""
    (tmp_path / "images").symlink_to(made / "images")
    return Path(shutil.copytree(made / "round-1", tmp_path / "round-1"))


@contextmanager
def running(folder):
    with serving.Server(folder) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server(round_):
    with running(round_) as server:
        yield server


def send(server, path, body=None, **changes):
    """Status, headers and content of the answer to what the page would ask; changes: of its headers, None for one left out."""
    headers = {"Cookie": f"other=1; supclust-{server.server_port}={server.token}"}
    if body is not None:
        headers |= {"Content-Type": "application/json", "Origin": f"http://127.0.0.1:{server.server_port}"}
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {name: value for name, value in (headers | changes).items() if value is not None}
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.request("GET" if body is None else "POST", path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content


def state(server, name="round-1"):
    return json.loads(send(server, f"/{name}/state")[2])


def in_round(server):
    return server.parent / server.rounds[0]


def ids(folder):
    return [one.id for one in annotations.read(folder / "picks.csv")]


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


# --- what is refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/round-1/", "/round-1/state", "/round-1/image/0", "/round-1/labels", "/nowhere"])
@pytest.mark.parametrize(
    "changes",
    [
        {"Cookie": None},
        {"Cookie": "supclust-1=x; é=\xff"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
    ],
)
def test_others_get_403_and_nothing_else(server, path, changes):
    for body in (None, {ids(in_round(server))[0]: "cat"}):
        status, headers, content = send(server, path, body, **changes)
        assert (status, content, headers["Set-Cookie"]) == (403, b"", None)
    assert not (in_round(server) / "labels.csv").exists()


def test_the_first_address_sets_a_cookie_and_leads_to_the_page(server):
    status, headers, _ = send(server, f"/?{server.token}", Cookie=None)
    assert (status, headers["Location"]) == (303, "/round-1/")
    assert {"HttpOnly", "SameSite=Strict"} <= set(headers["Set-Cookie"].split("; "))
    assert send(server, f"/?{server.token}", Cookie=None, Host="evil.example")[0] == 403
    assert send(server, f"/?{server.token[:-1]}", Cookie=None)[0] == 403
    status, headers, content = send(server, "/round-1/")
    assert (status, headers["Cache-Control"], headers["X-Content-Type-Options"]) == (200, "no-store", "nosniff")
    assert (headers["Referrer-Policy"], headers["Cross-Origin-Resource-Policy"]) == ("no-referrer", "same-origin")
    assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    assert b"data-served" in content
    assert server.token.encode() not in content
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/round-1", 404),
        ("/round-2/", 404),
        ("/round-1/labels.csv", 404),
        ("/round-1/image/0", 404),
        ("/round-1/image/0/40%20%23%2541%C3%A9.jpg", 404),
        ("/round-1/image/..%2f..%2fetc/passwd", 404),
        ("/../../etc/passwd", 404),
        ("/round-1/%2e%2e/%2e%2e/etc/passwd", 404),
        ("/%ff%00", 404),
    ],
)
def test_only_the_page_and_its_images_are_there(server, path, status):
    assert send(server, path)[0] == status


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"7", b'{"x": 7}', b"\xff", b'{"budget": "5"}'])
@pytest.mark.parametrize("what", ["labels", "next"])
def test_what_is_no_such_request_changes_nothing(server, body, what):
    send(server, f"/round-1/{what}", body)
    assert state(server) == {"labels": {}, "next": None}


def test_two_programs_can_serve_a_round_at_once(round_):
    with running(round_) as first, running(round_) as second:
        assert first.server_port != second.server_port
        assert [send(one, "/round-1/")[0] for one in (first, second)] == [200, 200]
        assert send(second, "/round-1/", Cookie=f"supclust-{second.server_port}={first.token}")[0] == 403


def test_what_is_no_round_cannot_be_opened(round_, tmp_path, capsys):
    assert __main__.main(["open", str(tmp_path / "images")]) == 2
    assert "is no round. This makes one: supclust label" in capsys.readouterr().err


def test_a_round_of_an_earlier_version_goes_on_and_a_damaged_one_is_refused(round_):
    record = json.loads((round_ / "supclust.json").read_text())
    del record["asked"]
    (round_ / "supclust.json").write_text(json.dumps(record))
    with running(round_) as server:
        assert send(server, "/round-1/next", {"budget": 2})[0] == 200
    for asked in (None, [], {"pictures": 1}):
        (round_ / "supclust.json").write_text(json.dumps(record | {"asked": asked}))
        with pytest.raises(ValueError, match="is damaged"):
            serving.Server(round_)


def test_a_command_opens_the_page_and_ends_with_what_goes_on(round_, monkeypatch, capsys):
    opened = []
    monkeypatch.chdir(round_)
    monkeypatch.setattr(serving.webbrowser, "open", opened.append)
    monkeypatch.setattr(serving.Server, "serve_forever", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    assert __main__.main(["open", "."]) == 0
    wait_for(lambda: opened)
    assert capsys.readouterr().out == (
        f"{opened[0]}\nLabels are saved in labels.csv. Ctrl-C ends.\n\n"
        f"The labels are in {round_ / 'labels.csv'}. To go on: supclust open {round_}\n"
    )
    assert __main__.main(["label", str(round_), "--out", str(round_) + "-b", "--budget", "3", "--open"]) == 0
    assert f"To go on: supclust open {round_}-b\n" in capsys.readouterr().out


@pytest.mark.parametrize(("error", "told"), [(BrokenPipeError, False), (ConnectionResetError, False), (ZeroDivisionError, True)])
def test_a_browser_that_breaks_off_is_no_news(server, monkeypatch, caplog, error, told):
    def fail(folder):
        raise error("broken")

    monkeypatch.setattr(typed, "read", fail)
    with suppress(http.client.RemoteDisconnected):
        assert send(server, "/round-1/state")[0] == 409
    assert ("Traceback" in caplog.text) is told


def test_what_is_computed_is_finished_when_the_program_is_ended(round_, monkeypatch, capsys):
    def interrupted(server):
        threading.Thread(target=server.next_round, args=("round-1", 3)).start()
        wait_for(server.computing.locked)
        raise KeyboardInterrupt

    monkeypatch.setattr(serving.webbrowser, "open", lambda address: None)
    monkeypatch.setattr(serving.Server, "serve_forever", interrupted)
    assert __main__.main(["open", str(round_)]) == 0
    assert len(ids(round_.parent / "round-2")) == 3
    assert not (round_.parent / "round-2" / ".part-results").exists()
    assert capsys.readouterr().out.endswith(f"To go on: supclust open {round_.parent / 'round-2'}\n")


# --- labels.csv ------------------------------------------------------------------------------------------------------------


def test_labels_come_back_from_the_file_whatever_they_are(server):
    folder = in_round(server)
    for label in NASTY:
        assert send(server, "/round-1/labels", {ids(folder)[0]: label, ids(folder)[1]: ""})[0] == 200
        assert state(server)["labels"] == {ids(folder)[0]: label, ids(folder)[1]: ""}
        read = annotations.read(folder / "labels.csv", annotations.Columns(classes=("none",)))
        assert [one.label for one in read] == [label, None]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_what_others_have_typed_meanwhile_stays(round_, encoding, separator):
    first, second, *_ = ids(round_)
    rows = [["note", "ID", "Label"], ["mine, é", "elsewhere.png", "dog"], ["", first, "cat"]]
    text = "\r\n".join(separator.join(f'"{cell}"' for cell in row) for row in rows)
    (round_ / "labels.csv").write_bytes(text.encode(encoding))
    typed.save(round_, {first: "bird", second: "cow"})
    names, rows = annotations.table(round_ / "labels.csv")
    assert names == ["note", "ID", "Label"]
    assert [[*row.values()] for row in rows] == [["mine, é", "elsewhere.png", "dog"], ["", first, "bird"], ["", second, "cow"]]


@pytest.mark.parametrize("damaged", [b"", b'id,label\n"x', b"name\nx\n", b"PK\3\4", b"\xff\xfea", b"id,label\nx,y,z\n", b"{}"])
def test_a_damaged_file_is_told_and_not_overwritten(server, damaged):
    file = in_round(server) / "labels.csv"
    file.write_bytes(damaged)
    status, _, content = send(server, "/round-1/labels", {ids(file.parent)[0]: "cat"})
    assert (status, file.read_bytes()) == (409, damaged)
    assert str(file) in json.loads(content)["words"]
    assert send(server, "/round-1/state")[0] == 409


@pytest.mark.parametrize("failing", ["read-only", "open elsewhere"])
def test_a_file_that_may_not_be_changed_is_told(server, monkeypatch, failing):
    file = in_round(server) / "labels.csv"
    write_csv(file, [{"id": "x", "label": "y"}])

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    if failing == "read-only":  # root may write it
        monkeypatch.setattr("builtins.open", refuse)
    else:
        monkeypatch.setattr(kept, "write_text", refuse)
    status, _, content = send(server, "/round-1/labels", {ids(file.parent)[0]: "cat"})
    assert status == 409
    assert json.loads(content)["words"] == f"{file} cannot be used (Permission denied). Is it open in another program?"
    monkeypatch.undo()
    assert typed.read(file.parent) == {"x": "y"}


def test_labels_that_come_at_once_are_all_saved(round_):
    names = [f"{k}.png" for k in range(40)]
    threads = [threading.Thread(target=typed.save, args=(round_, {name: name})) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert typed.read(round_) == dict(zip(names, names, strict=True))


def test_a_label_of_what_has_vanished_is_told_and_the_others_are_saved(server):
    folder = in_round(server)
    status, _, content = send(server, "/round-1/labels", {"gone.png": "cat", ids(folder)[0]: "dog"})
    assert (status, state(server)["labels"]) == (200, {ids(folder)[0]: "dog"})
    assert json.loads(content)["words"].endswith("These images are no longer in the round: 'gone.png'.")
    (folder / "supclust.json").unlink()
    status, _, content = send(server, "/round-1/labels", {ids(folder)[0]: "cat"})
    assert (status, json.loads(content)["words"]) == (404, "round-1 is no longer there.")


# --- images ----------------------------------------------------------------------------------------------------------------


def test_images_are_sent_as_browsers_show_them(server):
    for id_, file in server.files.items():
        status, headers, content = send(server, f"/round-1/image/{quote(id_, safe='')}")
        assert (status, headers["Content-Type"]) == (200, "image/jpeg")
        drawn, shown = (np.asarray(Image.open(one), dtype=float) for one in (file, io.BytesIO(content)))
        assert drawn.shape == shown.shape
        assert np.abs(drawn - shown).mean() < 3


def test_an_image_is_upright_and_its_greys_are_stretched(server, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.tiff", exif=exif)
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30)).save(tmp_path / "grey.tiff")
    server.files |= {name: tmp_path / f"{name}.tiff" for name in ("turned", "grey")}
    turned, grey = (Image.open(io.BytesIO(send(server, f"/round-1/image/{name}")[2])) for name in ("turned", "grey"))
    assert turned.size == (20, 30)
    assert np.ptp(np.asarray(grey)) > 100  # the upper 8 of the 16 bits are 0 to 2


def test_an_image_that_is_gone_or_damaged_is_not_found(server, tmp_path):
    (tmp_path / "broken.png").write_text("none")
    server.files |= {"none": None, "gone": tmp_path / "not there.png", "broken": tmp_path / "broken.png"}
    assert [send(server, f"/round-1/image/{id_}")[0] for id_ in ("none", "gone", "broken")] == [404, 409, 409]


# --- the next round --------------------------------------------------------------------------------------------------------


def test_the_next_round_goes_on_with_the_labels_so_far(server):
    folder = in_round(server)
    labels = dict(zip(ids(folder), ["left", "none", "<b>", "left", "a, b"], strict=True))
    send(server, "/round-1/labels", labels)
    assert json.loads(send(server, "/round-1/next", {"budget": 4})[2]) == {"address": "../round-2/"}
    assert state(server)["next"] == "round-2"
    record = json.loads((folder.parent / "round-2" / "supclust.json").read_text("utf-8"))
    assert record["labels"] == labels
    assert len(record["picks"]) == 4
    assert send(server, "/")[1]["Location"] == "/round-2/"
    assert send(server, "/round-2/")[0] == 200
    # the page of the first round is still open
    assert send(server, "/round-1/labels", {ids(folder)[0]: "late"})[0] == 200
    assert typed.read(folder)[ids(folder)[0]] == "late"
    assert json.loads(send(server, "/round-1/next", {"budget": 4})[2]) == {"address": "../round-2/"}
    assert json.loads(send(server, "/round-2/next", {"budget": 3})[2]) == {"address": "../round-3/"}
    record = json.loads((folder.parent / "round-3" / "supclust.json").read_text("utf-8"))
    assert record["labels"] == labels | {ids(folder)[0]: "late"}
    assert not (folder.parent / "round-4").exists()


@pytest.mark.parametrize(("budget", "words"), [(36, "at most --budget 35"), (0, "at least 1")])
def test_what_keeps_the_next_round_away_is_told(server, budget, words):
    status, _, content = send(server, "/round-1/next", {"budget": budget})
    assert status == 409
    assert words in json.loads(content)["words"]
    assert send(server, "/round-1/next", {"budget": 5})[0] == 200


def test_two_tabs_get_one_next_round_and_labels_are_saved_meanwhile(server):
    with ThreadPoolExecutor() as tabs:
        answers = [tabs.submit(send, server, "/round-1/next", {"budget": 3}) for _ in range(3)]
        wait_for(server.computing.locked)
        assert send(server, "/round-1/labels", {ids(in_round(server))[0]: "cat"})[0] == 200
    assert [json.loads(one.result()[2]) for one in answers] == [{"address": "../round-2/"}] * 3
    assert [path.name for path in sorted(server.parent.glob("round-*"))] == ["round-1", "round-2"]


@pytest.mark.parametrize(
    ("name", "there", "expected"),
    [("picks", [], "picks-2"), ("round-1", ["round-2"], "round-3"), ("a-b", [], "a-b-2"), ("x-09", [], "x-10"), ("7", [], "7-2")],
)
def test_the_next_folder_is_the_first_that_is_free(round_, tmp_path, name, there, expected):
    for other in there:
        (tmp_path / other).mkdir()
    with serving.Server(round_.rename(tmp_path / name)) as server:
        assert server.request(name, 5).out == tmp_path / expected


# --- the page in a browser -------------------------------------------------------------------------------------------------


@pytest.fixture
def tabs(browser, server):
    """Opens tabs of the page in one window, and watches that nothing goes wrong in them."""
    context, wrong = browser.new_context(), []
    context.on("console", lambda message: wrong.append(message.text) if "status of 4" not in message.text else None)
    context.on("weberror", lambda error: wrong.append(str(error)))

    def show(path=f"/?{server.token}"):
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}{path}")
        return page

    yield show
    context.close()
    assert wrong == []


def said(page, text):
    page.wait_for_function("text => document.getElementById('said').textContent.includes(text)", arg=text)


def test_strangers_who_break_off_are_no_news(server, capsys):
    for part in (b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.server_port)) as stranger:
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing resets the connection
            stranger.sendall(part)
    assert send(server, "/")[0] == 303
    time.sleep(0.2)
    assert capsys.readouterr().err == ""


def test_the_script_of_a_foreign_page_does_not_run(browser, server):
    sheet, blocked = in_round(server) / "contact_sheet.html", []
    tricks = "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">"
    body = sheet.read_text().partition("<body ")[2].replace("<main>", f"<main>{tricks}<img src=http://stranger.example/x>", 1)
    sheet.write_text(f"<!doctype html><html><head>{tricks}</head><body onload=\"document.title = 'run'\" {body}")
    page = browser.new_page()
    page.on("requestfailed", lambda made: blocked.append((made.url, made.failure)))
    page.goto(f"http://127.0.0.1:{server.server_port}/?{server.token}")
    page.keyboard.press("1")
    said(page, "Saved in round-1/labels.csv.")  # our own does
    assert page.title() == "round-1"
    assert ("http://stranger.example/x", "csp") in blocked
    page.close()


def test_fifty_keys_label_fifty_images_and_lead_to_the_next_round(tabs, server):
    page, folder = tabs(), in_round(server)
    assert page.url.endswith("/round-1/")
    page.keyboard.press("1")
    page.keyboard.press("2")
    said(page, "Saved in round-1/labels.csv.")
    assert wait_for(lambda: typed.read(folder) == dict(zip(ids(folder), ["left", "<b>"], strict=False)))
    for label in NASTY[:3]:
        page.keyboard.press("Enter")
        page.keyboard.type(label)
        page.keyboard.press("Escape")
        page.keyboard.press("j")
    assert wait_for(lambda: [*typed.read(folder).values()] == ["left", "<b>", *NASTY[:3]])
    page.keyboard.press("u")
    assert wait_for(lambda: [*typed.read(folder).values()][-1] == "")
    page.keyboard.press("z")
    page.wait_for_function("() => document.querySelector('#large img').naturalWidth === 48")
    assert "/round-1/image/" in page.locator("#large img").get_attribute("src") + page.locator("#large img").evaluate(
        "it => it.src"
    )
    page.keyboard.press("z")
    page.locator("#budget").fill("36")
    page.locator("#follow").click()
    said(page, "at most --budget 35")
    page.locator("#budget").fill("4")
    page.locator("#follow").click()
    page.wait_for_url("**/round-2/")
    assert page.locator(".card").count() == 4
    assert page.locator("#chips button").all_inner_texts() == ["left", "<b>", *sorted(NASTY[:2])]
    page.go_back()
    said(page, "The next round is there: round-2. Pick them leads to it.")
    page.locator("#follow").click()
    page.wait_for_url("**/round-2/")


@pytest.mark.parametrize("label", NASTY)
def test_a_name_of_a_class_goes_through_the_page(tabs, server, label):
    page = tabs()
    page.locator("#label-1").fill(label)
    page.keyboard.press("Enter")
    said(page, "Saved")
    page.reload()
    page.wait_for_function("label => document.getElementById('label-1').value === label", arg=label)
    assert page.locator("#chips button").all_inner_texts() == ["left", "<b>", label]


def test_two_tabs_both_save_and_are_told_what_the_other_did(tabs, server):
    folder = in_round(server)
    first, second = tabs(), tabs("/round-1/")
    first.locator("#label-1").fill("cat")
    first.keyboard.press("Enter")
    said(first, "Saved")
    second.locator("#label-1").fill("dog")
    second.locator("#label-2").fill("cow")
    assert wait_for(lambda: [*typed.read(folder).values()] == ["dog", "cow"])
    first.locator("#keys").focus()
    first.evaluate("window.dispatchEvent(new Event('focus'))")
    said(first, "Labels read from labels.csv: 2")
    assert [first.locator(f"#label-{k}").input_value() for k in (1, 2)] == ["dog", "cow"]
    typed.save(folder, {"elsewhere.png": "x", ids(folder)[2]: "typed in a spreadsheet"})
    first.keyboard.press("Escape")
    first.evaluate("window.dispatchEvent(new Event('focus'))")
    said(first, "Labels read from labels.csv: 1")
    send(server, "/round-1/next", {"budget": 3})
    wait_for(lambda: state(server)["next"])
    second.evaluate("window.dispatchEvent(new Event('focus'))")
    said(second, "The next round is there: round-2")
    second.locator("#label-4").fill("late")
    assert wait_for(lambda: typed.read(folder).get(ids(folder)[3]) == "late")


def test_an_answer_that_is_late_does_not_undo_a_label(tabs):
    page, held = tabs(), []
    page.route("**/state", lambda route: held.append(route))
    with page.expect_request("**/state"):
        page.evaluate("window.dispatchEvent(new Event('focus'))")
    page.keyboard.press("1")
    said(page, "Saved")
    with page.expect_response("**/state"):
        held[0].fulfill(json={"labels": {}, "next": None})
    assert page.locator("#label-1").input_value() == "left"
    page.evaluate("new Promise(resolve => setTimeout(resolve, 100))")
    assert page.locator("#label-1").input_value() == "left"


def test_what_is_not_saved_is_told_kept_and_sent_again(browser, round_):
    with running(round_) as server:
        page = browser.new_context().new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/?{server.token}")
        (round_ / "labels.csv").write_text("")
        page.keyboard.press("1")
        said(page, "Not saved, tried again:")
        (round_ / "labels.csv").unlink()
        said(page, "Saved")
    page.keyboard.press("2")
    said(page, "Not saved, tried again: nothing answers. Run supclust open again")
    assert typed.read(round_) == {ids(round_)[0]: "left"}
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    with page.expect_event("close"):
        page.close(run_before_unload=True)
    assert asked == ["beforeunload"]


def test_a_label_for_what_has_vanished_is_told_in_the_page(tabs, server):
    page = tabs()
    (in_round(server) / "supclust.json").unlink()
    page.keyboard.press("1")
    said(page, "round-1 is no longer there.")


def test_every_control_has_a_name_and_the_dialogs_give_the_focus_back(tabs):
    page = tabs()
    names = page.locator("body").aria_snapshot()
    assert 'button "Pick them"' in names
    assert 'spinbutton "Next round: images"' in names
    unnamed = [line for line in names.splitlines() if line.strip().lstrip("- ") in ("button", "link", "textbox", "combobox", "img")]
    assert unnamed == []
    page.locator("#keys").click()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "keys"
    assert page.evaluate("[...document.querySelectorAll('[role=status]')].map(it => it.id)") == ["count", "said"]


# --- suggestions -----------------------------------------------------------------------------------------------------------


def test_a_cluster_is_accepted_with_one_key_and_the_next_round_knows_it(tabs, server):
    folder = in_round(server)
    page = tabs()
    page.locator("#suggest").click()
    said(page, "there are no labels")
    for k, name in enumerate(ids(folder)):
        page.locator(f"#label-{k + 1}").fill(NASTY[int(name[0]) % 2])
    said(page, "Saved")
    page.locator("#suggest").click()
    page.wait_for_url("**/round-1/suggestions")
    cards, of_cards = page.locator(".card").count(), json.loads(page.locator("#data").text_content())["ids"]
    assert sorted(name for some in of_cards for name in some) == sorted(set(server.files) - set(ids(folder)))
    first, second, third = (page.locator(f"#label-{k}").get_attribute("data-suggestion") for k in (1, 2, 3))
    page.keyboard.press("Enter")
    page.keyboard.press("j")
    page.locator(".accept").nth(2).click()
    page.locator("#label-4").fill("another")
    said(page, "Saved in round-1/labels.csv.")
    expected = {one: label for k, label in ((0, first), (2, third), (3, "another")) for one in of_cards[k]}
    assert wait_for(lambda: {**typed.read(folder), **expected} == typed.read(folder))
    assert len(typed.read(folder)) == 5 + len(expected)
    assert page.locator("#count").inner_text() == f"3 of {cards} labelled"
    page.locator("#label-2").focus()
    page.keyboard.press("Enter")
    assert page.locator("#label-2").input_value() == second
    page.keyboard.press("Escape")
    page.keyboard.press("u")
    assert wait_for(lambda: typed.read(folder).get(of_cards[1][0]) == "")
    page.keyboard.press("z")
    page.wait_for_function("() => document.querySelector('#large img').naturalWidth === 48")
    page.keyboard.press("z")
    page.locator("#budget").fill("3")
    page.locator("#follow").click()
    page.wait_for_url("**/round-2/")
    record = json.loads((folder.parent / "round-2" / "supclust.json").read_text("utf-8"))
    assert expected.items() <= record["labels"].items()
    assert of_cards[1][0] not in record["labels"]


def test_a_card_of_several_labels_only_those_without_a_label_of_their_own(tabs, server):
    folder, page = in_round(server), tabs()
    for k, name in enumerate(ids(folder)):
        page.locator(f"#label-{k + 1}").fill("ab"[int(name[0]) % 2])
    said(page, "Saved")
    page.locator("#suggest").click()
    page.wait_for_url("**/round-1/suggestions")
    one, *others = next(some for some in json.loads(page.locator("#data").text_content())["ids"] if len(some) > 1)
    k = next(k for k, some in enumerate(json.loads(page.locator("#data").text_content())["ids"], start=1) if one in some)
    typed.save(folder, {one: "mine"})
    page.evaluate("() => window.dispatchEvent(new Event('focus'))")
    said(page, "Labels read") if len(others) == 0 else page.wait_for_timeout(500)
    assert page.locator(f"#label-{k}").input_value() == ""  # as the others have none
    page.locator(f"#label-{k}").fill("rest")
    page.keyboard.press("Enter")
    assert wait_for(lambda: [typed.read(folder).get(name) for name in (one, *others)] == ["mine", *["rest"] * len(others)])
    page.keyboard.press("Escape")
    page.keyboard.press("u")
    assert wait_for(lambda: [typed.read(folder).get(name) for name in (one, *others)] == ["mine", *[""] * len(others)])


def test_a_key_that_is_held_down_labels_one_card(tabs, server):
    page = tabs()
    for repeat in (False, True, True):
        page.evaluate(
            "it => document.body.dispatchEvent(new KeyboardEvent('keydown', {key: '1', repeat: it, bubbles: true}))", repeat
        )
    said(page, "Saved")
    assert page.locator("#count").inner_text().startswith("1 of")


def test_what_another_tab_changed_is_not_taken_back(tabs, server):
    page, folder = tabs(), in_round(server)
    page.keyboard.press("1")
    said(page, "Saved")
    typed.save(folder, {ids(folder)[0]: "theirs"})
    page.evaluate("() => window.dispatchEvent(new Event('focus'))")
    said(page, "Labels read from labels.csv: 1.")
    page.keyboard.press("u")
    said(page, "was changed elsewhere")
    assert typed.read(folder)[ids(folder)[0]] == "theirs"


def test_a_budget_that_is_none_is_told_by_the_field(tabs, server):
    page = tabs()
    for text in ("", "1.5", "0"):
        page.locator("#budget").fill(text)
        page.locator("#follow").click()
        assert not page.locator("#budget").evaluate("it => it.validity.valid")
    page.wait_for_timeout(300)
    assert len(server.rounds) == 1


def test_labels_typed_in_any_round_of_the_chain_count_on_the_command_line(server, tmp_path):
    folder = in_round(server)
    first, second, *_ = ids(folder)
    typed.save(folder, {first: "cat", second: "None"})
    following = server.next_round(folder.name, 3)
    found = labeling.run(Request(folder.parent / following, tmp_path / "third", budget=2))
    assert {found.source.ids[point]: label for point, label in found.labels.items()} == {first: "cat", second: "None"}
    typed.save(folder.parent / following, {first: "dog"})
    os.utime(folder.parent / following / typed.LABELS, (2**32, 2**32))  # the clock was ahead, and is set back
    typed.save(folder, {first: "cow"})  # corrected after the next round was picked
    (tmp_path / "more.csv").write_text(f"id,label\n{second},dog\n")
    found = labeling.run(Request(folder.parent / following, tmp_path / "fourth", budget=2, labeled=(tmp_path / "more.csv",)))
    assert {found.source.ids[point]: label for point, label in found.labels.items()} == {first: "cow", second: "dog"}


def test_a_round_that_is_opened_again_knows_the_next_one(server):
    folder = in_round(server)
    following = server.next_round(folder.name, 3)
    (folder.parent / "other").mkdir()
    (folder.parent / "other" / "supclust.json").write_text("{")
    with serving.Server(folder) as again:
        assert again.rounds == [folder.name, following]
        assert again.next_round(folder.name, 3) == following
    with serving.Server(folder.parent / following) as last:
        assert last.rounds == [following]
