"""Does beta-TC bring the total correlation of the latents down further than beta-VAE does at the same distortion?

    python -m benchmarks.total_correlation OUT [--betas 1 2 4 8 16] [--experiment digits]

Trains an experiment (Chen et al. 2018, figure 3, on data of one's own) with each weight beta of the whole rate (`ELBO`)
and of its total correlation alone (`BetaTC`) below OUT, tests all of them, and prints a table; the last column is
beta-VAE's total correlation at beta-TC's distortion, by linear interpolation between its runs. Begun again, it goes on
where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

EXPERIMENTS = Path(__file__).resolve().parent.parent / "configs" / "experiment"
OBJECTIVES = {"beta-VAE": "ELBO", "beta-TC": "BetaTC"}
ROWS = ("distortion", "mutual_information", "total_correlation", "dimension_wise_kl")


def tested(out: Path, experiment: str, objective: str, beta: float) -> dict[str, tuple[float, float]]:
    """{row: (mean, standard error)} in nats, of a run that is trained and tested unless it was."""
    run = out / experiment / f"{objective}-{beta:g}"

    def command(*words: str | Path) -> None:
        subprocess.run([sys.executable, "-m", "vae_lightning", *map(str, words)], check=True)

    if not (run / "results.json").is_file():
        if (run / "checkpoints" / "last.ckpt").is_file():
            command("fit", "--ckpt_path", run)
        else:
            shutil.rmtree(run, ignore_errors=True)  # stopped before its first checkpoint
            place = [f"--run.root={out}", f"--run.experiment={experiment}", f"--run.name={run.name}"]
            wanted = [f"--model.objective={objective}", f"--model.objective.beta={beta:g}"]
            wanted += ["--checkpoint.monitor=null"]  # the best plain bound would choose another beta's model
            command("fit", "-c", EXPERIMENTS / f"{experiment}.yaml", *place, *wanted)
        command("test", "--ckpt_path", run)
    sections = json.loads((run / "results.json").read_text())["sections"]
    found = {row["name"]: (row["mean"], row["error"]) for section in sections for row in section["rows"]}
    return {name: found[name] for name in ROWS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--betas", type=float, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--experiment", default="digits", help="a name of configs/experiment")
    asked = parser.parse_args()
    found = {
        name: [tested(asked.out, asked.experiment, objective, beta) for beta in asked.betas]
        for name, objective in OBJECTIVES.items()
    }
    curve = sorted((run["distortion"][0], run["total_correlation"][0]) for run in found["beta-VAE"])
    print("| objective | beta | distortion | mutual information | total correlation | dimension-wise KL | beta-VAE's |")
    print("|---|---|---|---|---|---|---|")
    for name, runs in found.items():
        for beta, run in zip(asked.betas, runs, strict=True):
            cells = " | ".join(f"{mean:.2f} ± {error:.2f}" for mean, error in run.values())
            distortion = run["distortion"][0]
            inside = name == "beta-TC" and curve[0][0] <= distortion <= curve[-1][0]
            same = f"{np.interp(distortion, *map(list, zip(*curve, strict=True))):.2f}" if inside else "-"
            print(f"| {name} | {beta:g} | {cells} | {same} |")


if __name__ == "__main__":
    main()
