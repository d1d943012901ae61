import dataclasses

import numpy as np
import pandas as pd
import pytest

from supclust import features, profiles, strategies, sweep
from supclust.studies import sensitivity
from tests.conftest import make_features

PROFILE = profiles.get("quick", seeds=2, rounds=2, fsl=None, encoders=("digits@1", "digits"))


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty output folder in which the features of both encoders are clear blobs."""
    monkeypatch.setenv("SUPCLUST_OUT", str(tmp_path))
    for name, epochs, spread in (("digits@1", 1, 1.5), ("digits", PROFILE.simclr.epochs, 0.7)):
        config = dataclasses.asdict(profiles.replace(PROFILE.simclr, epochs=epochs))
        kept = dataclasses.replace(make_features(spread=spread), made_by={"dataset": "digits", "config": config}, checksum="")
        features.save(tmp_path / "artefacts" / "quick" / name / "features.safetensors", kept)
    return tmp_path


@pytest.mark.parametrize("setting", sensitivity.STUDY)
def test_the_default_is_among_the_values_and_every_name_is_a_strategy(setting):
    strategy, values = sensitivity.STUDY[setting]
    assert sensitivity.DEFAULTS[setting] in values
    names = [sensitivity.NAMES[setting][value] for value in values]
    assert names.count(strategy) == 1
    for name, value in zip(names, values, strict=True):
        assert strategies.parse(name) == (strategy, {} if name == strategy else {setting: value})


def test_the_default_differs_by_nothing_from_itself(workplace):
    table = sensitivity.settings_table(PROFILE)
    found = sensitivity.differences(table)
    assert "typiclust" in set(table["strategy"])  # the rival
    assert set(found["setting"]) == set(sensitivity.STUDY)
    assert len(found) == sum(len(values) for _, values in sensitivity.STUDY.values())
    default = found[
        [value == sensitivity.DEFAULTS[setting] for setting, value in zip(found["setting"], found["value"], strict=True)]
    ]
    assert (default[["mean", "low", "high"]] == 0).all(axis=None)
    assert found["mean"].any()
    assert (workplace / "reports" / "quick" / "sensitivity.csv").exists()
    assert not (workplace / "reports" / "quick" / "curves.csv").exists()


def test_first_queries_compare_with_the_default_and_the_cluster():
    data = make_features(size=100)
    pools = [strategies.Pool(data.train, seed=seed, labels=data.train_labels) for seed in range(2)]
    found = sensitivity.first_queries(pools, sensitivity.NAMES["top_fraction"].values())
    assert found.loc["supclust", "in common"] == 100
    assert found["in common"].min() < 100
    assert found["speak for their cluster"].between(90, 100).all()  # clear blobs
    mixed = [dataclasses.replace(pool, labels=np.arange(len(pool.labels)) % 4, _shared={}) for pool in pools]
    assert sensitivity.first_queries(mixed, ["supclust"])["speak for their cluster"].item() < 60  # four classes in each blob


def test_encoders_are_compared_and_what_was_measured_is_kept(workplace):
    table, quality = sensitivity.encoders_table(PROFILE), sensitivity.encoder_quality(PROFILE)
    assert set(table["dataset"]) == set(PROFILE.encoders) == set(quality["encoder"])
    assert quality["knn"].tolist() == sorted(quality["knn"])
    assert quality["purity"].iloc[-1] > quality["purity"].iloc[0]
    pd.testing.assert_frame_equal(table, sensitivity.encoders_table(PROFILE))


def test_encoders_that_are_not_at_hand_keep_their_rows(workplace, monkeypatch):
    """As those of the laptop profile, whose features come with the package but for the older encoders'."""
    table, quality = sensitivity.encoders_table(PROFILE), sensitivity.encoder_quality(PROFILE)
    (workplace / "artefacts" / "quick" / "digits@1" / "features.safetensors").unlink()
    monkeypatch.setattr(features, "obtainable", lambda profile, name: features.find(profile, name) is not None)
    pd.testing.assert_frame_equal(table, sensitivity.encoders_table(PROFILE, recompute=True))
    pd.testing.assert_frame_equal(quality, sensitivity.encoder_quality(PROFILE))
    assert sweep.keys(PROFILE)  # and the others still run
