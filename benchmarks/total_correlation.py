"""Does beta-TC bring the total correlation of the latents down further than beta-VAE does at the same distortion?

    python -m benchmarks.total_correlation OUT [--betas 1 2 4 8 16] [--experiment digits]

Trains an experiment (Chen et al. 2018, figure 3, on data of one's own) with each weight beta of the whole rate (`ELBO`)
and of its total correlation alone (`BetaTC`) below OUT, tests all of them, and prints a table; the last column is
beta-VAE's total correlation at beta-TC's distortion, by linear interpolation between its runs. Begun again, it goes on
where it was stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks.runs import Found, results_of

EXPERIMENTS = Path(__file__).resolve().parent.parent / "configs" / "experiment"
OBJECTIVES = {"beta-VAE": "ELBO", "beta-TC": "BetaTC"}
ROWS = ("distortion", "mutual_information", "total_correlation", "dimension_wise_kl")


def measured(out: Path, experiment: str, objective: str, beta: float) -> Found:
    """The rows of one run, nats."""
    flags = [f"--model.objective={objective}", f"--model.objective.beta={beta:g}"]
    flags += ["--checkpoint.monitor=null"]  # the best plain bound would choose another beta's model
    run = out / experiment / f"{objective}-{beta:g}"
    found = results_of(run, ["-c", EXPERIMENTS / f"{experiment}.yaml", *flags])
    return {name: found[name] for name in ROWS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--betas", type=float, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--experiment", default="digits", help="a name of configs/experiment")
    asked = parser.parse_args()
    found = {
        name: [measured(asked.out, asked.experiment, objective, beta) for beta in asked.betas]
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
