"""The emoji: what their configurations hold out, the chain on pictures that are drawn here, attributes of captions."""

from __future__ import annotations

import csv
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from tests.conftest import REPOSITORY
from vae_lightning import load_model
from vae_lightning.core import ImageTextModel
from vae_lightning.data import CaptionedFolder, ImageData, ImageFolder
from vae_lightning.measure.text2image.retrieval import retrieval
from vae_lightning.metrics import Retrieval
from vae_lightning.metrics.text2image import Attributes, ColourJudge

CONFIGS = REPOSITORY / "configs" / "text2image" / "emoji"
STAGES = ("vae", "clip", "prior", "decoder")
WHO = ("", "man ", "woman ")
ROLES = ("farmer", "judge", "pilot", "scientist", "firefighter", "teacher", "cook", "artist")
TONES = {
    "light": (250, 221, 189),
    "medium-light": (224, 187, 149),
    "medium": (191, 143, 104),
    "medium-dark": (155, 100, 61),
    "dark": (89, 69, 57),
}
HELD_OUT = [
    re.compile(text, re.IGNORECASE)
    for text in yaml.safe_load((CONFIGS / "data.yaml").read_text())["data"]["source"]["init_args"]["held_out"]
]
WANTED = Attributes(
    **yaml.safe_load((CONFIGS / "decoder.yaml").read_text())["model"]["evaluation"]["init_args"]["attributes"]
)


def face(who: int, role: int, tone: tuple[int, int, int]) -> np.ndarray:
    """(16, 16, 4): a disc of the tone upon nothing, a cap that tells the role and a mark that tells whose it is."""
    y, x = np.mgrid[:16, :16]
    picture = np.zeros((16, 16, 4), np.uint8)
    picture[(y - 9) ** 2 + (x - 8) ** 2 < 30] = (*tone, 255)
    cap = (np.arange(8) >> np.arange(3)[:, None] & 1)[:, role]
    picture[1:5, 4:12] = (*(40 + 200 * cap), 255)
    picture[14:, 4 * who : 4 * who + 4] = (0, 90, 200, 255)
    return picture


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the emoji's: images/ and captions.csv."""
    place = tmp_path_factory.mktemp("people")
    (place / "images").mkdir()
    rows = []
    for i, who in enumerate(WHO):
        for j, role in enumerate(ROLES):
            for tone, colour in TONES.items():
                name = f"{i}-{j}-{tone}.png"
                Image.fromarray(face(i, j, colour)).save(place / "images" / name)
                rows.append((name, f"{who}{role}: {tone} skin tone"))
    Image.fromarray(face(0, 0, (255, 210, 0))).save(place / "images" / "star.png")
    with (place / "captions.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("file", "caption"), *rows, ("star.png", "a farmer and a judge")])
    return place


def test_the_emoji_hold_out_a_tenth_of_the_combinations(data_root: Path) -> None:
    """Each for man, woman and person together; every role is seen in four tones."""
    packed = data_root / "emoji-64.tar.gz"
    if not packed.is_file():
        pytest.skip("the emoji are not here")
    with tarfile.open(packed) as archive:
        stream = archive.extractfile("emoji/captions.csv")
        assert stream is not None
        captions = [row["caption"] for row in csv.DictReader(stream.read().decode().splitlines())]
    known, new, count = set[tuple[str, ...]](), set[tuple[str, ...]](), 0
    for caption, said in zip(captions, WANTED.said(captions), strict=True):
        held_out = any(pattern.search(caption) for pattern in HELD_OUT)
        assert said or not held_out
        if said:
            count += 1
            (new if held_out else known).add((said.values["role"], said.values["tone"]))
    assert count == 1580
    assert not known & new
    assert len(new) / len(known | new) == pytest.approx(0.1, abs=0.001)
    for role in {role for role, _ in new}:
        assert len({tone for other, tone in known if other == role}) == 4
    for tone in TONES:
        assert sum(other == tone for _, other in known) > 150


@pytest.mark.slow
def test_the_emoji_chain_trains_and_is_judged(cli: Callable, people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vae_lightning.measure.text2image.attributes.STEPS", 60)
    where = ["--data.source.folder.path", people / "images", "--data.source.folder.size=[16,16]", "--data.root=data"]
    for stage in STAGES:
        done = cli(
            "fit", "-c", CONFIGS / "data.yaml", "-c", CONFIGS / f"{stage}.yaml", *where,
            "--data.batch_size=32", "--data.val_size=8", "--trainer.max_epochs=1", "--trainer.limit_train_batches=1",
            "--trainer.check_val_every_n_epoch=1",
        )  # fmt: skip
        assert done.status == 0, (stage, done.err)
    runs = Path("runs/text2image_emoji")
    assert load_model(str(runs / "decoder")).generate("woman firefighter: dark skin tone", 2).shape == (1, 2, 3, 16, 16)
    text = "firefighter: dark skin tone"
    done = cli("generate", text, "-n", "2", "--nearest", "--ckpt_path", runs / "decoder", "-o", "near.png")
    assert done.status == 0, done.err
    with Image.open("near.png") as picture:
        assert picture.width == picture.height  # two images, and below them their two nearest
    lines = done.out.splitlines()
    assert len(lines[lines.index(f"{text}:") + 1 : -1]) == 2
    assert cli("test", "--ckpt_path", runs / "clip").status == 0
    found = rows(runs / "clip")
    assert "15 nearest" not in json.dumps(found)
    for name in ("held_out", "seen", "train"):
        assert 0 <= found[f"recall_1_{name}"]["mean"] <= found[f"recall_5_{name}"]["mean"] <= 100
    assert "of 120" in found["recall_1_train"]["label"]
    assert cli("test", "--ckpt_path", runs / "decoder", "--model.evaluation.generated=100").status == 0
    found = rows(runs / "decoder")
    for name, values in (("role", 8), ("tone", 5), ("all", 40)):
        for of in ("", "_seen", "_held_out"):
            assert found[f"attribute_{name}{of}_real"]["mean"] == 100
            assert found[f"attribute_{name}{of}_chain"]["mean"] < 70  # after a step
        assert found[f"attribute_{name}_shuffled"]["mean"] < 100 / values + 30
    assert found["attribute_role_new"]["mean"] > 60
    assert found["memory_distance_chain"]["mean"] > found["memory_distance_real"]["mean"] > 0
    assert found["memory_role_real"]["mean"] + found["memory_tone_real"]["mean"] > 90


def rows(run: Path) -> dict[str, dict]:
    return {
        row["name"]: row for part in json.loads((run / "results.json").read_text())["sections"] for row in part["rows"]
    }


class Knowing(ImageTextModel):
    """Finds the caption of an image by its pixels, or that of the image `by` places behind it."""

    def __init__(self, data: ImageData, by: int = 0) -> None:
        super().__init__()
        self.words = torch.randn(100, 64, generator=torch.Generator().manual_seed(0))
        self.known = {}
        for part in map(data.fixed, ("train", "val", "test")):
            assert part.captions is not None
            assert part.captions.meaning_tokens is not None
            tokens = part.captions.meaning_tokens[part.captions.meaning.roll(by)]
            self.known |= {i.numpy().tobytes(): t for i, t in zip(part.image, tokens, strict=True)}

    def embed_image(self, image: Tensor) -> Tensor:
        return self.embed_text(torch.stack([self.known[i.to(torch.uint8).numpy().tobytes()] for i in image]))

    def embed_text(self, text: Tensor) -> Tensor:
        return torch.nn.functional.normalize(self.words[text].sum(1), dim=-1)

    def inverse_temperature(self) -> Tensor:
        return torch.ones(())


def test_retrieval_looks_among_the_captions_that_are_described(people: Path, tmp_path: Path) -> None:
    folder = ImageFolder(str(people / "images"), background=255)
    held_out = [pattern.pattern for pattern in HELD_OUT]
    data = ImageData(CaptionedFolder(folder, "../captions.csv", held_out=held_out), root=str(tmp_path), batch_size=8)
    data.setup()
    device, evaluation = torch.device("cpu"), Retrieval(among="skin tone$")
    for by, right in ((0, 100), (1, 0)):
        (section,) = retrieval(evaluation, Knowing(data, by), data, device)
        found = {row.name: row for row in section.rows}
        assert {row.mean for row in section.rows if row.name.startswith("recall_1")} == {right}
        assert found["recall_1_held_out"].label.startswith("held-out images (21): ")  # seven roles, three persons
        assert all("of 120" in row.label for row in section.rows)
    assert retrieval(Retrieval(), Knowing(data), data, device) == []
    (none,) = retrieval(Retrieval(among="unicorn"), Knowing(data), data, device)
    assert none.notes == ["No caption is one that --model.evaluation.among describes."]
    with pytest.raises(ValueError, match="expected a regular expression, got"):
        Retrieval(among="(")


# -- attributes and colours --------------------------------------------------------------------------------------------


def test_attributes_are_what_named_groups_find() -> None:
    captions = [
        "Woman firefighter: medium-dark skin tone",
        "man: curly hair: light skin tone",
        "man: dark skin tone",
        "couple with heart: man, man: light skin tone, dark skin tone",
        "hash key",
    ]
    said = WANTED.said(captions)
    assert [it and it.values for it in said] == [
        {"role": "firefighter", "tone": "medium-dark"},
        {"role": "curly hair", "tone": "light"},
        {"role": "man", "tone": "dark"},
        None,
        None,
    ]
    (other,) = WANTED.said(["woman firefighter: light skin tone"])
    assert said[0].rest["tone"] == other.rest["tone"]  # what differs in the tone alone
    assert said[0].rest["role"] != other.rest["role"]
    for pattern, message in (("(", "expected a regular expression"), ("a", "expected a named group an attribute")):
        with pytest.raises(ValueError, match=message):
            Attributes(pattern)
    with pytest.raises(ValueError, match="expected some of the groups a, got 'b'"):
        Attributes("(?P<a>x)", ("b",))


def faces(distracted: bool = False) -> tuple[Tensor, Tensor, list[str]]:
    """(120, 3, 16, 16) upon white, the tones' numbers, and the captions without them; each with a broad band in the
    colour of another tone."""
    images, labels, rest = [], [], []
    for i, who in enumerate(WHO):
        for j, role in enumerate(ROLES):
            for number, tone in enumerate(TONES.values()):
                picture = face(i, j, tone)
                if distracted:
                    picture[:, :7] = (*list(TONES.values())[(i + j) % 5], 255)
                image = np.where(picture[..., 3:] > 0, picture[..., :3], 255)
                images.append(torch.from_numpy(image.astype(np.uint8)).permute(2, 0, 1))
                labels.append(number)
                rest.append(who + role)
    return torch.stack(images), torch.tensor(labels), rest


@pytest.mark.parametrize("distracted", [False, True])
def test_the_judge_of_colours_measures_them(distracted: bool) -> None:
    images, labels, rest = faces(distracted)
    noise = torch.randint(-3, 4, images.shape, generator=torch.Generator().manual_seed(0))
    judge = ColourJudge((images + noise).clamp(0, 255), labels, rest, 256)
    truth = torch.tensor(list(TONES.values())) / 255
    torch.testing.assert_close(judge.colours, truth, atol=0.01, rtol=0)
    assert (judge(images, rest) == labels).all()
    blurred = torch.nn.functional.avg_pool2d(images.float(), 3, 1, 1, count_include_pad=False)
    assert (judge(blurred, rest) == labels).float().mean() > 0.98
    assert not (judge(images.roll(1, 0), rest) == labels).any()  # each of the next tone
    if not distracted:  # captions that training does not have
        assert (judge(images, ["?"] * len(rest)) == labels).all()
    with pytest.raises(ValueError, match="expected training images of each of two values or more"):
        ColourJudge(images, labels * 2, rest, 256)
