"""Sources of images with captions: by a grammar, or a user's own."""

from vae_lightning.data.captioned.captioned import Captioned
from vae_lightning.data.captioned.folder import CaptionedFolder
from vae_lightning.data.captioned.grammar import DigitGrammar, Grammar, PhotoGrammar

__all__ = ["Captioned", "CaptionedFolder", "DigitGrammar", "Grammar", "PhotoGrammar"]
