"""What is trained on the labelled images: a linear layer on frozen features (SSL), or a network from scratch (FSL)."""

from __future__ import annotations

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

from supclust import simclr
from supclust.profiles import FSL

WEIGHT_DECAY = 3e-4  # as in the paper's networks
DROPOUT, DROPOUT_PASSES = 0.5, 25  # before the last layer; passes of BALD and DBAL
ROWS_PER_BLOCK = 1024  # whose features stay in a core's cache
WEIGHTS_STREAM, STEPS_STREAM = 1, 2  # ids of random streams


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
        (n, d), weights = points.shape, self.weights.T.astype(points.dtype)
        for _ in range(passes):
            logits = np.empty((n, len(self.biases)))
            for block in (slice(i, min(i + ROWS_PER_BLOCK, n)) for i in range(0, n, ROWS_PER_BLOCK)):
                coins = rng.integers(256, size=(block.stop - block.start, -(-d // 8)), dtype=np.uint8)  # eight in each byte
                logits[block] = (points[block] * np.unpackbits(coins, axis=1, count=d).view(bool)) @ weights
            yield log_softmax(logits / (1 - DROPOUT) + self.biases, axis=1)


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
    halves = np.array([[-0.5], [0.5]]) if len(present) == 2 else 1
    weights[present], biases[present] = halves * model.coef_, np.ravel(halves * model.intercept_)
    return LinearHead(weights, biases)


@dataclass(frozen=True, eq=False)
class Network:
    """A network trained from scratch: its body, in evaluation mode, which makes features (n, 8 * width), and its last layer."""

    body: simclr.ResNet
    head: LinearHead
    config: FSL

    def embed(self, images: simclr.Images) -> np.ndarray:
        """Penultimate features float32 (n, 8 * width) of images uint8 (n, 3, height, width), without augmentation."""
        return simclr.embed(self.body, images, self.config.side, self.config.evaluation_batch, progress=False)

    def predict(self, images: simclr.Images) -> np.ndarray:
        """Class of each image, int64 (n,)."""
        return self.head.predict(self.embed(images))


def fit_network(images: simclr.Images, labels: np.ndarray, n_classes: int, config: FSL, seed: Sequence[int]) -> Network:
    """Train a ResNet with dropout before its last layer on labelled images from scratch; the last epoch counts (paper, section 4).

    images: uint8 (l, 3, height, width), on the device at once, since there are few; labels int (l,) in 0..n_classes-1. Any number
    of them trains, of any classes: batches are filled by repetition, and a class without an image ends up improbable.
    The same seed, a few whole numbers, gives the same network on one machine, whatever ran before.
    Raises ValueError for labels out of range and FloatingPointError if the loss is no longer finite.
    """
    if len(images) != len(labels) or len(labels) == 0 or labels.min() < 0 or labels.max() >= n_classes:
        raise ValueError(f"{len(images)} images need as many labels, in 0..{n_classes - 1}, not {np.unique(labels).tolist()}")
    device, layout = simclr.default_device(), simclr.memory_format(config.width)
    model = nn.Sequential(simclr.resnet(config.network, config.width, config.stem), nn.Linear(8 * config.width, n_classes))
    simclr.initialise(model, simclr.generator(torch.device("cpu"), (*seed, WEIGHTS_STREAM)))
    model.to(device, memory_format=layout).train()
    resident = simclr.resize(torch.from_numpy(images[:]).to(device), config.side)
    targets, generator = torch.from_numpy(labels.astype(np.int64)).to(device), simclr.generator(device, (*seed, STEPS_STREAM))
    numbers = {"lr": config.learning_rate, "momentum": config.momentum, "weight_decay": config.weight_decay}
    optimizer = torch.optim.SGD(model.parameters(), **numbers, nesterov=True, fused=True)
    schedule = CosineAnnealingLR(optimizer, config.epochs)  # the rate falls epoch by epoch
    with simclr.conditions(config.width, config.side):
        for _ in range(config.epochs):
            for rows in _filled_batches(len(images), config.batch_size, generator):
                views = simclr.normalise(simclr.shift(resident[rows], config.side // 8, config.flip, generator))
                with simclr.autocast(device, config, config.side):
                    features = model[0](views.contiguous(memory_format=layout)).float()
                    kept = torch.rand(features.shape, device=device, generator=generator) >= DROPOUT
                    loss = F.cross_entropy(model[1](features * kept / (1 - DROPOUT)).float(), targets[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss is no longer finite; a smaller learning rate than {config.learning_rate} may help")
    weights, biases = (parameter.detach().double().cpu().numpy() for parameter in model[1].parameters())
    return Network(model[0].eval().requires_grad_(False), LinearHead(weights, biases), config)


def _filled_batches(n: int, size: int, generator: Generator) -> Iterator[Tensor]:
    """Rows of an epoch in random order, the last batch filled from the order's beginning, again and again if need be."""
    order = torch.randperm(n, device=generator.device, generator=generator)
    return iter(order.repeat(-(-size // n) + 1)[: -(-n // size) * size].split(size))
