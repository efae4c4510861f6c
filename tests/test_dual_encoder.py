"""CLIP: its loss, its towers, its evaluation, and search."""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from tests.conftest import REPOSITORY
from vae_lightning.checkpoint import find_checkpoint
from vae_lightning.core import ImageTextModel, Spec
from vae_lightning.images.input import read_data
from vae_lightning.metrics import Retrieval
from vae_lightning.models import BagOfWords, DualEncoder, OpenClipImage, OpenClipText, TextTransformer
from vae_lightning.nets import VisionTransformer
from vae_lightning.objectives import Contrastive
from vae_lightning.objectives.contrastive import contrastive_loss, of_all_processes
from vae_lightning.tokens import Tokens, train_tokens

WORDS = ["a thick seven", "a thin one", "a thick one that is upright", "two"]
TEXT = train_tokens(WORDS)
SPEC = Spec((1, 8, 8), 17, text=TEXT)


def units(count: int, size: int = 6, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(count, size, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_the_loss_is_that_of_open_clip() -> None:
    image, text, scale = units(7), units(7, seed=1), torch.tensor(14.0)
    per_image, per_text = scale * image @ text.T, scale * text @ image.T  # ClipLoss.get_logits
    own = torch.arange(7)
    reference = (F.cross_entropy(per_image, own) + F.cross_entropy(per_text, own)) / 2  # ClipLoss.forward
    torch.testing.assert_close(contrastive_loss(image, text, scale), reference)


def test_equal_captions_are_right_for_each_others_images() -> None:
    """Plain CLIP is the cross-entropy against all pairs of an equal caption, gradient and all."""
    image = units(6).requires_grad_()
    which = torch.tensor([0, 1, 0, 2, 1, 0])
    text = units(3, seed=1)[which]
    logits = 9.0 * image @ text.T
    target = (which[:, None] == which).float()
    target = target / target.sum(1, keepdim=True)
    several = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    plain = contrastive_loss(image, text, torch.tensor(9.0))
    torch.testing.assert_close(plain, several)
    torch.testing.assert_close(*(torch.autograd.grad(loss, image, retain_graph=True)[0] for loss in (plain, several)))


def _process(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    weight = torch.eye(6, requires_grad=True)
    image, text = (part[4 * rank : 4 * rank + 4] @ weight for part in (units(8), units(8, seed=1)))
    loss = contrastive_loss(of_all_processes(image), of_all_processes(text), torch.tensor(5.0))
    loss.backward()
    dist.all_reduce(weight.grad)
    torch.save((loss.detach(), weight.grad / 2), f"{folder}/{rank}.pt")  # as DistributedDataParallel averages
    dist.destroy_process_group()


def test_two_processes_equal_one_with_the_joined_batch(tmp_path: Path) -> None:
    mp.spawn(_process, args=(str(tmp_path),), nprocs=2)
    weight = torch.eye(6, requires_grad=True)
    loss = contrastive_loss(units(8) @ weight, units(8, seed=1) @ weight, torch.tensor(5.0))
    loss.backward()
    for rank in range(2):
        found, gradient = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(found, loss.detach())
        torch.testing.assert_close(gradient, weight.grad)


def test_embeddings_are_unit_vectors_and_the_temperature_is_bounded() -> None:
    model = DualEncoder(SPEC, embedding_size=5)
    image, text = torch.randint(0, 17, (4, 1, 8, 8)).float(), Tokens(TEXT).encode(WORDS)
    for embedded in (model.embed_image(image), model.embed_text(text)):
        torch.testing.assert_close(embedded.norm(dim=1), torch.ones(4))
    assert model.inverse_temperature().item() == pytest.approx(1 / 0.07)
    optimizer = torch.optim.SGD([model.log_inverse_temperature], lr=10.0)
    for sign, bound in ((-1, 100.0), (1, 1.0), (-1, 100.0)):  # comes back from a bound, too
        for _ in range(3):
            optimizer.zero_grad()
            (sign * model.inverse_temperature()).backward()
            optimizer.step()
        assert model.inverse_temperature().item() == pytest.approx(bound)
    loss = Contrastive()(model, {"image": image, "text": text}, 0.0)
    assert loss.logs["inverse_temperature"] <= 100.001
    assert {id(p) for group in model.param_groups() for p in group["params"]} == {
        id(p) for p in model.parameters() if p.dim() < 2
    }


def test_text_is_read_at_its_end_and_blind_to_padding() -> None:
    tower = TextTransformer(TEXT, width=16, depth=2, heads=2).eval()
    text = Tokens(TEXT).encode(["a thin one"])
    end = int((text[0] == 2).nonzero())
    other = text.clone()
    other[0, end + 1 :] = 5
    torch.testing.assert_close(tower(text), tower(other))
    torch.testing.assert_close(tower(text), tower(text[:, : end + 1]))
    for place in range(end):  # and sees every word before it
        changed = text.clone()
        changed[0, place] = 6 if text[0, place] != 6 else 7
        assert (tower(changed) - tower(text)).abs().max() > 1e-4


def test_a_bag_of_words_knows_words_and_not_their_order() -> None:
    tower = BagOfWords(TEXT, width=16).eval()
    text = Tokens(TEXT).encode(["a thin one", "thin one a", "a thick one"])
    with torch.no_grad():
        a, turned, other = tower(text)
        torch.testing.assert_close(a, turned)
        torch.testing.assert_close(a, tower(text[:1, : int((text[0] == 2).nonzero()) + 1])[0])  # blind to padding
    assert (a - other).abs().max() > 1e-3
    assert tower(torch.tensor([[1, 2, 0]])).isfinite().all()  # no word at all


def test_patches_have_places() -> None:
    net = VisionTransformer((1, 8, 8), (1, 8, 8), patch=4, width=16, depth=1, heads=2)
    image = torch.rand(2, 1, 8, 8)
    assert net(image).shape == (2, 16)
    assert (net(image) - net(image.roll(4, -1))).abs().max() > 1e-4
    with torch.no_grad():
        net.place.zero_()  # a set of patches, then
    torch.testing.assert_close(net(image), net(image.roll(4, -1)), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="expected a divisor of height and width, got 3"):
        VisionTransformer((1, 8, 8), (1, 8, 8), patch=3)


class Table(ImageTextModel):
    """An image's first value is the number of its caption; texts are places of their own."""

    def __init__(self, places: Tensor) -> None:
        super().__init__()
        self.places = places

    def embed_image(self, image: Tensor) -> Tensor:
        return self.places[image[:, 0, 0, 0].long()]

    def embed_text(self, text: Tensor) -> Tensor:
        return F.normalize(torch.eye(40), dim=-1)[text[:, 1]]

    def inverse_temperature(self) -> Tensor:
        return torch.tensor(1.0)


def evaluated(places: Tensor, count: int = 400) -> dict[str, tuple[float, float]]:
    number = torch.arange(count) % 40
    batch = {
        "image": number.view(-1, 1, 1, 1).float(),
        "text": torch.stack([torch.ones_like(number), number, torch.full_like(number, 2)], 1),
        "held_out": (number < 4).long(),
    }
    evaluation = Retrieval()
    for part in torch.arange(count).split(96):
        evaluation.update(Table(places), SPEC, {k: v[part] for k, v in batch.items()}, "val")
    return evaluation.results()


def test_recall_of_a_perfect_a_chance_and_a_collapsed_encoder() -> None:
    found = evaluated(torch.eye(40))
    assert {value for name, (value, _) in found.items()} == {1.0}
    shifted = torch.eye(40).roll(1, 0)
    shifted[:4] = torch.eye(40)[:4]  # right for what is held out alone
    found = evaluated(shifted)
    assert found["text_recall_1"][0] == pytest.approx(0.1)
    assert found["text_recall_1"][1] == pytest.approx(math.sqrt(0.1 * 0.9 / 399))
    assert (found["text_recall_1_held_out"][0], found["text_recall_1_seen"][0]) == (1.0, 0.0)
    chance = evaluated(units(40, 40))
    assert 0 <= chance["text_recall_1"][0] < 0.15
    assert 8 < chance["text_median_rank"][0] < 33
    for value in (evaluated(torch.ones(40, 40) / math.sqrt(40))[k][0] for k in ("text_recall_5", "image_recall_5")):
        assert value == 0.0


def fit(cli: Callable, *flags: str) -> Path:
    config = REPOSITORY / "configs" / "experiment" / "digits_clip.yaml"
    done = cli("fit", "-c", config, "--trainer.enable_progress_bar=false", "--trainer.callbacks=null", *flags)
    assert done.status == 0, done.err
    return Path("runs/digits_clip/1")


def test_search_finds_what_is_asked_for(cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fit(cli, "--trainer.max_epochs=12")
    found = cli("search", "a seven", "--ckpt_path", run, "-n", 10)
    assert found.status == 0, found.err
    lines = found.out.splitlines()[1:11]
    assert sum("seven" in line or "7" in line.split(maxsplit=2)[2] for line in lines) >= 8
    cosines = [float(line.split()[1]) for line in lines]
    assert cosines == sorted(cosines, reverse=True)
    assert (run / "search.png").is_file()
    assert len(list((run / "embeddings").glob("*.pt"))) == 1
    (kept,) = (run / "embeddings").glob("*.pt")
    kept.write_bytes(kept.read_bytes()[:1000])
    again = cli("search", "a seven", "--ckpt_path", run, "-n", 10)
    assert "got a damaged file, which is written anew" in again.out
    assert again.out.endswith(found.out)
    monkeypatch.setattr(DualEncoder, "embed_image", None)  # kept: nothing is embedded again
    assert cli("search", "a seven", "--ckpt_path", run, "-n", 10).out == found.out
    refused = cli("search", "a sevn", "--ckpt_path", run)
    assert refused.status == 1
    assert "got 'sevn': did you mean seven" in refused.error


def test_search_names_the_files_of_what_it_found(cli: Callable) -> None:
    for i in range(40):
        name = Path("pictures") / ("dark" if i % 2 else "light") / f"{i}.png"
        name.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 6 * i, dtype=np.uint8)).save(name)
        name.with_suffix(".txt").write_text(f"a {name.parent.name} one")
    config = REPOSITORY / "configs" / "experiment" / "digits_clip.yaml"
    source = "--data.source.init_args"
    flags = ["--data.source=CaptionedFolder", f"{source}.folder=ImageFolder", f"{source}.folder.path=pictures"]
    flags += ["--data.root=.", f"{source}.folder.channels=1", "--data.val_size=4", "--data.batch_size=8"]
    flags += ["--model.evaluation.class_names=null", "--trainer.max_epochs=1", "--trainer.callbacks=null"]
    done = cli("fit", "-c", config, *flags)
    assert done.status == 0, done.err
    found = cli("search", "a dark one", "--ckpt_path", "runs/digits_clip", "--split", "train", "-n", 9, "-o", "x.png")
    assert found.status == 0, found.err
    for line in found.out.splitlines()[-10:-1]:
        name, _, caption = line.split(maxsplit=2)
        assert (Path("pictures") / name).with_suffix(".txt").read_text() == caption
    data = read_data(find_checkpoint("runs/digits_clip"))
    data.setup()
    for images in data.splits.values():
        for image, name in zip(images.image, images.names, strict=True):
            assert image.unique().item() == 6 * int(Path(name).stem)


@pytest.mark.parametrize("name", ["digits_clip", "mnist_clip"])
def test_configurations_run_and_are_tested(cli: Callable, name: str) -> None:
    config = REPOSITORY / "configs" / "experiment" / f"{name}.yaml"
    flags = ["--data.source.source=Digits", "--data.val_size=200", "--trainer.max_epochs=1"]
    done = cli("fit", "-c", config, *flags, "--trainer.limit_train_batches=2")
    assert done.status == 0, done.err
    tested = cli("test", "--ckpt_path", f"runs/{name}")
    assert tested.status == 0, tested.err
    assert "zero shot accuracy" in tested.out


class Whole(nn.Module):
    """A stand-in of open_clip's calls."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 6))
        self.token = nn.Embedding(50, 6)

    def encode_text(self, text: Tensor) -> Tensor:
        return self.token(text).mean(1)


def test_open_clip_towers_are_frozen_and_come_from_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    kept, fetched = Whole().state_dict(), []

    def create_model(name: str, pretrained: str | None = None) -> Whole:
        whole = Whole()
        if pretrained is not None:
            fetched.append(pretrained)
            whole.load_state_dict(kept)
        return whole

    def tokenizer(said: list[str]) -> Tensor:
        return torch.tensor([[len(word) for word in [*line.split(), "", ""][:2]] for line in said])

    seen = {"size": 4, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    stand_in = types.SimpleNamespace(
        create_model=create_model, get_tokenizer=lambda name: tokenizer, get_model_preprocess_cfg=lambda model: seen
    )
    monkeypatch.setitem(sys.modules, "open_clip", stand_in)
    model = DualEncoder(SPEC, OpenClipImage, OpenClipText, embedding_size=6).train()
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        "log_inverse_temperature",
        "image_projection.weight",
        "text_projection.weight",
    ]
    assert not model.image_tower.training
    assert fetched == []
    model.init_from_data({})
    assert len(fetched) == 2
    again = DualEncoder(SPEC, OpenClipImage, OpenClipText, embedding_size=6)
    again.load_state_dict(model.state_dict())
    again.init_from_data({})
    assert len(fetched) == 2
    text = Tokens(TEXT).encode(WORDS)
    expected = F.normalize(kept["token.weight"][tokenizer(WORDS)].mean(1), dim=-1)
    torch.testing.assert_close(again.embed_text(text), expected)  # the projections begin as the identity
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ValueError, match="expected the package open_clip_torch"):
        OpenClipText(TEXT)


def test_open_clip_itself_with_random_weights() -> None:
    open_clip = pytest.importorskip("open_clip")
    tower = OpenClipText(TEXT, model="ViT-S-32-alt")
    assert tower(Tokens(TEXT).encode(WORDS)).shape == (4, tower.size)
    image = OpenClipImage((1, 8, 8), (1, 8, 8), model="ViT-S-32-alt")
    assert image(torch.rand(2, 1, 8, 8)).shape == (2, tower.size)
    assert open_clip.get_tokenizer("ViT-S-32-alt") is not None
