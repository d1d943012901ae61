"""Copies of picks and of labelled images, for other tools."""

import errno
import os
import shutil
import signal
import subprocess
import sys

import pandas as pd
import pytest
from torchvision.datasets import ImageFolder

from supclust import __main__
from supclust.label import annotations, copies, embeddings, matching
from supclust.label.embeddings import Embeddings
from tests.conftest import make_blobs
from tests.drawn_images import draw
from tests.test_labeling import picks, run, write_points

LABELS = [
    *(
        "cat",
        "Cat",
        "CAT",
        "cat ",
        "a/b",
        "a_b",
        "a\\b",
        "..",
        ".",
        ".x",
        "CON",
        "con.txt",
        "nul",
        "x" * 400,
        "x" * 401,
        "labels.csv",
    ),
    *("猫" * 300, "émeu", "straße", "strasse", "a:b?", '"<i>"', "=1+1", "\x07", "שלום", "🐱", "cat_2", "-1", " "),
]


def drawn(folder, names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        draw(number % 8, seed=number, side=24).save(folder / name)
    return folder


def manifest(folder):
    return pd.read_csv(folder / "labels.csv", dtype=str, keep_default_na=False).map(annotations.unsafe)


@pytest.fixture
def images(tmp_path):
    return drawn(tmp_path / "images", [f"{folder}/{number}.png" for folder in "abc" for number in range(4)])


def test_the_picks_are_copied_numbered_in_their_order(images, tmp_path, capsys):
    arguments = ["label", str(images), "--out", str(tmp_path / "round"), "--copy", str(tmp_path / "copies"), "--train-minutes", "0"]
    assert __main__.main([*arguments, "--budget", "5"]) == 0
    ids, table = list(picks(tmp_path / "round")["id"]), manifest(tmp_path / "copies")
    assert list(table["id"]) == ids
    assert list(table["file"]) == [f"{number:03}_{name[2:]}" for number, name in enumerate(ids, start=1)]
    assert set(os.listdir(tmp_path / "copies")) == {*table["file"], "labels.csv"}
    for name, copy in zip(ids, table["file"], strict=True):
        assert (tmp_path / "copies" / copy).read_bytes() == (images / name).read_bytes()


def test_image_folder_gives_back_every_label_whatever_its_name(tmp_path):
    source = drawn(tmp_path / "images", [f"{number % 3}/same.png" for number in range(3)])
    files = sorted(source.rglob("*.png"))
    given = [(f"{k}/same.png", files[k % 3], label, "") for k, label in enumerate(2 * LABELS)]
    copies.copy_by_label(given, tmp_path / "copies")
    table = manifest(tmp_path / "copies")
    folders = table["file"].str.partition("/")[0]
    assert list(table["label"]) == [label for _, _, label, _ in given]
    assert folders.nunique() == folders.str.casefold().nunique() == len(LABELS)
    assert dict(zip(table["label"], folders, strict=True))["a_b"] == "a_b"
    read = ImageFolder(tmp_path / "copies")
    by_folder = dict(zip(folders, table["label"], strict=True))
    found = {
        os.path.relpath(path, tmp_path / "copies").replace(os.sep, "/"): by_folder[read.classes[k]] for path, k in read.samples
    }
    assert found == dict(zip(table["file"], table["label"], strict=True))


@pytest.mark.parametrize(
    ("label", "name"),
    [
        *(("a/b", "a_b"), ("..", "__"), (".x", "_x"), ("cat ", "cat_"), (" ", "_"), ("a\nb", "a_b"), ("\ud800", "_")),
        *(("x" * 300, "x" * 60), ("猫" * 300, "猫" * 60), ("schöne Katze", "schöne Katze")),
    ],
)
def test_names_that_every_system_takes(label, name):
    assert copies._name(label) == name


def test_the_manifest_is_a_file_of_labels(images, tmp_path):
    given = [
        ("a/0.png", images / "a" / "0.png", "x/y", ""),
        ("b/0.png", images / "b" / "0.png", "z", ""),
        ("c", images / "a" / "0.png", "", "z"),
    ]
    copies.copy_by_label(given, tmp_path / "copies")
    labels = annotations.read(tmp_path / "copies" / "labels.csv")
    assert matching.match(labels, ["b/0.png", "a/0.png", "c"], {}).labels == {0: "z", 1: "x/y"}  # a suggestion is no label


def test_images_that_have_gone_are_told_and_leave_no_empty_class(images, tmp_path, caplog):
    given = [("a", images / "gone.png", "lost", ""), ("b", images / "a" / "0.png", "kept", ""), ("c", None, "lost", "")]
    copies.copy_by_label(given, tmp_path / "copies")
    assert "2 images not copied, as no longer there or no images: 'a', 'c'" in caplog.text
    assert sorted(os.listdir(tmp_path / "copies")) == ["kept", "labels.csv"]


def test_what_is_no_image_is_not_copied(images, tmp_path, caplog):
    (tmp_path / "id_rsa").write_text("secret")
    copies.copy_by_label([("a", tmp_path / "id_rsa", "", ""), ("b", images / "a" / "0.png", "", "")], tmp_path / "copies")
    assert "1 image not copied, as no longer there or no images: 'a'" in caplog.text
    assert sorted(os.listdir(tmp_path / "copies")) == ["002_0.png", "labels.csv"]


@pytest.mark.parametrize(
    ("folder", "reason", "next_round"),
    [
        ("images", "would count as images of", False),
        ("images/a/new", "would count as images of", True),
        ("linked/new", "would count as images of", False),
        ("full", "is not an empty folder: name a new one", False),
        ("file", "is not an empty folder: name a new one", True),
        ("out", "is for the results: name another folder for the copies", False),
        ("out", "is for the results: name another folder for the copies", True),
    ],
)
def test_folders_that_copies_must_not_go_into_are_refused_first(images, tmp_path, capsys, folder, reason, next_round):
    (tmp_path / "linked").symlink_to(images)
    (tmp_path / "full").mkdir()
    for name in ("file", "full/mine.txt"):
        (tmp_path / name).write_text("mine")
    if next_round:
        run(images, tmp_path / "first", budget=2)
    source = tmp_path / "first" if next_round else images
    arguments = ["label", str(source), "--out", str(tmp_path / "out"), "--copy", str(tmp_path / folder), "--budget", "2"]
    assert __main__.main(arguments) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_neither_copies_nor_results_and_the_same_command_goes_on(images, tmp_path, monkeypatch, capsys):
    def full(source, target, copyfile=shutil.copyfile):
        if target.name.startswith("003"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        copyfile(source, target)

    first, labels = tmp_path / "first", tmp_path / "labels.csv"
    label = ["label", images, "--budget", "5", "--train-minutes", "0", "--out", first, "--copy", tmp_path / "copies"]
    labels.write_text("".join(["id,label\n", *(f"{name}/{number}.png,{name}\n" for name in "ab" for number in range(2))]))
    suggest = ["suggest", first, "--labeled", labels, "--copy", tmp_path / "sorted"]
    for command, out, copied in ((label, first, tmp_path / "copies"), (suggest, first / "suggestions", tmp_path / "sorted")):
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "copyfile", full)
            assert __main__.main([*map(str, command)]) == 1
        assert capsys.readouterr().err.endswith("No space left on device\n")
        assert not out.exists()
        assert not copied.exists()
        assert __main__.main([*map(str, command)]) == 0


STOPPED = """
import os, signal, sys
from supclust import __main__
target, how, replace = sys.argv[1], sys.argv[2], os.replace
def stopping(source, place):
    if str(place).endswith(target):
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise KeyboardInterrupt
    replace(source, place)
os.replace = stopping
sys.exit(__main__.main(sys.argv[3:]))
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run needs and makes, and its command line."""
    folder = drawn(tmp_path_factory.mktemp("whole") / "images", [f"{k}.png" for k in range(12)]).parent
    embeddings.write(folder / "e.npz", Embeddings(make_blobs(3, 4, 4), tuple(f"{k}.png" for k in range(12))))
    line = ["label", "e.npz", "--images", "images", "--budget", "3", "--out", "out", "--copy", "copies"]
    assert subprocess.run([sys.executable, "-m", "supclust", *line], cwd=folder).returncode == 0
    return folder, line


@pytest.mark.parametrize("how", ["kill", "Ctrl-C"])
@pytest.mark.parametrize("target", ["copies/001*", "copies/003*", "copies/labels.csv", "out/picks.csv", "out/supclust.json"])
def test_a_run_that_ends_while_copies_or_results_are_moved_can_be_given_again(whole, tmp_path, target, how):
    folder, line = whole
    [file] = folder.glob(target)
    shutil.copytree(folder / "images", tmp_path / "images")
    shutil.copy(folder / "e.npz", tmp_path)
    stopped = subprocess.run([sys.executable, "-c", STOPPED, str(file.relative_to(folder)), how, *line], cwd=tmp_path)
    assert stopped.returncode == (-signal.SIGKILL if how == "kill" else 130)
    assert subprocess.run([sys.executable, "-m", "supclust", *line], cwd=tmp_path).returncode == 0
    for place in ("out", "copies"):
        assert sorted(os.listdir(tmp_path / place)) == sorted(os.listdir(folder / place))


def test_embeddings_without_images_have_nothing_to_copy(tmp_path):
    with pytest.raises(ValueError, match="there are no images to copy: --images DIR names their folder"):
        run(write_points(tmp_path / "points.npz"), tmp_path / "out", copy=tmp_path / "copies")
    assert not (tmp_path / "copies").exists()
