"""What a run that goes on needs beyond what Lightning restores, and whether it can."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from vae_lightning.core import Objective
from vae_lightning.metrics import Headline
from vae_lightning.metrics.evaluation import ELBO, IWAE
from vae_lightning.train.best import best_of, check_checkpoints, follow_instead
from vae_lightning.train.evaluation import EvaluationSteps
from vae_lightning.train.monitors import say


def follow_moved_run(checkpoint: dict[str, Any], trainer: Trainer) -> None:
    """Lets the checkpoint callback of a run that goes on in its own folder, wherever that is now, know its best
    checkpoint again: Lightning forgets it when the folder is not called as it was."""
    best = best_of(trainer)
    if trainer.ckpt_path is None or best is None:
        return
    here, now = Path(trainer.ckpt_path).resolve().parent, best.dirpath
    if now is None or Path(now).resolve() != here:
        return  # a new run that begins with another's weights
    before = checkpoint["callbacks"].get(best.state_key, {}).get("dirpath")
    for state in checkpoint["callbacks"].values():
        if not isinstance(state, dict) or before is None or state.get("dirpath") != before:
            continue  # a user's own may keep its files elsewhere

        def moved(path: str) -> str:
            return str(Path(now) / Path(path).name) if path else path

        state.update({key: moved(state[key]) for key in ("best_model_path", "last_model_path", "kth_best_model_path")})
        state["best_k_models"] = {moved(path): score for path, score in state["best_k_models"].items()}
        state["dirpath"] = now


def end_epochs(trainer: Trainer) -> None:
    """Lets a training with max_steps that was stopped at an epoch's end go on with the next: Lightning takes every such
    checkpoint for one from within an epoch, passes through the old epoch's end again, and counts one epoch too few."""
    loop: Any = trainer.fit_loop
    loop._iteration_based_training = lambda: (
        trainer.max_steps != -1 and not loop.epoch_loop.batch_progress.is_last_batch
    )


def with_own_objective(state: dict[str, Tensor], objective: Objective) -> dict[str, Tensor]:
    """The weights of a checkpoint, with the objective's own in the place of those that one of another kind has left."""
    own = {f"objective.{name}": value for name, value in objective.state_dict().items()}
    left = {name for name in state if name.startswith("objective.")}
    return state if left == own.keys() else {**{name: state[name] for name in state if name not in left}, **own}


def judge_as_before(experiment: EvaluationSteps, samples: int) -> None:
    """Lets a run that goes on choose its best epoch by the bound that it began with, whose values are those that its
    best checkpoint and its history have, whatever it is trained on from now on.

    Args:
        experiment: the module, set up.
        samples: importance samples an image of that bound, 1 for the ELBO.
    """
    if experiment.evaluation.bound_samples == samples:
        return
    experiment.evaluation.bound_samples = samples
    if experiment.headline.name in (ELBO, IWAE):
        bound = Headline(IWAE if samples > 1 else ELBO, "max")
        follow_instead(experiment.trainer, experiment.headline, bound)
        experiment.headline = bound
        what = f"importance-weighted bound of {samples} samples" if samples > 1 else "ELBO"
        if experiment.trainer.training:
            say(f"The best epoch goes on to be chosen by the {what}, as before; --run.warm_start begins a new run.")


def begin_anew(checkpoint: dict[str, Any], before: dict[str, Any], now: dict[str, Any]) -> None:
    """Takes out of a checkpoint what another kind of optimiser or scheduler than the one that goes on has left there: a
    number of the same name may mean something else to it.

    Args:
        checkpoint: to go on from.
        before: the configuration's section `model` then.
        now: the same by which it goes on.
    """
    for key, states in (("optimizer", "optimizer_states"), ("lr_scheduler", "lr_schedulers")):
        was, comes = (_kind(config.get(key)) for config in (before, now))
        if was == comes or not checkpoint.get(states):
            continue
        checkpoint[states] = []
        if key == "optimizer":
            say(f"going on with {comes} after {was}: it begins without the other's state (moments).")


def _kind(setting: Any) -> str:
    """The class of a setting, as the configuration names it."""
    path = setting.get("class_path", "") if isinstance(setting, dict) else setting
    return str(path).rpartition(".")[2]


def resettle(trainer: Trainer, fresh: Any) -> None:
    """After a resume with other settings of optimiser or schedule: both go on as if these had held from the start, the
    optimiser with its moments.

    Args:
        trainer: with optimiser and schedule restored as they were.
        fresh: what configure_optimizers returns with the new settings.
    """
    restored = trainer.lr_scheduler_configs
    optimizer = fresh["optimizer"] if isinstance(fresh, dict) else fresh
    if isinstance(fresh, dict) and restored and not isinstance(restored[0].scheduler, ReduceLROnPlateau):
        done = trainer.global_step if restored[0].interval == "step" else trainer.current_epoch
        scheduler = fresh["lr_scheduler"]["scheduler"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no optimiser step comes between these
            for _ in range(max(restored[0].scheduler.last_epoch, done)):  # 0 of one that is new
                scheduler.step()
        restored[0].scheduler.load_state_dict(scheduler.state_dict())
    for group, new in zip(trainer.optimizers[0].param_groups, optimizer.param_groups, strict=True):
        group.update({key: value for key, value in new.items() if key != "params"})


def state_of_noise(trainer: Trainer) -> list[Tensor]:
    """Where the random numbers stand, of every process: on a GPU its generator's state, else the CPU's, uint8."""
    device = trainer.strategy.root_device
    state = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
    if trainer.world_size == 1:
        return [state]
    every = trainer.strategy.all_gather(state.to(device))
    return [state.clone() for state in every.cpu()]


def restore_noise(states: list[Tensor], trainer: Trainer) -> None:
    """Sets this process's random numbers to where they stood; with another number of processes or device, where there
    is nothing to go back to, they stay as they are."""
    device = trainer.strategy.root_device
    if len(states) != trainer.world_size:
        return
    state = states[trainer.global_rank].cpu().clone()  # torch misreads a view into another tensor
    if device.type == "cuda" and len(state) == len(torch.cuda.get_rng_state(device)):
        torch.cuda.set_rng_state(state, device)
    elif device.type != "cuda" and len(state) == len(torch.get_rng_state()):
        torch.set_rng_state(state)


def check_training(section: Any, checkpoint: dict[str, Any] | None) -> None:
    """Raises ValueError where nothing would be trained, or otherwise than was asked for, or one checkpoint would
    overwrite another.

    Args:
        section: the configuration of `fit`.
        checkpoint: the content of the one to go on from; None for a training from its beginning.
    """
    if nothing_left(section, checkpoint):
        raise ValueError(
            f"--trainer.max_epochs {section.trainer.max_epochs}: expected more than the "
            f"{0 if checkpoint is None else epochs_done(checkpoint)} epochs that are done, or nothing is left to train."
        )
    if section.trainer.overfit_batches:
        raise ValueError(
            "--trainer.overfit_batches: expected none, since whole batches are drawn by index here: use "
            "--trainer.limit_train_batches, or vae-lightning doctor, which overfits 32 images."
        )
    if str(section.trainer.precision) in ("64-true", "64", "bf16-true", "16-true"):
        raise ValueError(
            f"--trainer.precision {section.trainer.precision}: expected 32-true, bf16-mixed or 16-mixed, since "
            "log-densities are summed in float32 whatever the nets compute in."
        )
    callbacks = section.trainer.callbacks or []
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        if (name := callback.class_path.rsplit(".", 1)[-1]) in ("LearningRateFinder", "BatchSizeFinder"):
            raise ValueError(
                f"--trainer.callbacks {name}: expected callbacks that train no steps of their own, which would count "
                "as the run's: set --model.optimizer.lr or --data.batch_size, and look at short runs."
            )
    check_checkpoints(section)


def nothing_left(section: Any, checkpoint: dict[str, Any] | None) -> bool:
    """Whether the epochs that the configuration of `fit` asks for are done."""
    epochs, done = section.trainer.max_epochs, 0 if checkpoint is None else epochs_done(checkpoint)
    return epochs is not None and epochs != -1 and done >= epochs


def epochs_done(checkpoint: dict[str, Any]) -> int:
    """How many whole epochs a checkpoint has behind it, be it of an epoch's end or from within one; ValueError where it
    holds weights only."""
    if "loops" not in checkpoint:
        raise ValueError(
            "--ckpt_path: expected a checkpoint that a training can go on from, got one of weights only "
            "(save_weights_only): give the run's folder, for its last.ckpt, or begin another run with these weights "
            "by --run.warm_start."
        )
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    done: int = checkpoint["epoch"] + bool(progress["is_last_batch"])
    return done
