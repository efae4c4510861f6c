"""Runs what is compared in turns, several times, and prints medians and ratios."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """What the seconds, though not the ratios, depend on."""
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if "model name" in line), "unknown")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
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
    repeats: int = 5,
    per: tuple[str, float] | None = None,
    notes: dict[str, Any] | None = None,
    unit: str = "seconds",
    memory: dict[str, list[float]] | None = None,
) -> dict[str, float]:
    """Runs each case once in each of `repeats` rounds; prints and writes the median and its ratio to the case `beside`.

    Args:
        name: of the file in benchmarks/results.
        cases: name -> a function that does the work and returns what it took, in `unit`.
        beside: the case that the others are divided by.
        repeats: rounds.
        per: (unit, how many of them one call does): also printed as a rate.
        notes: what else to write into the file; the cases may still fill it.
        unit: of what the cases return.
        memory: name -> mebibytes, one of each round, which the cases fill: the most is printed.
    Returns: name -> median.
    """
    taken: dict[str, list[float]] = {case: [] for case in cases}
    for _ in range(repeats):
        for case, work in cases.items():
            taken[case].append(work())
    medians = {case: statistics.median(values) for case, values in taken.items()}
    # The ratio of the medians of rounds: what slows the machine down slows both sides of one round.
    ratios = {
        case: statistics.median(a / b for a, b in zip(values, taken[beside], strict=True))
        for case, values in taken.items()
    }
    width = max(map(len, cases))
    print(f"\n{name}")
    for case in cases:
        rate = f"  {per[1] / medians[case]:>14,.0f} {per[0]}/s" if per else ""
        held = f"  {max(memory[case]):>7,.0f} MiB" if memory else ""
        print(f"  {case:{width}}  {medians[case]:>10.4g} {unit}  {ratios[case]:>6.3f}x{rate}{held}")
    RESULTS.mkdir(exist_ok=True)
    content = {"machine": machine(), "beside": beside, unit: taken, "median": medians, "ratio": ratios}
    held_by = {"MiB": memory} if memory else {}
    (RESULTS / f"{name}.json").write_text(json.dumps({**content, **held_by, **(notes or {})}, indent=1))
    return medians
