"""What a verdict says of a training, and what `fit` does about one that has exploded."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.test_experiment import DIGITS, SHORT
from vae_lightning.doctor.cost import budget
from vae_lightning.metrics import gaussian_rate_distortion, held_out_rate_distortion
from vae_lightning.report.results import Results
from vae_lightning.report.verdict import Facts, judge
from vae_lightning.train.module import Experiment


def rising(last: float, count: int = 20) -> list[tuple[int, float]]:
    """A headline that comes to its end early."""
    return [(500 * i, last - 100 * 0.3**i) for i in range(1, count + 1)]


def facts(**others: object) -> Facts:
    usual = {
        "run": "runs/images/1",
        "steps": 10_000,
        "headline": rising(-600.0),
        "losses": [3000.0, 700.0, 600.0],
        "images": 200,
        "elbo": -600.0,
        "independent": 1000.0,
        "rate": 100.0,
        "squared_error": 1.0,
        "limit": 1.5,
    }
    return Facts(**{**usual, **others})  # type: ignore[arg-type]


def test_a_good_training_needs_nothing() -> None:
    verdict = judge(facts())
    assert verdict.ok
    assert "a held-out image takes 600.0 nats on average (-ELBO, " in verdict.text()
    assert "40 % less than with independent pixels (1000.0)" in verdict.text()
    assert "PCA with ideal coding reaches 1.5 at the same rate of 100 nats" in verdict.text()
    assert verdict.text().endswith("Nothing to change.")


@pytest.mark.parametrize(
    ("others", "said", "remedy"),
    [
        ({"elbo": -1010.0}, "It has learned nothing yet", "independent pixels"),
        ({"squared_error": 2.0}, "worse than PCA", "configs/model/principal.yaml"),
        ({"squared_error": 2.0, "begun_at_pca": True}, "worse than PCA", "Train longer."),
        ({"rate": 0.01}, "collapsed", "-c configs/objective/warmup.yaml"),
        ({"headline": [*rising(-600.0), (10_500, -640.0)]}, "over-fitted", "configs/augment/photos.yaml"),
        ({"steps": 60}, "60 steps are few", "fit --ckpt_path runs/images/1 --trainer.max_epochs"),
        ({"headline": [(500 * i, -1000.0 + 10 * i) for i in range(20)]}, "still improved", "fit --ckpt_path"),
    ],
)
def test_what_is_wrong_is_said_with_a_remedy(others: dict[str, object], said: str, remedy: str) -> None:
    verdict = judge(facts(**others))
    assert not verdict.ok
    assert not verdict.diverged
    (sentence,) = [sentence for sentence in verdict.sentences if said in sentence]
    assert remedy in sentence


def test_more_steps_are_no_remedy_for_what_is_over_fitted() -> None:
    text = judge(facts(headline=[*rising(-600.0), (10_500, -640.0)], steps=400)).text()
    assert "over-fitted" in text
    assert "under-trained" not in text


@pytest.mark.parametrize("end", [-1e32, -float("inf"), float("nan")])
def test_an_explosion_is_no_learning_even_where_it_is_finite(end: float) -> None:
    verdict = judge(facts(headline=[*rising(-600.0), (10_500, end)]))
    assert verdict.diverged
    assert "--model.optimizer.lr" in verdict.text()
    assert not judge(facts(headline=[(0, -1e9), *rising(-600.0)], losses=[1e9, 600.0])).diverged


def test_a_model_without_a_bound_is_judged_by_its_curve_alone() -> None:
    none = {"elbo": None, "independent": None, "rate": None, "squared_error": None, "limit": None}
    falling = [(500 * i, 1.0 + 0.3**i) for i in range(1, 20)]
    assert judge(facts(**none, headline=falling, higher=False, losses=[2.0, 1.0])).sentences == ["Nothing to change."]
    assert judge(facts(**none, headline=falling, higher=False, losses=[2.0, 1e9])).diverged


def test_fit_ends_and_everything_else_begins_with_a_verdict(cli: Callable) -> None:
    fitted = cli("fit", "-c", DIGITS, *SHORT, "--trainer.max_epochs=2", "--model.evaluation.studies=false")
    assert fitted.status == 0
    assert "independent pixels" in fitted.out
    assert "nats on average (-ELBO, " in fitted.out
    epochs = re.search(r"--ckpt_path runs/digits/1 --trainer.max_epochs (\d+)", fitted.out)
    steps = re.search(r"under-trained: (\d+) steps", fitted.out)
    assert int(epochs[1]) * int(steps[1]) / 2 >= 2000  # what it says are the least
    for first, command in (("Likelihood", "test --ckpt_path"), ("report:", "report"), ("ok  ", "doctor --ckpt_path")):
        said = cli(*command.split(), "runs/digits/1").out
        assert epochs[0] in said[: said.index(first)], said
    results = Results.read(Path("runs/digits/1"))
    assert results.sections[0].title == "Verdict"
    assert results.rows["rate_distortion_limit"].mean > 0
    page = Path("runs/digits/1/report.html").read_text()
    assert page.count("<h2>Verdict</h2>") == 1
    assert page.index("<h2>Verdict</h2>") < page.index("Likelihood")


@pytest.mark.parametrize(("steps", "ok"), [(60, False), (20_000, True), (None, None)])
def test_doctor_finds_a_budget_that_cannot_be_enough(steps: int | None, ok: bool | None) -> None:
    case: Any = SimpleNamespace(planned=steps, epoch_steps=12, steps=-1)
    found = list(budget(case))
    assert [finding.ok for finding in found] == ([] if ok is None else [ok])
    assert ok is not False or "--trainer.max_epochs 167" in found[0].remedy


def test_a_finite_explosion_ends_fit_with_an_error(cli: Callable) -> None:
    wild = ["--model.optimizer.lr=30", "--model.lr_schedule=null", "--trainer.gradient_clip_val=null"]
    ended = cli("fit", "-c", DIGITS, *SHORT, "--trainer.max_epochs=2", *wild)
    assert ended.status == 1
    assert "diverged" in ended.error or "nan or infinite" in ended.error
    assert "test it:" not in ended.out
    assert Path("runs/digits/1/checkpoints/last.ckpt").is_file()


@pytest.mark.parametrize(("epoch", "kept"), [(0, "No checkpoint was kept yet"), (3, "The checkpoint of the epoch bef")])
def test_an_infinite_loss_names_only_what_was_kept(epoch: int, kept: str) -> None:
    module: Any = SimpleNamespace(
        _loss_sum=torch.tensor(float("inf")), global_step=5, current_epoch=epoch, _rates=[0.5]
    )
    with pytest.raises(FloatingPointError, match=rf"by step 5, epoch {epoch}: .*{kept}.*--model.optimizer.lr 0.05\)"):
        Experiment._require_finite(module)


def test_the_limit_of_pca_on_images_that_it_has_not_seen() -> None:
    """Of many images it is the Gaussian limit; of few no better than what their components reach on others."""
    scale = torch.linspace(8, 1, 12)
    many = (128 + scale * torch.randn(60_000, 12)).round().view(-1, 1, 3, 4)
    limit = gaussian_rate_distortion([many], 256, [6.0])
    assert torch.allclose(
        held_out_rate_distortion(many.split(999), many[:30_000].split(999), 256, [6.0]), limit, rtol=0.02
    )
    few = held_out_rate_distortion([many[:8]], [many[:30_000]], 256, [6.0])
    assert few > 1.05 * limit
    by_few_images = held_out_rate_distortion([many[:8]], [many[:30_000]], 256, [6.0], exact=4)
    assert torch.allclose(by_few_images, few, rtol=0.1)
    assert (held_out_rate_distortion([many], [many], 256, [0.0, 1e4]) <= torch.tensor([1.0, 1e-6])).all()
