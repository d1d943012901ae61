"""What is trained on the labelled images: a linear layer on frozen features (SSL), or a network from scratch (FSL)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Generator, Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from supclust import augment, networks
from supclust.images import ImageFiles
from supclust.profiles import FSL

WEIGHT_DECAY = 3e-4  # as in the paper's networks
DROPOUT = 0.5  # before the last layer
DROPOUT_PASSES = 25  # of BALD and DBAL
ROWS_PER_BLOCK = 1024  # whose features stay in a core's cache
START, STEPS = 1, 2  # what randomness is for


@dataclass(frozen=True)
class LinearHead:
    """A linear layer: weights (C, d), biases (C,), of which classes that were never labelled have a bias of -inf."""

    weights: np.ndarray
    biases: np.ndarray

    def predict(self, points: np.ndarray) -> np.ndarray:
        """Class of each point (n, d), as int64 (n,)."""
        return (points @ self.weights.T + self.biases).argmax(axis=1)

    def log_probabilities(self, points: np.ndarray) -> np.ndarray:
        """Logarithms of the class probabilities of points (n, d), (n, C) float64; -inf for classes that were never labelled."""
        return log_softmax(points @ self.weights.T + self.biases, axis=1)

    def dropout_log_probabilities(
        self, points: np.ndarray, rng: np.random.Generator, passes: int = DROPOUT_PASSES
    ) -> Iterator[np.ndarray]:
        """The same from forward passes in which each entry of points is dropped with probability DROPOUT, the rest scaled up.

        As dropout stands before the last layer only (Gal et al. 2017), what comes before it needs to be computed once.
        """
        weights, dropped = self.weights.T.astype(points.dtype), np.empty((ROWS_PER_BLOCK, points.shape[1]), dtype=points.dtype)
        for _ in range(passes):
            logits = np.empty((len(points), len(self.biases)))
            for i in range(0, len(points), ROWS_PER_BLOCK):
                block = points[i : i + ROWS_PER_BLOCK]
                kept = np.multiply(block, _kept(block.shape, rng), out=dropped[: len(block)])
                logits[i : i + ROWS_PER_BLOCK] = kept @ weights
            yield log_softmax(logits / (1 - DROPOUT) + self.biases, axis=1)


def _kept(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """bool (n, d): fair coins, eight from each random byte."""
    n, d = shape
    return np.unpackbits(rng.integers(256, size=(n, -(-d // 8)), dtype=np.uint8), axis=1, count=d).view(bool)


def fit_linear_head(points: np.ndarray, labels: np.ndarray, n_classes: int, weight_decay: float = WEIGHT_DECAY) -> LinearHead:
    """Softmax regression on points (l, d) with labels (l,) in 0..n_classes-1, trained to convergence by L-BFGS.

    The loss is the mean cross-entropy plus weight_decay / 2 times the squared weights, what SGD with that weight decay converges
    to. A class without a labelled point is never predicted.
    """
    weights, biases = np.zeros((n_classes, points.shape[1])), np.full(n_classes, -np.inf)
    present = np.unique(labels)
    if len(present) == 1:
        biases[present] = 0
        return LinearHead(weights, biases)
    # Of two classes scikit-learn fits the difference w of their weights, w / 2 and -w / 2 here, whose penalty is half of w's.
    strength = weight_decay * len(points) / (2 if len(present) == 2 else 1)
    model = LogisticRegression(C=1 / strength, max_iter=2000, tol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%")  # as it is with one label a class
        model.fit(points.astype(float), labels)
    if len(present) == 2:
        weights[present] = np.concatenate([-model.coef_, model.coef_]) / 2
        biases[present] = np.concatenate([-model.intercept_, model.intercept_]) / 2
    else:
        weights[present], biases[present] = model.coef_, model.intercept_
    return LinearHead(weights, biases)


@dataclass(frozen=True, eq=False)
class Network:
    """A network trained from scratch: its body, in evaluation mode, which makes features (n, 8 * width), and its last layer."""

    body: networks.ResNet
    head: LinearHead
    config: FSL

    def embed(self, images: np.ndarray | ImageFiles) -> np.ndarray:
        """Penultimate features float32 (n, 8 * width) of images uint8 (n, 3, height, width), without augmentation."""
        return networks.embed(self.body, images, self.config.side, self.config.evaluation_batch, progress=False)

    def predict(self, images: np.ndarray | ImageFiles) -> np.ndarray:
        """Class of each image, int64 (n,)."""
        return self.head.predict(self.embed(images))


def fit_network(images: np.ndarray | ImageFiles, labels: np.ndarray, n_classes: int, config: FSL, seed: Sequence[int]) -> Network:
    """Train a ResNet with dropout before its last layer on labelled images from scratch; the last epoch counts (paper, section 4).

    images: uint8 (l, 3, height, width), on the device at once, since there are few; labels int (l,) in 0..n_classes-1. Any number
    of them trains, of any classes: batches are filled by repetition, and a class without an image ends up improbable.
    The same seed, a few whole numbers, gives the same network on one machine, whatever ran before.
    Raises ValueError for labels out of range and FloatingPointError if the loss is no longer finite.
    """
    if len(images) != len(labels) or len(labels) == 0 or labels.min() < 0 or labels.max() >= n_classes:
        raise ValueError(f"{len(images)} images need as many labels, in 0..{n_classes - 1}, not {np.unique(labels).tolist()}")
    device = networks.default_device()
    resident = networks.resize(torch.from_numpy(images[:]).to(device), config.side)
    targets = torch.from_numpy(np.asarray(labels, dtype=np.int64)).to(device)
    model = _fresh_network(n_classes, config, seed).to(device, memory_format=networks.memory_format(config.width))
    with networks.conditions(config.width, config.side):
        _fit(model, resident, targets, config, networks.generator(device, (*seed, STEPS)))
    weights, biases = (parameter.detach().double().cpu().numpy() for parameter in model[1].parameters())
    return Network(model[0].eval().requires_grad_(False), LinearHead(weights, biases), config)


def _fresh_network(n_classes: int, config: FSL, seed: Sequence[int]) -> nn.Sequential:
    body = networks.resnet(config.network, config.width, config.stem)
    model = nn.Sequential(body, nn.Linear(8 * config.width, n_classes))
    networks.initialise(model, networks.generator(torch.device("cpu"), (*seed, START)))
    return model


def _fit(model: nn.Sequential, images: Tensor, labels: Tensor, config: FSL, generator: Generator) -> None:
    """SGD with Nesterov's momentum; the rate falls by a cosine, epoch by epoch."""
    numbers = {"lr": config.learning_rate, "momentum": config.momentum, "weight_decay": config.weight_decay}
    optimizer = torch.optim.SGD(model.parameters(), **numbers, nesterov=True, fused=True)
    schedule = CosineAnnealingLR(optimizer, config.epochs)
    model.train()
    for _ in range(config.epochs):
        losses = [
            _fit_batch(model, images[rows], labels[rows], config, optimizer, generator)
            for rows in _filled_batches(len(images), config.batch_size, generator)
        ]
        schedule.step()
    if not all(map(math.isfinite, torch.stack(losses).tolist())):
        raise FloatingPointError(f"the loss is no longer finite; a smaller learning rate than {config.learning_rate} may help")


def _filled_batches(n: int, size: int, generator: Generator) -> Iterator[Tensor]:
    """Rows of an epoch in random order, the last batch filled from the order's beginning, again and again if need be."""
    order = torch.randperm(n, device=generator.device, generator=generator)
    return iter(order.repeat(-(-size // n) + 1)[: -(-n // size) * size].split(size))


def _fit_batch(
    model: nn.Sequential, images: Tensor, labels: Tensor, config: FSL, optimizer: torch.optim.Optimizer, generator: Generator
) -> Tensor:
    views = augment.normalise(augment.shift(images, config.side // 8, config.flip, generator))
    with networks.autocast(images.device, config, config.side):
        features = model[0](views.contiguous(memory_format=networks.memory_format(config.width))).float()
        kept = torch.rand(features.shape, device=features.device, generator=generator) >= DROPOUT
        loss = F.cross_entropy(model[1](features * kept / (1 - DROPOUT)).float(), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()
