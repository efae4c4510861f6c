"""The text-to-image chain on captioned MNIST with several seeds: how much of a figure is luck.

    python -m benchmarks.text2image_seeds OUT [--seeds 0 1 2] [--generated 10000]

Trains `configs/text2image/mnist` below OUT/seed<N> (32 minutes of a core each), tests CLIP and the chain, and prints
each row's mean over the seeds with their standard deviation. Begun again, it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "text2image" / "mnist"
STAGES = ("vae", "clip", "prior", "decoder")
TESTED = ("clip", "decoder")


def command(folder: Path, *words: object) -> None:
    subprocess.run([sys.executable, "-m", "vae_lightning", *map(str, words)], cwd=folder, check=True)


def train(folder: Path, seed: int) -> None:
    """Every stage that is not finished. The configurations name runs relative to the folder."""
    for stage in STAGES:
        run = folder / "runs" / "text2image_mnist" / stage
        if (run / "finished").is_file():
            continue
        if (run / "checkpoints" / "last.ckpt").is_file():
            command(folder, "fit", "--ckpt_path", run)
        else:
            shutil.rmtree(run, ignore_errors=True)  # stopped before its first checkpoint
            command(folder, "fit", "-c", CONFIGS / f"{stage}.yaml", "--seed_everything", seed)
        (run / "finished").touch()


def rows(folder: Path, generated: int) -> dict[str, float]:
    """The figures of CLIP's test and the chain's, by what they are."""
    found = {}
    for stage in TESTED:
        run = folder / "runs" / "text2image_mnist" / stage
        if not (run / "results.json").is_file():
            extra = ("--model.evaluation.generated", generated) if stage == "decoder" else ()
            command(folder, "test", "--ckpt_path", run, *extra)
        for section in json.loads((run / "results.json").read_text())["sections"]:
            found |= {f"{stage}: {row['label']}": row["mean"] for row in section["rows"]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--generated", type=int, default=10_000, help="captions of test images")
    asked = parser.parse_args()
    each = []
    for seed in asked.seeds:
        folder = asked.out / f"seed{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        train(folder, seed)
        each.append(rows(folder, asked.generated))
    print(f"| what | mean | deviation | {' | '.join(f'seed {seed}' for seed in asked.seeds)} |")
    print("|---|---|---|" + "---|" * len(asked.seeds))
    for name in each[0]:
        values = np.array([found.get(name, np.nan) for found in each])
        deviation = f"{values.std(ddof=1):.3g}" if len(values) > 1 else "-"
        print(f"| {name} | {values.mean():.4g} | {deviation} | {' | '.join(f'{value:.4g}' for value in values)} |")


if __name__ == "__main__":
    main()
