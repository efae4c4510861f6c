"""Variational autoencoders whose numbers can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vae_lightning.trained import TrainedModel, load_model

__version__ = "0.2.0"
__all__ = ["TrainedModel", "__version__", "load_model"]


def __getattr__(name: str) -> Any:
    """`load_model` and `TrainedModel` import torch and lightning only when they are used."""
    if name in ("TrainedModel", "load_model"):
        from vae_lightning import trained

        return getattr(trained, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
