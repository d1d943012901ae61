"""Suggested labels: what they are, how sure, and what becomes of their files."""

import json

import numpy as np
import pandas as pd
import pytest
from torchvision.datasets import ImageFolder

from supclust import __main__, learners
from supclust.label import annotations, embeddings, labeling, results, suggesting
from supclust.label.embeddings import Embeddings
from supclust.pool import Pool
from tests.conftest import make_blobs
from tests.drawn_images import draw

NAMES = ["cat", 'a, "b"', "<b>&amp;", "🦋", "שלום", "=1+1"]  # of the classes of `round_`


def pool_of(n_classes=3, size=30, spread=0.25, seed=0):
    """Blobs that overlap, and their classes."""
    return Pool(make_blobs(n_classes, size, 16, seed=seed, spread=spread)), np.repeat(np.arange(n_classes), size)


def some(classes, count, names="abc", seed=0):
    """Labels of random points."""
    return {int(point): names[classes[point]] for point in np.random.default_rng(seed).permutation(len(classes))[:count]}


@pytest.fixture
def round_(tmp_path):
    """A round of drawn images in folders by class, its folder, and a file of the labels of half of them."""
    for i in range(36):
        path = tmp_path / "images" / f"{i % 6}" / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(i % 6, seed=i, side=32).save(path)
    options = labeling.EncoderOptions("simclr", minutes=0)
    labeling.run(labeling.Request(tmp_path / "images", tmp_path / "round", budget=5, encoder=options))
    labels = [{"id": f"{i % 6}/{i:02}.png", "label": NAMES[i % 6]} for i in range(18)]
    results.write_csv(tmp_path / "labels.csv", labels)
    return tmp_path / "round", tmp_path / "labels.csv"


def command(round_, *options, capsys=None):
    folder, labels = round_
    code = __main__.main(["suggest", str(folder), "--labeled", str(labels), *map(str, options)])
    return code if capsys is None else (code, capsys.readouterr().err)


def table(folder):
    return pd.read_csv(folder / "suggestions" / "suggestions.csv", dtype=str, keep_default_na=False)


# --- what is suggested ----------------------------------------------------------------------------------------------------


def test_suggestions_are_those_of_the_slow_way():
    pool, classes = pool_of()
    labels = some(classes, 24)
    found = suggesting.suggest(pool, labels)
    known = sorted(labels)
    assert found.table.index.tolist() == [point for point in range(len(classes)) if point not in labels]
    head = learners.fit_linear_head(pool.points[known], np.array(["abc".index(labels[point]) for point in known]), 3)
    clusters = pool.clusters(9)
    for point, row in found.table.iterrows():
        logits = (head.weights @ pool.points[point] + head.biases) / found.temperature
        probabilities = np.exp(logits) / np.exp(logits).sum()
        assert row["label"] == "abc"[probabilities.argmax()]
        assert row["confidence"] == pytest.approx(probabilities.max(), abs=1e-5)
        nearest = max(known, key=lambda other: pool.points[other] @ pool.points[point])
        assert row["nearest"] == labels[nearest]
        assert row["agrees"] == (row["label"] == row["nearest"])
        assert row["cluster"] == clusters.assignments[point]


def test_the_temperature_is_the_best_of_a_grid():
    pool, classes = pool_of(spread=0.6)
    labels = some(classes, 45)
    known = np.array(sorted(labels))
    points, numbers, log_p = pool.points[known], classes[known], np.empty((45, 3))
    fold = np.empty(45, dtype=int)
    for place, row in enumerate(sorted(range(45), key=lambda row: (numbers[row], row))):
        fold[row] = place % 10
    for row in range(45):
        others = fold != fold[row]
        log_p[row] = learners.fit_linear_head(points[others], numbers[others], 3).log_probabilities(points[[row]])[0]

    def loss(temperature):
        p = np.exp(log_p / temperature) / np.exp(log_p / temperature).sum(axis=1, keepdims=True)
        target = np.full(p.shape, 1 / 47 / 3)
        target[np.arange(45), numbers] += 46 / 47
        return -(target * np.log(p)).sum()

    best = min(np.exp(np.linspace(-3, 3, 2001)), key=loss)
    assert suggesting.suggest(pool, labels).temperature == pytest.approx(best, rel=5e-3)


def test_labels_that_are_all_found_again_leave_a_doubt():
    pool, classes = pool_of(spread=0.01)
    assert suggesting.suggest(pool, some(classes, 20)).table["confidence"].max() < 0.999


@pytest.mark.parametrize("labels", [{0: "a", 30: "b", 60: "c"}, dict.fromkeys(range(20), "a") | {30: "b"}])
def test_too_few_labels_are_not_calibrated(labels):
    pool, _ = pool_of()
    found = suggesting.suggest(pool, labels)
    assert found.temperature is None
    assert set(found.table["label"]) <= set(labels.values())


def test_a_class_with_one_label_may_be_suggested():
    pool, classes = pool_of()
    found = suggesting.suggest(pool, some(classes[:60], 20) | {60: "c"})
    assert found.temperature is not None
    assert (found.table.loc[61:, "label"] == "c").mean() > 0.9


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({}, "there are no labels"),
        ({0: "a", 1: "a"}, "all labels are .a.: suggestions need labels of two classes"),
        ({point: "ab"[point % 2] for point in range(90)}, "all 90 images have labels: there is nothing left"),
    ],
)
def test_labels_that_suggest_nothing_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        suggesting.suggest(pool_of()[0], labels)


# --- the files ------------------------------------------------------------------------------------------------------------


def test_the_command_writes_a_table_and_predictions(round_, capsys, log_level):
    assert command(round_) == 0
    folder, rows = round_[0] / "suggestions", table(round_[0])
    assert capsys.readouterr().out == f"{folder / 'suggestions.csv'}\n"
    assert list(rows) == ["id", "label", "suggestion", "confidence", "nearest", "agrees", "cluster", "path"]
    assert sorted(rows["id"]) == sorted(f"{i % 6}/{i:02}.png" for i in range(18, 36))
    assert rows["confidence"].astype(float).is_monotonic_increasing
    tasks = json.loads((folder / "label_studio.json").read_text())
    assert [task["data"]["filename"] for task in tasks] == rows["id"].tolist()
    assert [task["data"]["image"] for task in tasks] == [f"/data/local-files/?d=images/{name}" for name in rows["id"]]
    for task, suggestion, confidence in zip(tasks, map(annotations.unsafe, rows["suggestion"]), rows["confidence"], strict=True):
        (prediction,) = task["predictions"]
        choice = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [suggestion]}}
        assert prediction == {"model_version": "supclust", "score": float(confidence), "result": [choice]}
        assert suggestion in NAMES
    interface = (folder / "label_studio.xml").read_text()
    assert interface.count("<Choice ") == 6


@pytest.mark.parametrize("name", ["suggestions.csv", "label_studio.json"])
def test_suggestions_are_not_taken_for_labels(round_, tmp_path, caplog, name, log_level):
    command(round_)
    back = labeling.Request(round_[0], tmp_path / "next", budget=18, labeled=(round_[0] / "suggestions" / name,))
    found = labeling.run(back)  # nor do they keep an image from being picked
    assert not found.labels
    assert f"{name} has no labels (it lists 18 images)" in caplog.text


def test_labels_that_somebody_fills_in_count(round_, tmp_path, log_level):
    command(round_)
    rows = table(round_[0])
    rows.loc[:3, "label"] = rows["suggestion"]
    rows.to_csv(tmp_path / "checked.csv", index=False)
    found = labeling.run(labeling.Request(round_[0], tmp_path / "next", budget=5, labeled=(tmp_path / "checked.csv",)))
    expected = dict(zip(rows["id"][:4], map(annotations.unsafe, rows["suggestion"][:4]), strict=True))
    assert {found.source.ids[point]: label for point, label in found.labels.items()} == expected


def test_labels_that_the_round_knows_count(round_, tmp_path, log_level):
    labeling.run(labeling.Request(round_[0], tmp_path / "second", budget=5, labeled=round_[1:]))
    assert __main__.main(["suggest", str(tmp_path / "second")]) == 0
    assert len(table(tmp_path / "second")) == 18


def test_embeddings_get_suggestions_without_tasks(tmp_path, log_level):
    pool, classes = pool_of()
    embeddings.write(tmp_path / "points.npz", Embeddings(pool.features, tuple(f"x{i}" for i in range(90))))
    results.write_csv(tmp_path / "labels.csv", [{"id": f"x{i}", "label": classes[i]} for i in range(0, 90, 4)])
    assert __main__.main(["suggest", "--labeled", str(tmp_path / "labels.csv"), str(tmp_path / "points.npz")]) == 0
    assert sorted(file.name for file in (tmp_path / "suggestions").iterdir()) == ["suggestions.csv", "suggestions.html"]
    assert set(table(tmp_path)["path"]) == {""}


def test_images_that_vanished_keep_their_row_but_get_no_task(round_, tmp_path, caplog, log_level):
    (tmp_path / "images" / "5" / "35.png").unlink()
    command(round_)
    assert "1 image is no longer where it was: label_studio.json has no tasks for such images" in caplog.text
    assert len(table(round_[0])) == 18
    assert len(json.loads((round_[0] / "suggestions" / "label_studio.json").read_text())) == 17


def test_results_are_overwritten_with_force_only(round_, capsys, log_level):
    assert command(round_) == 0
    code, error = command(round_, capsys=capsys)
    assert code == 2
    assert "holds results already (suggestions.csv, label_studio.json, label_studio.xml, suggestions.html)" in error
    assert command(round_, "--force") == 0
    exported = round_[0] / "suggestions" / "label_studio.json"
    code, error = command(round_, exported, "--force", capsys=capsys)
    assert "label_studio.json is read from and would be overwritten" in error
    table(round_[0]).assign(label="cat").to_csv(round_[0] / "suggestions" / "suggestions.csv", index=False)
    code, error = command(round_, "--force", capsys=capsys)
    assert "suggestions.csv holds 18 labels that somebody typed: move it away" in error


def test_after_a_kill_while_results_were_moved_the_same_command_works(round_):
    assert command(round_) == 0
    (round_[0] / "suggestions" / "suggestions.html").unlink()
    (round_[0] / "suggestions" / results.PART).mkdir()
    assert command(round_) == 0
    assert not (round_[0] / "suggestions" / results.PART).exists()


def test_what_cannot_be_used_is_refused_with_a_sentence(round_, tmp_path, capsys, log_level):
    def refused(*arguments):
        assert __main__.main(["suggest", *map(str, arguments)]) == 2
        return capsys.readouterr().err

    assert "there are no labels: suggestions need" in refused(round_[0])
    assert "is not the folder of a round: supclust label" in refused(tmp_path / "images")
    assert "the results cannot go into" in refused(round_[0], "--labeled", round_[1], "--out", round_[0])
    (tmp_path / "other.csv").write_text("id,label\nnobody.png,cat\n")
    assert "none of the ids in" in refused(round_[0], "--labeled", tmp_path / "other.csv")
    (round_[0] / "embeddings.npz").unlink()
    assert "the embeddings of the round in" in refused(round_[0], "--labeled", round_[1])
    assert not (round_[0] / "suggestions").exists()


def test_labels_that_cannot_be_used_are_listed(round_, tmp_path, log_level):
    (tmp_path / "twice.csv").write_text("id,label\n5/35.png,cat\n5/35.png,dog\n")
    command(round_, "--labeled", tmp_path / "twice.csv")
    assert pd.read_csv(round_[0] / "suggestions" / "skipped.csv")["path"].tolist() == ["5/35.png"]


@pytest.mark.parametrize("least", [None, 0.5, 0])
def test_labels_and_sure_suggestions_are_copied_into_a_folder_each(round_, tmp_path, least):
    sure = [] if least is None else ["--min-confidence", least]
    assert command(round_, "--copy", tmp_path / "copies", *sure) == 0
    copies, rows = pd.read_csv(tmp_path / "copies" / "labels.csv", dtype=str, keep_default_na=False), table(round_[0])
    rows = rows[rows["confidence"].astype(float) >= (2 if least is None else least)]
    expected = [(f"{i % 6}/{i:02}.png", annotations.safe(NAMES[i % 6])) for i in range(18)]
    sure = [(name, "", suggestion) for name, suggestion in zip(rows["id"], rows["suggestion"], strict=True)]
    found = zip(copies["id"], copies["label"], copies["suggestion"], strict=True)
    assert sorted(found) == sorted([*sure, *((name, label, "") for name, label in expected)])
    assert len(ImageFolder(tmp_path / "copies")) == len(copies) == {None: 18, 0: 36}.get(least, len(copies))


def test_copies_among_the_images_are_refused_at_once(round_, tmp_path, capsys):
    code, told = command(round_, "--copy", tmp_path / "images" / "copies", capsys=capsys)
    assert (code, "would count as images of" in told, (round_[0] / "suggestions").exists()) == (2, True, False)


@pytest.mark.parametrize(
    "options", [["--min-confidence", "0.9"], ["--copy", "x", "--min-confidence", "90"], ["--copy", "x", "--min-confidence", "nan"]]
)
def test_a_confidence_that_is_none_is_refused(round_, capsys, options):
    code, told = command(round_, *options, capsys=capsys)
    assert (code, "--min-confidence goes with --copy, and is a number from 0 to 1" in told) == (2, True)
