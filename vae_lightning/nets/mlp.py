"""The multilayer perceptron."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn

from vae_lightning.nets.base import Net, Shape


def glorot(layer: nn.Linear) -> nn.Linear:
    """Glorot-uniform weights and a zero bias, as in the published MLP baselines (Burda et al. 2016)."""
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def require_widths(name: str, widths: list[int], at_least: int = 0) -> None:
    """Raises ValueError for fewer layers than `at_least`, or for a layer without a unit."""
    if len(widths) < at_least or any(width < 1 for width in widths):
        raise ValueError(f"{name}: expected {at_least} or more widths, each of at least 1, got {widths}.")


class ResidualUnits(nn.Module):
    """x + linear(act(linear(act(x)))) over vectors. The last layer starts at zero, so the block starts as the
    identity."""

    def __init__(self, width: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        last = nn.Linear(width, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.body = nn.Sequential(activation(), glorot(nn.Linear(width, width)), activation(), last)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


class MLP(Net):
    """Fully connected layers over the flattened input. With `hidden=[]` the features are the input itself, so that the
    head alone makes a linear model.

    Args:
        in_shape: shape that comes in, any.
        image_shape: not used; every net takes it.
        hidden: width of each hidden layer, from input to output.
        activation: the nonlinearity after each layer.
        norm: a normalisation over features before each nonlinearity, such as torch.nn.BatchNorm1d.
        dropout: probability of dropping a hidden unit in training.
        input_dropout: probability of dropping an input in training, the others scaled up.
    """

    def __init__(
        self,
        in_shape: Shape,
        image_shape: Shape,
        hidden: list[int] = [400],  # noqa: B006 (never changed; jsonargparse shows it as the default)
        activation: Callable[[], nn.Module] = nn.ReLU,
        norm: Callable[[int], nn.Module] | None = None,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
    ) -> None:
        require_widths("MLP.hidden", hidden)
        super().__init__(in_shape, image_shape)
        widths = [math.prod(in_shape), *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        if input_dropout:
            layers.append(nn.Dropout(input_dropout))
        for fan_in, fan_out in zip(widths, hidden, strict=False):
            layers.append(glorot(nn.Linear(fan_in, fan_out)))
            if norm is not None:
                layers.append(norm(fan_out))
            layers.append(activation())
            if dropout:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers)
        self.out_shape = (widths[-1],)

    def body(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out
