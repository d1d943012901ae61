"""Images that were added to the folder of a round: they alone are embedded, and what was said of the others stays."""

import csv
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from supclust import __main__
from supclust.label import embedders, embeddings, labeling, results
from supclust.label.labeling import EncoderOptions, Request
from tests.drawn_images import draw

SHIPPED = EncoderOptions("simclr", minutes=0)


def put(folder, numbers):
    for i in numbers:
        path = folder / f"species {i % 3}" / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(i % 3, seed=i, side=32).save(path)
    return folder


@pytest.fixture
def images(tmp_path):
    """A folder of images from which a first round was made, to which ten were added, one of them a copy and one broken."""
    folder = put(tmp_path / "images", range(34))
    (folder / "bad.png").write_bytes(b"bad")
    labeling.run(Request(folder, tmp_path / "first", budget=5, encoder=SHIPPED))
    put(folder, range(34, 42))
    shutil.copy(folder / "species 0" / "00.png", folder / "species 0" / "copy.png")
    (folder / "another bad.png").write_bytes(b"bad")
    return folder


@pytest.fixture
def counted(monkeypatch):
    """How many images each call has embedded."""
    load, counts = embedders.load, []

    def counting(*arguments, **options):
        embedder = load(*arguments, **options)

        def embed(images, folder):
            counts.append(len(images))
            return embedder.embed(images, folder)

        return embedder._replace(embed=embed)

    monkeypatch.setattr(embedders, "load", counting)
    return counts


def test_only_what_was_added_is_embedded_and_the_rest_stays(images, tmp_path, counted, caplog):
    results.write_csv(
        tmp_path / "labels.csv", [{"id": "species 0/00.png", "label": "x"}, {"id": "species 0/copy.png", "label": "x"}]
    )
    found = labeling.run(Request(tmp_path / "first", tmp_path / "second", 5, labeled=(tmp_path / "labels.csv",), added=True))
    assert counted == [8]
    first, second = (embeddings.read(tmp_path / name / "embeddings.npz") for name in ("first", "second"))
    assert second.ids[:34] == first.ids
    assert sorted(second.ids[34:]) == sorted(f"species {i % 3}/{i:02}.png" for i in range(34, 42))
    np.testing.assert_array_equal(second.features[:34], first.features)
    whole = labeling.run(Request(images, tmp_path / "whole", 5, encoder=SHIPPED)).source
    features = dict(zip(whole.ids, whole.features, strict=True))
    np.testing.assert_allclose(second.features, [features[name] for name in second.ids], atol=1e-5)
    assert found.labels == {first.ids.index("species 0/00.png"): "x"}
    assert {pick.point for pick in found.picks}.isdisjoint(first.ids.index(name) for name in found.source.earlier)
    skipped = {row["path"]: row["reason"] for row in csv.DictReader((tmp_path / "second" / "skipped.csv").open(newline=""))}
    assert skipped.keys() == {"bad.png", "another bad.png", "species 0/copy.png"}
    # The third round goes on from the second, and finds nothing that was added.
    caplog.clear()
    labeling.run(Request(tmp_path / "second", tmp_path / "third", 5))
    assert "were added" not in caplog.text
    with pytest.raises(ValueError, match=r"no image was added to .*images since"):
        labeling.run(Request(tmp_path / "second", tmp_path / "fourth", 5, added=True))


def test_without_the_option_they_are_counted(images, tmp_path, counted, caplog):
    caplog.set_level("INFO")
    found = labeling.run(Request(tmp_path / "first", tmp_path / "second", 5))
    assert "10 images were added to" in caplog.text
    assert "--added takes them in" in caplog.text
    assert len(found.source.ids) == 34
    assert not counted


def test_an_encoder_that_was_trained_embeds_what_was_added(tmp_path):
    options = EncoderOptions("simclr", epochs=1)
    labeling.run(Request(put(tmp_path / "images", range(32)), tmp_path / "first", 5, encoder=options))
    labeling.run(Request(tmp_path / "first", tmp_path / "second", 5))
    put(tmp_path / "images", range(32, 36))
    found = labeling.run(Request(tmp_path / "second", tmp_path / "third", 5, added=True)).source
    encoder = embedders.load(EncoderOptions(str(tmp_path / "first" / "encoder" / "encoder.safetensors")))
    pixels = np.stack([np.asarray(draw(i % 3, seed=i, side=32)).transpose(2, 0, 1) for i in range(32, 36)])
    names = [f"species {i % 3}/{i:02}.png" for i in range(32, 36)]
    there = [found.features[found.ids.index(name)] for name in names]
    np.testing.assert_allclose(there, encoder.embed(pixels, tmp_path)[0], atol=1e-5)
    shutil.rmtree(tmp_path / "first" / "encoder")
    put(tmp_path / "images", range(36, 38))
    with pytest.raises(FileNotFoundError, match="there are no encoder weights at"):
        labeling.run(Request(tmp_path / "third", tmp_path / "fourth", 5, added=True))


def test_a_round_that_does_not_say_its_encoder_is_refused(images, tmp_path):
    record = tmp_path / "first" / "supclust.json"
    record.write_text(record.read_text().replace('"load"', '"old"'))
    with pytest.raises(
        ValueError, match=r"nothing can be added to the round in .*first: it was made from embeddings, or by another version"
    ):
        labeling.run(Request(tmp_path / "first", tmp_path / "second", 5, added=True))


def test_what_is_no_round_of_images_is_refused(images, tmp_path, capsys, log_level):
    np.save(tmp_path / "points.npy", np.random.default_rng(0).standard_normal((40, 4)))
    labeling.run(Request(tmp_path / "points.npy", tmp_path / "points", 5))
    for source, message in (
        (images, "is none"),
        (tmp_path / "points.npy", "is none"),
        (tmp_path / "points", "it was made from embeddings"),
    ):
        assert __main__.main(["label", str(source), "--added", "--budget", "5", "--out", str(tmp_path / "next")]) == 2
        assert message in capsys.readouterr().err


KILLED = """
import os, signal, sys
from supclust import __main__
from supclust.label import embedders
load = embedders.load
def dying(*arguments, **options):
    return load(*arguments, **options)._replace(embed=lambda *_: os.kill(os.getpid(), signal.SIGKILL))
embedders.load = dying
__main__.main(sys.argv[1:])
"""


def test_after_a_kill_there_is_no_result_and_the_same_command_works(images, tmp_path, log_level):
    line = ["label", str(tmp_path / "first"), "--added", "--budget", "5", "--out", str(tmp_path / "second")]
    assert subprocess.run([sys.executable, "-c", KILLED, *line]).returncode == -signal.SIGKILL
    assert not (tmp_path / "second" / "supclust.json").exists()
    assert __main__.main(line) == 0
    assert len(embeddings.read(tmp_path / "second" / "embeddings.npz").ids) == 42


@pytest.mark.parametrize(
    ("folders", "offered"), [(["cat", "dog", ""], {"cat", "dog"}), (["cat"], set()), (["2024", "2025"], set())]
)
def test_names_of_folders_are_offered_as_labels(tmp_path, folders, offered):
    for i in range(10):
        path = tmp_path / "images" / folders[i % len(folders)] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(i % 4, seed=i, side=32).save(path)
    found = labeling.run(Request(tmp_path / "images", tmp_path / "out", 10, encoder=SHIPPED))
    assert set(found.offered) == offered
    assert not found.classes
    assert not found.labels
    assert (tmp_path / "out" / "label_studio.xml").exists() == bool(offered)
