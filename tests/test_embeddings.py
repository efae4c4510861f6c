"""Embeddings of all images, worked out once: training is the same with them, and they stay as they were."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from vae_lightning.conditionals import DiscretizedLogisticLikelihood
from vae_lightning.core import Spec
from vae_lightning.data import Digits, ImageData
from vae_lightning.data.captioned import Captioned, DigitGrammar
from vae_lightning.images.embeddings import embedded, remember
from vae_lightning.metrics import SiteEvaluation
from vae_lightning.models import VAE, DualEncoder, Frozen, FrozenImageText, UnCLIP
from vae_lightning.models.build import record_of
from vae_lightning.objectives import SiteNLL
from vae_lightning.train.module import Experiment


class Losses(Experiment):
    """Keeps the loss of each step."""

    def __init__(self, data: ImageData) -> None:
        spec = {**record_of(data.spec), "text": data.spec.text}
        super().__init__(unclip, SiteNLL("embedding"), evaluation=SiteEvaluation(["embedding"]), **spec)
        self.losses: list[float] = []

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.losses.append(loss.item())
        return loss


def unclip(spec: Spec) -> UnCLIP:
    clip = FrozenImageText.of(DualEncoder(spec), spec)
    return UnCLIP(spec, clip, Frozen.of(VAE(spec, likelihood=DiscretizedLogisticLikelihood), spec))


def digits(**settings: object) -> ImageData:
    return ImageData(Captioned(Digits(), DigitGrammar()), columns=["text"], val_size=200, **settings)


def fitted() -> tuple[Losses, ImageData, Trainer]:
    torch.manual_seed(0)
    data = digits()
    module = Losses(data)
    off = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", max_epochs=2, limit_train_batches=4, **off)
    trainer.fit(module, data)
    return module, data, trainer


def test_training_is_the_same_with_and_without_kept_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    module, data, trainer = fitted()
    with monkeypatch.context() as patch:
        patch.setattr("vae_lightning.train.module.remember", lambda *_: None)
        plain, without, other = fitted()
    assert len(module.losses) == len(plain.losses) == 8
    assert module.losses == pytest.approx(plain.losses, rel=1e-5)
    name = "val/nll_embedding"
    assert trainer.callback_metrics[name].item() == pytest.approx(other.callback_metrics[name].item(), rel=1e-4)
    assert without.splits["train"].embedding is None
    for split in ("train", "val"):  # nobody has scaled them in place
        images = data.splits[split]
        fresh = module.latent_model.clip.embed_image(images.image.float())
        torch.testing.assert_close(images.embedding, fresh)
    assert not list(Path().rglob("embeddings"))  # of a tower and a training that have no folder
    calls = []
    monkeypatch.setattr(module.latent_model.clip, "embed_image", lambda image: calls.append(image))
    module.latent_model.trace(data.splits["train"].batch(torch.arange(3)), until="embedding")
    assert not calls


def test_images_that_change_at_each_visit_are_embedded_then() -> None:
    for change in ("horizontal_flip", "dynamic_binarization"):
        data = digits(**{change: True})
        data.setup()
        remember(unclip(data.spec), data, None)
        assert data.splits["train"].embedding is None
    remember(VAE(data.spec), data := digits(), None)  # embeds nothing
    assert not data.splits


def test_some_images_have_their_own_embeddings_and_a_file_gives_them_back(tmp_path: Path) -> None:
    data = digits()
    data.setup()
    model = unclip(data.spec).eval()
    remember(model, data, tmp_path)
    train = data.splits["train"]
    assert len(list((tmp_path / "embeddings").glob("*.pt"))) == 2
    chosen = torch.tensor([5, 3])
    torch.testing.assert_close(train[chosen].batch(torch.tensor([1]))["embedding"], train.embedding[[3]])
    tower = model.clip.model
    for parameter in tower.image_projection.parameters():  # other weights of the tower have another file
        parameter.data.mul_(-1)
    torch.testing.assert_close(embedded(tower, train, tmp_path), -train.embedding)
    assert len(list((tmp_path / "embeddings").glob("*.pt"))) == 3


def test_standardisation_is_fitted_to_all_training_images_whatever_the_batch_size() -> None:
    """The digits are fewer than INIT_IMAGES: all of them are seen."""
    found = []
    for batch_size in (64, 300):
        torch.manual_seed(0)
        data = digits(batch_size=batch_size)
        module, off = Losses(data), {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        Trainer(accelerator="cpu", max_steps=1, limit_val_batches=0, **off).fit(module, data)
        model = module.latent_model
        mean = model.clip.embed_image(data.splits["train"].image.float()).mean(0)
        torch.testing.assert_close(model.prior.standardisation.mean, mean, rtol=1e-4, atol=1e-5)
        found.append(model.prior.standardisation)
    for name, value in found[0].named_buffers():
        assert torch.equal(value, found[1].get_buffer(name)), name
