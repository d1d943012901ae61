"""Two processes under torchrun (gloo) against one: the same views, loss, batch statistics and weights."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from supclust import checkpoints, simclr
from supclust.profiles import SimCLR
from supclust.train import parallel

TINY = SimCLR(width=4, side=8, epochs=2, batch_size=16, learning_rate=0.1, projection=8, knn_every=1)

SCRIPT = """
import json, sys, numpy as np
from pathlib import Path
from supclust import simclr
from supclust.train import parallel
from supclust.profiles import SimCLR
images, folder, config = np.load(sys.argv[1]), Path(sys.argv[2]), SimCLR(**json.loads(sys.argv[3]))
with parallel.joined():
    minutes, asked = None, []
    if len(sys.argv) > 4:
        minutes, last = 1.0, int(sys.argv[4])
        simclr._Clock.is_over = lambda self, device: parallel.first_decides(asked.append(0) or len(asked) > last, device)
    encoder = simclr.train(images, config, folder, labels=np.arange(len(images)) % 2, minutes=minutes)
    (folder / f"rank{parallel.rank()}.json").write_text(json.dumps([encoder.checksum, encoder.history]))
    if parallel.rank() == 0:
        simclr.save_weights(encoder, folder / "encoder.safetensors")
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
def test_two_processes_have_the_loss_of_one_on_the_same_global_batch(alone_and_together):
    alone, together = (json.loads((folder / "rank0.json").read_text())[1] for folder in alone_and_together)
    np.testing.assert_allclose([r["loss"] for r in together], [r["loss"] for r in alone], rtol=1e-5)


@pytest.mark.slow
def test_two_processes_end_with_the_weights_of_one(alone_and_together):
    alone, together = (simclr.load_weights(folder / "encoder.safetensors") for folder in alone_and_together)
    for name, reference in alone.network.state_dict().items():
        torch.testing.assert_close(together.network.state_dict()[name], reference, rtol=1e-3, atol=1e-4, msg=name)


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
    saved = checkpoints.load(folder / simclr.CHECKPOINT)
    assert (len(saved["history"]), len(saved["losses"])) == (1, 1)
    torchrun(2, tmp_path, TINY)
    finished, unbroken = (json.loads((f / "rank0.json").read_text())[0] for f in (folder, alone_and_together[1]))
    assert finished == unbroken


@pytest.mark.parametrize("shape", [(12, 3), (6, 3, 4, 4)])
def test_global_batch_norm_alone_is_pytorchs(shape, tmp_path):
    """One process is a world of its own; float64, with gradients and running statistics."""
    kind = torch.nn.BatchNorm1d if len(shape) == 2 else torch.nn.BatchNorm2d
    reference, ours = (kind(3).double() for _ in range(2))
    ours.__class__ = parallel.GlobalBatchNorm
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        batches = [torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) for _ in range(2)]
        outputs = [module(batch.requires_grad_()) for module, batch in zip((reference, ours), batches, strict=True)]
        for output in outputs:
            (output**3).sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(batches[1].grad, batches[0].grad)
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, msg=name)


def test_global_batch_norm_of_16_bits_keeps_its_statistics_in_32(tmp_path):
    """As on CPUs with AMX, whose convolutions hand bfloat16 on."""
    ours = torch.nn.BatchNorm2d(3)
    ours.__class__ = parallel.GlobalBatchNorm
    batch = 100 + torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        output = ours(batch.bfloat16())
    finally:
        torch.distributed.destroy_process_group()
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(ours.running_mean, 0.1 * batch.bfloat16().float().mean((0, 2, 3)))


def test_alone_nothing_happens():
    with parallel.joined():
        assert (parallel.rank(), parallel.size()) == (0, 1)
    model = torch.nn.Linear(2, 2)
    assert parallel.wrap(model) is model
    assert parallel.first_decides(True, torch.device("cpu"))
    assert parallel.of_first(lambda: 5) == 5
    assert parallel.workers() >= 1
