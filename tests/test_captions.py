"""Style is measured as geometry has it; captions are drawn anew and the same; nothing held out is ever trained on."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback
from PIL import Image

from tests.conftest import REPOSITORY, Generated
from vae_lightning.core import Spec, TextSpec
from vae_lightning.data import (
    MNIST,
    Captioned,
    CaptionedFolder,
    DigitGrammar,
    Digits,
    ImageData,
    ImageFolder,
    PhotoGrammar,
    Tokens,
)
from vae_lightning.data.captioned.style import brightness, slant, thickness, warmth
from vae_lightning.models.build import record_of, spec_of
from vae_lightning.tokens import PAD, UNKNOWN, train_tokens

FINE = 16  # points a pixel, along each axis, of which a drawing's pixels are means
EVALUATED = ["text", "meaning", "held_out"]


def drawn(inside: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], size: int = 40) -> torch.Tensor:
    """(1, 1, size, size), 0..255: what a function of columns and rows, in pixels, says is inside."""
    points = (torch.arange(size * FINE) + 0.5) / FINE
    mask = inside(points[None, :], points[:, None]).double()
    return (mask.view(size, FINE, size, FINE).mean((1, 3)) * 255).round()[None, None]


def blurred(image: torch.Tensor, sigma: float) -> torch.Tensor:
    kernel = torch.exp(-0.5 * (torch.arange(-9, 10.0) / sigma) ** 2).to(image)
    kernel = kernel[None] * kernel[:, None] / kernel.sum() ** 2
    return torch.nn.functional.conv2d(image, kernel[None, None], padding=9)


# -- style -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [4.0, 6.5, 9.0])
def test_a_disc_is_as_thick_as_its_radius(radius: float) -> None:
    """2 pi r^2 / 2 pi r, wherever it lies."""
    for x, y in ((20.0, 20.0), (19.7, 20.4)):
        disc = drawn(lambda c, r, x=x, y=y: (c - x) ** 2 + (r - y) ** 2 < radius**2)
        assert thickness(disc, 256).item() == pytest.approx(radius, rel=0.02)


@pytest.mark.parametrize("angle", [0.0, 0.3, 0.7, 1.2])
def test_a_bar_is_as_thick_as_geometry_has_it(angle: float) -> None:
    """2 w l / 2 (w + l), at any angle."""
    sin, cos = np.sin(angle), np.cos(angle)

    def bar(c: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        along, across = cos * (c - 20) + sin * (r - 20), cos * (r - 20) - sin * (c - 20)
        return (along.abs() < 15) & (across.abs() < width / 2)

    for width in (2.5, 4.0, 6.0):
        assert thickness(drawn(bar), 256).item() == pytest.approx(30 * width / (30 + width), rel=0.04)


def test_rings_and_crossings_are_closed_contours() -> None:
    """A ring has two of them; one that touches the picture's edge, and two squares that meet in a corner, are whole."""
    ring = drawn(lambda c, r: ((c - 20) ** 2 + (r - 20) ** 2).sqrt().sub(10).abs() < 2)
    assert thickness(ring, 256).item() == pytest.approx(4, rel=0.02)  # 2 pi (12^2 - 8^2) / 2 pi (12 + 8)
    edge = drawn(lambda c, r: (c < 8) & (r < 40))
    assert thickness(edge, 256).item() == pytest.approx(2 * 8 * 40 / (2 * 48), rel=0.03)
    board = drawn(lambda c, r: ((c < 10) & (r < 10)) | ((c >= 10) & (r >= 10) & (c < 20) & (r < 20)))
    assert thickness(board, 256).item() == pytest.approx(5, rel=0.05)
    assert thickness(torch.zeros(2, 1, 8, 8), 256).tolist() == [0, 0]


def test_blur_is_not_thickness() -> None:
    """The half-level set of a bar stays where it is; 2 sum I / sum |grad I| does not, of a bar that is not wide."""

    def by_gradient(image: torch.Tensor) -> float:
        y, x = torch.gradient(image[0, 0])
        return (2 * image.sum() / (x.square() + y.square()).sqrt().sum()).item()

    bar = drawn(lambda c, r: ((c - 20).abs() < 2.5) & ((r - 20).abs() < 16))
    sharp, soft = (thickness(image, 256).item() for image in (bar, blurred(bar, 1.2)))
    assert soft == pytest.approx(sharp, rel=0.02)
    thin = drawn(lambda c, r: ((c - 20).abs() < 1.5) & ((r - 20).abs() < 16))
    by_level = thickness(blurred(thin, 1.2), 256).item() / thickness(thin, 256).item() - 1
    assert 2 * abs(by_level) < by_gradient(blurred(thin, 1.2)) / by_gradient(thin) - 1


@pytest.mark.parametrize("shear", [-0.5, 0.0, 0.25, 0.8])
def test_slant_is_the_shear_of_a_bar(shear: float) -> None:
    bar = drawn(lambda c, r: ((c - 20 + shear * (r - 20)).abs() < 2) & ((r - 20).abs() < 14))
    assert slant(bar, 256).item() == pytest.approx(shear, abs=0.004)
    assert slant(bar.flip(-1), 256).item() == pytest.approx(-shear, abs=0.004)


def test_light_and_colour() -> None:
    red = torch.zeros(1, 3, 4, 4)
    red[:, 0] = 255
    assert brightness(red, 256).item() == pytest.approx(1 / 3)
    assert warmth(red, 256).item() == 1
    assert warmth(red.flip(1), 256).item() == -1


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


def test_photographs_are_told_by_colour() -> None:
    grammar = PhotoGrammar()
    said = grammar.sentences((7, 2, 2), grammar.orders[0])
    assert said[0] == "a bright warm photo of a horse"
    source = Generated((3, 8, 8), count=300)
    data = captioned(Captioned(source, grammar), val_size=16)
    assert len(data.splits["test"].captions.meanings) == 90
    assert grammar.measured(data.splits["test"].image, 256).shape == (100, 2)


def test_a_grammar_that_has_too_few_nouns_is_refused(tmp_path: Path) -> None:
    for i in range(12):
        save(tmp_path / "ab"[i % 2] / f"{i}.png", i)
    with pytest.raises(ValueError, match=r"a noun for each of the 2 classes .* DigitGrammar with 10"):
        captioned(Captioned(ImageFolder(str(tmp_path), channels=1), DigitGrammar()))


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
    checked = cli("doctor", *flags[:4])
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


# -- a user's own pairs ------------------------------------------------------------------------------------------------


def save(path: Path, value: int, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for i in range(30):
        save(tmp_path / "in" / f"{i:02}.png", i)
    return tmp_path / "in"


def own(folder: Path, captions: str | None = None, **settings: object) -> ImageData:
    source = CaptionedFolder(ImageFolder(str(folder), background=255), captions, **settings)  # type: ignore[arg-type]
    return captioned(source, val_size=4, batch_size=4, root=str(folder.parent))


def found_captions(data: ImageData) -> dict[bytes, set[str]]:
    """The captions of each image, by its pixels."""
    return {
        image.numpy().tobytes(): set(part.captions.sentences[first : first + count])
        for part in data.splits.values()
        for image, first, count in zip(
            part.image, part.captions.first.tolist(), part.captions.count.tolist(), strict=True
        )
    }


def test_text_beside_images(pictures: Path) -> None:
    """Also by a CSV, and by a JSON of either form: the same captions for the same images."""
    said = {f"{i:02}.png": [f"picture number {i}", f"the {i} th"][: 1 + i % 2] for i in range(30)}
    for name, captions in said.items():
        (pictures / name).with_suffix(".txt").write_text("\n\n".join(captions) + "\n")
    beside = found_captions(own(pictures))
    for i in range(30):
        pixels = np.asarray(Image.open(pictures / f"{i:02}.png")).transpose(2, 0, 1).tobytes()
        assert beside[pixels] == set(said[f"{i:02}.png"])
    pairs = [(name, caption) for name, captions in said.items() for caption in captions]
    lines = "".join(f'{name},"{caption}",x\n' for name, caption in pairs)
    (pictures / "all.csv").write_text("\ufefffile,caption,other\n" + lines, encoding="utf-8")
    (pictures.parent / "rows.json").write_text(json.dumps([{"file": a, "caption": b} for a, b in pairs]))
    (pictures / "named.json").write_text(json.dumps(said))
    for captions in ("all.csv", "../rows.json", "named.json"):
        assert found_captions(own(pictures, captions)) == beside


def test_images_held_out_by_their_captions(pictures: Path) -> None:
    for i in range(30):
        (pictures / f"{i:02}.txt").write_text(f"a {'red' if i % 3 else 'blue'} {'cat' if i % 2 else 'dog'}")
    data = own(pictures, held_out=["^a Blue cat"])
    assert "a blue cat" not in data.splits["train"].captions.said() + data.splits["val"].captions.said()
    test = data.splits["test"].captions
    assert [text == "a blue cat" for text in test.texts()] == test.held_out.bool().tolist()
    assert int(test.held_out.sum()) == 5
    assert sum(map(len, data.splits.values())) == 30
    with pytest.raises(ValueError, match="expected regular expressions"):
        own(pictures, held_out=["("])
    with pytest.raises(ValueError, match="expected captioned images for train, got none"):
        own(pictures, held_out=["a"])


def test_transparent_pictures_lie_upon_white(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 4), dtype=np.uint8)
    pixels[:2] = (200, 0, 0, 255)
    pixels[2:] = (0, 0, 0, 128)
    for i in range(12):
        pixels[0, 0, :] = (i, 0, 0, 0)  # all transparent, whatever its colour
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    white, plain = (
        ImageFolder(str(tmp_path), background=background, cache=cache).load(tmp_path, False).train.image
        for background, cache in ((255, True), (None, True))
    )
    assert white[0, :, 0, 0].tolist() == [255, 255, 255]
    assert white[0, :, 1, 1].tolist() == [200, 0, 0]
    assert white[0, :, 3, 3].tolist() == [127, 127, 127]
    assert plain[0, :, 3, 3].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="expected 0 to 255, with 1 or 3 channels, got 300"):
        ImageFolder(str(tmp_path), background=300)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (None, b"", r"30 of 30 images in .* have no caption \(00.png, .*: write text files beside them"),
        ("a.csv", b"file,caption\n00.png,a cat\n", r"29 of 30 images .*01.png.*: write rows of a.csv, or skip them"),
        ("a.csv", b"file,caption\n00.png,\n", r"expected a file and a caption in each row, got row 1 of '00.png'"),
        ("a.csv", b"file,caption\n00.png\n", r"expected a file and a caption in each row, got row 1 of '00.png'"),
        ("a.csv", b"file,caption\nno.png,a cat\n", r"got 'no.png' in row 1, which is not there: mend the name"),
        ("a.csv", b"file,caption\n", r"a.csv: expected a row an image, got none"),
        ("a.csv", b"", r"a.csv: expected the columns file and caption, got none"),
        ("a.csv", b"image,text\n00.png,a cat\n", r"expected the columns file and caption, got image, text: name the"),
        ("a.csv", b"file,caption\n00.png,caf\xe9\n", r"expected text in UTF-8, got byte 23 of another encoding"),
        ("a.json", b"{", r"a.json: expected JSON, got something else"),
        ("a.json", b"[1]", r"expected a list of rows with file and caption"),
        ("a.json", b'[{"file": "00.png", "text": "a cat"}]', r"expected the columns file and caption, got file, text"),
        ("a.json", b'{"00.png": 3}', r"expected a file and a caption in each row, got row 1"),
        ("a.json", b"{}", r"expected a row an image, got none"),
        ("a.toml", b"", r"expected captions in a .csv or .json file, got .toml"),
        ("00.txt", b"caf\xe9", r"00.txt: expected text in UTF-8, got byte 3"),
    ],
)
def test_bad_captions_get_a_sentence(pictures: Path, name: str | None, content: bytes, said: str) -> None:
    if name:
        (pictures / name).write_bytes(content)
    with pytest.raises(ValueError, match=said):
        own(pictures, None if name is None or name.endswith(".txt") else name)


def test_missing_captions(pictures: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(FileNotFoundError, match=r"no.csv: expected a CSV or JSON file of captions, got nothing there"):
        own(pictures, "no.csv")
    for i in range(25):
        (pictures / f"{i:02}.txt").write_text("a cat")
    data = own(pictures, skip_uncaptioned=True)
    assert sum(map(len, data.splits.values())) == 25
    assert "skipped 5 images without a caption: 25.png" in capsys.readouterr().out


def test_the_emoji(data_root: Path, tmp_path: Path) -> None:
    packed = data_root / "emoji-64.tar.gz"
    if not packed.is_file():
        pytest.skip("the emoji are not here")
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path, filter="data")
    folder = ImageFolder(str(tmp_path / "emoji" / "images"), size=(32, 32), background=255)
    pattern = "^man astronaut: dark"
    data = captioned(CaptionedFolder(folder, "../captions.csv", held_out=[pattern]), root=str(tmp_path))
    assert sum(map(len, data.splits.values())) == 3786
    assert data.image_shape == (3, 32, 32)
    assert data.splits["train"].image[:, :, 0, 0].float().mean() > 200  # the corners are white
    text = data.spec.require_text("test")
    typed = Tokens(text).encode(["Man firefighter: medium-dark skin tone"])
    assert Tokens(text).decode(typed) == ["man firefighter medium dark skin tone"]
    test = data.splits["test"].captions
    assert [test.sentences[i] for i in test.first[test.held_out > 0].tolist()] == ["man astronaut: dark skin tone"]
