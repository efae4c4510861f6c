"""Images in memory. This room never hears of models."""

from vae_lightning.data.arrays import Arrays
from vae_lightning.data.binarized_mnist import BinarizedMNIST
from vae_lightning.data.captioned import Captioned, CaptionedFolder, DigitGrammar, PhotoGrammar
from vae_lightning.data.captions import Captions
from vae_lightning.data.digits import Digits
from vae_lightning.data.door import admitted
from vae_lightning.data.few_labels import FewLabels
from vae_lightning.data.folder import ImageFolder
from vae_lightning.data.hugging_face import HuggingFace
from vae_lightning.data.items import MapDataset
from vae_lightning.data.module import ImageData
from vae_lightning.data.source import Images, ImageSource, Splits
from vae_lightning.data.torchvision_sources import CIFAR10, KMNIST, MNIST, FashionMNIST
from vae_lightning.tokens import Tokens

__all__ = [
    "CIFAR10",
    "KMNIST",
    "MNIST",
    "Arrays",
    "BinarizedMNIST",
    "Captioned",
    "CaptionedFolder",
    "Captions",
    "DigitGrammar",
    "Digits",
    "FashionMNIST",
    "FewLabels",
    "HuggingFace",
    "ImageData",
    "ImageFolder",
    "ImageSource",
    "Images",
    "MapDataset",
    "PhotoGrammar",
    "Splits",
    "Tokens",
    "admitted",
]
