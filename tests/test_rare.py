"""Picks for classes that have few labels, and what a round says of its labels."""

import itertools
import json
import logging
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist, pdist

from supclust import __main__
from supclust.images.files import MARKER
from supclust.label import embeddings, rare, results
from supclust.label.embeddings import Embeddings
from supclust.pool import Pool
from tests.conftest import make_blobs
from tests.test_labeling import answer, picks, run, write_points


def make_pool(candidates=None):
    logs = np.log(np.random.default_rng(0).dirichlet(np.ones(4), size=60))
    model = SimpleNamespace(log_probabilities=lambda: logs)
    return Pool(make_blobs(4, 15, 8, spread=0.5), np.arange(0, 60, 15), model=model, candidates=candidates), logs


@pytest.mark.parametrize(("wanted", "most"), [(5, 20), (5, 7), (3, 20), (10**9, 12), (1, 20)])
def test_classes_take_turns_the_rarest_first_until_each_has_enough(wanted, most):
    pool, logs = make_pool()
    counts, expected = np.array([4, 2, 7, 1]), []
    have, apart = counts.copy(), pdist(pool.points[pool.labeled]).min()

    def left():
        done = [*pool.labeled, *(point for point, _ in expected)]
        return np.flatnonzero(cdist(pool.points, pool.points[done]).min(axis=1) >= apart)

    while len(expected) < most and (have < wanted).any():
        for number in np.argsort(counts):
            if have[number] < wanted and len(expected) < most and len(left()):
                expected.append((max(left(), key=lambda point: logs[point, number]), number))
                have[number] += 1
        if not len(left()):
            break
    assert list(rare.likeliest(pool, counts, wanted, most).items()) == expected


def test_only_candidates_are_picked():
    pool, _ = make_pool(candidates=np.arange(5, 12))
    assert set(rare.likeliest(pool, np.array([1, 1, 2, 3]), 50, 6)) <= set(range(5, 12))


@pytest.fixture
def labelled(tmp_path):
    """Embeddings in six groups, and labels: eight of group 0, two of group 1 and one of group 2."""
    names = [f"group0/{i:02}.png" for i in range(8)] + ["group1/00.png", "group1/05.png", "group2/03.png"]
    results.write_csv(tmp_path / "labels.csv", [{"id": name, "label": name.split("/")[0]} for name in names])
    return write_points(tmp_path / "points.npz"), tmp_path / "labels.csv"


def test_half_of_the_picks_go_to_classes_of_few_labels_and_say_so(labelled, tmp_path, capsys):
    points, labels = labelled
    line = ["label", str(points), "--labeled", str(labels), "--budget", "8", "--per-class-min", "4", "--explain"]
    assert __main__.main([*line, "--out", str(tmp_path / "out")]) == 0
    table, about = picks(tmp_path / "out"), (tmp_path / "out" / "about.md").read_text()
    assert [name.split("/")[0] for name in table["id"][:4]] == ["group2", "group1", "group2", "group1"]
    why = "Picked as the linear layer finds it likely to be 'group2', of which there are few labels (1)."
    assert capsys.readouterr().out.count(why) == 2
    assert "uherding (auto takes it once labels show two classes) after 4 picks for classes of fewer than 4 labels" in about
    assert "after 4 picks for classes" in json.loads((tmp_path / "out" / MARKER).read_text())["strategy"]
    assert "Labelled before: 11, of 3 classes; the rarest: group2 1, group1 2, group0 8" in about
    assert "--per-class-min 4" in about  # in the command that goes on


def test_one_of_a_group_of_near_duplicates_is_picked(labelled, tmp_path):
    points, labels = labelled
    found = embeddings.read(points)
    twice = [f"copy-{name}" for name in found.ids]
    embeddings.write(
        points, Embeddings(np.repeat(found.features, 2, axis=0), tuple(itertools.chain(*zip(found.ids, twice, strict=True))))
    )
    run(points, tmp_path / "out", budget=20, labeled=(labels,), per_class_min=20)
    names = picks(tmp_path / "out")["id"].str.removeprefix("copy-")
    assert names.is_unique
    assert not set(names) & set(pd.read_csv(labels)["id"])


@pytest.mark.parametrize("strategy", ["auto", "random", "supclust", "margin"])
def test_the_rest_goes_to_the_strategy(labelled, tmp_path, strategy):
    points, labels = labelled
    found = run(points, tmp_path / "out", budget=9, strategy=strategy, labeled=(labels,), per_class_min=10**9)
    assert len({pick.point for pick in found.picks}) == 9
    assert 0 < len(found.wanted) <= 4
    assert [pick.point for pick in found.picks][: len(found.wanted)] == list(found.wanted)


def test_classes_of_enough_labels_get_no_picks_of_their_own(labelled, tmp_path):
    points, labels = labelled
    found = run(points, tmp_path / "with", strategy="auto", labeled=(labels,), per_class_min=1)
    run(points, tmp_path / "without", strategy="auto", labeled=(labels,))
    assert not found.wanted
    assert list(picks(tmp_path / "with")["id"]) == list(picks(tmp_path / "without")["id"])


@pytest.mark.parametrize("label", [None, "one"])
def test_without_two_classes_the_strategy_picks_alone(labelled, tmp_path, caplog, label):
    points, labels = labelled
    results.write_csv(labels, [{"id": "group0/00.png", "label": label}] if label else [{"id": "group0/00.png", "label": ""}])
    found = run(points, tmp_path / "out", labeled=(labels,), per_class_min=5)
    assert not found.wanted
    assert "picks for classes with few labels begin once labels show two classes" in caplog.text


def test_classes_without_a_label_are_named(labelled, tmp_path, caplog):
    points, labels = labelled
    run(points, tmp_path / "out", labeled=(labels,), per_class_min=5, classes=("group0", "group4", "group5"))
    assert "nothing can be picked for classes without any label: 'group4', 'group5'" in caplog.text


@pytest.mark.parametrize("number", [0, -3])
def test_a_class_cannot_have_fewer_labels_than_one(labelled, tmp_path, number, capsys):
    assert __main__.main(["label", str(labelled[0]), "--per-class-min", str(number), "--out", str(tmp_path / "out")]) == 2
    assert f"must be a whole number of at least 1, not {number}" in capsys.readouterr().err


def test_after_rounds_the_page_says_what_labels_brought(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    before, labels = write_points(tmp_path / "points.npz"), ()
    for number in range(1, 7):
        out = tmp_path / f"round-{number}"
        run(before, out, strategy="auto", labeled=labels)
        before, labels = out, (answer(out, tmp_path / f"{number}.csv"),)
    known = json.loads((out / MARKER).read_text())["known"]
    assert [labels for labels, _, _ in known] == [5, 10, 15, 20, 25]
    for file in ("about.md", "contact_sheet.html"):
        text = (out / file).read_text()
        assert "of them the first of a class; predictions from earlier labels get 0% wrong" in text
        assert "in cross-validation on 25 labels; by the curve of PALM, 5 more bring" in text
    assert "Accuracy: " in caplog.text
    labels = pd.concat(pd.read_csv(tmp_path / f"{number}.csv") for number in range(1, 6))
    labels.to_csv(tmp_path / "all.csv", index=False)
    run(tmp_path / "points.npz", tmp_path / "anew", labeled=(tmp_path / "all.csv",))  # all labels at once: one round
    about = (tmp_path / "anew" / "about.md").read_text()
    assert "in cross-validation on 25 labels\n" in about
    assert "New labels" not in about


def test_rounds_of_earlier_versions_go_on(tmp_path):
    run(write_points(tmp_path / "points.npz"), tmp_path / "first")
    record = json.loads((tmp_path / "first" / MARKER).read_text())
    del record["known"]
    (tmp_path / "first" / MARKER).write_text(json.dumps(record))
    found = run(tmp_path / "first", tmp_path / "second", labeled=(answer(tmp_path / "first", tmp_path / "labels.csv"),))
    assert [known.labels for known in found.source.known] == [5]
    assert len(found.picks) == 5
