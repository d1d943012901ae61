"""The tool from end to end: picks of one's own images, round after round, and whatever may be wrong with what it is given."""

import csv
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import supclust
from supclust import __main__, strategies
from supclust.images.files import MARKER
from supclust.label import contact_sheet, embeddings, labeling, results
from supclust.label.embeddings import Embeddings
from supclust.label.labeling import EncoderOptions, Request
from tests.conftest import make_blobs
from tests.drawn_images import draw

BLOBS, SIZE = 6, 20
COLUMNS = ["id", "path", "cluster", "cluster_size", "typicality", "sup", "order", "label"]


def write_points(path):
    """Embeddings of six clear groups, a file with ids such as group3/07.png."""
    ids = tuple(f"group{i // SIZE}/{i % SIZE:02}.png" for i in range(BLOBS * SIZE))
    embeddings.write(path, Embeddings(make_blobs(BLOBS, SIZE, 8), ids))
    return path


@pytest.fixture
def points(tmp_path):
    return write_points(tmp_path / "points.npz")


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A folder to read from: points.npz, its first round in first, and labels.csv of its picks."""
    root = tmp_path_factory.mktemp("started")
    run(write_points(root / "points.npz"), root / "first")
    answer(root / "first", root / "labels.csv")
    return root


@pytest.fixture(scope="module")
def round_of_images(folder, tmp_path_factory):
    """The results of a round on the folder of images, to read from."""
    out = tmp_path_factory.mktemp("round") / "first"
    run(folder, out, classes=("left", "right"))
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty drawn butterflies in two folders, and much that is none."""
    root = tmp_path_factory.mktemp("images")
    for i in range(40):
        path = root / ("left" if i % 2 else "right") / f"{i:02}.{'jpg' if i % 3 else 'png'}"
        path.parent.mkdir(exist_ok=True)
        draw(i % 4, seed=i, side=48).save(path)
    (root / "left" / "copy.png").write_bytes((root / "right" / "00.png").read_bytes())
    (root / "empty.jpg").touch()
    (root / "notes.txt").write_text("not an image")
    (root / "left" / "loop").symlink_to(root)
    return root


def run(source, out, encoder="simclr", minutes=0, **options):
    settings = {"budget": 5, "strategy": "supclust", "encoder": EncoderOptions(encoder, minutes), **options}
    return labeling.run(Request(Path(source), Path(out), **settings))


def picks(out):
    return pd.read_csv(out / "picks.csv", dtype={"id": str, "label": str}, keep_default_na=False)


def answer(out, path, label=lambda name: name.split("/")[0]):
    """What an oracle makes of a round's picks: labels.csv."""
    found = picks(out)["id"]
    results.write_csv(path, [{"id": name, "label": label(name)} for name in found])
    return path


# --- one round ------------------------------------------------------------------------------------------------------------


def test_the_picks_are_those_of_select(points, tmp_path):
    found = run(points, tmp_path / "picks", budget=7, seed=3)
    features, table = embeddings.read(points).features, picks(tmp_path / "picks")
    expected, details = supclust.select(features, 7, seed=3, return_details=True)
    assert [pick.point for pick in found.picks] == expected.tolist()
    assert list(table.columns) == COLUMNS
    assert list(table["order"]) == list(range(1, 8))
    np.testing.assert_array_equal(table["cluster"], details.assignments[expected])
    np.testing.assert_array_equal(table["cluster_size"], np.bincount(details.assignments)[table["cluster"]])
    np.testing.assert_allclose(table["typicality"], details.typicality[expected], rtol=1e-5)
    np.testing.assert_allclose(table["sup"], details.sup[expected], rtol=1e-5)


def test_what_speaks_for_a_pick(points, tmp_path):
    found = run(points, tmp_path / "picks", budget=6)
    _, details = supclust.select(embeddings.read(points).features, 6, return_details=True)
    for pick in found.picks:
        members = np.flatnonzero(details.assignments == pick.cluster)
        ranked = members[np.argsort(-details.typicality[members], kind="stable")]
        assert pick.rank == 1 + list(ranked).index(pick.point)
        assert list(pick.typical) == [point for point in ranked if point != pick.point][:4]
        centers = details.centers
        weights = supclust.cluster_weights(centers, details.temperature)[pick.cluster]
        assert [near.cluster for near in pick.near] == np.argsort(-weights)[:3].tolist()
        np.testing.assert_allclose([near.weight for near in pick.near], sorted(weights, reverse=True)[:3])
        for near in pick.near:
            others = np.flatnonzero(details.assignments == near.cluster)
            assert near.example in others
            assert details.typicality[near.example] == details.typicality[others].max()


def test_a_folder_of_images_from_the_command_line(folder, tmp_path, capsys, caplog):
    caplog.set_level(logging.INFO)
    out = tmp_path / "picks"
    assert __main__.main(["label", str(folder), "--budget", "6", "--out", str(out), "--train-minutes", "0", "--explain"]) == 0
    table, printed = picks(out), capsys.readouterr().out
    assert len(set(table["id"])) == 6
    assert all((folder / name).samefile(path) for name, path in zip(table["id"], table["path"], strict=True))
    assert sorted(file.name for file in out.iterdir()) == sorted(set(labeling.RESULTS) - {"label_studio.xml"})
    skipped = {row["path"]: row["reason"] for row in csv.DictReader((out / "skipped.csv").open(newline=""))}
    assert skipped == {
        "empty.jpg": "an empty file",
        "notes.txt": "not an image, by its name",
        "right/00.png": "the same image as left/copy.png",
    }
    assert "3 files are left out" in caplog.text
    for order, name in enumerate(table["id"], start=1):
        assert f"{order}. {name}\n   Cluster {table['cluster'][order - 1]}: " in printed
    assert "nearest clusters: " in printed
    assert printed.endswith("contact_sheet.html\n")
    page = (out / "contact_sheet.html").read_text()
    assert all(name in page for name in table["id"])
    assert page.count("<img") == 6 * 5
    assert Image.open(out / "contact_sheet.png").size[0] > 500
    tasks = json.loads((out / "label_studio.json").read_text())
    assert [task["data"]["supclust_id"] for task in tasks] == list(table["id"])
    assert tasks[0]["data"]["image"] == f"/data/local-files/?d={folder.name}/{table['id'][0]}"


@pytest.mark.parametrize("strategy", strategies.STRATEGIES)
@pytest.mark.parametrize("labeled", [False, True])
def test_every_strategy_is_offered(started, tmp_path, strategy, labeled):
    files = (started / "labels.csv",) if labeled else ()
    found = run(started / "points.npz", tmp_path / "picks", strategy=strategy, labeled=files)
    table = picks(tmp_path / "picks")
    assert len(set(table["id"])) == 5
    assert not labeled or not set(table["id"]) & set(picks(started / "first")["id"])
    assert f"Picked by {strategy}: " in labeling.explain(found, found.picks[0])


@pytest.mark.parametrize(
    ("label", "taken", "why"),
    [
        (None, "typiclust", "fewer than two classes"),
        (lambda name: "one", "typiclust", "fewer than two classes"),
        (lambda name: name.split("/")[0], "uherding", "once labels show two classes"),
    ],
)
def test_auto_says_which_strategy_it_takes_and_why(started, tmp_path, label, taken, why):
    files = (answer(started / "first", tmp_path / "labels.csv", label),) if label else ()
    found = run(started / "points.npz", tmp_path / "auto", strategy="auto", labeled=files)
    run(started / "points.npz", tmp_path / "named", strategy=taken, labeled=files)
    assert list(picks(tmp_path / "auto")["id"]) == list(picks(tmp_path / "named")["id"])
    record = json.loads((tmp_path / "auto" / MARKER).read_text())
    assert record["asked"]["strategy"] == "auto"
    for text in (record["strategy"], labeling.explain(found, found.picks[0])):
        assert f"{taken} (auto takes it" in text
        assert why in text
    for file in ("about.md", "contact_sheet.html"):
        assert f"{taken} (auto takes it" in (tmp_path / "auto" / file).read_text()
    assert " --strategy auto " in (tmp_path / "auto" / "about.md").read_text()


def first(points, tmp_path):
    run(points, tmp_path / "first")
    return tmp_path / "first"


def test_a_strategy_takes_settings(points, tmp_path):
    found = run(points, tmp_path / "picks", strategy="supclust:top_fraction=1.0")
    expected = supclust.select(embeddings.read(points).features, 5, top_fraction=1.0)
    assert [pick.point for pick in found.picks] == expected.tolist()


def test_one_cluster_has_no_sup(points, tmp_path):
    found = run(points, tmp_path / "picks", budget=1)
    assert np.isnan(found.picks[0].sup)
    assert found.picks[0].near == ()
    assert picks(tmp_path / "picks")["sup"].tolist() == [""]
    assert json.loads((tmp_path / "picks" / MARKER).read_text())["clusters"] == 1


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet"])
def test_embeddings_of_all_kinds_give_the_same_picks(points, tmp_path, suffix):
    features = embeddings.read(points).features
    path = tmp_path / f"plain{suffix}"
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
        pd.DataFrame({"embedding": list(features)}).to_parquet(path)
    else:
        np.save(path, features) if suffix == ".npy" else np.savez(path, features)
    run(path, tmp_path / "picks")
    assert picks(tmp_path / "picks")["id"].astype(int).tolist() == supclust.select(features, 5).tolist()
    assert not (tmp_path / "picks" / "embeddings.npz").exists()  # they are there already


def test_images_of_embeddings_are_shown_where_they_are_named(folder, round_of_images, tmp_path):
    made = embeddings.read(round_of_images / "embeddings.npz")
    np.savez(tmp_path / "mine.npz", features=made.features, ids=np.array(made.ids))
    found = run(tmp_path / "mine.npz", tmp_path / "picks", pictures=folder)
    assert [pick.point for pick in found.picks] == supclust.select(made.features, 5).tolist()
    assert (tmp_path / "picks" / "contact_sheet.html").read_text().count("<img") == 25
    run(tmp_path / "mine.npz", tmp_path / "without")
    assert (tmp_path / "without" / "contact_sheet.html").read_text().count("<img") == 0
    assert not (tmp_path / "without" / "label_studio.json").exists()


def test_images_that_have_gone_are_not_picked(tmp_path, caplog):
    moved = tmp_path / "images"
    moved.mkdir()
    for i in range(12):
        draw(i % 4, seed=i, side=48).save(moved / f"{i:02}.png")
    run(moved, tmp_path / "first", budget=2)
    gone = set(picks(tmp_path / "first")["id"]) | {"00.png", "01.png", "02.png"}
    for name in gone:
        (moved / name).unlink()
    found = run(tmp_path / "first", tmp_path / "second", budget=12 - len(gone))
    assert f"{len(gone)} images are no longer where they were, and are not picked" in caplog.text
    assert set(picks(tmp_path / "second")["id"]) == set(found.source.ids) - gone
    shutil.rmtree(moved)
    run(tmp_path / "first", tmp_path / "third", budget=1)
    assert "no image is where it should be" in caplog.text
    assert not (tmp_path / "third" / "label_studio.json").exists()
    assert (tmp_path / "third" / "contact_sheet.html").read_text().count("<img") == 0


# --- rounds ---------------------------------------------------------------------------------------------------------------


def test_rounds_never_repeat_a_pick_and_leave_clusters_with_labels_out(points, tmp_path):
    source, seen, labels = points, [], []
    for number in range(1, 8):
        out = tmp_path / f"round{number}"
        found = run(source, out, labeled=tuple(labels))
        names = list(picks(out)["id"])
        assert not set(names) & set(seen)
        clustered = found.pool.clusters_for(5)
        assert len(clustered.sizes) == 5 * number
        covered, queried = set(clustered.assignments[found.pool.labeled].tolist()), {pick.cluster for pick in found.picks}
        left = [size for cluster, size in enumerate(clustered.sizes) if cluster not in covered | queried]
        assert not covered & queried or max(left, default=0) <= 5  # the smallest clusters come last
        seen += names
        labels.append(answer(out, tmp_path / f"labels{number}.csv"))
        source = out
    assert len(seen) == 35
    assert json.loads((tmp_path / "round7" / MARKER).read_text())["embeddings"] == "../points.npz"


def test_a_round_on_the_images_goes_on_from_the_labels_alone(started, tmp_path):
    by_labels = run(started / "points.npz", tmp_path / "a", labeled=(started / "labels.csv",))
    by_round = run(started / "first", tmp_path / "b", labeled=(started / "labels.csv",))
    assert [pick.point for pick in by_labels.picks] == [pick.point for pick in by_round.picks]


def test_picks_without_a_label_are_not_picked_again(points, tmp_path, caplog):
    out = first(points, tmp_path)
    table = picks(out)
    table.loc[1:, "label"] = ""
    table.loc[0, "label"] = "group0"
    table.to_csv(tmp_path / "half.csv", index=False)
    for source in (points, out):
        found = run(source, tmp_path / f"next-{source.name}", labeled=(tmp_path / "half.csv",))
        assert not set(picks(tmp_path / f"next-{source.name}")["id"]) & set(table["id"])
        assert found.labels == {found.source.ids.index(table["id"][0]): "group0"}
        assert len(found.pool.labeled) == 5
    assert "4 images that were picked or listed have no label" in caplog.text
    run(out, tmp_path / "unlabeled")
    assert not set(picks(tmp_path / "unlabeled")["id"]) & set(table["id"])


def test_embeddings_and_images_may_be_moved_between_rounds(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "here" / "images", symlinks=True)
    run(tmp_path / "here" / "images", tmp_path / "here" / "picks")
    (tmp_path / "here").rename(tmp_path / "there")
    run(tmp_path / "there" / "picks", tmp_path / "there" / "next")
    assert all(Path(path).is_file() for path in picks(tmp_path / "there" / "next")["path"])


@pytest.mark.parametrize("kind", ["JSON", "JSON-MIN"])
def test_labels_come_back_from_label_studio(round_of_images, tmp_path, kind):
    out = round_of_images
    assert '<Choice value="right"/>' in (out / "label_studio.xml").read_text()
    exported = []
    for number, task in enumerate(json.loads((out / "label_studio.json").read_text()), start=1):
        choice = task["data"]["supclust_id"].split("/")[0]
        result = {"type": "choices", "from_name": "label", "to_name": "image", "value": {"choices": [choice]}}
        annotation = {"id": number, "was_cancelled": False, "result": [result]}
        whole = {"id": number, **task, "annotations": [annotation], "predictions": []}
        flat = task["data"] | {"id": number, "label": choice, "annotator": 1, "annotation_id": 1}
        exported.append(whole if kind == "JSON" else flat)
    (tmp_path / "export.json").write_text(json.dumps(exported))
    found = run(out, tmp_path / "second", labeled=(tmp_path / "export.json",))
    assert {found.source.ids[point]: label for point, label in found.labels.items()} == {
        name: name.split("/")[0] for name in picks(out)["id"]
    }
    assert found.classes == ("left", "right")


def test_a_label_of_a_copy_counts_for_the_image_that_was_kept(folder, tmp_path):
    (tmp_path / "labels.csv").write_text("id,label\nright/00.png,a\n")
    found = run(folder, tmp_path / "picks", labeled=(tmp_path / "labels.csv",))
    assert [found.source.ids[point] for point in found.labels] == ["left/copy.png"]


def test_results_inside_the_folder_of_images_are_no_images(tmp_path):
    for i in range(12):
        draw(i % 4, seed=i, side=48).save(tmp_path / f"{i:02}.png")
    run(tmp_path, tmp_path / "picks")
    found = run(tmp_path, tmp_path / "picks-2", labeled=(answer(tmp_path / "picks", tmp_path / "labels.csv", lambda name: "x"),))
    assert len(found.source.ids) == 12
    assert list(found.source.skipped) == ["labels.csv"]


# --- strange names --------------------------------------------------------------------------------------------------------


NAMES = [
    "=SUM(A1).png",
    "+1.png",
    "-2.png",
    "@x.png",
    "a b.png",
    "new\nline.png",
    "tab\t.png",
    "Größe 日本 🦋.png",
    "<img src=x onerror=alert(1)>\"&'.png",
    "</script><script>alert(1)</script>.png".replace("/", "∕"),
    "semi;colon,comma.png",
    "'quoted'.png",
    "\u202eright.png",
    "{{ 7 * 7 }}.png",
    "%41.png",
]


def test_strange_names_come_back_as_they_are_and_do_no_harm(tmp_path):
    root = tmp_path / "<b>&images"
    root.mkdir()
    for i, name in enumerate(NAMES):
        draw(i % 8, seed=i, side=32).save(root / name, format="png")
    run(root, tmp_path / "picks", budget=len(NAMES) - 1)
    cells = [cell for row in csv.reader((tmp_path / "picks" / "picks.csv").open(newline="")) for cell in row]
    assert not [
        cell for cell in cells if cell[:1] in ("=", "+", "@", "\t", "\r", "\n") or (cell[:1] == "-" and not is_number(cell))
    ]
    page = (tmp_path / "picks" / "contact_sheet.html").read_text()
    assert "<img src=x" not in page
    assert "<script>alert" not in page
    assert "49.png" not in page
    table = pd.read_csv(tmp_path / "picks" / "picks.csv")
    table["label"] = "yes"
    table.to_csv(tmp_path / "labels.csv", index=False)
    found = run(tmp_path / "picks", tmp_path / "next", budget=1, labeled=(tmp_path / "labels.csv",))
    assert len(found.labels) == len(NAMES) - 1
    assert {found.source.ids[point] for point in [*found.labels, found.picks[0].point]} == set(NAMES)


def is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


# --- what is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "the budget must be a whole number of at least 1, not 0"),
        ({"budget": 121}, "the budget is 121, but there are 120 images: at most --budget 120"),
        ({"strategy": "supclus"}, "unknown strategy 'supclus'; known: random"),
        ({"strategy": "class-balanced"}, "class-balanced sees labels that nobody has"),
        ({"strategy": "supclust:top=1"}, "does not name settings"),
        ({"source": "nowhere"}, "there is no .*nowhere: name a folder of images, or a file of embeddings"),
        ({"source": "labels.csv"}, r"labels.csv must end in .npy, .npz or .parquet"),
        ({"source": "bare"}, r"no image in .*bare \(1 files are none, the first a.txt: not an image, by its name\). Looked for"),
        ({"source": "broken"}, r"none of the 1 images in .*broken can be read; of the first: an empty file"),
        ({"out": "labels.csv"}, "cannot write into .*labels.csv: name another folder for the results"),
        ({"source": "bare", "out": "bare"}, "the results cannot go into .*bare itself"),
        ({"pictures": "nowhere"}, "there is no folder of images .*nowhere"),
        ({"labeled": ["nowhere.csv"]}, "nowhere.csv"),
        (
            {"labeled": ["other.csv"]},
            r"other.csv is known: the first is 'x.png', and ids here look like 'group0/",
        ),
        ({"labeled": ["columns.csv"]}, r"columns.csv.*column"),
        ({"labeled": ["conflict.csv"]}, "group0/00.png"),
        ({"seed": -1}, "the seed must be a whole number of at least 0, not -1"),
        ({"classes": ("a", " b")}, "names of classes"),
        ({"strategy": "supclust:temperature=abc"}, "'abc' is no value such as 0.05, True or None"),
        ({"strategy": "supclust:top_fraction='x'"}, "top_fraction must lie in"),
        ({"source": "nan.npy"}, r"nan.npy: features are NaN, infinite or too large for float32 in 1 row\(s\): 3"),
        ({"source": "one.png"}, "one.png is one image: name the folder that holds the images"),
        ({"out": "link"}, "cannot write into .*link: name another folder"),
        ({"out": "labels.csv/picks"}, "cannot write into .*labels.csv: name another folder"),
        ({"encoder": "resnet5", "source": "broken"}, "unknown encoder 'resnet5'"),
        ({"minutes": -1, "source": "broken"}, "minutes of a training"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_sentence(points, tmp_path, options, message):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "a.txt").touch()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").touch()
    (tmp_path / "labels.csv").write_text("id,label\n")
    (tmp_path / "one.png").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    points_with_nan = np.ones((9, 4))
    points_with_nan[3, 2] = np.nan
    np.save(tmp_path / "nan.npy", points_with_nan)
    (tmp_path / "other.csv").write_text("id,label\nx.png,a\n")
    (tmp_path / "columns.csv").write_text("a,b\n1,2\n")
    (tmp_path / "conflict.csv").write_text("id,label\ngroup0/00.png,a\ngroup0/00.png,b\n")
    before = sorted(tmp_path.rglob("*"))
    for name in ("source", "out", "pictures"):
        options = options | ({name: tmp_path / options[name]} if name in options else {})
    options |= {"labeled": tuple(tmp_path / name for name in options.get("labeled", ()))}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(**{"source": points, "out": tmp_path / "picks"} | options)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_budget_counts_what_is_left(started, tmp_path):
    options = {"labeled": (started / "labels.csv",)}
    with pytest.raises(ValueError, match="there are 120 images, of which 5 are labelled or picked already: at most --budget 115"):
        run(started / "points.npz", tmp_path / "picks", budget=116, **options)
    assert len(run(started / "points.npz", tmp_path / "picks", budget=115, **options).picks) == 115


def test_unknown_ids_are_counted_listed_and_left_out(points, tmp_path, caplog):
    (tmp_path / "labels.csv").write_text("id,label\ngroup0/00.png,a\ngone.png,b\n")
    found = run(points, tmp_path / "picks", labeled=(tmp_path / "labels.csv",))
    assert list(found.labels.values()) == ["a"]
    assert "labels.csv are not among the images and left out: 'gone.png'" in caplog.text


def test_results_are_overwritten_with_force_only_and_nothing_else_is(folder, points, tmp_path):
    out = tmp_path / "picks"
    run(folder, out)
    (out / "mine.txt").write_text("stays")
    before = {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()}
    with pytest.raises(ValueError, match=r"picks holds results already \(picks.csv, .*\): name another folder, or overwrite"):
        run(points, out)
    assert {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()} == before
    run(points, out, force=True)
    assert (out / "mine.txt").read_text() == "stays"
    assert not (out / "skipped.csv").exists()  # of the run before
    assert set(picks(out)["id"]) <= set(embeddings.read(points).ids)


@pytest.mark.parametrize(("old", "new"), [(b',""\n', b',"caf\xe9"\n'), (b',""\n', b"\n")])
def test_force_overwrites_no_picks_that_cannot_be_read(folder, tmp_path, old, new):
    """As a spreadsheet may leave them: in another encoding, or a field short."""
    run(folder, tmp_path / "out")
    file = tmp_path / "out" / "picks.csv"
    file.write_bytes(file.read_bytes().replace(old, new, 1))
    with pytest.raises(ValueError, match=r"It may hold labels that somebody typed: move it away"):
        run(folder, tmp_path / "out", force=True)


def test_a_folder_in_the_place_of_a_result_is_refused_at_once(folder, tmp_path):
    (tmp_path / "out" / "contact_sheet.png").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"contact_sheet.png is a folder, in the place of a file: move it away"):
        run(folder, tmp_path / "out", force=True)


def test_force_overwrites_nothing_that_is_read_from(folder, tmp_path):
    run(folder, tmp_path / "first")
    run(tmp_path / "first", tmp_path / "second")
    for source in (tmp_path / "first" / "embeddings.npz", tmp_path / "second"):
        with pytest.raises(ValueError, match=r"embeddings.npz is read from and would be overwritten: name another folder"):
            run(source, tmp_path / "first", force=True, budget=2)
    empty = picks(tmp_path / "second")
    with pytest.raises(ValueError, match=r"picks.csv is read from and would be overwritten"):
        run(folder, tmp_path / "second", force=True, labeled=(tmp_path / "second" / "picks.csv",))
    empty.assign(label=["a", "b", "", "", ""]).to_csv(tmp_path / "second" / "picks.csv", index=False)
    with pytest.raises(ValueError, match=r"picks.csv holds 2 labels that somebody typed: move it away before it is overwritten"):
        run(folder, tmp_path / "second", force=True)
    assert picks(tmp_path / "second")["label"].tolist()[:2] == ["a", "b"]
    assert (tmp_path / "first" / "embeddings.npz").exists()


def test_an_encoder_that_is_in_the_folder_is_replaced_with_force_only(folder, tmp_path):
    stored = tmp_path / "picks" / "encoder" / "encoder.safetensors"
    stored.parent.mkdir(parents=True)
    stored.write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"holds encoder.safetensors of a training on other images or with other settings"):
        run(folder, tmp_path / "picks", minutes=1)
    assert stored.read_bytes() == b"mine"
    assert not (tmp_path / "picks" / "picks.csv").exists()


def test_tasks_are_named_from_the_folder_that_was_given(tmp_path):
    for i in range(8):
        path = tmp_path / "mine" / "below" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(i, seed=i, side=32).resize((300, 300)).save(path)
    run(tmp_path / "mine", tmp_path / "first", budget=2)
    page = (tmp_path / "first" / "contact_sheet.html").read_text()
    assert set(re.findall(r'width="(\d+)" height="\d+" decoding', page)) == {"256", "96"}  # no larger than a sharp display needs
    run(tmp_path / "first", tmp_path / "second", budget=2)
    for out in ("first", "second"):
        for task in json.loads((tmp_path / out / "label_studio.json").read_text()):
            assert task["data"]["image"] == f"/data/local-files/?d=mine/{task['data']['supclust_id']}"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"strategy": "bald"}, "Picked by bald: a random draw, as there are no labels yet to train a model on."),
        ({"budget": 1}, "Picked by supclust: the most typical point, or one of them, as a single cluster has no SUP."),
        ({}, "Picked by supclust: the point of largest SUP among the most typical tenth of each queried cluster."),
    ],
)
def test_the_reason_is_the_one_that_holds(points, tmp_path, options, reason):
    found = run(points, tmp_path / "picks", **options)
    assert labeling.explain(found, found.picks[0]).endswith(reason)


def test_the_way_on_is_a_command_that_works(points, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run(points, Path("-my picks"), strategy="typiclust", seed=3)
    answer(tmp_path / "-my picks", tmp_path / "labels.csv")
    [line] = [line for line in (tmp_path / "-my picks" / "about.md").read_text().splitlines() if line.startswith("    supclust")]
    program, *arguments = shlex.split(line)
    assert (program, __main__.main(arguments)) == ("supclust", 0)
    record = json.loads((tmp_path / "-my picks-next" / MARKER).read_text())
    assert record["asked"]["strategy"] == "typiclust"
    assert record["asked"]["source"] == "../-my picks"
    assert list(record["asked"]["labeled"]) == ["labels.csv"]


@pytest.mark.parametrize("line", ["label ", "label points.npz --out ", "label points.npz --images "])
def test_an_empty_path_is_not_the_working_folder(line, capsys):
    with pytest.raises(SystemExit):
        __main__.main(line.split(" "))
    assert "a path must not be empty: is a variable of the shell not set?" in capsys.readouterr().err


def test_labels_may_be_named_one_by_one(points, tmp_path, capsys):
    labels = answer(first(points, tmp_path), tmp_path / "labels.csv")
    (tmp_path / "more.csv").write_text("id,label\ngroup0/00.png,group0\n")
    line = ["label", points, "--budget", "3", "--out", tmp_path / "picks", "--labeled", labels, "--labeled", tmp_path / "more.csv"]
    assert __main__.main(list(map(str, line))) == 0
    assert len(json.loads((tmp_path / "picks" / MARKER).read_text())["asked"]["labeled"]) == 2


def test_what_is_printed_cannot_play_tricks_on_a_terminal(tmp_path):
    ids = np.array([f"\x1b[31m{i}\n日本\u202e" for i in range(12)])
    np.savez(tmp_path / "points.npz", features=make_blobs(3, 4, 4), ids=ids)
    command = [sys.executable, "-m", "supclust", "label", "points.npz", "--budget", "3", "--explain"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"\x1b" not in done.stdout
    assert rb"\x1b[31m" in done.stdout


@pytest.mark.parametrize("name", ["x" * 300, "points.npz/below"])
def test_paths_that_no_system_takes_end_in_a_line(points, name, capsys):
    assert __main__.main(["label", str(points.parent / name)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_round_does_not_overwrite_the_one_it_goes_on_from(points, tmp_path):
    out = first(points, tmp_path)
    with pytest.raises(ValueError, match=r"the results cannot go into .*first itself: name another folder, as in --out picks-2"):
        run(out, out, force=True)


def test_a_damaged_record_of_a_round_is_named(points, tmp_path):
    out = first(points, tmp_path)
    for content in ("", "{", "[]", '{"picks": []}', "\x00"):
        (out / MARKER).write_text(content)
        with pytest.raises(ValueError, match=rf"{MARKER} is damaged"):
            run(out, tmp_path / "next")


def test_embeddings_that_have_gone_are_named(points, tmp_path):
    out = first(points, tmp_path)
    points.unlink()
    with pytest.raises(FileNotFoundError, match=r"the embeddings of the round in .*first are no longer at .*points.npz"):
        run(out, tmp_path / "next")


def test_a_run_that_fails_while_writing_leaves_no_results(points, tmp_path, monkeypatch):
    monkeypatch.setattr(contact_sheet, "png", lambda sheet: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(points, tmp_path / "picks")
    assert list((tmp_path / "picks").iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from supclust.label import contact_sheet, labeling
contact_sheet.png = lambda sheet: os.kill(os.getpid(), signal.SIGKILL)
labeling.run(labeling.Request(Path(sys.argv[1]), Path(sys.argv[2]), budget=5))
"""


def test_after_a_kill_the_same_command_works(points, tmp_path):
    out = tmp_path / "picks"
    killed = subprocess.run([sys.executable, "-c", KILLED, points, out])
    assert killed.returncode == -9
    assert [file.name[:6] for file in out.iterdir()] == [".part-"]
    run(points, out)
    assert sorted(file.name for file in out.iterdir()) == sorted(
        ["picks.csv", "about.md", "contact_sheet.html", "contact_sheet.png", MARKER]
    )


@pytest.mark.slow
def test_nothing_is_written_outside_the_folder_for_the_results(folder, tmp_path):
    places = {name: tmp_path / name for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "SUPCLUST_OUT")}
    for place in places.values():
        place.mkdir()
    (tmp_path / "cwd").mkdir()
    before = snapshot(folder)
    command = [
        sys.executable,
        "-m",
        "supclust",
        "label",
        folder,
        "--out",
        tmp_path / "picks",
        "--budget",
        "5",
        "--train-epochs",
        "1",
    ]
    environment = os.environ | {name: str(place) for name, place in places.items()} | {"PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(command, cwd=tmp_path / "cwd", env=environment, check=True)
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert [path for path in written if not path.startswith("picks/")] == []
    assert "picks/encoder/encoder.safetensors" in written
    assert snapshot(folder) == before


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
