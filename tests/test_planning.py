"""Plans of trainings that end in a given time: arithmetic, refusals, resuming, and what a plan is worth."""

import time
from dataclasses import replace

import numpy as np
import pytest

from supclust import __main__, simclr
from supclust.profiles import SimCLR
from supclust.train import planning

CONFIG = SimCLR(
    width=8, side=8, epochs=10, small_epochs=4, small_side=4, batch_size=16, learning_rate=0.1, warm_up=1.0, knn_every=0
)
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)


@pytest.fixture
def speeds(monkeypatch):
    """Seconds for an image, by side."""
    speeds = {8: 1.0, 4: 0.5}
    monkeypatch.setattr(planning, "seconds_per_image", lambda images, config, side, start: speeds[side])
    return speeds


def test_a_plan_is_the_epochs_that_end_in_time(speeds, tmp_path, caplog):
    caplog.set_level("INFO")
    planned = planning.within(30, IMAGES, CONFIG, tmp_path)
    # 32 images of an epoch go into whole batches; 0.4 of the epochs take half the time: 25.6 s an epoch, of 0.9 * 1800 s
    assert planned == replace(CONFIG, epochs=63, small_epochs=25, warm_up=1.0)
    assert "an epoch takes about 25.6 s: 63 of them fit into 27 minutes" in caplog.text
    assert planning.within(5, IMAGES, CONFIG, tmp_path / "short").warm_up == 1.0


def test_fewer_images_than_a_batch_are_one_batch(speeds, tmp_path):
    assert planning.within(30, IMAGES, replace(CONFIG, batch_size=512), tmp_path).epochs == 50  # of 40 * 0.8 s


def test_a_plan_is_made_once_for_a_folder(speeds, tmp_path):
    first = planning.within(30, IMAGES, CONFIG, tmp_path)
    speeds[8] = 7.0  # something else is running when the command goes on
    assert planning.within(30, IMAGES, CONFIG, tmp_path) == first
    for minutes, images, config in ((31, IMAGES, CONFIG), (30, IMAGES[1:], CONFIG), (30, IMAGES, replace(CONFIG, seed=1))):
        with pytest.raises(ValueError, match=r"plan.json is the plan of another training: remove it, or name another --folder"):
            planning.within(minutes, images, config, tmp_path)


def test_a_time_too_short_for_an_epoch_is_refused_and_leaves_nothing(speeds, tmp_path):
    with pytest.raises(ValueError, match=r"one epoch takes about 0.4 minutes here: 0.1 are too few"):
        planning.within(0.1, IMAGES, CONFIG, tmp_path)
    assert not list(tmp_path.iterdir())


def test_under_torchrun_there_is_no_plan(monkeypatch, tmp_path):
    monkeypatch.setattr(simclr, "world_size", lambda: 2)
    with pytest.raises(ValueError, match="under torchrun, give the epochs as -p epochs N"):
        planning.within(30, IMAGES, CONFIG, tmp_path)


def test_a_planned_training_ends_in_its_time_and_resumes(tmp_path):
    planned = planning.within(0.1, IMAGES, CONFIG, tmp_path)
    began = time.monotonic()
    encoder = simclr.train(IMAGES, planned, tmp_path, compiled=False)
    assert encoder.finished
    assert time.monotonic() - began < 12  # planned for 5.4 s, on a machine that may be busy
    again = simclr.train(IMAGES, planning.within(0.1, IMAGES, CONFIG, tmp_path), tmp_path, compiled=False)
    assert again.checksum == encoder.checksum


@pytest.mark.parametrize(("text", "minutes"), [("45m", 45), ("2h", 120), ("1.5h", 90), ("0.5m", 0.5)])
def test_times_are_minutes_or_hours(text, minutes):
    assert __main__._minutes(text) == minutes


@pytest.mark.parametrize("text", ["45", "m", "", "0m", "-1h", "two h", "45 min", "nanh", "infh"])
def test_what_is_no_time_is_refused(text, capsys):
    with pytest.raises(SystemExit):
        __main__.main(["train", "digits", f"--within={text}"])
    assert "is not a time such as 45m or 1.5h" in capsys.readouterr().err
