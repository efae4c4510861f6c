"""What the training will take."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from vae_lightning.core import image_of
from vae_lightning.doctor.findings import Case, Finding, finding
from vae_lightning.memory import available_memory
from vae_lightning.report.verdict import FEW_STEPS

MIB = 2**20


def budget(case: Case) -> Iterator[Finding]:
    """Whether so many steps can be enough."""
    if case.planned is None:
        return
    enough = math.ceil(FEW_STEPS / case.epoch_steps)
    yield finding(
        case.planned >= FEW_STEPS,
        f"the training has {case.planned} steps, and some {FEW_STEPS} are the least in which a net learns what it can.",
        f"set --trainer.max_epochs {enough}, or more" + (" (and --trainer.max_steps)." if case.steps > 0 else "."),
    )


def cost(case: Case) -> Iterator[Finding]:
    size, probe = case.data.batch_size, min(8, case.data.batch_size)
    step, parts, optimizer = case.training(case.take(probe))
    own, saved = {p.untyped_storage().data_ptr() for p in parts.parameters()}, dict[int, int]()

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = 0 if storage.data_ptr() in own else storage.nbytes()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    weights = sum(p.nbytes for p in parts.parameters())
    state = sum(v.nbytes for of in optimizer.state.values() for v in of.values() if isinstance(v, Tensor))
    each, there = sum(saved.values()) / probe, _available(image_of(case.some).device)
    needed = 2 * weights + state + each * size
    yield finding(
        needed < 0.8 * there,
        f"the {sum(p.numel() for p in parts.parameters())} weights take {weights / MIB:.1f} MiB, gradients as much, "
        f"the optimiser {state / MIB:.1f} and the activations of {size} images {each * size / MIB:.1f}: "
        f"{needed / MIB:.1f} MiB of {there / MIB:.0f} available.",
        f"set --data.batch_size {max(1, int((0.8 * there - needed + each * size) / max(1, each)))} or less.",
    )
    if needed < 0.8 * there:
        step, *_ = case.training(case.take(size))
        step()  # the first one warms up
        begun, count = time.monotonic(), 0
        while count < 3 or (count < 50 and time.monotonic() < begun + 1):
            step()
            count += 1
        seconds = (time.monotonic() - begun) / count
        epoch = seconds * case.epoch_steps
        said = f"a training step of {size} images takes {1000 * seconds:.1f} ms, an epoch {epoch:.1f} s"
        whole = "" if case.epochs is None else f", {case.epochs} epochs {case.epochs * epoch / 60:.1f} minutes"
        yield Finding(True, f"{said}{whole}, without validation and pictures.")


def _available(device: torch.device) -> float:
    """Bytes that the device has left."""
    return float(torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory())
