"""Runs what is compared in turns, several times, and prints medians and ratios."""

from __future__ import annotations

import json
import os
import platform
import statistics
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


def compare(
    name: str,
    cases: dict[str, Callable[[], float]],
    beside: str,
    repeats: int = 5,
    per: tuple[str, float] | None = None,
    notes: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Runs each case once in each of `repeats` rounds; prints and writes the median and its ratio to the case `beside`.

    Args:
        name: of the file in benchmarks/results.
        cases: name -> a function that does the work and returns its seconds.
        beside: the case that the others are divided by.
        repeats: rounds.
        per: (unit, how many of them one call does): also printed as a rate.
        notes: what else to write into the file.
    Returns: name -> median seconds.
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
        print(f"  {case:{width}}  {medians[case]:>9.4f} s  {ratios[case]:>6.2f}x{rate}")
    RESULTS.mkdir(exist_ok=True)
    content = {"machine": machine(), "beside": beside, "seconds": taken, "median": medians, "ratio": ratios}
    (RESULTS / f"{name}.json").write_text(json.dumps({**content, **(notes or {})}, indent=1))
    return medians
