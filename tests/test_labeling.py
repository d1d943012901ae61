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
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import supclust
from supclust import __main__, features, kept, simclr, strategies
from supclust.images.files import MARKER
from supclust.label import contact_sheet, embeddings, labeling, results, sources
from supclust.label.embeddings import Embeddings
from supclust.label.labeling import EncoderOptions, Request
from tests.conftest import make_blobs
from tests.drawn_images import draw
from tests.test_images import dicom

BLOBS, SIZE = 6, 20
COLUMNS = ["id", "label", "path", "cluster", "cluster_size", "group_size", "typicality", "sup", "order"]


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
    settings = {"budget": 5, "strategy": "supclust", **options}
    if Path(source).is_dir() and not (Path(source) / MARKER).exists():
        settings = {"encoder": EncoderOptions(encoder, minutes)} | settings
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
        weights = supclust.cluster_weights(details.centers, details.temperature)[pick.cluster]
        [line] = [line for line in pick.why.splitlines() if line.startswith(f"SUP {details.sup[pick.point]:.3f}; ")]
        named = re.findall(r"(\d+) \(weight (\S+), distance (\S+), such as (\S+)\)", line)
        assert [int(cluster) for cluster, *_ in named] == np.argsort(-weights)[:3].tolist()
        for cluster, weight, distance, example in named:
            others = np.flatnonzero(details.assignments == int(cluster))
            point = found.pool.points[pick.point]
            assert float(weight) == pytest.approx(weights[int(cluster)], abs=0.006)
            assert float(distance) == pytest.approx(np.linalg.norm(point - details.centers[int(cluster)]), abs=0.0006)
            assert found.source.ids.index(example) == others[details.typicality[others].argmax()]


def test_a_folder_of_images_from_the_command_line(folder, tmp_path, capsys, caplog):
    caplog.set_level(logging.INFO)
    out = tmp_path / "picks"
    assert __main__.main(["label", str(folder), "--budget", "6", "--out", str(out), "--train-minutes", "0", "--explain"]) == 0
    table, printed = picks(out), capsys.readouterr().out
    assert len(set(table["id"])) == 6
    assert all((folder / name).samefile(path) for name, path in zip(table["id"], table["path"], strict=True))
    assert sorted(file.name for file in out.iterdir()) == sorted(set(labeling.RESULTS) - {"handed_out.json"})
    skipped = {row["path"]: row["reason"] for row in csv.DictReader((out / "skipped.csv").open(newline=""))}
    assert skipped == {
        "empty.jpg": "an empty file",
        "notes.txt": "not an image, by its name",
        "right/00.png": "the same image as left/copy.png",
    }
    assert "3 files left out (see skipped.csv)" in caplog.text
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
    assert f"Picked by {strategy}: " in found.picks[0].why


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
    for text in (record["strategy"], found.picks[0].why):
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
    assert "SUP" not in found.picks[0].why.partition("Picked by")[0]
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


def test_images_of_embeddings_are_shown_where_they_are_named(folder, round_of_images, tmp_path, caplog):
    made = embeddings.read(round_of_images / "embeddings.npz")
    np.savez(tmp_path / "mine.npz", features=made.features, ids=np.array(made.ids))
    found = run(tmp_path / "mine.npz", tmp_path / "picks", pictures=folder)
    assert [pick.point for pick in found.picks] == supclust.select(made.features, 5).tolist()
    assert (tmp_path / "picks" / "contact_sheet.html").read_text().count("<img") == 25
    np.savez(tmp_path / "rows.npz", features=made.features)
    run(tmp_path / "rows.npz", tmp_path / "rows", pictures=folder)
    assert f"no image is where it should be, the first one at {folder / '0'}. Ids are shown" in caplog.text
    run(tmp_path / "mine.npz", tmp_path / "without")
    assert (tmp_path / "without" / "contact_sheet.html").read_text().count("<img") == 0
    assert not (tmp_path / "without" / "label_studio.json").exists()


def test_ids_lead_to_images_of_the_folder_that_is_named_and_nowhere_else(tmp_path):
    ids = [f"{i}.png" for i in range(10)] + ["../private.png", "x" * 400]
    (tmp_path / "images").mkdir()
    for k, name in enumerate(ids[:-1]):
        draw(k % 4, seed=k, side=48).save(tmp_path / "images" / name)
    np.savez(tmp_path / "mine.npz", features=make_blobs(4, 3, 8), ids=np.array([*ids[:-2], str(tmp_path / "private.png"), ids[-1]]))
    found = run(tmp_path / "mine.npz", tmp_path / "picks", pictures=tmp_path / "picks" / ".." / "images")
    assert found.source.files == (*(tmp_path / "images" / name for name in ids[:-2]), None, None)
    np.savez(tmp_path / "mine.npz", features=make_blobs(4, 3, 8), ids=np.array(ids))
    run(tmp_path / "mine.npz", tmp_path / "more", pictures=tmp_path / "images", budget=12)
    assert (tmp_path / "more" / "contact_sheet.html").read_text().count('class="pick" src=') == 10
    assert ".." not in (tmp_path / "more" / "label_studio.json").read_text().replace("supclust_id", "")


def test_names_stand_for_themselves_in_the_summary(points, tmp_path):
    rows = [{"id": f"group{k}/00.png", "label": label} for k, label in enumerate(["<unknown>", "[a](http://b.example)", "`c`"])]
    results.write_csv(tmp_path / "labels.csv", rows)
    run(points, tmp_path / "picks", labeled=[tmp_path / "labels.csv"])
    text = (tmp_path / "picks" / "about.md").read_text()
    assert all(name in text for name in (r"\<unknown>", r"[a]\(http://b.example)", r"\`c\`"))


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
    assert f"{len(gone)} images are no longer there, and not picked" in caplog.text
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
    assert "4 images without a label, picked or skipped in some round: not picked again" in caplog.text
    run(out, tmp_path / "unlabeled")
    assert not set(picks(tmp_path / "unlabeled")["id"]) & set(table["id"])


def test_picks_without_a_label_are_known_by_the_round_beside(points, tmp_path, caplog):
    """The contact sheet's table lists them as any other table would."""
    labels = answer(first(points, tmp_path), tmp_path / "labels.csv", lambda name: "a" if name.startswith("group1") else "")
    run(points, tmp_path / "beside", labeled=(labels,))
    assert not set(picks(tmp_path / "beside")["id"]) & set(picks(tmp_path / "first")["id"])
    assert "images without a label, picked or skipped" in caplog.text
    caplog.clear()
    run(points, tmp_path / "elsewhere" / "alone", labeled=(labels,))
    assert "images without a label, picked or skipped" not in caplog.text


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


def test_nothing_about_a_patient_gets_out_of_dicom(tmp_path, caplog):
    (tmp_path / "scans").mkdir()
    for i in range(8):
        scan = np.asarray(draw(i, seed=i, side=48).convert("L")).astype("u2") * 16
        dicom(tmp_path / "scans" / f"{i}.dcm", scan, WindowCenter=2048, WindowWidth=4096)
    (tmp_path / "scans" / "cut.dcm").write_bytes((tmp_path / "scans" / "0.dcm").read_bytes()[:-900])
    run(tmp_path / "scans", tmp_path / "out", budget=3)
    written = b"".join(file.read_bytes() for file in (tmp_path / "out").iterdir()) + caplog.text.encode()
    assert b"cut.dcm" in written
    assert not [private for private in (b"Doe", b"Jane", b"4711-0815") if private in written]


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
    assert list(found.source.skipped) == ["labels.csv", "picks"]


@pytest.mark.parametrize("earlier", [False, True])
def test_results_are_not_written_among_images_which_they_would_hide(tmp_path, earlier):
    for i in range(12):
        path = tmp_path / ("picks" if i < 5 else ".") / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        draw(i % 4, seed=i, side=48).save(path)
    if earlier:  # a record that an earlier version wrote in there
        (tmp_path / "picks" / MARKER).write_text('{"supclust": "1", "picks": []}')
    with pytest.raises(
        ValueError, match=r"picks holds 5 images of yours, the first 00.png: name another folder .* --out .*picks-2"
    ):
        run(tmp_path, tmp_path / "picks", force=True)
    found = run(tmp_path, tmp_path / "results")
    assert len(found.source.ids) == (7 if earlier else 12)
    assert found.source.skipped == ({"picks": "results of supclust label: not looked at"} if earlier else {})


def test_a_file_that_goes_after_it_was_listed_is_left_out_with_the_reason(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    for i in range(8):
        draw(i, seed=i, side=48).save(tmp_path / "images" / f"{i}.png")
    find = sources.images.find

    def find_then_lose(folder, **options):
        found = find(folder, **options)
        (tmp_path / "images" / "3.png").unlink(missing_ok=True)
        draw(0, seed=9, side=48).save(tmp_path / "images" / "new.png")
        return found

    monkeypatch.setattr(sources.images, "find", find_then_lose)
    found = run(tmp_path / "images", tmp_path / "picks", budget=2)
    assert found.source.skipped == {"3.png": "it is no longer there"}
    assert len(found.source.ids) == 7


@pytest.mark.parametrize("options", [{"encoder": str(kept.shipped_weights("cifar10")), "minutes": None}, {"encoder": "simclr"}])
def test_each_image_is_read_once_and_features_stay_with_their_images_whatever_cannot_be_read(tmp_path, monkeypatch, options):
    (tmp_path / "images").mkdir()
    for i in range(9):
        draw(i % 8, seed=i, side=32).save(tmp_path / "images" / f"{i}.png")
    for i in (0, 4, 8):
        (tmp_path / "images" / f"{i}.png").write_bytes(f"torn {i}".encode())
    monkeypatch.setattr(sources.images, "LARGEST_ARRAY", 0)
    read, reader = [], sources.images.read
    monkeypatch.setattr(sources.images, "read", lambda file, *rest: read.append(file.name) or reader(file, *rest))
    found = run(tmp_path / "images", tmp_path / "picks", budget=2, **options).source
    assert sorted(read) == [f"{i}.png" for i in range(9)]
    assert sorted(found.skipped) == ["0.png", "4.png", "8.png"]
    encoder = simclr.load_weights(kept.shipped_weights("cifar10"))
    pixels = np.stack([np.asarray(draw(i, seed=i, side=32)).transpose(2, 0, 1) for i in (1, 2, 3, 5, 6, 7)])
    assert found.ids == tuple(f"{i}.png" for i in (1, 2, 3, 5, 6, 7))
    np.testing.assert_allclose(found.features, features.embed(encoder, pixels), atol=1e-4)
    shutil.rmtree(tmp_path / "picks")
    read.clear()
    with pytest.raises(ValueError, match="the budget is 10, but the pool has 9 images"):  # before anything takes long
        run(tmp_path / "images", tmp_path / "picks", budget=10, **options)
    assert read == []
    for file in (tmp_path / "images").iterdir():
        file.write_bytes(f"torn {file}".encode())
    with pytest.raises(ValueError, match=r"of 9 images in .*images, none can be read; of the first: "):
        run(tmp_path / "images", tmp_path / "picks", budget=2, **options)


def bursts(folder):
    """Six pictures, and of each three more that are smaller, darker or shifted."""
    folder.mkdir()
    for i in range(6):
        picture = draw(i, seed=i, side=96)
        picture.save(folder / f"{i}a.png")
        picture.resize((90, 90)).save(folder / f"{i}b.jpg", quality=90)
        picture.point(lambda value: 0.95 * value).save(folder / f"{i}c.png")
        picture.crop((1, 1, 96, 96)).save(folder / f"{i}d.jpg", quality=90)
    return folder


def test_one_of_each_group_of_near_duplicates_is_picked_in_all_rounds(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    images, first = bursts(tmp_path / "images"), tmp_path / "first"
    run(images, first, budget=3)
    assert "of 24 images, 18 repeat another one; the largest group has 4" in caplog.text
    assert picks(first)["group_size"].tolist() == [4, 4, 4]
    again = run(first, tmp_path / "second", budget=3)
    names = [*picks(first)["id"], *picks(tmp_path / "second")["id"]]
    assert sorted(name[0] for name in names) == list("012345")
    assert [pick.group_size for pick in again.picks] == [4, 4, 4]
    assert "one of 4 near-duplicates" in (first / "contact_sheet.html").read_text()
    about = (first / "about.md").read_text()
    assert "Near-duplicates: of 24 images, 18" in about
    assert "Seen by the encoder: each whole image, of several frames or pages the first, squeezed into a square" in about
    assert len(run(images, tmp_path / "all", budget=20, keep_duplicates=True).picks) == 20
    assert "--keep-duplicates" in (tmp_path / "all" / "about.md").read_text()


def test_images_that_the_encoder_does_not_tell_apart_are_told(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / "black").mkdir()
    for i in range(12):
        Image.new("RGB", (20 + i, 20), (0, 0, 0)).save(tmp_path / "black" / f"{i:02}.png")
    Image.effect_noise((20, 20), 99).save(tmp_path / "black" / "noise.png")
    run(tmp_path / "black", tmp_path / "picks", budget=4)
    assert "12 of 13 images have the same features: picks among them are arbitrary" in caplog.text
    assert "2 picks repeat other images: too few different ones are left" in caplog.text
    assert "Not told apart: 12 of 13 images" in (tmp_path / "picks" / "about.md").read_text()
    assert len(set(picks(tmp_path / "picks")["id"])) == 4


# --- labels that are known, and what is said of them ----------------------------------------------------------------------


def test_labels_of_earlier_rounds_are_kept_by_the_round(points, tmp_path, caplog):
    """The command of about.md, followed in each round with the labels of that round only."""
    run(points, tmp_path / "r1", classes=("group9",))
    first = answer(tmp_path / "r1", tmp_path / "labels.csv")
    run(tmp_path / "r1", tmp_path / "r2", labeled=(first,))
    second = answer(tmp_path / "r2", tmp_path / "labels.csv")
    caplog.clear()
    caplog.set_level(logging.INFO, logger="supclust")
    third = run(tmp_path / "r2", tmp_path / "r3", labeled=(second,), strategy="margin")
    assert {third.source.ids[point] for point in third.labels} == {*picks(tmp_path / "r1")["id"], *picks(tmp_path / "r2")["id"]}
    assert "group9" in third.classes
    assert "10 labels, 5 of them of earlier rounds; classes: group" in caplog.text
    assert "have no label" not in caplog.text
    both = run(
        tmp_path / "r2", tmp_path / "again", labeled=(answer(tmp_path / "r1", tmp_path / "more.csv"), second), strategy="margin"
    )
    assert both.labels == third.labels
    changed = answer(tmp_path / "r1", tmp_path / "more.csv", lambda name: "other")
    assert set(run(tmp_path / "r2", tmp_path / "changed", labeled=(changed,)).labels.values()) == {"other"}
    assert "5 labels of earlier rounds are replaced" in caplog.text
    shutil.rmtree(tmp_path / "r1")  # which is not needed any more
    assert len(run(tmp_path / "r3", tmp_path / "r4").labels) == 10


def test_a_list_of_all_images_leaves_those_without_a_label_free(started, tmp_path):
    points = started / "points.npz"
    ids = embeddings.read(points).ids
    rows = "".join(f"{name},{'cat' if k % 12 == 0 else ''}\n" for k, name in enumerate(ids))
    (tmp_path / "all.csv").write_text(f"id,label\n{rows}")
    tasks = [{"data": {"image": f"/data/local-files/?d=x/{name}"}, "annotations": []} for name in ids]
    (tmp_path / "all.json").write_text(json.dumps(tasks))
    found = run(points, tmp_path / "a", labeled=(tmp_path / "all.csv", tmp_path / "all.json"), budget=110)
    assert len(found.labels) == 10
    assert len(found.pool.labeled) == 10
    assert len(run(started / "first", tmp_path / "b", labeled=(tmp_path / "all.csv",), budget=100).picks) == 100


def test_a_file_without_labels_says_so(points, tmp_path, caplog):
    for text in (
        "id,label\ngroup0/00.png,\n",
        "id,label\ngroup0/00.png,NA\n",
        '[{"data": {"image": "group0/00.png"}, "annotations": []}]',
    ):
        caplog.clear()
        (tmp_path / "labels.csv").write_text(text)
        assert run(points, tmp_path / "picks", labeled=(tmp_path / "labels.csv",), force=True).pool.labeled.size == 0
        assert "labels.csv has no labels (it lists 1 image)" in caplog.text


def test_classes_are_counted_and_those_that_look_alike_are_named(points, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="supclust")
    labels = ["cat", "cat", "Cat", "NA", "tabby cat", "tabby_cat", "01", "1"]
    rows = "".join(f"group1/{k:02}.png,{label}\n" for k, label in enumerate(labels))
    (tmp_path / "labels.csv").write_text(f"id,label\n{rows}")
    run(points, tmp_path / "picks", labeled=(tmp_path / "labels.csv",))
    assert "7 labels; classes: cat 2, Cat 1, tabby cat 1, tabby_cat 1, 01 1, 1 1\n" in caplog.text
    assert "not taken for labels, unless --classes names them: 1 'NA'" in caplog.text
    assert "['cat', 'Cat'], ['tabby cat', 'tabby_cat'], ['01', '1']. Are they meant to be one?" in caplog.text
    assert run(points, tmp_path / "nfc", classes=("cafe\u0301",)).classes == ("caf\u00e9",)
    found = run(points, tmp_path / "named", labeled=(tmp_path / "labels.csv",), classes=("NA", "TABBYCAT"))
    assert "['tabby cat', 'tabby_cat', 'TABBYCAT']" in caplog.text
    assert list(found.labels.values()).count("NA") == 1


def test_one_task_that_cannot_be_used_is_listed_and_the_others_count(points, tmp_path, caplog):
    def task(name, *choices):
        result = [{"type": "choices", "from_name": "label", "value": {"choices": list(choices)}}]
        return {"data": {"image": name}, "annotations": [{"result": result}]}

    (tmp_path / "export.json").write_text(json.dumps([task("group0/00.png", "a", "b"), task("group0/01.png", "cat")]))
    (tmp_path / "tie.csv").write_text("id,label\ngroup0/02.png,a\ngroup0/02.png,b\n")
    found = run(points, tmp_path / "picks", labeled=(tmp_path / "export.json", tmp_path / "tie.csv"))
    assert list(found.labels.values()) == ["cat"]
    listed = {row["path"]: row["reason"] for row in csv.DictReader((tmp_path / "picks" / "skipped.csv").open(newline=""))}
    assert list(listed) == ["group0/00.png", "group0/02.png"]
    assert "task 1: the label is [{'choices': ['a', 'b']}]" in listed["group0/00.png"]
    assert "different labels: 'a' in" in listed["group0/02.png"]
    assert "2 images have no single label (see skipped.csv): group0/00.png: " in caplog.text


def test_labels_of_another_folder_with_the_same_names_are_not_taken(folder, tmp_path, caplog):
    names = sorted(path.name for path in (folder / "left").glob("[0-9]*"))
    for where, label in (("left", "mine"), ("right", "foreign")):
        rows = "".join(f"{where}/{name},{label}\n" for name in names)
        (tmp_path / f"{where}.csv").write_text(f"path,label\n{rows}")
    with pytest.raises(ValueError, match=r"none of the ids in .*right.csv is known: .* they are in other folders"):
        run(folder / "left", tmp_path / "picks", labeled=(tmp_path / "right.csv",))
    found = run(folder / "left", tmp_path / "picks", labeled=(tmp_path / "right.csv", tmp_path / "left.csv"), budget=1)
    assert set(found.labels.values()) == {"mine"}
    assert f"{len(names)} left out, in other folders than the images of that name: 'right/" in caplog.text
    (tmp_path / "stems.csv").write_text("".join(("image,label\n", *(f"{name[:2]},mine\n" for name in names))))
    again = run(folder / "left", tmp_path / "stems", labeled=(tmp_path / "stems.csv",), budget=1)
    assert again.labels == found.labels
    assert f"{tmp_path / 'stems.csv'}: {len(names)} found by a part of the name: " in caplog.text


# --- rounds at the same time ----------------------------------------------------------------------------------------------


def test_a_folder_takes_one_run_at_a_time(points, tmp_path):
    with (
        results.writing(Request(points, tmp_path / "picks")),
        pytest.raises(ValueError, match=r"another run writes into .*picks: name another folder"),
    ):
        run(points, tmp_path / "picks")
    assert not (tmp_path / "picks").exists()
    run(points, tmp_path / "picks")


def test_of_two_commands_into_one_folder_one_is_refused(points, tmp_path):
    command = [sys.executable, "-m", "supclust", "label", points, "--out", tmp_path / "two", "--budget"]
    both = [subprocess.Popen([*command, budget], stderr=subprocess.PIPE, text=True) for budget in ("5", "7")]
    said = [process.communicate()[1] for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 2], said
    assert len(picks(tmp_path / "two")) == (5, 7)[codes.index(0)]
    assert "two: name another folder" in said[codes.index(2)] or "holds results already" in said[codes.index(2)]
    assert not list((tmp_path / "two").glob(".*"))


def test_rounds_that_go_on_from_one_never_hand_out_the_same(points, tmp_path, caplog):
    run(points, tmp_path / "r1")
    outs = [tmp_path / "r2", tmp_path / "elsewhere" / "r2", tmp_path / "r3"]
    for source, out in zip((tmp_path / "r1", tmp_path / "r1", tmp_path / "r2"), outs, strict=True):
        run(source, out)
    names = [name for out in (tmp_path / "r1", *outs) for name in picks(out)["id"]]
    assert len(set(names)) == 20
    assert "10 images without a label, picked or skipped in some round: not picked again" in caplog.text
    before = list(picks(outs[1])["id"])
    shutil.rmtree(outs[1])  # it is done again, and the same comes out
    run(tmp_path / "r1", outs[1])
    assert not set(picks(outs[1])["id"]) & {*names} - {*before}
    with pytest.raises(ValueError, match="the pool has 120 images, of which 20 labelled or picked already: at most --budget 100"):
        run(tmp_path / "r1", tmp_path / "all", budget=115)


def test_an_interrupted_round_burns_no_picks(points, tmp_path, monkeypatch):
    run(points, tmp_path / "r1")
    with monkeypatch.context() as patch:
        patch.setattr(contact_sheet, "png", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "r1", tmp_path / "r2")
    assert not (tmp_path / "r1" / results.HANDED_OUT).exists()
    run(tmp_path / "r1", tmp_path / "r2")
    assert not (tmp_path / "r2" / ".part-results").exists()
    noted = json.loads((tmp_path / "r1" / results.HANDED_OUT).read_text())["value"]
    assert noted == dict.fromkeys(picks(tmp_path / "r2")["id"], "../r2")


def interrupt(sheet):
    raise KeyboardInterrupt


def test_a_first_round_that_takes_no_notes_is_told(points, tmp_path, monkeypatch, caplog):
    run(points, tmp_path / "r1")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / "r1")
    (tmp_path / "r1" / results.HANDED_OUT).mkdir()  # it cannot be written then, whoever runs this
    monkeypatch.setattr(labeling.kept, "read", lambda path: None)
    run(tmp_path / "r1", tmp_path / "r2")
    assert len(picks(tmp_path / "r2")) == 5
    assert f"other rounds may pick the same: {tmp_path / 'r1' / results.HANDED_OUT} cannot be written" in caplog.text


def test_first_rounds_that_picked_the_same_are_named(points, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="supclust")
    run(points, tmp_path / "a")
    assert "picked" not in caplog.text
    run(points, tmp_path / "b")
    assert "a picked 5 images of these, too: go on from there to get others" in caplog.text


def test_of_two_first_rounds_at_once_the_later_one_names_the_other(points, tmp_path, monkeypatch, caplog):
    def draw(sheet, real=contact_sheet.png):
        monkeypatch.setattr(contact_sheet, "png", real)
        run(points, tmp_path / "quick")
        assert "picked" not in caplog.text
        return real(sheet)

    caplog.set_level(logging.INFO, logger="supclust")
    monkeypatch.setattr(contact_sheet, "png", draw)
    run(points, tmp_path / "slow")
    assert "quick picked 5 images of these, too: go on from there to get others" in caplog.text


def test_embeddings_that_were_changed_since_are_named(points, tmp_path):
    run(points, tmp_path / "r1")
    embeddings.write(points, Embeddings(make_blobs(2, 4, 8), tuple("abcdefgh")))
    with pytest.raises(ValueError, match=r"points.npz is not what the round in .*r1 was made from: it has no 'group"):
        run(tmp_path / "r1", tmp_path / "r2")


def test_a_column_of_ids_that_was_named_stays_named(tmp_path):
    pytest.importorskip("pyarrow")
    features = make_blobs(3, 10, 4)
    names = [f"p{k}" for k in range(30)]
    pd.DataFrame({"vector": list(features), "id": range(30), "photo": names}).to_parquet(tmp_path / "e.parquet")
    run(tmp_path / "e.parquet", tmp_path / "r1", id_column="photo")
    assert set(picks(tmp_path / "r1")["id"]) <= set(names)
    (tmp_path / "labels.csv").write_text("Photo,kind\n" + "".join(f"{name},cat\n" for name in picks(tmp_path / "r1")["id"]))
    found = run(tmp_path / "r1", tmp_path / "r2", labeled=(tmp_path / "labels.csv",), id_column="photo", label_column="kind")
    assert len(found.labels) == 5


def test_picks_come_back_from_a_spreadsheet_that_leaves_out_empty_fields(points, tmp_path):
    run(points, tmp_path / "r1", budget=50)
    rows = list(csv.reader((tmp_path / "r1" / "picks.csv").open(newline="")))
    filled = [rows[0], *([row[0], "cat", *row[2:]] for row in rows[1:21]), *(row[:1] for row in rows[21:])]
    (tmp_path / "excel.csv").write_text("\r\n".join(";".join(row) for row in filled))
    assert len(run(tmp_path / "r1", tmp_path / "r2", labeled=(tmp_path / "excel.csv",)).labels) == 20


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
        ({"budget": 0}, "budget must be a whole number of at least 1, not 0"),
        ({"budget": 121}, "the budget is 121, but the pool has 120 images: at most --budget 120"),
        ({"strategy": "supclus"}, "unknown strategy 'supclus'; known: random"),
        ({"strategy": "class-balanced"}, "class-balanced sees labels that nobody has"),
        ({"strategy": "supclust:top=1"}, "does not name settings"),
        ({"source": "nowhere"}, "there is no .*nowhere: name a folder of images, or a file of embeddings"),
        ({"source": "labels.csv"}, r"labels.csv must end in .npy, .npz or .parquet"),
        ({"source": "bare"}, r"no image in .*bare \(1 file is none, the first a.txt: not an image, by its name\). Looked for"),
        ({"source": "broken", "budget": 1}, r"of 1 image in .*broken, none can be read; of the first: an empty file"),
        ({"out": "labels.csv"}, "cannot write into .*labels.csv: name another folder for the results"),
        ({"source": "bare", "out": "bare"}, "the results cannot go into .*bare itself"),
        ({"pictures": "nowhere"}, "there is no folder of images .*nowhere"),
        ({"labeled": ["nowhere.csv"]}, "nowhere.csv"),
        (
            {"labeled": ["other.csv"]},
            r"other.csv is known: the first is 'x.png', and ids here look like 'group0/",
        ),
        ({"labeled": ["columns.csv"]}, r"columns.csv.*column"),
        ({"seed": -1}, "seed must be a whole number of at least 0, not -1"),
        ({"classes": ("a", " b")}, "names of classes"),
        ({"strategy": "supclust:temperature=abc"}, "'abc' is not a valid value, such as 0.05, True or None"),
        ({"strategy": "supclust:top_fraction='x'"}, "top_fraction must lie in"),
        ({"source": "nan.npy"}, r"nan.npy: features are NaN, infinite or too large for float32 in 1 row\(s\): 3"),
        ({"source": "one.png"}, "one.png is one image: name the folder that holds the images"),
        ({"out": "link"}, "cannot write into .*link: name another folder"),
        ({"out": "labels.csv/picks"}, "cannot write into .*labels.csv/picks: name another folder"),
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
    before = sorted(tmp_path.rglob("*"))
    for name in ("source", "out", "pictures"):
        options = options | ({name: tmp_path / options[name]} if name in options else {})
    options |= {"labeled": tuple(tmp_path / name for name in options.get("labeled", ()))}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(**{"source": points, "out": tmp_path / "picks"} | options)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_budget_counts_what_is_left(started, tmp_path):
    options = {"labeled": (started / "labels.csv",)}
    with pytest.raises(ValueError, match="the pool has 120 images, of which 5 labelled or picked already: at most --budget 115"):
        run(started / "points.npz", tmp_path / "picks", budget=116, **options)
    assert len(run(started / "points.npz", tmp_path / "picks", budget=115, **options).picks) == 115


def test_unknown_ids_are_counted_listed_and_left_out(points, tmp_path, caplog):
    (tmp_path / "labels.csv").write_text("id,label\ngroup0/00.png,a\ngone.png,b\n")
    found = run(points, tmp_path / "picks", labeled=(tmp_path / "labels.csv",))
    assert list(found.labels.values()) == ["a"]
    assert "labels.csv: 1 left out, not among the images: 'gone.png'" in caplog.text


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


@pytest.mark.parametrize(("old", "new"), [(b',"",', b',"caf\xe9",'), (b',"",', b',"","",')])
def test_force_overwrites_no_picks_that_cannot_be_read(folder, tmp_path, old, new):
    """As a spreadsheet may leave them in another encoding, or somebody with a field too many."""
    run(folder, tmp_path / "out")
    file = tmp_path / "out" / "picks.csv"
    file.write_bytes(file.read_bytes().replace(old, new, 1))
    with pytest.raises(ValueError, match=r"It may hold labels that somebody typed: move it away"):
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


@pytest.mark.parametrize("name", ["a b/%41#?é.png", "javascript:alert(1).png", "\\x.png", '".png'])
def test_the_sheet_links_to_the_image_whatever_its_name_and_drive(tmp_path, monkeypatch, name):
    file, out = tmp_path / "images" / name, tmp_path / "out"
    link = results._link(file, out)
    assert not set(link) & set(':#?"\\ ')
    assert Path(os.path.normpath(out / unquote(link))) == file
    monkeypatch.setattr(os.path, "relpath", lambda *_: (_ for _ in ()).throw(ValueError("path is on mount 'D:'")))
    assert results.relative(file, out) == file.as_posix()
    assert results._link(file, out) == file.as_uri()


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
    assert found.picks[0].why.endswith(reason)


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
    assert "a path must not be empty: is a shell variable unset?" in capsys.readouterr().err


def test_labels_may_be_named_one_by_one(points, tmp_path, capsys):
    labels = answer(first(points, tmp_path), tmp_path / "labels.csv")
    (tmp_path / "more.csv").write_text("id,label\ngroup0/00.png,group0\n")
    line = ["label", points, "--budget", "3", "--out", tmp_path / "picks", "--labeled", labels, "--labeled", tmp_path / "more.csv"]
    assert __main__.main(list(map(str, line))) == 0
    assert len(json.loads((tmp_path / "picks" / MARKER).read_text())["asked"]["labeled"]) == 2


@pytest.mark.parametrize(
    "line",
    [
        ["--labeled", "labels.csv", "first"],
        ["--labeled", "labels.csv", "--classes", "a", "b", "first"],
        ["--classes", "a", "b", "first", "--labeled", "labels.csv"],
        ["first", "--labeled", "labels.csv", "--classes", "a", "b"],
    ],
)
def test_images_may_be_named_after_labels_and_classes(points, tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    answer(first(points, tmp_path), tmp_path / "labels.csv")
    assert __main__.main(["label", "--out", "next", *line]) == 0
    asked = json.loads((tmp_path / "next" / MARKER).read_text())["asked"]
    assert (asked["source"], list(asked["labeled"])) == ("../first", ["labels.csv"])


def test_files_in_the_place_of_a_folder_are_told(tmp_path, capsys):
    for line in (["photos/1.png", "photos/2.png"], [tmp_path, "b"], [], ["--labeled", "x.csv"]):
        with pytest.raises(SystemExit) as stopped:
            __main__.main(["label", *map(str, line)])
        assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "IMAGES is one folder, and not 2 names, as in: supclust label photos\n" in said
    assert f"supclust label {tmp_path}\n" in said
    assert said.count("required: IMAGES (name them first") == 2


@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        (OSError(27, "File too large"), "supclust label: File too large", 2),
        (OSError("libtorch.so: failed to map segment from shared object"), "supclust label: libtorch.so: failed to map", 2),
        (MemoryError(), "supclust label: there is not enough memory", 1),
        (
            ImportError("libc10.so: failed to map segment from shared object"),
            "supclust label: there is not enough memory (libc10",
            1,
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "supclust label: there is not enough memory (Default", 1),
        (RuntimeError("can't start new thread"), "supclust label: there is not enough memory (can't start", 1),
    ],
)
def test_what_the_system_refuses_ends_in_a_line(points, tmp_path, monkeypatch, capsys, error, message, code):
    def fail(sheet):
        raise error

    monkeypatch.setattr(contact_sheet, "png", fail)
    assert __main__.main(["label", str(points), "--out", str(tmp_path / "picks")]) == code
    assert capsys.readouterr().err.splitlines()[-1].startswith(message)
    assert not (tmp_path / "picks").exists()


def test_without_docstrings_everything_works(points, tmp_path):
    command = [sys.executable, "-OO", "-m", "supclust", "label", points, "--out", tmp_path / "picks", "--budget", "3", "--explain"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Picked by typiclust (auto" in done.stdout
    assert "its rule is in docs" in done.stdout


def test_what_is_printed_cannot_play_tricks_on_a_terminal(tmp_path):
    ids = np.array([f"\x1b[31m{i}\n日本\u202e" for i in range(12)])
    np.savez(tmp_path / "points.npz", features=make_blobs(3, 4, 4), ids=ids)
    labels = [{"id": name, "label": f"\x1b]0;{k % 2}\x07"} for k, name in enumerate(ids[:4])]
    results.write_csv(tmp_path / "labels.csv", labels)
    command = [sys.executable, "-m", "supclust", "label", "points.npz", "--budget", "3", "--explain", "--labeled", "labels.csv"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert not {*b"\x1b\x07"} & {*done.stdout, *done.stderr}
    assert b"\n4 labels; classes: " + rb"\x1b]0;0\x07 2, " in b"\n" + done.stderr  # the whole line, without the logger's name
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
    record = json.loads((out / MARKER).read_text())
    names = [
        "embeddings",
        "folder",
        "source",
        "copies",
        "earlier",
        "picks",
        "labels",
        "classes",
        "first",
        "known",
        "skipped",
        "asked",
    ]
    wrong = [{name: value} for name in names for value in (5, [5], [[1]])]
    wrong += [{"folder": []}, {"asked": {"pictures": False}}, {"first": "\0"}, {"embeddings": None}]
    for content in ("", "{", "[]", '{"picks": []}', "\x00", "[" * 100_000, *(json.dumps(record | one) for one in wrong)):
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
    assert not (tmp_path / "picks").exists()


KILLED = """
import os, signal, sys
from itertools import count
from pathlib import Path
from supclust.label import labeling
number, replace = count(1), os.replace
os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL) if next(number) == int(sys.argv[3]) else replace(*paths)
labeling.run(labeling.Request(Path(sys.argv[1]), Path(sys.argv[2]), budget=5))
"""


@pytest.mark.parametrize("last", [2, 5, 6, 9])
def test_after_a_kill_the_same_command_works(points, tmp_path, last):
    """Four files are written; then five are moved, the record last."""
    out = tmp_path / "picks"
    killed = subprocess.run([sys.executable, "-c", KILLED, points, out, str(last)])
    assert killed.returncode == -9
    assert not (out / MARKER).exists()
    run(points, out)
    assert sorted(file.name for file in out.iterdir()) == sorted(
        ["picks.csv", "about.md", "contact_sheet.html", "contact_sheet.png", MARKER]
    )


def test_a_kill_does_not_make_results_of_others_ours(points, tmp_path):
    out = tmp_path / "picks"
    run(points, out)
    (out / results.PART).mkdir()  # of a run that was killed before it looked
    with pytest.raises(ValueError, match="holds results already"):
        run(points, out, budget=7)
    assert len(picks(out)) == 5


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


LOSING = """
import os, sys
from pathlib import Path
from supclust.label import labeling, results
os.geteuid() or os.setuid(65534)
out = Path(sys.argv[1])
try:
    with results.writing(labeling.Request(out.parent / "images", out)) as folder:
        folder.parent.chmod(0o500)
        (folder / "picks.csv").touch()
        raise OSError("whatever happens then")
except OSError as error:
    print(error)
folder.parent.chmod(0o700)
"""


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has other permissions")
def test_a_folder_that_may_no_longer_be_written_is_not_tidied_for_ever(tmp_path):
    for parent in tmp_path.parents:
        if not parent.stat().st_mode & 0o001:  # pytest's own folders
            parent.chmod(0o755)
    tmp_path.chmod(0o777)
    done = subprocess.run([sys.executable, "-c", LOSING, tmp_path / "out"], capture_output=True, text=True)
    assert done.stdout == "whatever happens then\n", done.stderr[-500:]
