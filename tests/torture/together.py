"""Two at once: commands on one folder, with random offsets, and readers while a writer writes."""

import http.client
import itertools
import json
import multiprocessing
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from supclust import kept
from supclust.label import annotations, embeddings, labeling, results, serving, typed
from tests import notebook_samples
from tests.conftest import make_blobs
from tests.torture import SEED, Case, command, environment, often, run
from tests.torture.kills import TRAIN, compare, content

Ended = list[tuple[int, str]]  # exit status of each command, and what it said


def together(lines: Sequence[Sequence[str]], rng: random.Random, within: float) -> Ended:
    """Start commands at random moments within some seconds, and wait for all of them."""
    begun, processes = time.monotonic(), []
    for line, offset in zip(lines, sorted(rng.uniform(0, within) for _ in lines), strict=True):
        time.sleep(max(0, begun + offset - time.monotonic()))
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        processes.append(subprocess.Popen(line, env=environment(), text=True, **streams))
    said = [process.communicate()[1] for process in processes]
    return [(process.returncode, one) for process, one in zip(processes, said, strict=True)]


def check(case: Case, ended: Ended, refusal: str = "(?!)") -> None:
    """One command at least has to succeed, and others may be refused, with this sentence."""
    case.expect(any(code == 0 for code, _ in ended), f"none succeeded: {ended[-1][1][-200:]}")
    for said in (said for code, said in ended if code != 0):
        case.expect(bool(re.search(refusal, said)) and "Traceback" not in said, f"it ended with: {said.strip()[-300:]}")


def sweeps(work: Path, share: float) -> Case:
    """Two and four sweeps write one table."""
    case, rng, out = Case("two and four sweeps on one folder"), random.Random(f"0{SEED}"), work / "out"
    part = ("--profile", "smoke", "--frameworks", "ssl", "--strategies", "random", "typiclust", "--out")
    line = command("sweep", *part, out, "--jobs", 1)
    check(case, together([line], rng, 0))
    wanted = content(out, r"checkpoint\.pt$")
    for number in [2] * often(15, share) + [4] * often(10, share):
        shutil.rmtree(out / "reports")
        if rng.random() < 0.3:  # else there are features already, and records begin at once
            shutil.rmtree(out / "artefacts")
        check(case, together([line] * number, rng, 4))
        compare(case, wanted, content(out, r"checkpoint\.pt$"))
        case.trials += 1
    return case


def rounds(work: Path, share: float) -> Case:
    """Two rounds go on from one, into folders of their own or into the same one; and two first rounds of the same images."""
    case, rng, points = Case("two rounds at once"), random.Random(f"0{SEED}"), work / "points.npz"
    np.savez(points, features=make_blobs(6, 20, 8))
    run("label", points, "--budget", 5, "--out", work / "start" / "first").check_returncode()
    for _ in range(often(60, share)):
        folder, kind = work / "rounds", rng.choice(["next", "same", "first"])
        shutil.copytree(work / "start", folder)
        if kind == "first":  # the round that is there already picked the same, and would be told of instead
            shutil.rmtree(folder / "first")
        source = points if kind == "first" else folder / "first"
        outs = [folder / "a", folder / ("a" if kind == "same" else "b")]
        lines = [command("label", source, "--budget", 5, "--out", out) for out in outs]
        ended = together(lines, rng, 1)
        check(case, ended, "another run writes into|holds results already" if kind == "same" else "(?!)")
        picked = [_picks(out) for out in dict.fromkeys(outs)]
        if kind == "same":
            case.expect(sorted(code for code, _ in ended) == [0, 2], "two rounds in one folder, and none was refused")
        elif kind == "next":
            case.expect(not picked[0] & picked[1], "two rounds that go on from one picked the same")
        else:
            said = [name for name in "ab" if any(f"{name} picked 5 images of these, too" in text for _, text in ended)]
            case.expect(picked[0] != picked[1] or bool(said), "two first rounds picked the same, and neither said so")
        hidden = [file.name for out in set(outs) for file in out.glob(".*")]
        case.expect(not hidden, f"left over: {hidden}")
        shutil.rmtree(folder)
        case.trials += 1
    return case


def _picks(out: Path) -> frozenset[str]:
    """What a round picked; nothing where it was refused."""
    file = out / results.PICKS
    return frozenset(one.id for one in annotations.read(file)) if file.exists() else frozenset()


def trainings(work: Path, share: float) -> Case:
    """One of two is refused, and the weights are those of one alone."""
    case, rng, out = Case("two trainings in one folder"), random.Random(f"0{SEED}"), work / "out"
    options = ("--recipe", "digits", "-p", "epochs", "2", "-p", "width", "8", "--folder", str(out))
    line = [sys.executable, "-c", TRAIN, "train", "digits", *options]
    check(case, together([line], rng, 0))
    wanted = content(out, r"checkpoint\.pt$")
    for _ in range(often(20, share)):
        shutil.rmtree(out)
        check(case, ended := together([line, line], rng, 3), "another process trains in")
        case.expect(sum("epoch 1:" in said for _, said in ended) == 1, f"not one trained: {[code for code, _ in ended]}")
        compare(case, wanted, content(out, r"checkpoint\.pt$"))
        case.trials += 1
    return case


NOTEBOOKS = """
import pathlib, sys
from supclust import __main__, kept
kept.NOTEBOOKS = pathlib.Path(sys.argv[1])
sys.exit(__main__.main(sys.argv[2:]))
"""


def figures(work: Path, share: float) -> Case:
    """Two runs of the same notebook, or of different ones, share reports and provenance."""
    case, rng, out = Case("two runs of figures"), random.Random(f"0{SEED}"), work / "out"
    a, b = (notebook_samples.make(notebook_samples.draw(name)) for name in ("figure_a", "figure_b"))
    notebook_samples.write(work / "notebooks", n00_a=a, n01_b=b)
    line = [sys.executable, "-c", NOTEBOOKS, str(work / "notebooks"), "figures", "--profile", "smoke", "--out", str(out)]
    for _ in range(often(20, share)):
        names = rng.choice([("00", "00"), ("00", "01")])
        check(case, ended := together([[*line, name] for name in names], rng, 2))
        case.expect(not any(code for code, _ in ended), "one of the two failed")
        reports = out / "reports" / "smoke"
        there = {file.name for file in reports.iterdir()}
        stems = {"00": "00_a", "01": "01_b"}
        wanted = {f"{stems[name]}.{suffix}" for name in names for suffix in ("html", "ipynb")} | {"index.html", "provenance.json"}
        case.expect(there == wanted, f"in the reports: {sorted(there ^ wanted)}")
        noted = json.loads((reports / "provenance.json").read_text())["notebooks"]
        case.expect(set(noted) == {stems[name] for name in names}, f"provenance.json has {sorted(noted)} only")
        shutil.rmtree(out)
        case.trials += 1
    return case


def pages(work: Path, share: float) -> Case:
    """Two pages save labels of one round while others read them and the next round is picked."""
    case, rng = Case("two pages of a round, and readers"), random.Random(f"0{SEED}")
    np.savez(work / "points.npz", features=make_blobs(6, 20, 8))
    for turn in range(often(10, share)):
        folder = work / str(turn) / "round"
        labeling.run(labeling.Request(work / "points.npz", folder, budget=40))
        ids, stop, seen = [one.id for one in annotations.read(folder / results.PICKS)], threading.Event(), []
        with serving.Server(folder) as first, serving.Server(folder) as second:
            for server in (first, second):
                threading.Thread(target=server.serve_forever, daemon=True).start()
            reading = threading.Thread(target=_read_labels, args=(folder, stop, seen, case))
            reading.start()
            parts = ((first, ids[::2]), (second, ids[1::2]))
            writing = [threading.Thread(target=_post, args=(*part, case)) for part in parts]
            for thread in writing:
                thread.start()
            time.sleep(rng.uniform(0, 0.3))
            labeling.run(labeling.Request(folder, folder.with_name("next"), budget=5))
            for thread in writing:
                thread.join()
            stop.set()
            reading.join()
            for server in (first, second):
                server.shutdown()
        case.expect(typed.read(folder) == {id_: f"label {id_}" for id_ in ids}, "a label that was saved is not there")
        case.expect(all(map(set.issubset, seen, seen[1:])), "a label that was there was gone later")
        case.trials += len(seen)
    return case


def _post(server: serving.Server, ids: Sequence[str], case: Case) -> None:
    """Save labels one after the other."""
    headers = {"Cookie": f"supclust-{server.server_port}={server.token}", "Content-Type": "application/json"}
    for id_ in ids:
        with closing(http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)) as connection:
            connection.request("POST", f"/{server.rounds[0]}/labels", json.dumps({id_: f"label {id_}"}), headers)
            case.expect(connection.getresponse().status == 200, "a label was not saved")


def _read_labels(folder: Path, stop: threading.Event, seen: list[set[str]], case: Case) -> None:
    """Read what is typed until told to stop."""
    while not stop.is_set():
        found = {one.id: one.label for one in typed.of_chain(folder)}
        case.expect(all(label == f"label {id_}" for id_, label in found.items()), "half a label was read")
        seen.append(set(found))


def readers(work: Path, share: float) -> Case:
    """A reader sees the old file or the new one, whole."""
    case = Case("readers while a writer writes")
    table = partial(pd.DataFrame, columns=["a", "b"])
    kinds: list[tuple[str, Callable, Callable, Callable]] = [
        ("table.csv", _write, kept.load, lambda i: table([[i, i]] * 20_000)),
        ("record.json", _write, kept.load, lambda i: [i] * 50_000),
        ("features.safetensors", _write, kept.load, lambda i: {"train": np.full((5_000, 64), i, dtype=np.float32)}),
        ("embeddings.npz", embeddings.write, embeddings.read, _embeddings),
        ("labels.csv", _write_labels, annotations.read, lambda i: [{"id": str(k), "label": str(i)} for k in range(5_000)]),
    ]
    for name, write, read, make in kinds:
        path = work / name
        write(path, make(0))
        writer = multiprocessing.get_context("fork").Process(target=_go_on_writing, args=(path, write, make), daemon=True)
        writer.start()
        versions, end = set(), time.monotonic() + 20 * share
        while time.monotonic() < end or len(versions) < 2:
            try:
                values = _values(read(path))
                case.expect(len(values) == 1, f"{name}: parts of {len(values)} versions")
                versions |= values
            except Exception as error:
                case.faults.append(f"{name}: {error}")
            case.trials += 1
        case.expect(writer.is_alive(), f"{name}: the writer failed")
        writer.kill()
        writer.join()
        case.note += f"{name}: {len(versions)} versions seen; "
    case.note = case.note.removesuffix("; ")
    return case


def _go_on_writing(path: Path, write: Callable, make: Callable) -> None:
    versions = [make(i) for i in (1, 2)]
    for version in itertools.cycle(versions):
        write(path, version)


def _write(path: Path, value: Any) -> None:
    kept.write(path, value, {})


def _write_labels(path: Path, rows: list[dict[str, str]]) -> None:
    results.write_csv(path, rows)


def _embeddings(i: int) -> embeddings.Embeddings:
    return embeddings.Embeddings(np.full((5_000, 64), i, dtype=np.float32), tuple(map(str, range(5_000))))


def _values(found: Any) -> set[float]:
    """The versions that a value is of."""
    if isinstance(found, embeddings.Embeddings):
        return set(np.unique(found.features).tolist())
    if isinstance(found, list):
        return {float(one.label) for one in found}
    value = found[0]
    value = value["train"] if isinstance(value, dict) else value
    return set(np.unique(np.asarray(value)).astype(float).tolist())


CASES = [sweeps, rounds, trainings, figures, pages, readers]
