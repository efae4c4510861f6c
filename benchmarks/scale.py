"""Cost an image and peak memory: from a thousand images to a million, from batches of 64 to 4096, one process and two.

Each `fit` runs in a process of its own: its epochs after the first are timed, and memory is the most that it held (of
two processes the first one's).

python -m benchmarks.scale
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import harness
from benchmarks.clock import Clock

HERE = Path(__file__).parent
TWO = ("--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu")


def fit(arguments: list[str]) -> int:
    """In the process of its own: trains, and prints what it took."""
    from vae_lightning.commands.main import main

    status = main(arguments)
    if status == 0 and os.environ.get("LOCAL_RANK", "0") == "0":
        mebibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": statistics.median(Clock.epochs[1:]), "memory": mebibytes}))
    return status


class Fit:
    """A case: one `fit`, at least two epochs and 20 000 images long."""

    def __init__(self, count: int, batch: int, *flags: str, config: str = "mlp.yaml", threads: int = 2) -> None:
        self.count, self.threads, self.memory = count, threads, list[float]()
        epochs = max(2, -(-20_000 // count))
        self.arguments = ["-c", str(HERE / config), f"--data.batch_size={batch}", f"--trainer.max_epochs={epochs}"]
        self.arguments += flags
        if config == "mlp.yaml":
            self.arguments += ["--data.source=benchmarks.images.Repeated", f"--data.source.count={count}"]

    def __call__(self) -> float:
        """Microseconds an image."""
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "benchmarks.scale", "fit", *self.arguments, f"--run.root={folder}"]
            taken = json.loads(harness.process(*command, OMP_NUM_THREADS=str(self.threads)).splitlines()[-1])
        self.memory.append(taken["memory"])
        return 1e6 * taken["seconds"] / self.count


def compare(name: str, cases: dict[str, Fit], beside: str, rounds: int) -> None:
    work: dict[str, Callable[[], float]] = {**cases}
    memory = {case: fit.memory for case, fit in cases.items()}
    harness.compare(f"scale_{name}", work, beside, rounds, unit="us an image", memory=memory)


def run(
    rounds: int,
    counts: Sequence[int] = (1_000, 10_000, 100_000, 1_000_000),
    sizes: Sequence[int] = (64, 128, 256, 1024, 4096),
    count: int = 60_000,
) -> None:
    compare("images", {f"{n:,} images": Fit(n, 128) for n in counts}, f"{counts[1]:,} images", rounds)
    compare("batches", {f"batches of {n}": Fit(count, n) for n in sizes}, "batches of 128", rounds)
    for config, n in (("mlp.yaml", count), ("conv.yaml", 9_000)):
        cases = {
            "one process, one thread": Fit(n, 128, config=config, threads=1),
            "one process, two threads": Fit(n, 128, config=config, threads=2),
            "two processes of one thread": Fit(n, 64, *TWO, config=config, threads=1),
        }
        compare(f"processes_{Path(config).stem}", cases, "one process, one thread", rounds)


if __name__ == "__main__":
    if sys.argv[1:2] == ["fit"]:
        sys.exit(fit(sys.argv[1:]))
    run(harness.arguments(__doc__, 3).parse_args().rounds)
