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


def test_unknown_keys_are_named():
    with pytest.raises(ValueError, match="unknown key 'seed' of Profile; known: name"):
        profiles.get("quick", seed=1)


@pytest.mark.parametrize(
    ("key", "value"), [("seeds", "3"), ("seeds", True), ("seeds", 1.0), ("datasets", ["digits"]), ("datasets", (1,)), ("name", 3)]
)
def test_values_of_the_wrong_type_are_refused(key, value):
    with pytest.raises(TypeError, match=key):
        profiles.get("quick", **{key: value})


def test_whole_numbers_do_for_floats():
    assert profiles.replace(profiles.SimCLR(), learning_rate=1).learning_rate == 1
    with pytest.raises(TypeError, match="learning_rate"):
        profiles.replace(profiles.SimCLR(), learning_rate="1")
