"""Captions are drawn anew and the same; nothing held out is ever trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from lightning.pytorch import Callback

from tests.conftest import REPOSITORY, Generated
from vae_lightning.core import Spec, TextSpec
from vae_lightning.data import (
    MNIST,
    Captioned,
    DigitGrammar,
    Digits,
    ImageData,
    PhotoGrammar,
    Tokens,
)
from vae_lightning.models.build import record_of, spec_of
from vae_lightning.tokens import PAD, UNKNOWN, train_tokens

EVALUATED = ["text", "meaning", "held_out"]


# -- captions of what is measured --------------------------------------------------------------------------------------


def captioned(source: object = None, **settings: object) -> ImageData:
    data = ImageData(
        source or Captioned(Digits(), DigitGrammar()),  # type: ignore[arg-type]
        **{"val_size": 100, "batch_size": 64, "columns": EVALUATED, **settings},  # type: ignore[arg-type]
    )
    data.setup()
    return data


def test_bins_are_thirds_of_the_training_images() -> None:
    source = Captioned(Digits(), DigitGrammar(), hold_out=False)
    train = source.load(Path("."), download=False).train
    parts = source.grammar.combination(train.captions.meaning)
    assert torch.equal(parts[:, 0], train.label)
    assert torch.equal(parts[:, 1:], source.thirds(train.image))
    for column in parts[:, 1:].unbind(1):
        assert (column.bincount() / len(column) - 1 / 3).abs().max() < 0.002
    assert torch.equal(source.grammar.number(parts[:, 0], parts[:, 1:]), train.captions.meaning)


def test_nothing_held_out_is_trained_or_validated_on() -> None:
    data, grammar = captioned(), DigitGrammar()
    whole = captioned(Captioned(Digits(), grammar, hold_out=False))
    unseen = set(grammar.new_combinations)
    assert len({digit for digit, *_ in unseen}) == 10
    said_anew = {text for one in grammar.combinations() for text in grammar.sentences(one, grammar.new_order)}
    for split in ("train", "val"):
        part = data.splits[split]
        assert not unseen & set(map(tuple, grammar.combination(part.captions.meaning).tolist()))
        assert not said_anew & set(part.captions.said())
    test = data.splits["test"]
    parts = grammar.combination(test.captions.meaning).tolist()
    served = test.batch(torch.arange(len(test)))["held_out"]
    for combination, text, held_out in zip(parts, test.captions.texts(), served.tolist(), strict=True):
        assert held_out == (tuple(combination) in unseen) + 2 * (text in said_anew)
    assert set(served.tolist()) == {0, 1, 2, 3}
    assert len(test) == 360  # all there
    left_out = len(whole.splits["train"]) - len(data.splits["train"])
    assert left_out == 245
    assert not any(part.captions.held_out.any() for part in whole.splits.values())


def test_a_caption_says_what_its_image_is() -> None:
    """Every sentence of an image names its digit, and no third of a trait but its own; most images can be said in many
    ways, some without a trait."""
    data, grammar = captioned(), DigitGrammar()
    captions = data.splits["test"].captions
    parts = grammar.combination(captions.meaning).tolist()
    for row in range(0, 360, 7):
        label, *thirds = parts[row]
        start, count = int(captions.first[row]), int(captions.count[row])
        assert len(set(captions.sentences[start : start + count])) == count > 100
        for text in captions.sentences[start : start + count]:
            words = set(text.split())
            assert words & set(grammar.nouns[label])
            for synonyms, third in zip(grammar.traits.values(), thirds, strict=True):
                assert not words & {word for i in range(3) if i != third for word in synonyms[i]}
    assert captions.meanings[grammar.number(torch.tensor([7]), torch.tensor([[2, 0]]))] == "a thick left-slanted seven"
    assert "an upright 8" in captions.sentences
    assert "a one" in captions.sentences
    assert len(captions.meanings) == 90


def test_the_images_that_a_text_can_be_said_of_are_found() -> None:
    data = captioned()
    test, grammar = data.splits["test"], DigitGrammar()
    label, thickness, slant = grammar.combination(test.captions.meaning).T
    for text, wanted in (
        ("a THICK left-leaning 7", (label == 7) & (thickness == 2) & (slant == 0)),
        ("italic one", (label == 1) & (slant == 2)),
        ("four", label == 4),
        ("a thick banana", label == 10),
    ):
        assert torch.equal(test.captions.said_by(text), wanted.nonzero()[:, 0]), text
    assert len(test.captions.said_by("four")) > 20


def test_photographs_are_told_by_colour() -> None:
    grammar = PhotoGrammar()
    said = grammar.sentences((7, 2, 2), grammar.orders[0])
    assert said[0] == "a bright warm photo of a horse"
    source = Generated((3, 8, 8), count=300)
    data = captioned(Captioned(source, grammar), val_size=16)
    assert len(data.splits["test"].captions.meanings) == 90
    assert grammar.measured(data.splits["test"].image, 256).shape == (100, 2)


def test_style_of_a_large_set_is_measured_once(data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "MNIST").symlink_to(data_root / "MNIST")
    (tmp_path / "cache").mkdir()
    source = Captioned(MNIST(), DigitGrammar())
    images = source.source.load(tmp_path, download=False).test
    first = source._kept(images, tmp_path / "cache")
    assert "measuring the style of 10000 images" in capsys.readouterr().out
    assert torch.equal(source._kept(images, tmp_path / "cache"), first)
    assert capsys.readouterr().out == ""
    other = Captioned(MNIST(), PhotoGrammar())
    other.grammar.measured = lambda image, levels: torch.zeros(len(image), 2)  # type: ignore[method-assign]
    assert not other._kept(images, tmp_path / "cache").any()


# -- one phrasing a visit ----------------------------------------------------------------------------------------------


def visits(data: ImageData, epoch: int, rank: int = 0, processes: int = 1, skip: int = 0) -> list[dict]:
    """The batches of an epoch's rest, as a Trainer with so many processes would see them."""
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        current_epoch=epoch, world_size=processes, global_rank=rank, strategy=strategy, training=True
    )
    loader = data.loader("train", shuffle=True)
    loader.sampler.skip = skip
    return list(loader)


def rows_of(batches: list[dict]) -> set[tuple[bytes, tuple[int, ...]]]:
    return {
        (image.numpy().tobytes(), tuple(text.tolist()))
        for batch in batches
        for image, text in zip(batch["image"], batch["text"], strict=True)
    }


def test_phrasings_depend_on_seed_epoch_and_image_alone() -> None:
    """Whatever the batches, the processes, or where a run went on."""
    data, again, other = captioned(), captioned(batch_size=32), captioned()
    other.seed = data.seed + 1
    first, second = visits(data, 0), visits(data, 1)
    assert set(first[0]) == {"image", "text"}  # neither a label nor what is for evaluations alone
    assert rows_of(first) == rows_of(visits(again, 0))
    assert rows_of(first) != rows_of(second)
    assert rows_of(first) != rows_of(visits(other, 0))
    for batch, resumed in zip(visits(data, 1)[5:], visits(captioned(), 1, skip=5), strict=True):
        assert torch.equal(batch["text"], resumed["text"])
    shared = [rows_of(visits(captioned(), 1, rank, 2)) for rank in (0, 1)]
    assert shared[0] | shared[1] == rows_of(second)
    drawn_texts = torch.stack([visits(again, epoch)[0]["text"][0] for epoch in range(3)])
    assert len(drawn_texts.unique(dim=0)) > 1


def test_phrasings_are_drawn_evenly() -> None:
    captions = captioned().splits["train"].captions
    one = replace(captions, **{name: getattr(captions, name)[:1] for name in ("first", "count", "meaning", "held_out")})
    many = torch.stack([one.drawn(seed).chosen - one.first for seed in range(9400)])[:, 0]
    expected = 9400 / int(one.count)
    chi = ((many.bincount(minlength=int(one.count)) - expected) ** 2 / expected).sum().item()
    assert abs(chi - (int(one.count) - 1)) < 5 * (2 * int(one.count)) ** 0.5


def test_validation_and_test_have_one_caption_for_good() -> None:
    data, again = captioned(), captioned(eval_batch_size=7)
    for split in ("val", "test"):
        assert torch.equal(
            *(torch.cat([batch["text"] for batch in it.loader(split)]) for it in (data, again))  # type: ignore[arg-type]
        )
    assert data.record() == again.record()
    assert "captions" not in ImageData(Digits()).record()


def test_without_captions_batches_are_as_they_were() -> None:
    plain, told = captioned(Digits(), columns=None), captioned(columns=["label"])
    assert set(visits(plain, 0)[0]) == {"image", "label"} == set(visits(told, 0)[0])
    assert plain.spec.text is None is told.spec.text
    assert captioned().spec.classes is None


class Recorder(Callback):
    """Writes down the first image and text of each batch."""

    def on_train_batch_start(self, trainer: object, pl_module: object, batch: dict, batch_idx: int) -> None:
        with Path("seen.txt").open("a") as file:
            file.write(f"{batch['image'].sum().item():.0f} {batch['text'].tolist()}\n")


def test_a_run_that_goes_on_sees_the_captions_of_one_that_did_not_stop(cli: Callable) -> None:
    configs = REPOSITORY / "configs"
    flags = ["-c", configs / "experiment/digits.yaml", "-c", configs / "data/digits_captions.yaml"]
    flags += [f"--trainer.callbacks={__name__}.Recorder", "--trainer.limit_val_batches=1"]
    whole = cli("fit", *flags, "--trainer.max_epochs=2", "--run.name=whole")
    assert whole.status == 0, whole.err
    seen = Path("seen.txt").read_text()
    Path("seen.txt").unlink()
    assert cli("fit", *flags, "--trainer.max_epochs=1", "--run.name=parts").status == 0
    on = cli("fit", "--ckpt_path=runs/digits/parts", "--trainer.max_epochs=2")
    assert on.status == 0, on.err
    assert Path("seen.txt").read_text() == seen
    record = torch.load("runs/digits/whole/checkpoints/last.ckpt", weights_only=True)["vae_lightning"]
    spec = spec_of(record)
    assert spec.text == captioned(val_size=200).spec.text
    assert spec.classes is None
    written = yaml.safe_load(Path("runs/digits/whole/config.yaml").read_text())
    assert written["data"]["text"] == written["model"]["text"] == record["text"]
    checked = cli("doctor", *flags[:4], "--trainer.max_epochs=300")
    assert checked.status == 0, checked.out


# -- tokens ------------------------------------------------------------------------------------------------------------

CAPTIONS = ("a thick left-slanted seven", "a thin, upright three!", "Étude of a CAT")


@pytest.mark.parametrize("bpe", [None, 60])
def test_tokens_come_back(bpe: int | None) -> None:
    tokens = Tokens(train_tokens(CAPTIONS, bpe))
    ids = tokens.encode(CAPTIONS)
    assert ids.shape == (3, tokens.text.length)
    assert (ids[:, 0] == 1).all()
    for row in ids.tolist():
        end = row.index(2)
        assert set(row[end + 1 :]) <= {PAD}
        assert all(token > UNKNOWN for token in row[1:end])
    assert tokens.decode(ids) == ["a thick left slanted seven", "a thin upright three", "étude of a cat"]
    assert torch.equal(tokens.encode(tokens.decode(ids)), ids)
    assert int(ids.max()) < tokens.text.vocabulary
    spec = Spec((1, 8, 8), 17, None, tokens.text)
    assert spec_of(json.loads(json.dumps(record_of(spec)))) == spec
    assert spec_of({"image_shape": [1, 8, 8], "levels": 17, "classes": None}).text is None  # of before captions


def test_every_sentence_of_a_grammar_comes_back() -> None:
    data = captioned()
    tokens = Tokens(data.spec.require_text("test"))
    captions = data.splits["test"].captions
    assert tokens.decode(captions.tokens) == [text.replace("-", " ") for text in captions.sentences]
    assert (tokens.encode(captions.meanings) != UNKNOWN).all()


@pytest.mark.parametrize("bpe", [None, 60])
def test_what_a_user_types_is_looked_at(bpe: int | None) -> None:
    tokens = Tokens(train_tokens(CAPTIONS, bpe))
    for typed, said in (
        ("...", r"expected words, got none"),
        ("a ??? xyz", r"expected words of the training captions, got 'xyz'"),
        ("a thick " * 9, r"expected at most \d+ tokens, .* got \d+: say it in fewer words"),
    ):
        with pytest.raises(ValueError, match=said):
            tokens.encode([typed])
    assert tokens.table(["a thick xyz " * 9]).shape == (1, tokens.text.length)  # data are cut, not refused
    assert tokens.table(["a thick " * 9])[0, -1] == 2


def test_an_unknown_word_is_told_its_nearest_ones() -> None:
    tokens = Tokens(train_tokens(CAPTIONS))
    with pytest.raises(ValueError, match=r"'a thik seven': .* got 'thik': did you mean thick or thin\?"):
        tokens.encode(["a thik seven"])
    with pytest.raises(ValueError, match="expected words of the training captions, got 'pad'"):
        tokens.encode(["a [PAD] seven"])  # no way to the padding's id
    with pytest.raises(ValueError, match="expected words in them, got none"):
        train_tokens(["", "!"])
    with pytest.raises(ValueError, match=r"data.bpe: expected at least \d+ tokens, one a letter"):
        train_tokens(CAPTIONS, 6)


def test_data_of_other_tokens_are_refused_for_a_model_that_reads_them() -> None:
    data = captioned()
    spec = replace(data.spec, text=TextSpec(5, 4, "{}"))
    data.check_matches(spec)
    with pytest.raises(ValueError, match="got data of other tokens"):
        data.check_matches(spec, ("text",))
    with pytest.raises(ValueError, match="got data without captions"):
        captioned(Digits(), columns=None).check_matches(spec, ("text",))
    with pytest.raises(ValueError, match="expected data with captions, got images without"):
        captioned(Digits(), columns=None).spec.require_text("a tower")
