"""An average of the weights over the training's steps, which is what gets measured, shown and kept."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer

from vae_lightning.core import Model
from vae_lightning.train.evaluation import EvaluationSteps

KEY = "averaging"
"""The checkpoint's key for what a training with an average goes on from: its `count` of steps and `trained` weights."""
PREFIX = "latent_model."


class AveragedWeights:
    """An exponential moving average of a model's weights (Kingma and Ba 2015, section 7.2), and which of the two stands
    in the model.

    After the optimiser's step n = 0, 1, ... average <- d average + (1 - d) weights, d = min(decay, n / (n + 9)): at
    first it spans about the last tenth of the steps, so that those that knew nothing yet are soon forgotten. Buffers of
    finite floating-point numbers (BatchNorm's statistics, the optimal scale's mean square) are averaged alike, as they
    describe the weights of the same steps; counts, and masks with infinities, are copied from the newest. What does not
    change has itself for its average, bit for bit.

    Args:
        model: on the device where it will train.
        decay: d in the long run: 0.999 spans about a thousand steps.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.decay, self.count = decay, 0
        self.stands = False
        """Whether the average stands in the model, and the trained weights wait; else it is the other way around."""
        self._places = _places(model)
        self._waiting = {name: holder[key].detach().clone() for name, (holder, key) in self._places.items()}
        self._averaged = [
            name for name, value in self._waiting.items() if value.is_floating_point() and value.isfinite().all()
        ]
        self._copied = [name for name in self._places if name not in set(self._averaged)]

    def follow(self, optimizer: Optimizer) -> None:
        """Has the average take in every step that this optimiser takes, before anyone sees it."""
        self._follower = optimizer.register_step_post_hook(lambda *_: self.update())

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the model's weights, after a step."""
        d = min(self.decay, self.count / (self.count + 9))
        self.count += 1
        torch._foreach_lerp_([self._waiting[name] for name in self._averaged], self._now(self._averaged), 1 - d)
        for name, value in zip(self._copied, self._now(self._copied), strict=True):
            self._waiting[name].copy_(value)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges what stands in the model and what waits, in place."""
        for waiting, value in zip(self._waiting.values(), self._now(list(self._waiting)), strict=True):
            before = value.clone()
            value.copy_(waiting)
            waiting.copy_(before)
        self.stands = not self.stands

    def finish(self) -> None:
        """Ends the training: the average stands in the model from here on."""
        self._follower.remove()
        if not self.stands:
            self.swap()

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Puts the average into the checkpoint's `state_dict`, which all that reads it then uses, and what training
        goes on from beside it, unless it is one of weights only."""
        states = []
        for _ in range(2):
            state: dict[str, Tensor] = checkpoint["state_dict"]
            states.append({name: value.clone() for name, value in state.items() if name.startswith(PREFIX)})
            self.swap()
        average, trained = states if self.stands else reversed(states)
        checkpoint["state_dict"] = {**checkpoint["state_dict"], **average}
        if "optimizer_states" in checkpoint:
            checkpoint[KEY] = {"count": self.count, "trained": trained}

    def restore(self, count: int, average: dict[str, Tensor]) -> None:
        """Goes on with the average of a checkpoint's `state_dict` after `count` steps."""
        self.count = count
        for name, waiting in self._waiting.items():
            if PREFIX + name in average:  # a buffer may not be kept
                waiting.copy_(average[PREFIX + name])

    def _now(self, names: list[str]) -> list[Tensor]:
        """What stands in the model under these names: a module may have put another tensor into a buffer's place."""
        return [self._places[name][0][self._places[name][1]].detach() for name in names]


def _places(model: Model) -> dict[str, tuple[dict[str, Any], str]]:
    """Where each parameter and buffer is held, once each: name -> (the module's dictionary, key in it)."""
    places, seen = {}, set[int]()
    for path, module in model.named_modules():
        for holder in (module._parameters, module._buffers):
            for key, value in holder.items():
                if value is not None and id(value) not in seen:
                    seen.add(id(value))
                    places[f"{path}.{key}" if path else key] = (holder, key)
    return places


class AveragedSteps(EvaluationSteps):
    """Trains the weights themselves, and validates, tests and saves their average.

    Args:
        averaging: the average's decay, at least 0 and below 1; None for the weights themselves.
        settings: of `EvaluationSteps`.
    """

    def __init__(self, averaging: float | None, *settings: Any) -> None:
        super().__init__(*settings)
        if averaging is not None and not 0 <= averaging < 1:
            raise ValueError(f"model.averaging: expected a decay of at least 0 and below 1, got {averaging}.")
        self.averaging = averaging
        self.average: AveragedWeights | None = None
        self._restored: dict[str, Any] | None = None
        """Count and average of the checkpoint that the training goes on from."""

    def on_fit_start(self) -> None:
        if self.averaging is None:
            return
        if self._restored is None and self.average is not None and self.average.stands:
            self.average.swap()  # trained once more in the same process
        else:
            self.average = AveragedWeights(self.latent_model, self.averaging)
            if self._restored is not None:
                self.average.restore(**self._restored)
            self._restored = None
        self.average.follow(self.trainer.optimizers[0])

    def on_validation_epoch_start(self) -> None:
        self._swap_in_training()
        super().on_validation_epoch_start()

    def on_validation_epoch_end(self) -> None:  # after the callbacks' own, the pictures; checkpoints come later
        super().on_validation_epoch_end()
        self._swap_in_training()

    def _swap_in_training(self) -> None:
        if self.average is not None and self.trainer.state.fn == TrainerFn.FITTING:
            self.average.swap()

    def on_train_end(self) -> None:
        if self.average is not None:
            self.average.finish()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.average is not None:
            self.average.save(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Lets a training go on from the weights that the optimiser's state belongs to, with the average beside them;
        anything else takes the average."""
        if self.trainer.state.fn == TrainerFn.FITTING and KEY in checkpoint:
            average = checkpoint["state_dict"]
            checkpoint["state_dict"] = {**average, **checkpoint[KEY]["trained"]}
            self._restored = {"count": checkpoint[KEY]["count"], "average": average}
