"""What cures blur, in reconstructions and in samples: likelihoods, priors, depth, codes?

    python -m benchmarks.blur OUT -c configs/data/mnist.yaml [--epochs 12] [--latents 32] [FLAGS OF fit]
    python -m benchmarks.blur OUT -c configs/data/images.yaml --data.source.path DIR

Trains the textbook's VAE (squared error, N(0, I)) and its cures on the same images for as many steps, tests all of them
(`vae-lightning test`), and prints a table of what `test` says of sharpness and samples; docs/measuring.md says what the
rows are. Begun again, it goes on where it was stopped. Distances in features need labels.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from pathlib import Path
from typing import Any

import yaml

from benchmarks.runs import Found, results_of

HERE = Path(__file__).resolve().parent
CONFIGS = HERE.parent / "configs"
CONV, ELBO = CONFIGS / "model" / "conv.yaml", CONFIGS / "objective" / "elbo.yaml"
SQUARED, LOGISTIC = (CONFIGS / "likelihood" / f"{name}.yaml" for name in ("gaussian", "discretized_logistic"))
MIXTURE = CONFIGS / "prior" / "gaussian_mixture.yaml"
LADDER, CODES = HERE / "blur_ladder.yaml", HERE / "blur_codes.yaml"
VARIANTS = {
    "squared error, N(0, I)": [CONV, SQUARED],
    "optimal scale": [CONV, CONFIGS / "likelihood" / "gaussian_optimal.yaml"],
    "discretized logistic": [CONV, LOGISTIC],
    "squared error, mixture prior": [CONV, SQUARED, MIXTURE],
    "squared error, ladder": [LADDER, SQUARED],
    "squared error, codes": [CODES, SQUARED],
    "discretized logistic, ladder": [LADDER, LOGISTIC],
}
STEPS = 250
"""Of an epoch, for all data alike."""
IMAGES = ("high_frequency", "edge_width")
ROWS = {
    "reconstruction_high_frequency": "high-frequency energy, %: reconstructions",
    "sample_high_frequency": "samples",
    "reconstruction_edge_width": "edges, pixels: reconstructions",
    "sample_edge_width": "samples",
    "squared_error": "squared error",
    "rate": "rate, nats",
    "frechet": "Fréchet distance of samples",
    "aggregate_frechet": "through q(z)",
}
OF_TEST_IMAGES = {
    **{f"{kind}_{what}": f"original_{what}" for kind in ("reconstruction", "sample") for what in IMAGES},
    "frechet": "frechet_train",
}
"""What stands in the row of the test images."""
FIRST = next(iter(VARIANTS))


def folder(name: str) -> str:
    """Of a variant's run."""
    return re.sub(r"\W+", "_", name).strip("_")


def measured(out: Path, name: str, epochs: int, latents: int, flags: list[str]) -> Found:
    """The rows of a variant."""
    parts = [word for file in (CONFIGS / "base.yaml", ELBO, *VARIANTS[name]) for word in ("-c", file)]
    length = [f"--trainer.max_epochs={epochs}", f"--data.epoch_steps={STEPS}"]
    size = {CONV: latents, CODES: 3 * places(out)} if CODES in VARIANTS[name] else {CONV: latents}
    sizes = [f"--model.latent_model.latent_size={size[net]}" for net in VARIANTS[name] if net in size]
    fit = [*parts, *flags, *length, *sizes, "--trainer.callbacks=[{class_path: Progress}]"]
    return results_of(out / folder(name), fit, ["--model.evaluation.samples=0"])


def require_the_same(out: Path, asked: dict[str, Any]) -> None:
    """Ends the benchmark where OUT holds runs of other settings; else keeps these there."""
    kept = out / "asked.json"
    if kept.is_file() and (before := json.loads(kept.read_text())) != asked:
        raise SystemExit(f"{out}: expected the settings of the runs there, {before}, got {asked}: choose another OUT.")
    out.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(asked))


def places(out: Path) -> int:
    """Of the codes, in an image of the runs below OUT: a quarter of its height times a quarter of its width."""
    config = yaml.safe_load((out / folder(FIRST) / "config.yaml").read_text())
    _, height, width = config["model"]["image_shape"]
    return math.ceil(height / 4) * math.ceil(width / 4)


def cell(found: Found, name: str) -> str:
    if name not in found:
        return "-"
    mean, error = found[name]
    digits = 3 if "edge" in name else 1 if abs(mean) >= 10 else 2
    return f"{mean:.{digits}f}" + ("" if error is None or error != error else f" ± {error:.{digits}f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=12, help=f"of {STEPS} steps each")
    parser.add_argument("--latents", type=int, default=32, help="of the variants that have a vector of them")
    asked, flags = parser.parse_known_args()
    require_the_same(asked.out, {"epochs": asked.epochs, "latents": asked.latents, "flags": flags})
    found = {name: measured(asked.out.resolve(), name, asked.epochs, asked.latents, flags) for name in VARIANTS}
    first = found[FIRST]
    print("| | " + " | ".join(ROWS.values()) + " |")
    print("|---" * (len(ROWS) + 1) + "|")
    test = [cell(first, OF_TEST_IMAGES[row]) if row in OF_TEST_IMAGES else "" for row in ROWS]
    print("| test images | " + " | ".join(test) + " |")
    for name, rows in found.items():
        print(f"| {name} | " + " | ".join(cell(rows, row) for row in ROWS) + " |")


if __name__ == "__main__":
    main()
