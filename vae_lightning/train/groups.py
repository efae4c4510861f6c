"""What the optimiser trains, in named groups, and how fast each of them goes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from vae_lightning.core import Model, Objective


def parameter_groups(model: Model, objective: Objective) -> list[dict[str, Any]]:
    """The optimiser's groups, {"params": [...], "name": ...}: "model", and "objective" where it has parameters; without
    frozen ones. What a part's own `param_groups()` returns stands beside them, as "model.<name>" or "objective.<name>",
    with the settings ("lr": ...) that it asks for.

    Raises:
        ValueError: nothing to train, or a part asks for parameters that are not its own.
    """
    groups: list[dict[str, Any]] = []
    seen: set[int] = set()
    for name, part in (("model", model), ("objective", objective)):
        asked: list[dict[str, Any]] = part.param_groups()
        own = {id(parameter) for parameter in part.parameters()}
        for i, group in enumerate(asked):
            theirs = [group["params"]] if isinstance(group["params"], nn.Parameter) else list(group["params"])
            if not own.issuperset(map(id, theirs)):
                raise ValueError(
                    f"{type(part).__name__}.param_groups: expected groups of its own parameters, got others: name only "
                    "what its parameters() has."
                )
            groups.append({**group, "params": theirs, "name": f"{name}.{group.get('name', i)}"})
            seen |= set(map(id, theirs))
        groups.append({"params": [p for p in part.parameters() if id(p) not in seen], "name": name})
        seen |= own
    for group in groups:
        group["params"] = [parameter for parameter in group["params"] if parameter.requires_grad]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ValueError("expected a parameter to train, got none or frozen ones only: set requires_grad of some.")
    return groups


def scale_rates(optimizer: Optimizer, rates: list[float], factor: float) -> None:
    """Sets each group's learning rate to that which it was given, times a factor."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * factor


def optimizer_of(make: Callable[[Any], Optimizer], groups: list[dict[str, Any]]) -> Optimizer:
    """The optimiser of these groups.

    Raises:
        ValueError: it does not take a setting, which torch does not call by its key.
    """
    try:
        return make(groups)
    except ValueError as error:
        found = re.match(r"Invalid ([\w ]+?)(?: value| parameter.*)?: (.*)", str(error))
        if found is None:
            raise
        key = {"learning rate": "lr", "beta": "betas", "epsilon": "eps"}.get(found[1], found[1])
        remedy = "a number above 0, such as --model.optimizer.lr 0.001" if key == "lr" else "another, or leave it out"
        raise ValueError(
            f"model.optimizer.{key}: expected a value that the optimiser takes, got {found[2]}: give {remedy}."
        ) from error
