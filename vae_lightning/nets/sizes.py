"""How all nets say their sizes: widths of layers and of stages, and the maps between the stages."""

from __future__ import annotations

import math

Widths = list[int] | int
"""One width a layer or stage, from a net's input to its output; or one number, for which the net chooses how many."""


def require_widths(name: str, widths: list[int], at_least: int = 0) -> None:
    """Raises ValueError for fewer layers than `at_least`, or for a layer without a unit."""
    if len(widths) < at_least or any(width < 1 for width in widths):
        raise ValueError(f"{name}: expected {at_least} or more widths, each of at least 1, got {widths}.")


def layer_widths(name: str, widths: Widths) -> list[int]:
    """Widths of fully connected layers: one number is one layer, and 0 is none.

    Raises:
        ValueError: a layer without a unit.
    """
    found = ([widths] if widths else []) if isinstance(widths, int) else list(widths)
    require_widths(name, found)
    return found


def stage_widths(name: str, widths: Widths, size: tuple[int, int]) -> list[int]:
    """Widths of stages, each of which halves an image of this size, from the widest map to the smallest: one number is
    that of the widest map, see `grown`.

    Raises:
        ValueError: no stage, or one without a channel.
    """
    found = grown(size, widths) if isinstance(widths, int) else list(widths)
    require_widths(name, found, at_least=1)
    return found


def grown(size: tuple[int, int], width: int, widest: int = 128, smallest: int = 4) -> list[int]:
    """Widths of as many stages as bring an image of this size to a map of at most `smallest` a side: `width` at first,
    and twice as wide where the map has a quarter of the places, up to `widest`; at least one."""
    stages = max(1, math.ceil(math.log2(max(size) / smallest)))
    return [min(width * 2**stage, max(width, widest)) for stage in range(stages)]


def stage_sizes(size: tuple[int, int], stages: int) -> list[tuple[int, int]]:
    """[(H, W), (ceil(H/2), ceil(W/2)), ...], stages + 1 of them."""
    sizes = [size]
    for _ in range(stages):
        h, w = sizes[-1]
        sizes.append(((h + 1) // 2, (w + 1) // 2))
    return sizes


def map_depth(name: str, size: int, sides: tuple[int, int]) -> int:
    """How many latents stand at each place of a map (h, w); raises ValueError where they do not come out even."""
    places = math.prod(sides)
    if size % places:
        raise ValueError(
            f"{name}: expected a number of latents that is a multiple of the {places} places of the "
            f"{sides[0]}x{sides[1]} map, got {size}: choose another latent_size, or spatial: false."
        )
    return size // places


def require_a_map(name: str, spatial: bool, hidden: list[int]) -> None:
    """Raises ValueError where a fully connected layer would mix the places of a map."""
    if spatial and hidden:
        raise ValueError(f"{name}.hidden: expected 0 with spatial, since features keep their places, got {hidden}.")
