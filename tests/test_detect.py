"""`detect`: planted defects are found and located, by a threshold that keeps its promise, and what is written."""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.planted_defects import SHAPES, planted, write
from tests.test_experiment import DIGITS, SHORT
from vae_lightning.commands.main import main
from vae_lightning.conditionals import CategoricalLikelihood, GaussianPosterior, LabelledEncoder, LabelledGaussian
from vae_lightning.core import Spec
from vae_lightning.data import Digits, ImageFolder, Images
from vae_lightning.images.defects import find_benchmark, read_masks
from vae_lightning.measure.looked import look
from vae_lightning.models import VAE

RUN = "--ckpt_path=runs/digits/1"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the digits, and 240 of its test images in the benchmarks' layout."""
    place = tmp_path_factory.mktemp("trained")
    with contextlib.chdir(place):
        assert main(["fit", "-c", str(DIGITS), *SHORT, "--trainer.max_epochs=40"]) == 0
        test = Digits().load(Path(), False).test.some(240).image
        write((test.float() * 255 / 16).round().to(torch.uint8), Path("planted"))
    return place


@pytest.fixture
def here(cli: Callable, trained: Path, tmp_path: Path) -> Callable:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return cli


def table(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def test_planted_defects_are_found_and_located(here: Callable) -> None:
    """By defect, better than by a coin, in images and in pixels; false alarms at the rate that was promised."""
    done = here("detect", "planted", RUN, "--false_alarms=0.05", "--num_samples=5")
    assert done.status == 0, done.err
    record = json.loads(Path("runs/digits/1/detect/detect.json").read_text())
    assert record["count"] == 240
    assert record["thresholds"]["nll"]["images"] == 200
    areas = {area["defect"]: area for area in record["areas"]}
    assert list(areas) == ["noise", "scratch", "square", "all"]
    assert areas["all"]["counts"] == [60, 180]
    for area in areas.values():
        for found in (*area["image"].values(), *area["pixel"].values()):
            assert found["low"] <= found["value"] <= found["high"]
    for defect in ("scratch", "square"):
        assert areas[defect]["image"]["nll"]["value"] > 0.7
        assert areas[defect]["pixel"]["bits"]["value"] > 0.8
    rows = table("runs/digits/1/detect/detect.csv")
    assert {row["kind"] for row in rows} == {"good", *SHAPES}
    limit = record["thresholds"][record["score"]]["value"]
    assert all((float(row[record["score"]]) > limit) == (row["verdict"] == "anomalous") for row in rows)
    wrong = sum(row["verdict"] == "anomalous" for row in rows if row["kind"] == "good")
    assert wrong <= 12  # of 60, at 5 %: more in one of 20 000 such tests
    assert f"{wrong} of 60 images without a defect are called anomalous" in done.out


def test_what_is_written_is_whole_and_needs_nothing(here: Callable) -> None:
    """A map for each image, of the sum that is its score; a page that runs its own script and asks for nothing."""
    done = here("detect", "planted/test/square", RUN, "--num_samples=3", "-o", "out")
    assert done.status == 0, done.err
    rows, names = table("out/detect.csv"), sorted(path.name for path in Path("planted/test/square").iterdir())
    assert sorted(row["image"] for row in rows) == names
    assert all(Image.open(Path("out") / row["picture"]).height >= 56 for row in rows)
    with np.load("out/maps.npz") as maps:
        assert maps["image"].tolist() == [row["image"] for row in rows]
        assert maps["bits"].shape == maps["error"].shape == (60, 8, 8)
        for row, bits, error in zip(rows, maps["bits"], maps["error"], strict=True):
            assert bits.sum() * np.log(2) == pytest.approx(float(row["reconstruction"]), rel=1e-4)
            assert error.sum() == pytest.approx(float(row["squared_error"]), rel=1e-4)
            assert float(row["elbo"]) == pytest.approx(float(row["rate"]) + float(row["reconstruction"]), rel=1e-6)
            assert float(row["nll"]) <= float(row["elbo"]) + 5
    page = Path("out/detect.html").read_text()
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("data:image/png;base64,") == 60
    assert "kind" not in rows[0]
    scores = [float(row["bits_peak"]) for row in rows]
    assert scores == sorted(scores, reverse=True)


def test_a_folder_of_ones_own_is_not_lost(here: Callable) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years")
    refused = here("detect", "planted/test/square", RUN, "-o", "mine", "--overwrite")
    assert refused.status == 1
    assert "mine: expected a folder that is new, empty, or of an earlier call, got another one" in refused.error
    assert Path("mine/thesis.txt").exists()
    command = ["detect", "planted/test/good/00000.png", RUN, "--num_samples=1", "--pictures=0", "-o", "out"]
    assert here(*command).status == 0
    again = here(*command)
    assert again.status == 1
    assert "out exists and is not overwritten: choose another with --output, or add --overwrite" in again.error
    assert here(*command, "--overwrite").status == 0
    for _ in range(2):  # in the run's folder it is detect's own
        assert here(*command[:-2]).status == 0
    assert not list(Path().glob("**/.*.part"))


def test_too_few_normal_images_are_said(here: Callable) -> None:
    done = here("detect", "planted/test/square", "--normal", "planted/test/good", RUN, "--num_samples=1")
    assert done.status == 0, done.err
    assert "from 60 images of planted/test/good" in done.out
    assert "Not the 1 % asked for: 60 images promise no less than 1.64 %; it takes 99 or more" in done.out
    for flags, words in (
        (["--false_alarms=2"], "--false_alarms: expected a rate above 0 and below 1"),
        (["--score=likelyhood"], "--score: expected one of nll, elbo"),
        (["--num_samples=0"], "--num_samples: expected at least 1"),
        (["--normal", "nowhere"], "nowhere"),
    ):
        refused = here("detect", "planted/test/square", RUN, *flags)
        assert refused.status == 1
        assert words in refused.error
    assert here("detect", "nowhere", RUN).status == 1


def test_an_autoencoder_has_a_map_too(cli: Callable, trained: Path) -> None:
    parts = [
        f"-c={DIGITS.parent.parent / part}" for part in ("encoder/point_mass.yaml", "objective/reconstruction.yaml")
    ]
    parts += [f"-c={DIGITS.parent.parent / 'likelihood/gaussian.yaml'}"]
    assert cli("fit", "-c", DIGITS, *parts, *SHORT, "--trainer.max_epochs=3").status == 0
    done = cli("detect", trained / "planted", RUN)
    assert done.status == 0, done.err
    record = json.loads(Path("runs/digits/1/detect/detect.json").read_text())
    assert record["score"] == "error_peak"
    assert set(record["thresholds"]) == {"reconstruction", "bits_peak", "squared_error", "error_peak"}
    assert "The likelihood is a density" in done.out


def test_the_benchmarks_layout_is_known() -> None:
    """In any case; masks by <name>_mask, by the name alone, or in a folder of the name; brought to size as images."""
    image = Image.new("L", (16, 16))
    mask = Image.fromarray(np.pad(np.full((4, 4), 255, np.uint8), ((2, 10), (4, 8))))
    for name in ("Test/Good/a", "Test/crack/a", "Test/crack/b", "Test/hole/a", "Test/hole/none", "train/good/x"):
        Path(f"set/{name}").parent.mkdir(parents=True, exist_ok=True)
        image.save(f"set/{name}.png")
    for name in ("crack/a_mask", "crack/b", "hole/a/000", "hole/a/001"):
        Path(f"set/ground_truth/{name}").parent.mkdir(parents=True, exist_ok=True)
        (mask if name != "hole/a/001" else mask.rotate(180)).save(f"set/ground_truth/{name}.png")
    found = find_benchmark(Path("set"))
    assert found is not None
    assert found.names == ("Good/a.png", "crack/a.png", "crack/b.png", "hole/a.png", "hole/none.png")
    assert found.defects == [None, "crack", "crack", "hole", "hole"]
    assert found.kinds == ["crack", "hole"]
    masks = read_masks(found, ImageFolder("set", (8, 8), channels=1))
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[1:3, 2:4] = True
    assert masks.flatten(1).sum(1).tolist() == [0, 4, 4, 8, 0]
    assert torch.equal(masks[1], expected)
    Image.new("L", (9, 16)).save("set/ground_truth/crack/b.png")
    with pytest.raises(ValueError, match="expected a mask of its image's size, 16x16, got 16x9"):
        read_masks(found, ImageFolder("set", (8, 8), channels=1))
    Image.new("L", (16, 16)).save("set/ground_truth/crack/b.png")
    with pytest.raises(ValueError, match="black all over"):
        read_masks(found, ImageFolder("set", (8, 8), channels=1))
    image.save("set/Test/loose.png")
    with pytest.raises(ValueError, match=r"got loose\.png beside them"):
        find_benchmark(Path("set"))
    assert find_benchmark(Path("set/train")) is None
    assert find_benchmark(Path("nowhere")) is None


@pytest.mark.parametrize("kind", SHAPES)
def test_planted_defects_change_what_their_masks_say(kind: str) -> None:
    image = torch.randint(0, 256, (3, 28, 28), dtype=torch.uint8)
    changed, mask = planted(image, kind, torch.Generator().manual_seed(1))
    assert 0 < mask.sum() < 28 * 28 / 8
    assert torch.equal(changed[:, ~mask], image[:, ~mask])
    assert (changed != image).any(0)[mask].float().mean() > 0.95


def test_classes_are_summed_out_where_images_have_none() -> None:
    """-log p(x) = -log sum_y p(y) p(x|y); the bound's parts and the map of bits add up, as they do under one class."""
    spec = Spec((1, 4, 4), 17, ("a", "b", "c"))
    encoder, likelihood = partial(LabelledEncoder, encoder=GaussianPosterior), CategoricalLikelihood
    model = VAE(spec, encoder, likelihood, latent_size=2, prior=LabelledGaussian).eval()
    image, p_y = torch.randint(0, 17, (5, 1, 4, 4), dtype=torch.uint8), torch.tensor([0.2, 0.3, 0.5]).double()
    told = [Images(image, torch.full((5,), y)) for y in range(3)]
    found, *each = (look(model, it, 17, 300, torch.device("cpu"), p_y) for it in (Images(image), *told))
    by_class = torch.stack([-it.scores["nll"] for it in each])
    torch.testing.assert_close(found.scores["nll"], -(by_class + p_y.log()[:, None]).logsumexp(0), rtol=0, atol=0.3)
    for it in (found, *each):
        parts = it.scores["rate"] + it.scores["reconstruction"]
        torch.testing.assert_close(it.scores["elbo"], parts, rtol=1e-4, atol=1e-3)
        mapped = it.bits.flatten(1).sum(1).double() * math.log(2)
        torch.testing.assert_close(mapped, it.scores["reconstruction"], rtol=1e-4, atol=1e-3)
