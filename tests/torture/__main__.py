"""`python -m tests.torture [PART | PART.CASE ...]`: run the campaign, two cases at a time, and print a table of what was found."""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from supclust.bench.tables import machine
from tests.torture import Case

PARTS = ("kills", "inputs", "machines", "together", "kernels", "untrusted")
PAGE = Path("docs/reliability.md")
BEGIN, END = "<!-- torture:begin -->", "<!-- torture:end -->"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("names", nargs="*", default=PARTS, metavar="PART", help=f"{', '.join(PARTS)}, or one case: kills.sweep")
    parser.add_argument("--share", type=float, default=1, help="of the trials (default: 1, some two and a half hours on two cores)")
    parser.add_argument("--here", action="store_true", help="one case, in this process, so that a debugger can be used")
    parser.add_argument("--results", type=Path, default=Path("build/torture"), help="where each case's result is kept, as JSON")
    parser.add_argument("--write", action="store_true", help=f"write the table of all kept results into {PAGE}")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    names = [full for name in options.names for full in cases(name)]
    if options.here and len(names) != 1:
        parser.error("--here runs one case, such as kills.sweep")
    for name in names:  # until its own result takes the place
        keep(name, Case(name.partition(".")[2], faults=["the case did not end"]), options.share, 0, options.results)
    if options.here:
        return here(names[0], options.share, options.results)
    with ThreadPoolExecutor(2) as pool:
        failed = any([*pool.map(lambda name: in_process(name, options.share, options.results), names)])
    kept = [json.loads(path.read_text()) for name in PARTS for path in sorted(options.results.glob(f"{name}.*.json"))]
    print(text := table(kept))
    if options.write:
        page = PAGE.read_text()
        PAGE.write_text(page[: page.index(BEGIN)] + f"{BEGIN}\n{text}\n" + page[page.index(END) :])
    return int(failed)


def cases(name: str) -> list[str]:
    """The full names of a part's cases, or the one that is named."""
    part, _, wanted = name.partition(".")
    if part not in PARTS:
        sys.exit(f"unknown part {part}; there are {', '.join(PARTS)}")
    found = [case.__name__ for case in importlib.import_module(f"tests.torture.{part}").CASES]
    return [f"{part}.{case}" for case in found if wanted in ("", case)] or sys.exit(f"{part} has {', '.join(found)}")


def here(name: str, share: float, results: Path) -> int:
    """Run one case in a folder of its own and keep what it found."""
    part, _, wanted = name.partition(".")
    [case] = [case for case in importlib.import_module(f"tests.torture.{part}").CASES if case.__name__ == wanted]
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix=f"torture-{wanted}-") as work:
        found = case(Path(work), share)
    keep(name, found, share, round(time.perf_counter() - begun), results)
    print(f"{found.name}: {found.trials} trials, {len(found.faults)} faults", *found.faults, sep="\n  ", flush=True)
    return int(bool(found.faults))


def keep(name: str, found: Case, share: float, seconds: int, results: Path) -> None:
    """Write what is known of a case into its JSON."""
    row = {"part": name.partition(".")[0], **asdict(found), "seconds": seconds, "share": share}
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    row |= {"when": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine(), "commit": commit}
    (results / f"{name}.json").write_text(json.dumps(row, indent=1))


def in_process(name: str, share: float, results: Path) -> int:
    """The same in a process of its own, so that no case can harm another one: its exit status."""
    line = [sys.executable, "-m", "tests.torture", name, "--here", "--share", str(share), "--results", str(results)]
    return subprocess.run(line, env=os.environ | {"PYTHONPATH": os.getcwd()}).returncode


def table(rows: list[dict[str, Any]]) -> str:
    """The results as Markdown, with the faults that are left below."""
    lines = ["| part | case | share | trials | faults left | besides | minutes |\n|---|---|---|---|---|---|---|"]
    for row in rows:
        numbers = f"{row['share']:g} | {row['trials']:,} | {len(row['faults'])} | {row['note']} | {row['seconds'] / 60:.1f}"
        lines.append(f"| {row['part']} | {row['name']} | {numbers} |")
    total = f"{sum(len(row['faults']) for row in rows)} faults left"
    total += ", not the whole campaign" * any(row["share"] < 1 for row in rows)
    where = "; ".join(sorted({f"{row['machine']}, {row['when']}" for row in rows}))
    where += f". Commits: {', '.join(dict.fromkeys(row['commit'] for row in rows))}"
    faults = [f"- {row['name']}: {fault}" for row in rows for fault in row["faults"]]
    return "\n".join([*lines, "", f"*{total}. {where}.*", *faults])


if __name__ == "__main__":
    sys.exit(main())
