"""The sizes at which everything runs: quick, laptop and paper, and smoke for tests. Same code path, only the numbers differ."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_type_hints

TITLES = {
    "digits": "Digits",
    "cifar10": "CIFAR-10",
    "cifar10-lt50": "CIFAR-10-LT50",
    "cifar100": "CIFAR-100",
    "isic2019": "ISIC-2019",
    "ham10000": "ISIC-2019 (HAM10000)",
}
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class _Training:
    """The settings that SimCLR and FSL share."""

    network: str = "resnet18"  # or resnet34
    width: int = 64  # channels of the first stage; features have 8 * width dimensions
    stem: str = "small"  # 3 x 3, stride 1, no max-pooling; or "imagenet" for large images: 7 x 7, stride 2, max-pooling
    side: int = 32  # pixels; images are resized to it
    momentum: float = 0.9
    precision: str = "auto"  # or "float32", "bfloat16"; auto: bfloat16 where that is faster, and safe

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}; known: {', '.join(PRECISIONS)}")
        for name, value in vars(self).items():
            if not isinstance(value, str) and not int(name in ("width", "side", "batch_size")) <= value < math.inf:
                raise ValueError(f"{name} cannot be {value}")


@dataclass(frozen=True)
class SimCLR(_Training):
    """Settings of the encoder's training. The defaults are the paper's recipe (section 4, and the TypiClust code it builds on)."""

    epochs: int = 500
    small_epochs: int = 0  # the first of them, which train on smaller views: progressive resolution
    small_side: int = 16  # pixels of these
    batch_size: int = 512  # images; twice as many views
    learning_rate: float = 0.4
    warm_up: float = 1.0  # epochs in which the rate rises to it
    weight_decay: float = 1e-4
    temperature: float = 0.1  # of NT-Xent, not of SUP
    projection: int = 128
    smallest_crop: float = 0.2  # share of the image's area
    flip: float = 0.5  # probability
    jitter: float = 0.8  # probability of (0.4, 0.4, 0.4, 0.1) brightness, contrast, saturation, hue
    grayscale: float = 0.2  # probability
    knn_every: int = 10  # epochs between two kNN accuracies; 0: none
    seed: int = 0


@dataclass(frozen=True)
class FSL(_Training):
    """Settings of the fully supervised framework's networks, trained from scratch in each round (paper, section 4)."""

    epochs: int = 200
    batch_size: int = 100  # fewer labels are repeated to fill it
    learning_rate: float = 0.025  # with Nesterov's momentum
    weight_decay: float = 3e-4
    flip: float = 0.5  # probability; and each image is moved by up to an eighth of its side
    evaluation_batch: int = 512  # images


@dataclass(frozen=True)
class Supervised:
    """The runs of a profile in the fully supervised framework."""

    datasets: tuple[str, ...]
    seeds: int = 5
    budgets: tuple[str, ...] = ("tiny", "small")
    strategies: tuple[str, ...] = ()  # all
    on_request: bool = False  # hours of work, so done only where the framework is asked for by name
    network: FSL = field(default_factory=FSL)


@dataclass(frozen=True)
class Profile:
    """One size of the whole reproduction."""

    name: str
    datasets: tuple[str, ...]  # of the self-supervised framework, as are seeds and budgets
    features: str  # "shipped" with the package, or "trained" by notebook 01 on the data set's own images
    seeds: int
    budgets: tuple[str, ...] = ("tiny", "small")
    rounds: int = 6
    fsl: Supervised | None = None
    encoders: tuple[str, ...] = ()  # of different quality, for notebook 07: see features.obtain
    second_encoder: str = "efficientnet-lite0"  # what stands after the @ of the benchmark's data sets
    missing: str = "error"  # or "leave out": what is done about images of ISIC-2019 that are not there
    encoder_dataset: str = "cifar10"  # what notebook 01 trains on
    embedding_points: int = 5_000  # images that t-SNE and UMAP draw
    simclr: SimCLR = field(default_factory=SimCLR)


# A narrow network is enough for 8x8 digits. A mirrored digit is another sign, so there is no flip, and crops stay larger.
# Profiles for CPUs train in float32: with AMX and without, the weights are the same. With AVX2 alone they differ.
SMALL = {"side": 8, "flip": 0.0, "precision": "float32"}
DIGITS = SimCLR(width=16, epochs=24, batch_size=128, learning_rate=0.2, temperature=0.2, smallest_crop=0.4, knn_every=4, **SMALL)
DIGITS_FSL = FSL(width=8, epochs=60, learning_rate=0.1, **SMALL)

# What trained the shipped encoder (shipped/README.md): views of 24 pixels for the first 60 % of the time, which cost 62 % as much.
# As a random crop magnifies what it shows, whole images of 32 pixels look about as large as the crops did in training.
GPU = SimCLR(
    epochs=635, small_epochs=448, small_side=24, learning_rate=0.08, warm_up=12.7, weight_decay=5e-4, temperature=0.5,
    grayscale=0.1, knn_every=25,
)  # fmt: skip
# What 2 CPU cores can do for CIFAR-10 in two hours, and what goes on from the shipped encoder on other images.
LAPTOP = SimCLR(epochs=38, small_epochs=32, small_side=16, learning_rate=0.5, temperature=0.2, weight_decay=3e-4, knn_every=0)
LAPTOP_MORE = replace(GPU, epochs=3, small_epochs=3, learning_rate=0.03, warm_up=0.1, knn_every=0)
RECIPES = {"paper": SimCLR(), "laptop": LAPTOP, "laptop-more": LAPTOP_MORE, "gpu": GPU, "digits": DIGITS}

# What the paper, and the code it builds on, change for a data set; a configuration takes what concerns it.
CHANGES = {"cifar100": {"network": "resnet34"}, "isic2019": {"stem": "imagenet", "side": 224, "small_epochs": 0}}
CHANGES["ham10000"] = CHANGES["isic2019"]

PAPER_DATASETS = ("cifar10", "cifar100", "cifar10-lt50", "isic2019")
PARTS = {"ham10000": "isic2019"}  # which data set of the paper another one is a part of
HERE = (*PAPER_DATASETS[:3], "ham10000")
PROFILES = {
    "quick": Profile(
        "quick", ("digits",), "trained", seeds=5, encoder_dataset="digits", embedding_points=1_437, simclr=DIGITS,
        encoders=("digits@1", "digits@4", "digits@12", "digits"), second_encoder="4",
        fsl=Supervised(("digits",), 2, ("tiny",), network=DIGITS_FSL),
    ),
    "laptop": Profile(
        "laptop", HERE, "shipped", seeds=10, encoder_dataset="digits", simclr=DIGITS,
        encoders=(*(f"cifar10@{n}-epochs" for n in (0, 5, 15, 60, 41)), "cifar10@efficientnet-lite0", "cifar10"),
        fsl=Supervised(HERE, on_request=True),
    ),
    "paper": Profile(
        "paper", PAPER_DATASETS, "trained", seeds=10, embedding_points=10_000, encoders=("cifar10@50", "cifar10@150", "cifar10"),
        second_encoder="150",
        fsl=Supervised(PAPER_DATASETS),
    ),
    "smoke": Profile(  # says nothing about the paper: only that everything runs
        "smoke", ("digits",), "trained", seeds=2, budgets=("tiny",), rounds=2, encoder_dataset="digits", embedding_points=300,
        simclr=replace(DIGITS, epochs=4, knn_every=2), encoders=("digits@1", "digits"), second_encoder="1",
        fsl=Supervised(("digits",), 2, ("tiny",), ("random", "typiclust", "supclust"), network=replace(DIGITS_FSL, epochs=4)),
    ),
}  # fmt: skip


def get(name: str, **changes: Any) -> Profile:
    """The profile of that name, with some of its values replaced. Raises ValueError for an unknown profile."""
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}; known: {', '.join(PROFILES)}")
    return replace(PROFILES[name], **changes)


def recipe(name: str, dataset: str) -> SimCLR:
    """One of RECIPES, adapted to the data set. Raises ValueError for an unknown recipe."""
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}; known: {', '.join(RECIPES)}")
    return adapted(RECIPES[name], dataset)


def adapted(config: Any, dataset: str) -> Any:
    """A SimCLR or FSL with what the paper changes for a data set: a deeper network for CIFAR-100, larger images for ISIC-2019."""
    return replace(config, **{key: value for key, value in CHANGES.get(dataset, {}).items() if hasattr(config, key)})


def parsed(config: SimCLR, texts: Mapping[str, str], **changes: Any) -> SimCLR:
    """A copy with some values replaced, those in texts as on a command line.

    Raises ValueError for a key that there is not, listing the known ones, and for a text that is not of its type.
    """
    kinds = get_type_hints(type(config))
    for key, text in texts.items():
        if key not in kinds:
            raise ValueError(f"unknown key {key!r} of {type(config).__name__}; known: {', '.join(kinds)}")
        try:
            changes[key] = kinds[key](text)
        except ValueError as error:
            raise ValueError(f"{type(config).__name__}.{key} must be {kinds[key].__name__}, not {text!r}") from error
    return replace(config, **changes)
