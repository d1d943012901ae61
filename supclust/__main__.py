"""The command `supclust`: label, open, suggest, compare, figures, sweep, claims, data, train and ship."""

import argparse
import logging
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from supclust import __version__, kept
from supclust.label.annotations import safe, visible


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code.

    0 fine, 1 something failed on the way, 2 wrong input, 3 a training that is not finished, 130 interrupted.
    """
    handler = logging.StreamHandler()
    handler.format = lambda record: _plain(logging.Handler.format(handler, record))
    logging.basicConfig(format="%(message)s", level=logging.WARNING, handlers=[handler])
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
        code = 1 if error.errno in kept.DISK_FULL or isinstance(error, ChildProcessError) else 2
        message = error.strerror or error
        if code == 2 and error.filename:  # a path that cannot be used; else a file that must not grow, or too little memory
            message = f"{os.fspath(error.filename)}: {error.strerror}"
    except (MemoryError, ImportError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or re.search("allocate|failed to map|out of memory|new thread", str(error))):
            raise
        code, message = 1, f"there is not enough memory ({error or 'MemoryError'})"
    except KeyboardInterrupt:
        code, message = 130, "interrupted. Finished work is kept"
    print(f"supclust {options.command}: {_plain(message)}", file=sys.stderr)
    return code


def _plain(message: object) -> str:
    """Lines without what a terminal would take for a command: names of files and labels may hold it."""
    return "\n".join(map(visible, str(message).split("\n")))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """argparse takes `03 -p seed 3` but, when nothing stands before the option, leaves over the notebook in `-p seed 3 03`."""
    parser = argparse.ArgumentParser("supclust", description="Pick images to label, and reproduce SUPClust (arXiv 2403.03741).")
    parser.add_argument("--version", action="version", version=f"supclust {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for run, (summary, names) in COMMANDS.items():
        command = commands.add_parser(run.__name__[1:], help=summary, description=run.__doc__)
        command.set_defaults(run=run)
        for name in names.split():
            command.add_argument(*name.split(","), **OPTIONS.get(f"{run.__name__[1:]} {name}", OPTIONS.get(name)))
    options, rest = parser.parse_known_args(arguments)
    if options.command in ("label", "suggest"):
        _find_source(options, rest, parser)
    if options.command == "figures" and not any(argument.startswith("-") for argument in rest):
        options.notebooks += rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def _find_source(options: argparse.Namespace, rest: Sequence[str], parser: argparse.ArgumentParser) -> None:
    """IMAGES may stand after --labeled or --classes, which take it for one of theirs."""
    for given in (options.labeled, options.classes):
        last = Path(*given[-1:])
        if options.source is None and given and (last.is_dir() or last.suffix in (".npy", ".npz", ".parquet")):
            options.source = Path(given.pop())
    if options.source is None:
        parser.error("the following arguments are required: IMAGES (name them first, as in: supclust label IMAGES --labeled FILE)")
    if rest and not any(argument.startswith("-") for argument in rest):
        where = options.source if options.source.is_dir() else options.source.parent
        parser.error(f"IMAGES is one folder, and not {1 + len(rest)} names, as in: supclust label {where}")


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("a path must not be empty: is a shell variable unset?")
    if text != text.encode(errors="replace").decode():  # no file of ours could hold it
        raise argparse.ArgumentTypeError(f"{visible(text)} is not valid Unicode: rename it")
    return Path(text).expanduser()


def _shard(text: str) -> tuple[int, int]:
    i, _, n = text.partition("/")
    if not (i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a part such as 1/8, the first of eight")
    return int(i), int(n)


def _minutes(text: str) -> float:
    try:
        minutes = float(text[:-1]) * {"m": 1, "h": 60}[text[-1:]]
    except (ValueError, KeyError):
        minutes = 0
    if not 0 < minutes < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 45m or 1.5h")
    return minutes


# What may be given, to whichever command (see COMMANDS).
SEVERAL = dict(nargs="+", action="extend", default=[])
PART = dict(nargs="+", metavar="NAME", help="only these (default: those of the profile)")
OPTIONS = {
    # label
    "source": dict(type=_path, nargs="?", metavar="IMAGES", help="folder of images or of a round; .npy, .npz, .parquet"),
    "--budget": dict(type=int, default=50, metavar="N", help="how many to pick (default: 50)"),
    "--labeled": dict(type=_path, **SEVERAL, metavar="FILE", help="CSV with columns id, label; Label Studio's JSON and others"),
    "--classes": dict(**SEVERAL, metavar="NAME", help="names to choose from on the sheet and in Label Studio"),
    "--id-column": dict(metavar="NAME", help="of the ids, in files of labels or embeddings that call it otherwise"),
    "--label-column": dict(metavar="NAME", help="of the labels, or the name of the choices in Label Studio"),
    "--strategy": dict(default="auto", metavar="NAME", help="auto (default), typiclust, ..., or supclust:top_fraction=0.05"),
    "--added": dict(action="store_true", help="take in images that were added to the folder of the round since"),
    "--copy": dict(type=_path, metavar="DIR", help="also copy the picks, numbered, into this new folder"),
    "suggest --copy": dict(type=_path, metavar="DIR", help="also copy images into this new folder, one folder for each label"),
    "--min-confidence": dict(type=float, metavar="P", help="with --copy: also suggestions that are this sure, such as 0.9"),
    "--per-class-min": dict(type=int, metavar="N", help="up to half of the picks are for classes with fewer than N labels"),
    "--keep-duplicates": dict(action="store_true", help="near-duplicates may be picked, too (default: one of each group)"),
    "--explain": dict(action="store_true", help="print why each image was picked"),
    "--force": dict(action="store_true", help="overwrite the results of another run"),
    "--images": dict(dest="pictures", type=_path, metavar="DIR", help="the folder of images that the ids of embeddings name"),
    "--encoder": dict(default="auto", metavar="NAME", help="photos (default, if installed), simclr, timm:NAME, a .safetensors"),
    "--train-minutes": dict(type=float, metavar="M", help="of SimCLR (default: 20; 0: no training)"),
    "--train-epochs": dict(type=int, metavar="N", help="instead: as many on every machine"),
    "--from-scratch": dict(action="store_true", help="do not start SimCLR from the CIFAR-10 encoder"),
    "--download": dict(action="store_true", help="let timm fetch weights that are not here"),
    "--open": dict(action="store_true", help="then label in the browser: as `supclust open`"),
    "round": dict(type=_path, metavar="ROUND", help="the folder that `supclust label` wrote"),
    # compare, where an option is another one than elsewhere
    "features": dict(type=_path, metavar="FEATURES", help="labelled embeddings (.npz, .parquet): features, labels, perhaps ids"),
    "compare --strategies": dict(nargs="+", metavar="NAME", help="default: supclust typiclust coreset margin random"),
    "compare --strategy": dict(action="append", default=[], metavar="FILE:NAME", help="a function of a Python file; repeatable"),
    "compare --budget": dict(type=int, default=10, metavar="N", help="labels a round (default: 10)"),
    "compare --seeds": dict(type=int, default=20, metavar="N", help="number of seeds (default: 20)"),
    "--rounds": dict(type=int, default=6, metavar="N", help="default: 6"),
    # figures, sweep, claims
    "notebooks": dict(nargs="*", metavar="NOTEBOOK", help="03, 3 or 03_queried_samples (default: all)"),
    "--profile": dict(default="laptop", help="quick, laptop (default) or paper"),
    "--recompute": dict(action="store_true", help="run the experiments instead of using shipped tables"),
    **dict.fromkeys(("--frameworks", "--datasets", "--strategies", "--budgets"), PART),
    "--seeds": dict(type=int, metavar="N", help="number of seeds (default: that of the profile)"),
    "--jobs": dict(type=int, default=-1, metavar="N", help="processes (default: one per core)"),
    "--shard": dict(type=_shard, default=(1, 1), metavar="I/N", help="the I-th of N parts, for job arrays"),
    "--readme": dict(type=_path, metavar="FILE", help="also put the table between the markers of this file"),
    # data, train, ship
    "name": dict(metavar="NAME", help="cifar10, cifar10-lt50, cifar100, or isic2019, ham10000 (whose images are checked only)"),
    "pool": dict(metavar="NAME", help="a data set, or a folder of images"),
    "--recipe": dict(default="paper", help="paper (default; 500 epochs: for a GPU), laptop, laptop-more, gpu or digits"),
    "--start": dict(type=_path, metavar="WEIGHTS", help="go on from an encoder's weights, a safetensors file"),
    "--within": dict(type=_minutes, metavar="TIME", help="as many epochs as end in that time on this machine: 45m, 2h, 1.5h"),
    "--minutes": dict(type=float, metavar="M", help="stop after M minutes; exit code 3 if epochs are left (0 under torchrun)"),
    "--folder": dict(type=_path, metavar="DIR", help="keeps checkpoint and encoder (default: below artefacts/)"),
    "encoder": dict(metavar="ENCODER", help="its weights, a safetensors file; or efficientnet-lite0, timm:NAME"),
    # several
    "--out": dict(type=_path, metavar="DIR", help="write here (default: picks, for compare compare/NAME, else the repository)"),
    "--seed": dict(type=int, default=0, help="of clusters, training and random draws"),
    "-p,--parameter": dict(
        nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
        help="another value for a parameter of the notebooks, or for a number of the recipe; may be repeated",
    ),
    "--leave-out-missing": dict(
        dest="missing", action="store_const", const="leave out", default="error", help="of isic2019, use the images that are there"
    ),
}  # fmt: skip


# -- the commands ----------------------------------------------------------------------------------------------------------


def _label(options: argparse.Namespace) -> int:
    """Pick the images to label first, and write picks.csv, a contact sheet (contact_sheet.html and .png), tasks for Label Studio
    and what was done into a folder. With --labeled, or from an earlier round's folder, pick the next ones.
    """
    from supclust.label import labeling

    encoder = options.encoder, options.train_minutes, options.train_epochs, options.from_scratch, options.download
    request = labeling.Request.of(options, out=options.out or Path("picks"), encoder=labeling.EncoderOptions(*encoder))
    found = labeling.run(request)
    for pick in found.picks if options.explain else ():
        print(f"{pick.order}. {visible(found.source.ids[pick.point])}\n{textwrap.indent(pick.why, '   ')}")
    print(request.out / labeling.SHEET)
    return _open(argparse.Namespace(round=request.out)) if options.open else 0


def _open(options: argparse.Namespace) -> int:
    """Label a round in the browser: serves its contact sheet on this machine only, saves labels into ROUND/labels.csv as they are
    typed, and computes the next round when the page asks for it. Ctrl-C ends.
    """
    from supclust.label import serving

    serving.serve(options.round)
    return 0


def _suggest(options: argparse.Namespace) -> int:
    """Suggest a label, with a confidence, for every image of a round that has none: a linear layer on the features learns from
    those that have one. Writes suggestions.csv, the least confident first, and predictions for Label Studio.
    """
    from supclust.label import suggesting
    from supclust.label.request import Request

    beside = options.source if options.source.is_dir() else options.source.parent
    request = Request.of(options, out=options.out or beside / "suggestions")
    suggesting.run(request)
    print(request.out / suggesting.SUGGESTIONS)
    return 0


def _compare(options: argparse.Namespace) -> int:
    """Compare strategies on labelled features of your own. Each seed draws a fifth of every class as test set; a linear layer is
    trained on the labels queried. Writes compare.csv, curves.csv, curves.png and .pdf. Stopped, the same command continues.
    Exit code 1 if runs failed; their tracebacks are in records/*.failed.json.
    """
    from supclust import analysis
    from supclust.label import embeddings
    from supclust.report import compare

    given, title = embeddings.read(options.features, labels=True), safe(options.features.stem[:120])
    folder = options.out or options.features.parent / "compare" / title
    sizes = {name: getattr(options, name) for name in ("budget", "rounds", "seeds", "jobs")}
    wanted = options.strategies or compare.STRATEGIES, options.strategy
    curves, failed = compare.run(given.features, given.labels, *wanted, folder / "records", title=title, **sizes)
    pairs = compare.write(curves, folder)
    leads = "random alone: there is nothing to compare it with" if pairs.empty else pairs.round(2).to_string(index=False)
    print(analysis.final_accuracy(curves).to_string(), leads, folder / "curves.png", sep="\n\n")
    return 1 if failed else 0


def _figures(options: argparse.Namespace) -> int:
    """Execute the numbered notebooks, all or those named, and write figures/PROFILE/ and reports/PROFILE/ (executed copies, HTML
    pages, index.html, provenance.json).
    """
    from supclust.report import reproduce

    outcomes = reproduce.figures(options.profile, options.notebooks, dict(options.parameter), options.recompute)
    failed = [outcome["notebook"] for outcome in outcomes if outcome["status"] == "failed"]
    print(kept.reports(options.profile) / "index.html")
    if failed:
        print(f"{len(failed)} of {len(outcomes)} notebooks failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _sweep(options: argparse.Namespace) -> int:
    """Run the active-learning experiments of a profile; those that have a record already are not repeated. Stopped or killed, the
    same command continues. Exit code 1 if runs failed; their tracebacks are in records/*.failed.json.
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


def _claims(options: argparse.Namespace) -> int:
    """Hold each claim of the paper against the runs of a profile that are done (see `supclust sweep`), and write claims.md into
    its reports.
    """
    from supclust import claims, profiles

    profile = profiles.get(options.profile, missing=options.missing)
    found = claims.run(profile)
    written = claims.write(profile, found)
    if options.readme:
        claims.update_readme(options.readme, claims.as_markdown(found))
    for claim in found:  # after the files: what reads the output may close it early, as head does
        print(f"{claim.number}  {claim.verdict:<13} {claim.title}")
    print(written)
    return 0


def _data(options: argparse.Namespace) -> int:
    """Download a data set into the folder that SUPCLUST_DATA names (default: data/) and check it."""
    from supclust import datasets

    for split in datasets.SPLITS:
        loaded = datasets.load(options.name, split, download=options.name in datasets.CIFAR, missing=options.missing)
        print(f"{loaded.name} {split}: {len(loaded)} images of {len(loaded.classes)} classes")
    return 0


def _train(options: argparse.Namespace) -> int:
    """Train a SimCLR encoder on the images of a data set, without labels, and write encoder.safetensors. Stopped or killed, the
    same command continues from its checkpoint. On several GPUs or machines: torchrun ... -m supclust train ...
    """
    from supclust import datasets, features, profiles, simclr
    from supclust.train import checkpoints, hardware, planning

    if "seed" in dict(options.parameter):
        raise ValueError("the seed, which also draws pools, is given as --seed")
    config = profiles.parsed(profiles.recipe(options.recipe, options.pool), dict(options.parameter), seed=options.seed)
    folder = options.folder or features.folder(options.recipe, options.pool, options.seed)
    start = options.start and simclr.load_weights(options.start)
    hardware.join()
    pool = datasets.load(options.pool, seed=options.seed, side=config.side, missing=options.missing)
    running = {"labels": pool.labels, "minutes": options.minutes, "on_epoch": _report_epoch, "start": start}
    with checkpoints.alone(folder):
        if options.within:
            config = planning.within(options.within, pool.images, config, folder, start)
        encoder = simclr.train(pool.images, config, folder, **running)
    first, alone = simclr.rank() == 0, simclr.world_size() == 1
    if first and encoder.finished:
        simclr.save_weights(encoder, folder / "encoder.safetensors")
        print(folder / "encoder.safetensors")
    elif first:
        print(f"{len(encoder.history)} of {config.epochs} epochs done. Run the same command to continue", file=sys.stderr)
    return 3 if alone and not encoder.finished else 0  # torchrun would take 3 for a crash


def _report_epoch(history: list[dict]) -> None:
    last = history[-1]
    knn = "" if last["knn"] is None else f", 20-NN accuracy on a tenth of the training images {last['knn']:.2%}"
    logging.getLogger("supclust").info("epoch %d: loss %.4f, %.0f s%s", last["epoch"], last["loss"], last["seconds"], knn)


def _ship(options: argparse.Namespace) -> int:
    """Extract the features of a data set with an encoder, compare ways to store them in 20 MB, keep the best: of weights, for the
    package; by a pretrained encoder, as the data set NAME@ENCODER.
    """
    from supclust.label import embedders
    from supclust.train import shipping

    encoder = options.encoder
    if encoder.endswith(".safetensors"):
        table = shipping.ship(options.name, Path(encoder))
    else:
        embedder = embedders.load(embedders.EncoderOptions(encoder, download=options.download))
        table = shipping.embed(options.name, encoder, embedder.side, embedder.embed)
    print(table.round(4).to_string())
    return 0


# What each is for, and which of the OPTIONS it has.
COMMANDS = {
    _label: (
        "pick images of your own to label",
        "source --budget --out --labeled --classes --id-column --label-column --strategy --added --per-class-min --copy "
        "--keep-duplicates --explain --seed --open "
        "--force --images --encoder --train-minutes --train-epochs --from-scratch --download",
    ),
    _suggest: (
        "suggest labels for the other images of a round",
        "source --labeled --classes --id-column --label-column --copy --min-confidence --images --force --out",
    ),
    _open: ("label a round in the browser", "round"),
    _compare: (
        "compare strategies on labelled features",
        "features --strategies --strategy --budget --rounds --seeds --jobs --out",
    ),
    _figures: (
        "execute the numbered notebooks: fills figures/ and reports/",
        "notebooks --profile --out -p,--parameter --recompute",
    ),
    _sweep: (
        "run the active-learning experiments of a profile",
        "--profile --out --frameworks --datasets --strategies --budgets --seeds --jobs --shard --leave-out-missing",
    ),
    _claims: ("a verdict on each claim of the paper", "--profile --out --leave-out-missing --readme"),
    _data: ("download a data set and check it", "name --leave-out-missing"),
    _train: (
        "train a SimCLR encoder",
        "pool --recipe -p,--parameter --start --seed --within --minutes --folder --leave-out-missing",
    ),
    _ship: ("make a feature file: the one that comes with the package, or by another encoder", "name encoder --download"),
}


if __name__ == "__main__":
    sys.exit(main())
