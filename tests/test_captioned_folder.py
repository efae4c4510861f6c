"""A user's own pairs of images and captions."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.test_captions import captioned
from vae_lightning.data import Captioned, CaptionedFolder, DigitGrammar, ImageData, ImageFolder, Tokens


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
    meanings = {part.captions.meanings for part in data.splits.values()}
    assert len(meanings) == 1  # a caption has one number in all splits
    for part in data.splits.values():
        assert [part.captions.meanings[i] for i in part.captions.meaning.tolist()] == part.captions.texts()
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
    with pytest.raises(ValueError, match="expected a grey level from 0 to 255, got 300"):
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


def test_a_grammar_that_has_too_few_nouns_is_refused(tmp_path: Path) -> None:
    for i in range(12):
        save(tmp_path / "ab"[i % 2] / f"{i}.png", i)
    with pytest.raises(ValueError, match=r"a noun for each of the 2 classes .* DigitGrammar with 10"):
        captioned(Captioned(ImageFolder(str(tmp_path), channels=1), DigitGrammar()))
