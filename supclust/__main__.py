"""The command `supclust`: label, figures, sweep, claims, data, train and ship."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from supclust import __version__
from supclust.kept import DISK_FULL

UNUSABLE = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EROFS)  # of paths


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code.

    0 fine, 1 something failed on the way, 2 wrong input, 3 a training that is not finished, 130 interrupted.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("supclust").setLevel(logging.INFO)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # where cores are shared, threads that spin make small steps crawl
    options = _parse(arguments)
    if "profile" in options and options.out:
        os.environ["SUPCLUST_OUT"] = str(options.out.resolve())
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show is no reason to fail
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        return options.run(options)
    except (ValueError, FileNotFoundError) as error:
        code, message = 2, error
    except BrokenPipeError:  # who reads the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno in UNUSABLE and error.filename:
            code, message = 2, f"{os.fspath(error.filename)}: {error.strerror}"
        elif error.errno in DISK_FULL or isinstance(error, ChildProcessError):
            code, message = 1, error.strerror or error
        else:
            raise
    except KeyboardInterrupt:
        code, message = 130, "interrupted; what was finished is kept"
    print(f"supclust {options.command}: {message}", file=sys.stderr)
    return code


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """argparse takes `03 -p seed 3` but, when nothing stands before the option, leaves over the notebook in `-p seed 3 03`."""
    parser = argparse.ArgumentParser("supclust", description="Pick images to label, and reproduce SUPClust (arXiv 2403.03741).")
    parser.add_argument("--version", action="version", version=f"supclust {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for run, (add_options, summary) in COMMANDS.items():
        command = commands.add_parser(run.__name__[1:], help=summary, description=run.__doc__)
        command.set_defaults(run=run)
        add_options(command)
    options, rest = parser.parse_known_args(arguments)
    if rest and (options.command != "figures" or any(argument.startswith("-") for argument in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.notebooks += rest
    return options


# -- options that several commands have ----------------------------------------------------------------------------------------


def _add_profile(command: argparse.ArgumentParser) -> None:
    command.add_argument("--profile", default="laptop", help="quick, laptop (default) or paper")
    command.add_argument("--out", type=_path, metavar="DIR", help="write below this folder instead of the repository")


def _add_parameter(command: argparse.ArgumentParser, of: str) -> None:
    values = {"nargs": 2, "action": "append", "default": [], "metavar": ("NAME", "VALUE")}
    command.add_argument("-p", "--parameter", **values, help=f"another value for a {of}; may be repeated")


def _add_missing(command: argparse.ArgumentParser) -> None:
    values = {"dest": "missing", "action": "store_const", "const": "leave out", "default": "error"}
    command.add_argument("--leave-out-missing", **values, help="of isic2019, use the images that are there")


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("a path must not be empty: is a variable of the shell not set?")
    return Path(text).expanduser()


# -- the commands: what each takes, and what it does ---------------------------------------------------------------------------


def _add_label(command: argparse.ArgumentParser) -> None:
    add, several = command.add_argument, {"nargs": "+", "action": "extend", "default": []}
    images = "a folder of images, a file of embeddings (.npy, .npz, .parquet), or the folder of an earlier round"
    labels = "after IMAGES; labels so far: CSV with the columns id and label, or Label Studio's JSON"
    classes = "after IMAGES; names of classes, to choose from on the sheet and in Label Studio"
    strategy = "supclust (default), typiclust, random ..., also with settings: supclust:top_fraction=0.05"
    encoder = "simclr, trained on the images (default); a model of torchvision, such as resnet50; or a .safetensors file"
    add("source", type=_path, metavar="IMAGES", help=images)
    add("--budget", type=int, default=50, metavar="N", help="how many to pick (default: 50)")
    add("--out", type=_path, default=Path("picks"), metavar="DIR", help="folder for the results (default: picks)")
    add("--labeled", type=_path, **several, metavar="FILE", help=labels)
    add("--classes", **several, metavar="NAME", help=classes)
    add("--strategy", default="supclust", metavar="NAME", help=strategy)
    add("--explain", action="store_true", help="print why each image was picked")
    add("--seed", type=int, default=0, help="of clusters, training and random draws")
    add("--force", action="store_true", help="overwrite the results of another run")
    add("--images", type=_path, metavar="DIR", help="the folder of images that the ids of embeddings name")
    add = command.add_argument_group("how a folder of images is embedded").add_argument
    add("--encoder", default="simclr", metavar="NAME", help=encoder)
    add("--train-minutes", type=float, default=20.0, metavar="M", help="of SimCLR (default: 20; 0: no training)")
    add("--train-epochs", type=int, metavar="N", help="instead: the same on every machine")
    add("--from-scratch", action="store_true", help="do not start SimCLR from the CIFAR-10 encoder")
    add("--download", action="store_true", help="fetch the weights of a torchvision model if they are not here")


def _label(options: argparse.Namespace) -> int:
    """Pick the images to label first, and write picks.csv, a contact sheet (contact_sheet.html and .png), tasks for Label Studio
    and what was done into a folder. With --labeled, or from an earlier round's folder, pick the next ones.
    """
    from supclust.label import contact_sheet, labeling

    request = labeling.Request(
        source=options.source, out=options.out, budget=options.budget, labeled=tuple(options.labeled),
        classes=tuple(options.classes), strategy=options.strategy, seed=options.seed, pictures=options.images, force=options.force,
        encoder=labeling.EncoderOptions(
            options.encoder, options.train_minutes, options.train_epochs, options.from_scratch, options.download
        ),
    )  # fmt: skip
    found = labeling.run(request)
    for pick in found.picks if options.explain else ():
        name = contact_sheet.visible(found.source.ids[pick.point])
        print(f"{pick.order}. {name}\n{textwrap.indent(labeling.explain(found, pick), '   ')}")
    print(request.out / labeling.SHEET)
    return 0


def _add_figures(command: argparse.ArgumentParser) -> None:
    command.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="03, 3 or 03_queried_samples (default: all)")
    _add_profile(command)
    _add_parameter(command, "parameter of the notebooks named")
    command.add_argument("--recompute", action="store_true", help="run the experiments instead of using shipped tables")


def _figures(options: argparse.Namespace) -> int:
    """Execute the numbered notebooks, all or those named, and write figures/PROFILE/ and reports/PROFILE/ (executed copies, HTML
    pages, index.html, provenance.json).
    """
    from supclust import kept
    from supclust.report import reproduce

    parameters = dict(options.parameter)
    outcomes = reproduce.figures(options.profile, options.notebooks, parameters, options.recompute)
    failed = [outcome.notebook for outcome in outcomes if outcome.status == "failed"]
    print(kept.reports(options.profile) / "index.html")
    if failed:
        print(f"{len(failed)} of {len(outcomes)} notebooks failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _add_sweep(command: argparse.ArgumentParser) -> None:
    _add_profile(command)
    for name in ("frameworks", "datasets", "strategies", "budgets"):
        command.add_argument(f"--{name}", nargs="+", metavar="NAME", help="only these (default: those of the profile)")
    command.add_argument("--seeds", type=int, metavar="N", help="number of seeds (default: that of the profile)")
    command.add_argument("--jobs", type=int, default=-1, metavar="N", help="processes (default: one per core)")
    command.add_argument("--shard", type=_shard, default=(1, 1), metavar="I/N", help="the I-th of N parts, for job arrays")
    _add_missing(command)


def _shard(text: str) -> tuple[int, int]:
    i, _, n = text.partition("/")
    if not (i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a part such as 1/8, the first of eight")
    return int(i), int(n)


def _sweep(options: argparse.Namespace) -> int:
    """Run the active-learning experiments of a profile; those that have a record already are not repeated. Stopped or killed, the
    same command goes on. Exit code 1 if runs failed; their tracebacks are in records/*.failed.json.
    """
    from supclust import profiles, sweep

    profile = profiles.get(options.profile, missing=options.missing)
    part = {name: getattr(options, name) for name in ("frameworks", "datasets", "strategies", "budgets", "seeds")}
    table = sweep.run(profile, **part, jobs=options.jobs, shard=options.shard)
    last = table[table["round"] == profile.rounds]
    runs = last.groupby(["dataset", "framework", "budget", "strategy"], sort=False)["accuracy"]
    print(runs.agg(["mean", "std", "count"]).round(4).to_string())
    print(sweep.write_table(profile))
    return 1 if sweep.failures(sweep.shard_of(sweep.keys(profile, **part), *options.shard), sweep.records_folder(profile)) else 0


def _add_claims(command: argparse.ArgumentParser) -> None:
    _add_profile(command)
    _add_missing(command)
    command.add_argument("--readme", type=_path, metavar="FILE", help="also put the table between the markers of this file")


def _claims(options: argparse.Namespace) -> int:
    """Hold each claim of the paper against the runs of a profile that are done (see `supclust sweep`), and write claims.md into
    its reports.
    """
    from supclust import claims, profiles

    profile = profiles.get(options.profile, missing=options.missing)
    found = claims.run(profile)
    written = claims.write(profile, found)
    if options.readme:
        claims.update_readme(options.readme, claims.summary_table(found))
    for claim in found:  # after the files: what reads the output may close it early, as head does
        print(f"{claim.number}  {claim.verdict:<13} {claim.statement}")
    print(written)
    return 0


def _add_data(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", metavar="NAME", help="cifar10, cifar10-lt50, cifar100, or isic2019 (checked only)")
    _add_missing(command)


def _data(options: argparse.Namespace) -> int:
    """Download a data set into the folder that SUPCLUST_DATA names (default: data/) and check it."""
    from supclust import datasets

    for split in datasets.SPLITS:
        loaded = datasets.load(options.name, split, download=options.name in datasets.CIFAR, missing=options.missing)
        print(f"{loaded.name} {split}: {len(loaded)} images of {len(loaded.classes)} classes")
    return 0


def _add_train(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("name", metavar="NAME", help="a data set, or a folder of images")
    add("--recipe", default="paper", help="paper (default; 500 epochs: for a GPU), laptop, laptop-more, gpu or digits")
    _add_parameter(command, "number of the recipe")
    add("--start", type=_path, metavar="WEIGHTS", help="go on from an encoder's weights, a safetensors file")
    add("--seed", type=int, default=0, help="of the training, and of the draw of cifar10-lt50 and isic2019")
    add("--minutes", type=float, metavar="M", help="stop after M minutes; exit code 3 if epochs are left (0 under torchrun)")
    add("--folder", type=_path, metavar="DIR", help="keeps checkpoint and encoder (default: below artefacts/)")
    _add_missing(command)


def _train(options: argparse.Namespace) -> int:
    """Train a SimCLR encoder on the images of a data set, without labels, and write encoder.safetensors. Stopped or killed, the
    same command goes on from its checkpoint. On several GPUs or machines: torchrun ... -m supclust train ...
    """
    from supclust import datasets, features, profiles, simclr
    from supclust.train import distributed

    if "seed" in dict(options.parameter):
        raise ValueError("the seed, which also draws pools, is given as --seed")
    config = profiles.parsed(profiles.recipe(options.recipe, options.name), dict(options.parameter), seed=options.seed)
    folder = options.folder or features.folder(options.recipe, options.name, options.seed)
    with distributed.joined():
        pool = datasets.load(options.name, seed=options.seed, side=config.side, missing=options.missing)
        encoder = simclr.train(
            pool.images, config, folder, labels=pool.labels, minutes=options.minutes, on_epoch=_report_epoch,
            start=options.start and simclr.load_weights(options.start),
        )  # fmt: skip
        first, alone = simclr.rank() == 0, simclr.world_size() == 1
    if first and encoder.finished:
        simclr.save_weights(encoder, folder / "encoder.safetensors")
        print(folder / "encoder.safetensors")
    elif first:
        print(f"{len(encoder.history)} of {config.epochs} epochs are done; the same command goes on", file=sys.stderr)
    return 3 if alone and not encoder.finished else 0  # torchrun would take 3 for a crash


def _report_epoch(history: list[dict]) -> None:
    last = history[-1]
    knn = "" if last["knn"] is None else f", 20-NN accuracy of held-out images {last['knn']:.2%}"
    logging.getLogger(__name__).info("epoch %d: loss %.4f, %.0f s%s", last["epoch"], last["loss"], last["seconds"], knn)


def _add_ship(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", metavar="NAME", help="for example cifar10")
    command.add_argument("weights", type=_path, metavar="WEIGHTS", help="the encoder's weights, a safetensors file")


def _ship(options: argparse.Namespace) -> int:
    """Extract the features of a data set with an encoder, compare ways to store them in 20 MB, keep the best."""
    from supclust import kept
    from supclust.train import shipping

    print(shipping.ship(options.name, options.weights).round(4).to_string())
    print(kept.shipped_features(options.name))
    return 0


COMMANDS = {
    _label: (_add_label, "pick images of your own to label"),
    _figures: (_add_figures, "execute the numbered notebooks: fills figures/ and reports/"),
    _sweep: (_add_sweep, "run the active-learning experiments of a profile"),
    _claims: (_add_claims, "a verdict on each claim of the paper"),
    _data: (_add_data, "download a data set and check it"),
    _train: (_add_train, "train a SimCLR encoder"),
    _ship: (_add_ship, "make the feature file that comes with the package"),
}


if __name__ == "__main__":
    sys.exit(main())
