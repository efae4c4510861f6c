"""Cost an image and peak memory: from a thousand images to a million, from batches of 64 to 4096, one process and two.

Each `fit` runs in a process of its own: seconds are those of its last epoch, memory is the most that the process held.

python -m benchmarks.scale
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.clock import Clock
from benchmarks.harness import RESULTS, machine

HERE = Path(__file__).parent
COUNT = 60_000


def fit(arguments: list[str]) -> None:
    """In the process of its own: trains, and prints what it took."""
    from vae_lightning.experiment.main import main

    if main(arguments) == 0 and os.environ.get("LOCAL_RANK", "0") == "0":
        mebibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": Clock.epochs[-1], "memory": mebibytes}))


def run(config: str, count: int, batch: int, *flags: str, threads: int = 2) -> tuple[int, dict[str, float]]:
    """One `fit`, at least two epochs and 20 000 images long; (count, what it took)."""
    epochs = max(2, -(-20_000 // count))
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.scale", "fit", "-c", str(HERE / config), f"--run.root={folder}"]
        command += [f"--data.batch_size={batch}", f"--trainer.max_epochs={epochs}", *flags]
        if config == "mlp.yaml":
            command += ["--data.source=benchmarks.images.Repeated", f"--data.source.count={count}"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=600)
    taken: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return count, taken


def table(title: str, cases: dict[str, tuple[int, dict[str, float]]], beside: str) -> dict[str, Any]:
    """Prints microseconds an image, their ratio to the case `beside`, and memory."""
    print(f"\n{title}")
    cost = {case: 1e6 * taken["seconds"] / count for case, (count, taken) in cases.items()}
    for case, (_, taken) in cases.items():
        print(f"  {case:34} {cost[case]:7.1f} us/image {cost[case] / cost[beside]:6.2f}x {taken['memory']:7.0f} MiB")
    return {case: {**taken, "microseconds an image": cost[case]} for case, (_, taken) in cases.items()}


def compare() -> None:
    counts, sizes = (1_000, 10_000, 100_000, 1_000_000), (64, 128, 256, 1024, 4096)
    results = {
        "images": table(
            "MLP, batches of 128", {f"{n:,} images": run("mlp.yaml", n, 128) for n in counts}, "10,000 images"
        ),
        "batches": table(
            "MLP, 60 000 images", {f"batches of {n}": run("mlp.yaml", COUNT, n) for n in sizes}, "batches of 128"
        ),
    }
    two = ("--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu")
    for config, count in (("mlp.yaml", COUNT), ("conv.yaml", 9_000)):
        cases = {
            "one process, one thread": run(config, count, 128, threads=1),
            "one process, two threads": run(config, count, 128, threads=2),
            "two processes of one thread": run(config, count, 64, *two, threads=1),
        }
        results[config] = table(f"{config}, {count} images, 128 a step", cases, "one process, one thread")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "scale.json").write_text(json.dumps({"machine": machine(), **results}, indent=1))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        fit(sys.argv[1:])
    else:
        compare()
