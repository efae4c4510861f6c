"""Runs what is compared in turns, several times, and prints medians and ratios."""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def arguments(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """A parser with `--rounds`, `rounds` by default; from here on a line is printed as soon as it is there."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--rounds", type=_positive, default=rounds, help=f"how often each case runs ({rounds})")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1 round, got {text}: leave it out or give a number.")
    return int(text)


def machine() -> dict[str, Any]:
    """What the seconds, though not the ratios, depend on; the load is that of the last 1, 5 and 15 minutes."""
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if "model name" in line), "unknown")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []


def seconds(work: Callable[[], Any]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def process(*command: str, **environment: str) -> str:
    """What a process of its own prints; one that fails ends the benchmark and shows its errors."""
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\nended with status {done.returncode}:\n{done.stderr}")
    return done.stdout


def compare(
    name: str,
    cases: dict[str, Callable[[], float]],
    beside: str,
    rounds: int,
    per: tuple[str, float] | None = None,
    notes: dict[str, Any] | None = None,
    unit: str = "seconds",
    memory: dict[str, list[float]] | None = None,
    counterparts: dict[str, str] | None = None,
) -> dict[str, float]:
    """Runs each case once in each round; prints and writes the median and its ratio to the case `beside`.

    What each took is printed as it comes, and written with the machine's load before it.

    Args:
        name: of the file in benchmarks/results.
        cases: name -> a function that does the work and returns what it took, in `unit`.
        beside: the case that the others are divided by.
        rounds: how many.
        per: (unit, how many of them one call does): also printed as a rate.
        notes: what else to write into the file; the cases may still fill it.
        unit: of what the cases return.
        memory: name -> mebibytes, one of each round, which the cases fill: the most is printed.
        counterparts: name -> another case: the ratio to that one, too, is printed and written.
    Returns: name -> median.
    """
    taken: dict[str, list[float]] = {case: [] for case in cases}
    load: dict[str, list[float]] = {case: [] for case in cases}
    for turn in range(rounds):
        for case, work in cases.items():
            load[case].append(os.getloadavg()[0])
            taken[case].append(work())
            print(
                f"{name}, round {turn + 1} of {rounds}, {case}: {taken[case][-1]:.4g} {unit}, load {load[case][-1]:.2f}"
            )
    medians = {case: statistics.median(values) for case, values in taken.items()}

    def ratio(case: str, other: str) -> float:
        """The median over rounds: what slows the machine down slows both sides of one round."""
        return statistics.median(a / b for a, b in zip(taken[case], taken[other], strict=True))

    ratios = {case: ratio(case, beside) for case in cases}
    own = {case: ratio(case, other) for case, other in (counterparts or {}).items()}
    width = max(map(len, cases))
    loads = [value for values in load.values() for value in values]
    print(f"\n{name} ({os.cpu_count()} cores, load {min(loads):.2f} to {max(loads):.2f})")
    for case in cases:
        rate = f"  {per[1] / medians[case]:>14,.0f} {per[0]}/s" if per else ""
        held = f"  {max(memory[case]):>7,.0f} MiB" if memory else ""
        beside_own = f"  {own[case]:.3f}x of {(counterparts or {})[case]}" if case in own else ""
        print(f"  {case:{width}}  {medians[case]:>10.4g} {unit}  {ratios[case]:>6.3f}x{rate}{held}{beside_own}")
    RESULTS.mkdir(exist_ok=True)
    content = {"machine": machine(), "beside": beside, unit: taken, "load": load}
    content |= {"median": medians, "ratio": ratios}
    held_by = {**({"MiB": memory} if memory else {}), **({"ratio to its counterpart": own} if own else {})}
    (RESULTS / f"{name}.json").write_text(json.dumps({**content, **held_by, **(notes or {})}, indent=1))
    return medians
