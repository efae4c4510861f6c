"""What Lightning's loop does around each step and nobody here asks for, left out by its own means.

A step of a small model takes a few milliseconds on a CPU; without this page, Lightning's part of it is two of them.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch
from lightning.pytorch import Callback
from lightning.pytorch.profilers import PassThroughProfiler


class NoProfiler(PassThroughProfiler):
    """Lightning opens some forty profiling contexts a step, each a generator, even where nobody profiles."""

    _nothing = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return self._nothing


STEP_HOOKS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)


def skip_idle_hooks(callbacks: list[Callback]) -> None:
    """Lightning passes over a hook that is None, and otherwise spells out the callback's settings before it calls one
    that does nothing: a tenth of a millisecond for each of six hooks a step."""
    for callback in callbacks:
        for hook in STEP_HOOKS:
            if getattr(type(callback), hook) is getattr(Callback, hook):
                setattr(callback, hook, None)


def ask_cuda_directly() -> None:
    """torch's optimisers ask at each step whether there is a GPU; Lightning makes it a search for driver libraries."""
    if not torch.cuda.is_available():
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
