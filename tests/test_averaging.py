"""Averaged weights: what they are, who sees them, and that a stop changes nothing; what the optimiser trains."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from tests.conftest import REPOSITORY, Generated
from tests.test_schedules import module, trainer
from vae_lightning import load_model
from vae_lightning.core import Batch, LatentModel, Loss
from vae_lightning.data import ImageData
from vae_lightning.metrics import ImageEvaluation
from vae_lightning.objectives import ELBO, WarmupConstant
from vae_lightning.train.averaging import AveragedWeights

DIGITS = REPOSITORY / "configs" / "experiment" / "digits.yaml"
EMA = REPOSITORY / "configs" / "averaging" / "ema.yaml"
WATCH = ["--trainer.callbacks=null", "--trainer.callbacks+=tests.test_averaging.Watch"]
OPTIMAL = ["--model.latent_model.likelihood=GaussianOptimalScaleLikelihood"]
FIT = ["fit", "-c", DIGITS, "-c", EMA, *WATCH, *OPTIMAL, "--data.batch_size=128"]


class Watch(Callback):
    """One weight after every step, as it is trained and as it is validated."""

    trained: ClassVar[list[float]] = []
    shown: ClassVar[list[float]] = []
    stop: ClassVar[int | None] = None

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        Watch.trained.append(module.latent_model.encoder.mu.weight[0, 0].item())

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:  # as pictures are drawn
        Watch.shown.append(module.latent_model.encoder.mu.weight[0, 0].item())
        trainer.should_stop = Watch.stop == trainer.current_epoch + 1


class Kept(Callback):
    """The encoder's first weights after every step, and what stands in the model at the end, in a file a process."""

    def __init__(self) -> None:
        self.trained: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        self.trained.append(next(module.latent_model.encoder.parameters()).detach().clone())

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        content = {"trained": torch.stack(self.trained), "shown": module.state_dict()}
        torch.save(content, f"{trainer.world_size}_{trainer.global_rank}.pt")


@pytest.fixture(autouse=True)
def _unwatched() -> None:
    Watch.trained, Watch.shown, Watch.stop = [], [], None


def checkpoint(run: str, name: str = "last") -> dict[str, Any]:
    return torch.load(f"runs/digits/{run}/checkpoints/{name}.ckpt", weights_only=True)


def require_same(one: str, other: str) -> None:
    a, b = checkpoint(one), checkpoint(other)
    assert a["averaging"]["count"] == b["averaging"]["count"] == a["global_step"] == b["global_step"]
    for mine, others in ((a["state_dict"], b["state_dict"]), (a["averaging"]["trained"], b["averaging"]["trained"])):
        assert mine.keys() == others.keys()
        assert all(torch.equal(value, others[name]) for name, value in mine.items())


def averaged(values: Any, decay: float) -> Any:
    average = 0.0
    for n, value in enumerate(values):
        d = min(decay, n / (n + 9))
        average = d * average + (1 - d) * value
    return average


def test_what_is_shown_and_kept_is_the_average(cli: Callable) -> None:
    """Against a sum of its own; validation in the log is what `validate` makes of the checkpoint."""
    assert cli(*FIT, "--trainer.max_epochs=3", "--model.averaging=0.7").status == 0
    kept = checkpoint("1")
    weight = "latent_model.encoder.mu.weight"
    assert len(Watch.trained) == 30
    assert kept["averaging"]["trained"][weight][0, 0].item() == Watch.trained[-1]
    assert kept["state_dict"][weight][0, 0].item() == pytest.approx(averaged(Watch.trained, 0.7), rel=1e-5)
    assert Watch.shown == pytest.approx([averaged(Watch.trained[: 10 * k], 0.7) for k in (1, 2, 3)], rel=1e-5)
    assert kept["state_dict"]["latent_model.likelihood.batches"] == 30
    loaded = load_model("runs/digits/1/checkpoints/last.ckpt").latent_model.encoder.mu.weight
    assert torch.equal(loaded, kept["state_dict"][weight])
    last = [line.split(",") for line in Path("runs/digits/1/metrics.csv").read_text().splitlines()]
    bound = float(last[-1][last[0].index("val/elbo")])
    validated = cli("validate", "--ckpt_path=runs/digits/1/checkpoints/last.ckpt")
    assert f"{bound:.4f}"[:6] in validated.out, validated.out


def test_stops_and_extensions_change_nothing(cli: Callable) -> None:
    """From an epoch's end, from within an epoch, and after the end."""
    within = ["--checkpoint.every_n_train_steps=14", "--checkpoint.monitor=null", "--checkpoint.filename={step}"]
    flags = [*FIT, *within, "--checkpoint.save_top_k=-1", "--model.lr_schedule=WarmupConstant"]
    flags += ["--model.lr_schedule.warmup=0"]  # so that a training that was longer from the start is the same
    assert cli(*flags, "--trainer.max_epochs=4", "--run.name=whole").status == 0
    middle = "--ckpt_path=runs/digits/whole/checkpoints/step=14.ckpt"
    assert cli(*flags, middle, "--trainer.max_epochs=4", "--run.name=middle").status == 0
    require_same("whole", "middle")
    Watch.stop = 1
    assert cli(*flags, "--trainer.max_epochs=4", "--run.name=parts").status == 0
    Watch.stop = None
    assert checkpoint("parts")["global_step"] == 10
    assert cli("fit", "--ckpt_path=runs/digits/parts", "--trainer.max_epochs=2").status == 0
    assert cli("fit", "--ckpt_path=runs/digits/parts", "--trainer.max_epochs=4").status == 0
    require_same("whole", "parts")


def test_a_training_goes_on_from_its_weights_without_the_average(cli: Callable) -> None:
    flags = ["--trainer.max_epochs=2", "--model.lr_schedule=null"]
    assert cli(*FIT, *flags, "--run.name=averaged").status == 0
    assert cli(*FIT, *flags, "--model.averaging=null", "--run.name=plain").status == 0
    for name in ("averaged", "plain"):
        going_on = ["--model.averaging=null", "--trainer.max_epochs=3"]
        assert cli("fit", f"--ckpt_path=runs/digits/{name}", *going_on).status == 0
    a, b = (checkpoint(name)["state_dict"] for name in ("averaged", "plain"))
    assert all(torch.equal(value, b[name]) for name, value in a.items())  # averaging does not change training
    assert "averaging" not in checkpoint("averaged")


def test_the_average_of_a_constant_is_the_constant() -> None:
    model: Any = nn.BatchNorm1d(3)
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    model.running_mean.uniform_()
    before = copy.deepcopy(model.state_dict())
    average = AveragedWeights(model, 0.99)
    for _ in range(50):
        average.update()
    average.swap()
    assert average.stands
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    average.swap()
    model.num_batches_tracked += 7
    model.running_mean += 1
    average.update()
    average.swap()
    assert model.num_batches_tracked == 7
    assert torch.allclose(model.running_mean - before["running_mean"], torch.tensor(1 - 50 / 59))


def test_fit_leaves_the_average_in_the_model_and_may_go_on() -> None:
    data = ImageData(Generated((1, 8, 8)), batch_size=16, val_size=16)
    looked, watch = module(ELBO(), averaging=0.5), Watch()
    trainer(max_epochs=2, callbacks=[watch]).fit(looked, data)
    assert len(Watch.trained) == 10
    shown = looked.latent_model.encoder.mu.weight[0, 0].item()
    assert shown == pytest.approx(averaged(Watch.trained, 0.5), rel=1e-5)
    tested = trainer(max_epochs=2)
    tested.validate(looked, data, verbose=False)
    assert looked.latent_model.encoder.mu.weight[0, 0].item() == shown
    trainer(max_epochs=1, callbacks=[watch]).fit(looked, data)
    shown = looked.latent_model.encoder.mu.weight[0, 0].item()
    assert shown == pytest.approx(averaged(Watch.trained, 0.5), rel=1e-5)
    with pytest.raises(ValueError, match=r"averaging: expected a decay of at least 0 and below 1, got 1.5"):
        module(ELBO(), averaging=1.5)


class Learned(ELBO):
    """A bound with a weight of its own that falls, as fast as it asks for."""

    def __init__(self, lr: float | None) -> None:
        super().__init__()
        self.weight, self.lr = nn.Parameter(torch.ones(())), lr
        self.frozen = nn.Parameter(torch.ones(()), requires_grad=False)

    def param_groups(self) -> list[dict[str, Any]]:
        return [] if self.lr is None else [{"params": self.weight, "lr": self.lr, "name": "weight"}]

    def forward(self, model: LatentModel, batch: Batch, share: float) -> Loss:
        loss = super().forward(model, batch, share)
        return Loss(loss.value + self.weight, loss.logs)


@pytest.mark.parametrize(("lr", "names"), [(None, ["model", "objective"]), (0.5, ["model", "objective.weight"])])
def test_the_optimiser_takes_what_is_trained_and_no_more(lr: float | None, names: list[str]) -> None:
    data = ImageData(Generated((1, 8, 8)), batch_size=16, val_size=16)
    objective, corruption = Learned(lr), nn.Linear(2, 2)
    looked = module(objective, evaluation=ImageEvaluation(corruption=corruption), lr_schedule=WarmupConstant(0.0))
    looked.latent_model.encoder.mu.bias.requires_grad_(False)
    fit = trainer(max_epochs=1)
    fit.fit(looked, data)
    groups = fit.optimizers[0].param_groups
    assert [group["name"] for group in groups] == names
    taken = {id(parameter) for group in groups for parameter in group["params"]}
    trained = [p for part in (looked.latent_model, objective) for p in part.parameters() if p.requires_grad]
    assert taken == {id(parameter) for parameter in trained}
    assert not taken & {id(parameter) for parameter in corruption.parameters()}
    assert objective.weight.item() == pytest.approx(1 - 5 * (lr or 1e-3), rel=1e-3)  # Adam's steps on a constant slope


def test_nothing_to_train_and_others_parameters_are_refused() -> None:
    looked = module(ELBO())
    looked.latent_model.requires_grad_(False)
    with pytest.raises(ValueError, match="expected a parameter to train"):
        looked.configure_optimizers()
    stranger = module(Learned(0.1))
    stranger.objective.param_groups = lambda: [{"params": [nn.Parameter(torch.ones(()))]}]
    with pytest.raises(ValueError, match=r"Learned\.param_groups: expected groups of its own parameters"):
        stranger.configure_optimizers()
