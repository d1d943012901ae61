"""Two processes under torchrun (gloo): one training with the loss of one process, but for batch norm, that stops and goes on."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from supclust import kept, simclr
from supclust.profiles import SimCLR
from supclust.train import hardware

TINY = SimCLR(width=4, side=8, epochs=2, batch_size=16, learning_rate=0.1, projection=8, knn_every=1)
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)
LABELS = np.arange(40) % 2

# One start of two processes does all of it: a training, one that the first process stops after three steps, and its going on.
SCRIPT = """
import json, sys, torch, types
from pathlib import Path
from supclust import simclr
from supclust.train import hardware
from tests.test_distributed import IMAGES, LABELS, TINY, views_of_the_first_step
folder = Path(sys.argv[1])
hardware.join()
whole, sums = views_of_the_first_step(lambda: simclr.train(IMAGES, TINY, folder / "whole", labels=LABELS))
clock, loss, now = simclr.time, simclr.contrastive_loss, [0.0]
def timed(*batch):
    now[0] += 60.0 if simclr.rank() == 0 else 1e6  # seconds that a step takes by each one's clock
    return loss(*batch)
simclr.time, simclr.contrastive_loss = types.SimpleNamespace(monotonic=lambda: now[0]), timed
stopped = simclr.train(IMAGES, TINY, folder / "broken", labels=LABELS, minutes=3.0)
steps = torch.load(folder / "broken" / simclr.CHECKPOINT)["step"]
simclr.time, simclr.contrastive_loss = clock, loss
resumed = simclr.train(IMAGES, TINY, folder / "broken", labels=LABELS, minutes=1.0)
told = {"whole": whole.checksum, "history": whole.history, "views": sums}
told |= {"stopped": [steps, len(stopped.history)], "resumed": resumed.checksum}
(folder / f"rank{simclr.rank()}.json").write_text(json.dumps(told))
"""


def views_of_the_first_step(train):
    """What train() returns, and the sum of each image's two views in its first step."""
    views = []
    with pytest.MonkeyPatch.context() as patch:
        render = simclr.render
        patch.setattr(simclr, "render", lambda *drawn: views.append(render(*drawn)) or views[-1])
        trained = train()
    return trained, [[view.sum().item() for view in part] for part in views[:2]]


@pytest.fixture(scope="module")
def alone_and_together(tmp_path_factory):
    """A training in this process, (encoder, sums of views), and what each of two processes tells of the same one."""
    folder = tmp_path_factory.mktemp("together")
    (script := folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script, folder]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(kept.REPOSITORY)}
    subprocess.run(command, check=True, timeout=300, env=environment)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simclr, "default_device", lambda: simclr.CPU)
        alone = views_of_the_first_step(lambda: simclr.train(IMAGES, TINY, folder / "alone", labels=LABELS))
    return alone, [json.loads((folder / f"rank{k}.json").read_text()) for k in range(2)]


@pytest.mark.slow
def test_two_processes_have_about_the_loss_of_one_on_the_same_global_batch(alone_and_together):
    """Each normalises its own half of the batch."""
    (alone, _), (first, _) = alone_and_together
    np.testing.assert_allclose([r["loss"] for r in first["history"]], [r["loss"] for r in alone.history], rtol=0.2)


@pytest.mark.slow
def test_each_process_renders_the_views_that_one_process_would(alone_and_together):
    (_, alone), together = alone_and_together
    np.testing.assert_allclose(np.concatenate([told["views"] for told in together], axis=1), alone, rtol=1e-3, atol=1e-2)


@pytest.mark.slow
def test_all_processes_end_with_the_same_weights_and_the_first_one_measures(alone_and_together):
    _, (first, second) = alone_and_together
    assert first["whole"] == second["whole"]
    assert None not in [record["knn"] for record in first["history"]]
    assert [record["knn"] for record in second["history"]] == [None, None]


@pytest.mark.slow
def test_what_two_processes_began_they_go_on_with(alone_and_together):
    """Stopped by the first one's clock after the third of four steps, the first of the second epoch."""
    for told in alone_and_together[1]:
        assert told["stopped"] == [3, 1]
        assert told["resumed"] == told["whole"]


def test_alone_nothing_happens():
    hardware.join()
    assert (simclr.rank(), simclr.world_size()) == (0, 1)
