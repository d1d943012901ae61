"""What is asked for: the options of `supclust label`, checked before anything that takes long."""

import math
import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from supclust import strategies
from supclust.label.annotations import listing
from supclust.pool import check_count

AUTO = "auto"  # the strategy if nobody names one, see docs/label.md
TAKEN = {
    "typiclust": "auto takes it as long as labels show fewer than two classes",
    "uherding": "auto takes it once labels show two classes",
}
NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")  # what XML cannot hold


@dataclass(frozen=True)
class EncoderOptions:
    """How a folder of images is embedded. Raises ValueError for a training that makes no sense."""

    name: str = "auto"  # see embedders.load
    minutes: float | None = None  # of SimCLR, about (default: 20); 0 = none, the encoder of the package as it is
    epochs: int | None = None  # instead of minutes: as many on every machine
    scratch: bool = False  # whether SimCLR begins from nothing, and not from the encoder of the package
    download: bool = False  # whether timm may fetch weights that are not on this machine

    def __post_init__(self) -> None:
        if self.minutes is not None and not 0 <= self.minutes < math.inf:
            raise ValueError(f"the minutes of a training must be a number of at least 0, not {self.minutes}")
        if self.epochs is not None:
            check_count("epochs", self.epochs)


@dataclass(frozen=True)
class Request:
    """What is asked for. Raises ValueError, saying what to do, for options that cannot be used with any source."""

    source: Path  # folder of images, file of embeddings, or folder of an earlier round
    out: Path
    budget: int = 50
    labeled: Sequence[Path] = ()  # files of labels, CSV or Label Studio's JSON
    classes: Sequence[str] = ()  # names to choose labels from, where they are known
    id_column: str | None = None  # for tables with a name of their own for it
    label_column: str | None = None  # or the name of the choices in Label Studio
    strategy: str = AUTO  # or one by name, with settings that differ from the default, as in supclust:top_fraction=0.05
    seed: int = 0  # of clusters, training and random draws
    pictures: Path | None = None  # folder of the images that the ids of embeddings name
    per_class_min: int | None = None  # labels that classes shall have: picks for those that have fewer
    added: bool = False  # take in images that were added to the folder of a round since
    keep_duplicates: bool = False  # pick more than one of a group of near-duplicates
    force: bool = False  # overwrite what an earlier run wrote into out
    copy: Path | None = None  # folder for copies of the picks, or of the images with a label
    min_confidence: float | None = None  # of suggestions that are copied, too
    encoder: EncoderOptions = field(default_factory=EncoderOptions)

    def __post_init__(self) -> None:
        if self.strategy != AUTO and (name := strategies.parse(self.strategy)[0]) in strategies.CONTROLS:
            raise ValueError(f"{name} sees labels that nobody has: one of {', '.join(strategies.STRATEGIES)}")
        check_count("budget", self.budget)
        check_count("seed", self.seed, least=0)
        if self.per_class_min is not None:
            check_count("per_class_min", self.per_class_min)
        if self.min_confidence is not None and not (self.copy and 0 <= self.min_confidence <= 1):
            raise ValueError(f"--min-confidence goes with --copy, and is a number from 0 to 1, not {self.min_confidence}")
        if bad := [name for name in self.classes if name != name.strip() or not name or NOT_XML.search(name)]:
            raise ValueError(f"these are no names of classes: {listing(bad)}. Leave out blanks around them and control signs")

    @classmethod
    def of(cls, options: Namespace, **others: Any) -> Self:
        """What a command line asks for, whose options have the names of the fields, but for the others."""
        names = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in vars(options).items() if name in names} | others)

    def strategy_for(self, labels: Mapping[int, str]) -> str:
        """The strategy that picks: the one asked for, or what auto takes given the labels of points."""
        taken = "uherding" if len(set(labels.values())) > 1 else "typiclust"
        return taken if self.strategy == AUTO else self.strategy
