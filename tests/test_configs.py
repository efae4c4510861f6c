"""Every YAML of every slot parses and runs a step on generated data; every experiment rebuilds from its checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conftest import GENERATED, REPOSITORY, generated_flags
from vae_lightning import load_model

CONFIGS = REPOSITORY / "configs"
SHAPES = {
    "digits": ((1, 8, 8), 17),
    "digits_ladder": ((1, 8, 8), 17),
    "digits_vq": ((1, 8, 8), 17),
    "cifar10": ((3, 32, 32), 256),
    "images": ((3, 32, 32), 256),
}
STATIC = ((1, 28, 28), 2)
STATIC_EXPERIMENTS = ("mnist_static", "mnist_ladder")
"""What their names begin with."""
STEP = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
BARE = [*STEP, "--trainer.callbacks=null", "--trainer.enable_progress_bar=false"]
"""Without pictures, which every experiment draws."""
DEFAULTS = {
    "model": "mlp",
    "encoder": "gaussian",
    "likelihood": "gaussian",
    "prior": "standard_normal",
    "objective": "elbo",
}


def fragments(*chosen: str) -> list[str]:
    """base.yaml and one fragment a slot: the defaults, but for those chosen, and for those that a chosen one names."""
    whole = ("encoder", "likelihood") if "model/principal" in chosen else ()
    picked = {slot: name for slot, name in DEFAULTS.items() if slot not in whole}
    picked |= dict(choice.split("/") for choice in chosen)
    files = [CONFIGS / "base.yaml", *(CONFIGS / slot / f"{name}.yaml" for slot, name in picked.items())]
    return [word for file in files for word in ("-c", str(file))]


GOES_WITH = {
    "encoder/codes_vector": ["objective/vq", "prior/codes"],
    "encoder/codes_finite_scalar": ["prior/codes"],
    "encoder/gumbel": ["prior/codes"],
    "prior/codes": ["encoder/codes_finite_scalar"],
    "prior/code_transformer": ["encoder/codes_finite_scalar"],
    "objective/vq": ["encoder/codes_vector", "prior/codes"],
}
"""Fragments of discrete latents, which come in pairs."""
QUICK = ("--model.evaluation.samples=2", "--model.evaluation.studies=false")


ELSEWHERE = ("_clip", "_second_stage", "_m1_m2")
EXPERIMENTS = [path for path in (CONFIGS / "experiment").glob("*.yaml") if not path.stem.endswith(ELSEWHERE)]
"""Those that stand alone; the others are in test_dual_encoder.py, test_second_stage.py and test_two_stage.py."""


@pytest.mark.parametrize("path", sorted(EXPERIMENTS), ids=lambda path: path.stem)
def test_experiments_run_and_rebuild(cli: Callable, path: Path) -> None:
    if path.stem.endswith("_vq"):
        pytest.importorskip("vector_quantize_pytorch", reason="pip install 'vae-lightning[vq]'")
    shape, levels = STATIC if path.stem.startswith(STATIC_EXPERIMENTS) else SHAPES.get(path.stem, ((1, 28, 28), 256))
    few = ["--data.few_labels.labels=20", "--data.few_labels.per_batch=4"] if path.stem.endswith("_m2") else []
    done = cli("fit", "-c", path, *generated_flags(shape, levels), *STEP, *few)
    assert done.status == 0, done.err
    run = Path("runs") / path.stem / "1"
    assert load_model(str(run)).spec.image_shape == shape
    assert cli("test", "--ckpt_path", run, *QUICK).status == 0
    assert (run / "results.json").is_file()


@pytest.mark.parametrize(
    "choice",
    sorted(
        f"{slot}/{path.stem}"
        for slot in DEFAULTS
        for path in (CONFIGS / slot).glob("*.yaml")
        if path.stem != "reconstruction"
    ),
)
def test_fragments_of_every_slot_run_a_step(cli: Callable, choice: str) -> None:
    chosen = [choice]
    if choice in ("encoder/point_mass",) or choice.startswith("encoder/denoising"):
        chosen.append("objective/reconstruction")
    if choice == "model/linear":
        chosen.append("likelihood/gaussian_learned")
    chosen += GOES_WITH.get(choice, [])
    if "encoder/codes_vector" in chosen:
        pytest.importorskip("vector_quantize_pytorch", reason="pip install 'vae-lightning[vq]'")
    levels = 2 if choice == "likelihood/bernoulli" else 256
    few = ["--model.latent_model.prior.components=4"] if choice == "prior/exemplar" else []  # of so few images
    done = cli("fit", *fragments(*chosen), *generated_flags((1, 28, 20), levels), *few, *BARE)
    assert done.status == 0, done.err
    recorded = yaml.safe_load(Path("runs/default/1/config.yaml").read_text())
    text = yaml.safe_dump(recorded["model"])
    slot, name = choice.split("/")
    wanted = yaml.safe_load((CONFIGS / slot / f"{name}.yaml").read_text())["model"]
    for key in () if slot == "model" else ("encoder", "likelihood"):
        part = wanted.get("latent_model", {}).get("init_args", {}).get(key, {})
        assert part.get("class_path", "") in text
    net = "UNet" if choice == "model/principal" else "hidden"
    assert net in text  # the net of the model fragment is kept where another fragment replaces the head


@pytest.mark.parametrize("path", sorted((CONFIGS / "data").glob("*.yaml")), ids=lambda path: path.stem)
def test_data_fragments_parse_and_say_what_is_missing(cli: Callable, path: Path, tmp_path: Path) -> None:
    likelihood = "bernoulli" if path.stem in ("mnist_dynamic", "mnist_static") else "discretized_logistic"
    flags = [
        *fragments(f"likelihood/{likelihood}"),
        "-c",
        str(path),
        *BARE,
        "--data.root=nowhere",
        "--data.download=false",
    ]
    done = cli("fit", *flags)
    if path.stem in ("digits", "digits_captions"):
        assert done.status == 0
    else:
        assert done.status != 0
        assert "nowhere" in done.error or "data/images" in done.error
        assert not list(Path().rglob("runs/*/*"))  # a run that never began leaves nothing


def test_a_fragment_may_replace_a_single_key(cli: Callable) -> None:
    source = f"--data.source={GENERATED}"
    done = cli(
        "fit",
        *fragments(),
        source,
        "--data.val_size=16",
        "--data.batch_size=8",
        "--model.latent_model.latent_size=3",
        *BARE,
    )
    assert done.status == 0
    assert load_model("runs/default/1").sample(2).batch_shape == (2,)
    recorded = yaml.safe_load(Path("runs/default/1/config.yaml").read_text())
    assert recorded["model"]["latent_model"]["init_args"]["latent_size"] == 3
    assert recorded["model"]["latent_model"]["init_args"]["encoder"]["init_args"]["net"]["init_args"]["hidden"] == [
        400,
        400,
    ]
