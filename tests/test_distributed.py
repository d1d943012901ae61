"""Two processes under torchrun (gloo): one training with the loss of one process, but for batch norm, that stops and goes on."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from supclust import simclr
from supclust.profiles import SimCLR
from supclust.train import distributed

TINY = SimCLR(width=4, side=8, epochs=2, batch_size=16, learning_rate=0.1, projection=8, knn_every=1)

SCRIPT = """
import json, sys, numpy as np
from pathlib import Path
from supclust import simclr
from supclust.train import distributed
from supclust.profiles import SimCLR
images, folder, config = np.load(sys.argv[1]), Path(sys.argv[2]), SimCLR(**json.loads(sys.argv[3]))
with distributed.joined():
    minutes, asked = None, []
    if len(sys.argv) > 4:
        minutes, last = 1.0, int(sys.argv[4])
        decide = distributed.first_decides
        distributed.first_decides = lambda over, device: decide(asked.append(0) or len(asked) > last, device)
    render, views = simclr.render, []
    simclr.render = lambda *drawn: views.append(render(*drawn)) or views[-1]
    encoder = simclr.train(images, config, folder, labels=np.arange(len(images)) % 2, minutes=minutes)
    (folder / f"rank{simclr.rank()}.json").write_text(json.dumps([encoder.checksum, encoder.history]))
    sums = [view.sum().item() for view in (*views[0], *views[1])] if views else []
    (folder / f"views{simclr.rank()}.json").write_text(json.dumps(sums))
"""


def torchrun(processes, tmp_path, config, *more):
    script, images = tmp_path / "script.py", tmp_path / "images.npy"
    script.write_text(SCRIPT)
    np.save(images, np.random.default_rng(0).integers(0, 256, (40, 3, 8, 8), dtype=np.uint8))
    folder = tmp_path / f"of{processes}"
    folder.mkdir(exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        script,
        images,
        folder,
    ]
    command = [*map(str, command), json.dumps(dataclasses.asdict(config)), *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300, env=environment)
    return folder


@pytest.fixture(scope="module")
def alone_and_together(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("parallel")
    return [torchrun(processes, tmp_path, TINY) for processes in (1, 2)]


@pytest.mark.slow
def test_two_processes_have_about_the_loss_of_one_on_the_same_global_batch(alone_and_together):
    """Each normalises its own half of the batch."""
    alone, together = (json.loads((folder / "rank0.json").read_text())[1] for folder in alone_and_together)
    np.testing.assert_allclose([r["loss"] for r in together], [r["loss"] for r in alone], rtol=0.2)


@pytest.mark.slow
def test_each_process_renders_the_views_that_one_process_would(alone_and_together):
    """Sums of the views of the first step, in the order of the images."""
    alone, together = (
        [json.loads((folder / f"views{k}.json").read_text()) for k in range(n)]
        for folder, n in zip(alone_and_together, (1, 2), strict=True)
    )
    halves = [np.split(np.array(views), 2) for views in together]
    np.testing.assert_allclose(np.concatenate([half[k] for k in range(2) for half in halves]), alone[0], rtol=1e-3, atol=1e-2)


@pytest.mark.slow
def test_all_processes_end_with_the_same_weights_and_the_first_one_writes(alone_and_together):
    _, together = alone_and_together
    checksums = [json.loads((together / f"rank{k}.json").read_text())[0] for k in range(2)]
    assert checksums[0] == checksums[1]
    assert (together / simclr.CHECKPOINT).exists()
    knn = [[r["knn"] for r in json.loads((together / f"rank{k}.json").read_text())[1]] for k in range(2)]
    assert None not in knn[0]
    assert knn[1] == [None, None]  # one is enough to measure


@pytest.mark.slow
def test_what_two_processes_began_they_go_on_with(alone_and_together, tmp_path):
    """Stopped after the third of four steps, the first of the second epoch."""
    folder = torchrun(2, tmp_path, TINY, "3")
    saved = torch.load(folder / simclr.CHECKPOINT)
    assert (saved["step"], len(saved["history"])) == (3, 1)
    torchrun(2, tmp_path, TINY)
    finished, unbroken = (json.loads((f / "rank0.json").read_text())[0] for f in (folder, alone_and_together[1]))
    assert finished == unbroken


def test_alone_nothing_happens():
    with distributed.joined():
        assert (simclr.rank(), simclr.world_size()) == (0, 1)
