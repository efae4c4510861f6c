"""Frozen runs as parts of the next: moved by nothing, and gone from the disk when the next is opened."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.distributions import Distribution

from tests.test_experiment import DIGITS, SHORT, same, weights
from vae_lightning import load_model
from vae_lightning.conditionals import DiscretizedLogisticLikelihood
from vae_lightning.core import Batch, Draw, LatentModel, Spec, Story
from vae_lightning.models import VAE, Frozen, FrozenEncoder, FrozenLikelihood, FrozenPrior

DROPPED = "--model.latent_model.encoder.net.init_args.dropout=0.5"
FIRST = ["fit", "-c", DIGITS, *SHORT, "--trainer.max_epochs=1", "--run.experiment=first"]
ENCODER = ["--model.latent_model.encoder=FrozenEncoder", "--model.latent_model.encoder.run=runs/first"]
WATCH = "--trainer.callbacks=[tests.test_frozen.Watch]"
LOOK = ["--model.evaluation.samples=2", "--model.evaluation.studies=false"]


class Watch(Callback):
    """What is in training mode, and what the optimiser has."""

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: object) -> None:
        encoder = module.latent_model.encoder
        assert module.latent_model.likelihood.training
        assert not any(part.training for part in encoder.modules())
        frozen = {id(p) for p in encoder.parameters()}
        held = [p for group in trainer.optimizers[0].param_groups for p in group["params"]]
        assert frozen
        assert held
        assert not frozen & {id(p) for p in held}


class Around(LatentModel):
    """A user's own model: a frozen story whose images are told anew by a decoder that is trained."""

    def __init__(self, spec: Spec, first: Frozen) -> None:
        super().__init__()
        self.first, self.likelihood = first, DiscretizedLogisticLikelihood((10,), spec)

    def about(self, given: Batch) -> Story:
        story = self.first.about(given)

        def told(draw: Draw) -> Distribution:
            seen = []
            story(lambda *site, **named: seen.append(draw(*site, **named)) or seen[0])
            return self.likelihood(seen[0])

        return told


def second(cli: Callable, *flags: str) -> Path:
    """A run that trains a new decoder on the encoder of a first, which is removed once it has been trained."""
    assert cli(*FIRST, DROPPED).status == 0
    before = weights(Path("runs/first/1/checkpoints/best.ckpt"))
    done = cli("fit", "-c", DIGITS, "--trainer.max_epochs=1", "--run.name=second", *flags)
    assert done.status == 0, done.err
    run = Path("runs/digits/second")
    after = weights(run / "checkpoints" / "last.ckpt")
    mine = [name for name in after if ".encoder." in name or ".first." in name]
    assert len(mine) > 4
    for name in mine:
        first = name.replace(".encoder.part.", ".encoder.").replace("latent_model.first.model.", "latent_model.")
        assert torch.equal(after[name], before[first]), name
    shutil.rmtree("runs/first")
    return run


def test_a_second_stage_outlives_the_first(cli: Callable, tmp_path: Path) -> None:
    run = second(cli, *ENCODER, WATCH)
    assert "record" in (run / "config.yaml").read_text()
    trained = load_model(str(run))
    x = torch.randint(0, 17, (4, 1, 8, 8))
    assert torch.equal(trained.encode(x)["z"].mean, trained.encode(x)["z"].mean)
    assert cli("test", "--ckpt_path", run, *LOOK).status == 0
    assert cli("sample", "--ckpt_path", run).status == 0
    first = weights(run / "checkpoints" / "last.ckpt")
    resumed = cli("fit", "--ckpt_path", run, "--trainer.max_epochs=2")
    assert resumed.status == 0, resumed.err
    with_file = cli("fit", "-c", DIGITS, *ENCODER, WATCH, "--ckpt_path", run, "--trainer.max_epochs=3")
    assert with_file.status == 0, with_file.err  # the configuration names a run that is gone
    last = weights(run / "checkpoints" / "last.ckpt")
    for name in first:
        assert torch.equal(first[name], last[name]) == (".likelihood." not in name), name
    again = cli("fit", "-c", run / "config.yaml", "--run.name=third")  # from its beginning: random weights are none
    assert again.status == 1
    assert "runs/first: expected a checkpoint file or the folder of a run, got nothing there" in again.error
    assert not Path("runs/digits/third").exists()


def test_a_second_stage_that_is_resumed_equals_one_without_a_stop(cli: Callable) -> None:
    assert cli(*FIRST, DROPPED).status == 0
    flags = ["fit", "-c", DIGITS, *SHORT, *ENCODER, "--model.lr_schedule=null"]
    examined = cli("doctor", *flags[1:])
    assert examined.status == 0, examined.err
    assert "ok   0 of 6 parameters get no gradient." in examined.out  # the decoder's: the others are meant to stay
    assert cli(*flags, "--trainer.max_epochs=2", "--run.name=whole").status == 0
    assert cli(*flags, "--trainer.max_epochs=1", "--run.name=parts").status == 0
    shutil.rmtree("runs/first")
    assert cli("fit", "--ckpt_path=runs/digits/parts", "--trainer.max_epochs=2").status == 0
    assert same(*(weights(Path(f"runs/digits/{name}/checkpoints/last.ckpt")) for name in ("whole", "parts")))


def test_a_frozen_run_may_hold_a_frozen_run(cli: Callable, tmp_path: Path) -> None:
    run = second(cli, *ENCODER, *SHORT)
    third = ["--model.latent_model.encoder=FrozenEncoder", f"--model.latent_model.encoder.run={run}"]
    prior = ["--model.latent_model.prior=FrozenPrior", f"--model.latent_model.prior.run={run}"]
    done = cli("fit", "-c", DIGITS, *SHORT, *third, *prior, "--trainer.max_epochs=1", "--run.name=third")
    assert done.status == 0, done.err
    before = load_model(str(run))
    shutil.rmtree(run)
    os.chdir(tmp_path / "runs")
    x = torch.randint(0, 17, (4, 1, 8, 8))
    after = load_model("digits/third")
    assert torch.equal(before.encode(x)["z"].mean, after.encode(x)["z"].mean)
    assert cli("test", "--ckpt_path=digits/third", *LOOK).status == 0


def test_a_frozen_story_within_a_users_own_model(cli: Callable) -> None:
    config = {"class_path": "tests.test_frozen.Around", "init_args": {"first": {"class_path": "Frozen"}}}
    config["init_args"]["first"]["init_args"] = {"run": "runs/first"}
    Path("around.yaml").write_text(yaml.safe_dump({"model": {"latent_model": config}}))
    run = second(cli, *SHORT, "-c", "around.yaml")
    assert load_model(str(run)).sample(2).batch_shape == (2,)
    assert cli("test", "--ckpt_path", run, *LOOK).status == 0


def test_frozen_in_python_passes_gradients_through_and_takes_none(cli: Callable) -> None:
    assert cli(*FIRST).status == 0
    found = load_model("runs/first")
    frozen = Frozen.of(found.latent_model, found.spec).train()
    assert not any(module.training for module in frozen.modules())
    likelihood = FrozenLikelihood((10,), found.spec, "runs/first").train()
    z = torch.randn(3, 10, requires_grad=True)
    likelihood(z).log_prob(torch.zeros(3, 1, 8, 8)).sum().backward()
    assert z.grad.abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in likelihood.parameters())
    x = {"image": torch.zeros(2, 1, 8, 8)}
    assert torch.equal(frozen.trace(x).sites["z"].q.mean, Frozen("runs/first").trace(x).sites["z"].q.mean)
    assert FrozenPrior((10,), found.spec, "runs/first")(None).event_shape == (10,)
    with pytest.raises(ValueError, match=r"with latents of shape \(3,\), got one with \(10,\): set .*latent_size 10"):
        FrozenEncoder(found.spec, (3,), "runs/first")
    with pytest.raises(ValueError, match="expected a run of images of shape"):
        FrozenLikelihood((10,), Spec((1, 8, 8), 2), "runs/first")


def test_weights_that_never_came_are_missed(cli: Callable) -> None:
    from vae_lightning.models.records import write_records

    assert cli(*FIRST).status == 0
    part = {"class_path": "vae_lightning.models.FrozenEncoder", "init_args": {"run": "runs/first"}}
    assert write_records({"encoder": [part]})
    encoder = FrozenEncoder(Spec((1, 8, 8), 17), (10,), **part["init_args"])
    with pytest.raises(ValueError, match="expected its weights from the checkpoint that it is a part of, got none"):
        VAE(Spec((1, 8, 8), 17), lambda *_: encoder, DiscretizedLogisticLikelihood, latent_size=10).trace(
            {"image": torch.zeros(1, 1, 8, 8)}
        )
    encoder.load_state_dict(FrozenEncoder(Spec((1, 8, 8), 17), (10,), "runs/first").state_dict())
    assert encoder(torch.zeros(1, 1, 8, 8)).batch_shape == (1,)


def test_a_run_that_is_not_there_is_said_at_once(cli: Callable) -> None:
    for flags in ([], ["--trainer.fast_dev_run=true"]):
        done = cli("fit", "-c", DIGITS, *SHORT, *ENCODER, *flags)
        assert done.status == 1
        assert "runs/first: expected a checkpoint file or the folder of a run, got nothing there" in done.error
    assert not list(Path().rglob("runs/*/*"))
