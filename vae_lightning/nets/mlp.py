"""The multilayer perceptron."""

from __future__ import annotations

import math

from torch import Tensor, nn

from vae_lightning.nets.base import Net, Shape
from vae_lightning.nets.layers import Activation, Layers, Norm, dropped
from vae_lightning.nets.sizes import Widths, layer_widths


class MLP(Net):
    """Fully connected layers over the flattened input. With `hidden: 0` the features are the input itself, so that the
    head alone makes a linear model.

    Args:
        in_shape: shape that comes in, any.
        image_shape: not used; every net takes it.
        hidden: width of each hidden layer, from input to output; one number for one layer.
        activation: the nonlinearity after each layer, or a gate: torch.nn.GLU, see `Layers`.
        norm: a normalisation over features before each nonlinearity, such as torch.nn.BatchNorm1d.
        dropout: probability of dropping a hidden unit in training.
        input_dropout: probability of dropping an input in training, the others scaled up.
        blocks: residual blocks after each layer.

    Raises:
        ValueError: a layer without a unit, a negative number of blocks, or an activation that is neither a nonlinearity
            nor a gate.
    """

    def __init__(
        self,
        in_shape: Shape,
        image_shape: Shape,
        hidden: Widths = [400],  # noqa: B006 (never changed; jsonargparse shows it as the default)
        activation: Activation = nn.ReLU,
        norm: Norm | None = None,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        blocks: int = 0,
    ) -> None:
        hidden = layer_widths("MLP.hidden", hidden)
        super().__init__(in_shape, image_shape)
        widths, make = [math.prod(in_shape), *hidden], Layers("MLP", False, activation, norm)
        layers: list[nn.Module] = [nn.Flatten(), *dropped(input_dropout)]
        for fan_in, fan_out in zip(widths, hidden, strict=False):
            layers += make.gated(fan_out, make.linear(fan_in, fan_out))
            layers += [*make.blocks(blocks, fan_out), *make.ahead(fan_out), *dropped(dropout)]
        self.layers = nn.Sequential(*layers)
        self.out_shape = (widths[-1],)

    def body(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out
