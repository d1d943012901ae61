"""Training: the loss against a slow one, stopping and killing it at any moment, and checkpoints that must not be gone on with."""

import copy
import dataclasses
import functools
import hashlib
import io
import random
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from supclust import kept, simclr
from supclust.images.files import ImageFiles
from supclust.profiles import SimCLR
from supclust.train import hardware
from tests.conftest import grid

TINY = SimCLR(width=4, side=8, epochs=3, batch_size=16, learning_rate=0.1, projection=8, knn_every=2)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)


@pytest.fixture(scope="module")
def labels():
    return np.arange(40) % 2


@pytest.fixture(scope="module")
def finished(images, labels, tmp_path_factory):
    """An encoder trained without a stop, and its folder."""
    folder = tmp_path_factory.mktemp("finished")
    return simclr.train(images, TINY, folder, labels=labels), folder


class Stop(Exception):
    """Stands for Ctrl-C."""


def stop_after(epoch):
    def on_epoch(history):
        if len(history) == epoch:
            raise Stop

    return on_epoch


def slow_nt_xent(projections, temperature):
    """Equation 1 of the SimCLR paper, one pair at a time, in float64."""
    z = [row / np.linalg.norm(row) for row in projections.astype(np.float64)]
    n, losses = len(z) // 2, []
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        others = sum(np.exp(z[i] @ z[k] / temperature) for k in range(2 * n) if k != i)
        losses.append(-np.log(np.exp(z[i] @ z[j] / temperature) / others))
    return np.mean(losses)


@pytest.mark.parametrize(("n", "d", "temperature"), grid((2, 3, 8, 17), (2, 16), (0.1, 0.5, 2.0)))
def test_contrastive_loss_is_the_slow_one(n, d, temperature):
    projections = np.random.default_rng(n).normal(size=(2 * n, d))
    loss = simclr.contrastive_loss(torch.from_numpy(projections), temperature).item()
    assert loss == pytest.approx(slow_nt_xent(projections, temperature), rel=1e-9)
    other_pairs = np.concatenate([projections[:n], np.roll(projections[n:], 1, axis=0)])
    assert loss != pytest.approx(simclr.contrastive_loss(torch.from_numpy(other_pairs), temperature).item())


@pytest.mark.parametrize("width", [4, 8, 16])
def test_a_step_goes_down_the_right_gradient(images, width):
    """Against float64. With channels last, oneDNN's gradients of networks this narrow are wrong by as much as themselves."""
    config = dataclasses.replace(TINY, width=width, weight_decay=0.0, seed=5)
    model, _, fit = simclr.make_step(config, torch.device("cpu"))
    before, batch = copy.deepcopy(model).double(), torch.from_numpy(images)
    stream = simclr.generator(torch.device("cpu"), (5, simclr.VIEWS_STREAM, 1))
    with hardware.conditions(width, TINY.side):
        views = torch.cat([simclr.render(batch, simclr.draw(len(images), TINY, stream), TINY.side) for _ in range(2)])
        loss = simclr.contrastive_loss(before(views.double()), TINY.temperature)
        loss.backward()
        assert fit(batch, 1, 2).item() == pytest.approx(loss.item(), rel=1e-4)
    for (name, ours), reference in zip(model.named_parameters(), before.parameters(), strict=True):
        error = (ours.grad - reference.grad).norm() / reference.grad.norm()
        assert error < 0.1, name  # a rectifier near zero may open in one precision and not in the other: up to 0.05


def test_training_lowers_the_loss_and_tells_classes_apart(tmp_path):
    """Two textures, told apart by no mean and no colour: 20 epochs bring them from chance to nearly all right."""
    rng = np.random.default_rng(0)
    stripes = 60 * (np.arange(8)[:, None] // 2 % 2) * np.ones((1, 8))
    patterns = np.stack([stripes if i % 2 else stripes.T for i in range(128)])
    images = np.clip(patterns[:, None] + rng.normal(90, 12, (128, 3, 8, 8)), 0, 255).astype(np.uint8)
    config = dataclasses.replace(TINY, epochs=20, batch_size=32, smallest_crop=0.6)
    history = simclr.train(images, config, tmp_path, labels=np.arange(128) % 2).history
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    assert history[-1]["knn"] >= 0.9


def test_history_has_one_record_per_epoch(finished):
    history = finished[0].history
    assert [list(record) for record in history] == [["epoch", "loss", "knn", "seconds"]] * 3
    assert [record["epoch"] for record in history] == [1, 2, 3]
    assert [record["knn"] is None for record in history] == [True, False, False]  # every second, and the last
    assert all(0 <= record["knn"] <= 1 for record in history[1:])
    assert all(record["seconds"] > 0 and np.isfinite(record["loss"]) for record in history)


def test_on_epoch_gets_the_growing_history(images, tmp_path):
    seen = []
    encoder = simclr.train(images, TINY, tmp_path, on_epoch=seen.append)
    assert [len(history) for history in seen] == [1, 2, 3]
    assert seen[-1] == list(encoder.history)
    assert all(record["knn"] is None for record in seen[-1])  # nobody gave labels


def test_labels_change_nothing_but_the_measured_accuracy(images, finished, tmp_path):
    assert simclr.train(images, TINY, tmp_path).checksum == finished[0].checksum


def test_global_random_state_plays_no_part(images, finished, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(12345)
        assert simclr.train(images, TINY, tmp_path).checksum == finished[0].checksum


def test_another_seed_trains_another_encoder(images, finished, tmp_path):
    other = simclr.train(images, dataclasses.replace(TINY, seed=1), tmp_path)
    assert other.checksum != finished[0].checksum


def test_every_view_of_every_epoch_is_another(images, tmp_path, monkeypatch):
    seen, render = [], simclr.render
    monkeypatch.setattr(simclr, "render", lambda *drawn: seen.append(render(*drawn)) or seen[-1])
    simclr.train(images[:16], TINY, tmp_path)  # one batch an epoch
    views = torch.stack(seen).sum(dim=(2, 3, 4)).sort(dim=1).values  # whatever the order of the images
    assert len(views) == 2 * TINY.epochs
    assert (torch.cdist(views, views) + 1e9 * torch.eye(len(views))).min() > 1


def test_encoder_is_ready_to_use(finished):
    encoder, _ = finished
    assert not encoder.network.training
    assert not any(parameter.requires_grad for parameter in encoder.network.parameters())
    assert encoder.config == TINY
    assert encoder.finished
    features = encoder.network(torch.zeros(2, 3, 8, 8))
    assert features.shape == (2, 32)
    assert encoder.head(features).shape == (2, 8)


@pytest.mark.parametrize("save_every", [0, 1e9])
@pytest.mark.parametrize("epoch", [1, 2])
def test_stopped_training_ends_bit_for_bit_as_the_unbroken_one(images, labels, finished, tmp_path, epoch, save_every):
    with pytest.raises(Stop):
        simclr.train(images, TINY, tmp_path, labels=labels, on_epoch=stop_after(epoch), save_every=save_every)
    encoder = simclr.train(images, TINY, tmp_path, labels=labels)
    assert_same_weights(encoder, finished[0])
    assert untimed(encoder) == untimed(finished[0])


@pytest.mark.parametrize("step", range(1, 6))
def test_stopped_in_the_middle_of_an_epoch_too(images, labels, finished, tmp_path, step, monkeypatch):
    """After each of the six steps: two an epoch."""
    steps, loss = [], simclr.contrastive_loss
    monkeypatch.setattr(simclr, "contrastive_loss", lambda *batch: _fail_after(step, steps) or loss(*batch))
    with pytest.raises(Stop):
        simclr.train(images, TINY, tmp_path, labels=labels, save_every=0)
    monkeypatch.undo()
    saved = torch.load(tmp_path / simclr.CHECKPOINT)
    assert (saved["step"], len(saved["history"])) == (step, step // 2)
    encoder = simclr.train(images, TINY, tmp_path, labels=labels)
    assert_same_weights(encoder, finished[0])
    assert untimed(encoder) == untimed(finished[0])


def _fail_after(step, steps):
    if len(steps) == step:
        raise Stop
    steps.append(step)


@pytest.fixture
def a_minute_per_step(monkeypatch):
    """A clock that only steps move on."""
    now, loss = [0.0], simclr.contrastive_loss

    def timed(*batch):
        now[0] += 60
        return loss(*batch)

    monkeypatch.setattr(simclr, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(simclr, "contrastive_loss", timed)


def test_pieces_of_time_end_bit_for_bit_as_the_unbroken_one(images, finished, tmp_path, a_minute_per_step):
    """In pieces of one, two and three of the six steps."""
    encoders = [simclr.train(images, TINY, tmp_path, minutes=minutes) for minutes in (1, 2, 3)]
    assert [len(encoder.history) for encoder in encoders] == [0, 1, 3]
    assert [encoder.finished for encoder in encoders] == [False, False, True]
    assert_same_weights(encoders[-1], finished[0])
    assert [record["seconds"] for record in encoders[-1].history] == [120.0] * 3


def test_no_time_is_nothing_trained(images, tmp_path):
    encoder = simclr.train(images, TINY, tmp_path, minutes=0)
    assert not (tmp_path / simclr.CHECKPOINT).exists()
    assert not encoder.finished
    assert encoder.history == ()


@pytest.mark.parametrize("width", [4, 16])
@pytest.mark.parametrize("changes", [{"small_epochs": 2, "small_side": 4}, {"side": 16}, {"network": "resnet34"}])
def test_other_sizes_stop_and_go_on_too(images, tmp_path, width, changes):
    config = dataclasses.replace(TINY, width=width, **changes)
    with pytest.raises(Stop):
        simclr.train(images, config, tmp_path / "stopped", on_epoch=stop_after(2), save_every=0)
    continued = simclr.train(images, config, tmp_path / "stopped")
    assert_same_weights(continued, simclr.train(images, config, tmp_path / "unbroken"))


def test_progressive_resolution(images, tmp_path, monkeypatch):
    seen, render = [], simclr.render
    monkeypatch.setattr(simclr, "render", lambda *drawn: seen.append(drawn[2]) or render(*drawn))
    simclr.train(images, dataclasses.replace(TINY, small_epochs=2, small_side=4), tmp_path)
    assert seen == [4] * 8 + [8] * 4


def test_large_images_train_with_the_stem_for_them(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (8, 3, 80, 64), dtype=np.uint8)
    config = dataclasses.replace(TINY, stem="imagenet", side=64, epochs=1, batch_size=8)
    encoder = simclr.train(images, config, tmp_path)
    assert encoder.network.conv1.weight.shape == (4, 3, 7, 7)
    assert encoder.network(torch.zeros(1, 3, 64, 64)).shape == (1, 32)


@pytest.mark.slow
def test_images_in_files_train_as_their_arrays_do(tmp_path):
    """Decoded by worker processes as they are needed."""
    for i, image in enumerate(np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)):
        Image.fromarray(image).save(tmp_path / f"{i:02}.png")
    lazy = ImageFiles(tmp_path, tuple(f"{i:02}.png" for i in range(20)), 8)
    encoder = simclr.train(lazy, TINY, tmp_path / "lazy")
    assert_same_weights(encoder, simclr.train(lazy[:], TINY, tmp_path / "eager"))
    with pytest.raises(ValueError, match="trained on other images"):
        simclr.train(lazy.take(np.arange(19)), TINY, tmp_path / "lazy")


@pytest.mark.parametrize(
    "backend",
    [
        "aot_eager",
        pytest.param(
            "inductor",
            marks=[pytest.mark.night, pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")],
        ),
    ],
)
def test_compiled_training_is_the_plain_one(images, tmp_path, monkeypatch, backend):
    """Compiled in full at night; else without its last step, the building of kernels, which takes a minute."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    config = dataclasses.replace(TINY, width=16, epochs=1)
    plain, compiled = (simclr.train(images, config, tmp_path / str(c), compiled=c) for c in (False, True))
    assert compiled.history[0]["loss"] == pytest.approx(plain.history[0]["loss"], rel=1e-4)
    for name, reference in plain.network.state_dict().items():
        torch.testing.assert_close(compiled.network.state_dict()[name], reference, rtol=1e-2, atol=1e-3, msg=name)


@pytest.mark.night
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_stopped_compiled_training_in_two_threads_with_another_resolution_ends_bit_for_bit(
    tmp_path, a_minute_per_step, two_threads
):
    """Large enough that nothing is made simpler for it: stopped in the second epoch, whose views are larger."""
    images = np.random.default_rng(0).integers(0, 256, (48, 3, 16, 16), dtype=np.uint8)
    config = dataclasses.replace(TINY, width=32, side=16, epochs=2, small_epochs=1, small_side=8, precision="float32")
    assert not simclr.train(images, config, tmp_path / "stopped", minutes=4, compiled=True).finished
    torch.compiler.reset()  # as a new process would
    continued = simclr.train(images, config, tmp_path / "stopped", compiled=True)
    torch.compiler.reset()
    assert_same_weights(continued, simclr.train(images, config, tmp_path / "unbroken", compiled=True))


def test_bfloat16_trains_to_a_loss_near_that_of_float32(images, tmp_path):
    """The weights stay float32."""
    config = dataclasses.replace(TINY, width=16, side=16, epochs=1)
    plain, half = (
        simclr.train(images, dataclasses.replace(config, precision=name), tmp_path / name) for name in ("float32", "bfloat16")
    )
    assert half.checksum != plain.checksum
    assert half.history[0]["loss"] == pytest.approx(plain.history[0]["loss"], rel=0.1)
    assert half.network.conv1.weight.dtype == torch.float32


def test_training_repeats_its_convolutions_and_uses_cudnn(images, tmp_path, monkeypatch):
    seen, loss, cudnn = [], simclr.contrastive_loss, torch.backends.cudnn
    monkeypatch.setattr(
        simclr, "contrastive_loss", lambda *b: seen.append((cudnn.enabled, cudnn.deterministic, cudnn.benchmark)) or loss(*b)
    )
    simclr.train(images, TINY, tmp_path)
    assert set(seen) == {(True, True, False)}


def test_going_on_from_an_encoder(images, finished, tmp_path):
    start, _ = finished
    config = dataclasses.replace(TINY, learning_rate=0.0, weight_decay=0.0, epochs=1)
    encoder = simclr.train(images, config, tmp_path, start=start)
    for ours, theirs in zip(encoder.network.parameters(), start.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)  # at rate 0
    for ours, theirs in zip(encoder.head.parameters(), start.head.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(ValueError, match="it went on from other weights"):
        simclr.train(images, config, tmp_path)
    with pytest.raises(ValueError, match="is another network"):
        simclr.train(images, dataclasses.replace(config, width=8), tmp_path / "wide", start=start)


CHILD = """
import sys, numpy as np
from pathlib import Path
from supclust import simclr
from supclust.profiles import SimCLR
loss = simclr.contrastive_loss
simclr.contrastive_loss = lambda *batch: print("step", flush=True) or loss(*batch)
simclr.train(np.load(sys.argv[1]), SimCLR(**eval(sys.argv[2])), Path(sys.argv[3]), save_every=0)
"""


@pytest.mark.parametrize("steps", [21, *(pytest.param(step, marks=pytest.mark.night) for step in (1, 38))])
def test_killed_training_ends_bit_for_bit_as_the_unbroken_one(tmp_path, steps):
    """SIGKILL in the middle of an epoch of 16 steps, somewhere in the step after this one."""
    images = np.random.default_rng(1).integers(0, 256, (256, 3, 8, 8), dtype=np.uint8)
    config = dataclasses.replace(TINY, seed=3)
    np.save(tmp_path / "images.npy", images)
    kill_in_step(steps + 1, tmp_path / "images.npy", config, tmp_path / "killed")
    checkpoint = tmp_path / "killed" / simclr.CHECKPOINT
    if steps > 1:
        assert torch.load(checkpoint)["step"] in (steps - 1, steps, steps + 1)
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True).stdout.strip()
    left_over = checkpoint.with_name(f".{checkpoint.name}.{kept.HOST}-{gone}-00.tmp")  # of a process that was killed while it wrote
    left_over.parent.mkdir(exist_ok=True)
    left_over.write_bytes(b"half")
    continued = simclr.train(images, config, tmp_path / "killed")
    unbroken = simclr.train(images, config, tmp_path / "unbroken")
    assert_same_weights(continued, unbroken)
    assert untimed(continued) == untimed(unbroken)
    assert [file.name for file in checkpoint.parent.iterdir()] == [checkpoint.name]


def kill_in_step(step: int, images: Path, config: SimCLR, folder: Path) -> None:
    """Train in a process of its own, and send it SIGKILL as soon as this step begins."""
    command = [sys.executable, "-c", CHILD, str(images), repr(dataclasses.asdict(config)), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        for begun, _ in enumerate(child.stdout, start=1):
            if begun == step:
                child.send_signal(signal.SIGKILL)
                break
    assert child.returncode == -signal.SIGKILL


def assert_same_weights(encoder, other):
    ours, theirs = encoder.network.state_dict(), other.network.state_dict()
    assert list(ours) == list(theirs)
    for key in ours:
        assert torch.equal(ours[key], theirs[key]), key
    assert encoder.checksum == other.checksum


def untimed(encoder):
    return [record | {"seconds": None} for record in encoder.history]


def test_finished_training_returns_at_once(images, finished):
    encoder, folder = finished
    before = (folder / simclr.CHECKPOINT).stat().st_mtime_ns
    again = simclr.train(images, TINY, folder, on_epoch=stop_after(1))
    assert_same_weights(again, encoder)
    assert again.history == encoder.history
    assert (folder / simclr.CHECKPOINT).stat().st_mtime_ns == before


@pytest.mark.parametrize("changes", [{"epochs": 4}, {"temperature": 0.2, "seed": 9}, {"width": 8}])
def test_checkpoint_of_another_config_is_refused(images, finished, changes):
    with pytest.raises(ValueError, match="another training") as caught:
        simclr.train(images, dataclasses.replace(TINY, **changes), finished[1])
    for key, value in changes.items():
        assert f"{key} is {getattr(TINY, key)!r} there and {value!r} here" in str(caught.value)
    assert str(finished[1] / simclr.CHECKPOINT) in str(caught.value)


def test_checkpoint_of_other_images_is_refused(images, finished):
    with pytest.raises(ValueError, match="trained on other images"):
        simclr.train(images[::-1].copy(), TINY, finished[1])


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_torn_checkpoint_is_named_and_kept(images, finished, tmp_path, share):
    whole = (finished[1] / simclr.CHECKPOINT).read_bytes()
    torn = tmp_path / simclr.CHECKPOINT
    torn.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=f"checkpoint {torn} cannot be read .* remove it to train anew"):
        simclr.train(images, TINY, tmp_path)
    assert torn.stat().st_size == int(share * len(whole))


@pytest.mark.parametrize("seed", range(20))
def test_a_flipped_bit_of_a_checkpoint_is_noticed(images, finished, tmp_path, seed):
    content = bytearray((finished[1] / simclr.CHECKPOINT).read_bytes())
    place = random.Random(seed).randrange(8 * len(content))
    content[place // 8] ^= 1 << place % 8
    (tmp_path / simclr.CHECKPOINT).write_bytes(content)
    with pytest.raises(ValueError, match="its checksum differs"):
        simclr.train(images, TINY, tmp_path)


def test_a_hostile_checkpoint_is_not_run(images, tmp_path):
    class Hostile:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harm",))

    torch.save({"made_from": Hostile()}, content := io.BytesIO())
    whole = content.getvalue() + hashlib.sha256(content.getvalue()).digest()
    (tmp_path / simclr.CHECKPOINT).write_bytes(whole)
    with pytest.raises(ValueError, match="cannot be read"):
        simclr.train(images, TINY, tmp_path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("save_every", [0, 60])
def test_diverged_training_says_so_and_keeps_no_checkpoint(images, tmp_path, save_every):
    with pytest.raises(FloatingPointError, match="diverged, try a smaller learning_rate"):
        simclr.train(images, dataclasses.replace(TINY, learning_rate=1e38), tmp_path, save_every=save_every)
    assert not (tmp_path / simclr.CHECKPOINT).exists()


@pytest.mark.parametrize("count", [2, 5, 17])
def test_sets_smaller_than_a_batch_are_one_batch(images, tmp_path, count):
    config = dataclasses.replace(TINY, epochs=1, batch_size=32)
    assert len(simclr.train(images[:count], config, tmp_path).history) == 1


def test_bad_input(images, tmp_path):
    with pytest.raises(ValueError, match="too few"):
        simclr.train(images[:1], TINY, tmp_path)
    with pytest.raises(ValueError, match="batches of 1 are too few"):
        simclr.train(images, dataclasses.replace(TINY, batch_size=1), tmp_path)
    with pytest.raises(ValueError, match="39 labels for 40 images"):
        simclr.train(images, TINY, tmp_path, labels=np.zeros(39))
    with pytest.raises(ValueError, match="must be uint8"):
        simclr.train(images / 255, TINY, tmp_path)
    with pytest.raises(ValueError, match="unknown network"):
        simclr.train(images, dataclasses.replace(TINY, network="vit"), tmp_path)
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        simclr.train(images, dataclasses.replace(TINY, epochs=0), tmp_path)
    with pytest.raises(ValueError, match="unknown stem"):
        simclr.train(images, dataclasses.replace(TINY, stem="round"), tmp_path)
    with pytest.raises(ValueError, match="unknown precision 'half'; known: auto, float32, bfloat16"):
        dataclasses.replace(TINY, precision="half")


def test_learning_rate_warms_up_for_so_many_epochs():
    rates = [simclr.learning_rate(step, 20, SimCLR(epochs=10, learning_rate=0.4, warm_up=0.25)) for step in range(200)]
    assert rates[:5] == pytest.approx([0.08, 0.16, 0.24, 0.32, 0.4], rel=0.01)
    assert simclr.learning_rate(0, 20, SimCLR(warm_up=0.0)) == 0.4


def test_learning_rate_warms_up_for_an_epoch_then_falls_to_zero():
    config = SimCLR(epochs=10, learning_rate=0.4)
    rates = [simclr.learning_rate(step, 20, config) for step in range(200)]
    assert rates[0] == pytest.approx(0.4 / 20)
    assert np.argmax(rates) == 19
    assert max(rates) == pytest.approx(0.4, rel=0.03)
    assert rates[100] == pytest.approx(0.2)  # half way down the cosine
    assert (np.diff(rates[20:]) < 0).all()
    assert 0 < rates[-1] < 1e-4


def test_weights_survive_their_file(finished, tmp_path):
    encoder = finished[0]
    simclr.save_weights(encoder, tmp_path / "deep" / "encoder.safetensors")
    loaded = simclr.load_weights(tmp_path / "deep" / "encoder.safetensors")
    assert_same_weights(loaded, encoder)
    assert loaded.config == encoder.config
    assert loaded.history == encoder.history
    assert not loaded.network.training
    for key, tensor in encoder.head.state_dict().items():
        assert torch.equal(loaded.head.state_dict()[key], tensor)


@pytest.mark.parametrize("prefix", ["b.", ""])
@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_half_precision_weights_of_unknown_training_load_as_float32(tmp_path, prefix, name):
    network = simclr.ResNet(name, 4)
    stored = {prefix + k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    if prefix:
        stored["h.0.weight"] = torch.zeros(3, 3)  # a projection head of another shape
    safetensors.torch.save_file(stored, tmp_path / "half.safetensors")
    encoder = simclr.load_weights(tmp_path / "half.safetensors")
    assert (encoder.config.network, encoder.config.width, encoder.config.side) == (name, 4, 32)
    assert encoder.history == ()
    weight = encoder.network.state_dict()["conv1.weight"]
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, network.conv1.weight.detach(), atol=1e-3, rtol=1e-3)


def test_weights_that_are_absent_or_none(tmp_path, finished):
    path = tmp_path / "encoder.safetensors"
    with pytest.raises(FileNotFoundError, match=f"no encoder weights at {path}"):
        simclr.load_weights(path)
    simclr.save_weights(finished[0], path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{path} does not hold the weights"):
        simclr.load_weights(path)
    weights = {f"b.{key}": tensor.contiguous() for key, tensor in finished[0].network.state_dict().items()}
    safetensors.torch.save_file({key: tensor for key, tensor in weights.items() if "layer" not in key}, path)
    with pytest.raises(ValueError, match="Missing key") as refusal:
        simclr.load_weights(path)
    assert len(str(refusal.value)) < len(str(path)) + 400
    weights["b.conv1.weight"] = torch.full_like(weights["b.conv1.weight"], torch.nan)
    safetensors.torch.save_file(weights, path)
    with pytest.raises(ValueError, match=f"{path} does not hold the weights of an encoder: b.conv1.weight is not finite"):
        simclr.load_weights(path)
    safetensors.torch.save_file({"something": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=f"{path} does not hold the weights"):
        simclr.load_weights(path)
