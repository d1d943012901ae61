import dataclasses

import pytest

from supclust import profiles


def test_profiles_are_frozen_and_known_by_their_names():
    for name in ("quick", "laptop", "paper"):
        assert profiles.get(name).name == name
    with pytest.raises(dataclasses.FrozenInstanceError):
        profiles.get("quick").seeds = 5


def test_unknown_profile_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown profile 'fast'; known: quick, laptop, paper"):
        profiles.get("fast")


def test_values_are_replaced_in_a_copy():
    assert profiles.get("quick", seeds=1).seeds == 1
    assert profiles.get("quick").seeds != 1


def test_texts_are_read_as_their_types_and_others_are_refused():
    changed = profiles.parsed(profiles.SimCLR(), {"learning_rate": "1", "epochs": "3", "network": "resnet34"}, seed=7)
    assert changed == dataclasses.replace(profiles.SimCLR(), learning_rate=1.0, epochs=3, network="resnet34", seed=7)
    with pytest.raises(ValueError, match="unknown key 'epoch' of SimCLR; known: network"):
        profiles.parsed(profiles.SimCLR(), {"epoch": "3"})
    with pytest.raises(ValueError, match=r"SimCLR.epochs must be int, not '3.5'"):
        profiles.parsed(profiles.SimCLR(), {"epochs": "3.5"})
    with pytest.raises(ValueError, match="unknown precision 'half'; known: auto, float32, bfloat16"):
        profiles.parsed(profiles.SimCLR(), {"precision": "half"})


@pytest.mark.parametrize(
    ("name", "text"), [("width", "0"), ("width", "-8"), ("side", "0"), ("learning_rate", "nan"), ("flip", "inf")]
)
def test_numbers_that_no_training_can_have_are_refused(name, text):
    with pytest.raises(ValueError, match=f"{name} cannot be {text}"):
        profiles.parsed(profiles.SimCLR(), {name: text})
