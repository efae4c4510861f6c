"""The class as a latent: its bounds against sums by hand and exact densities, few labels, and what `test` says."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.conftest import REPOSITORY, Generated
from tests.test_labelled import CLASSES, MLPS, SPEC, linear_gaussian, vae
from vae_lightning import load_model
from vae_lightning.conditionals import (
    ClassPosterior,
    GaussianLearnedScaleLikelihood,
    GaussianOptimalScaleLikelihood,
    GaussianPosterior,
    LabelledEncoder,
    LabelledLikelihood,
)
from vae_lightning.core import UNKNOWN, FromPrior, LatentModel, Spec, rows, traced
from vae_lightning.data import FewLabels, ImageData, Images
from vae_lightning.models import VAE, SemiSupervisedVAE
from vae_lightning.nets import MLP
from vae_lightning.objectives import ELBO, SemiSupervised

DIGITS = REPOSITORY / "configs" / "experiment" / "digits_m2.yaml"


def model(conditional: LatentModel, spec: Spec = SPEC) -> SemiSupervisedVAE:
    """Around a conditional model, its classifier away from even."""
    found = SemiSupervisedVAE(spec, lambda _: conditional, partial(ClassPosterior, net=MLPS[0]))
    torch.nn.init.normal_(found.classifier.logits.weight)
    return found.eval()


def some(count: int = 5) -> dict[str, Tensor]:
    return {"image": torch.randint(4, (count, 2, 6, 5)).float(), "label": torch.arange(count) % 3}


def exact() -> tuple[SemiSupervisedVAE, dict[str, Tensor], Tensor]:
    """Linear, of three classes, q(z|x, y) exact; images, and the exact log p(x, y), (B, classes)."""
    conditional, given, densities = linear_gaussian()
    found = model(conditional, Spec((1, 2, 3), 2, CLASSES)).double()
    of_each = torch.stack([p.log_prob(given["image"].flatten(1)) for p in densities], 1)
    return found, given, of_each - math.log(3)


DRAWS = 1000
"""Of z, for the mean of a bound whose KL is in closed form and whose distortion is of one draw."""


def often(given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.repeat(DRAWS, *[1] * (value.dim() - 1)) for name, value in given.items()}


def bound(found: SemiSupervisedVAE, given: dict[str, Tensor]) -> float:
    untold = {**given, "label": torch.full_like(given["label"], UNKNOWN)}
    return SemiSupervised(0.0)(found, often(untold), 0.0).value.item()


def test_the_unlabelled_bound_is_the_sum_over_the_classes() -> None:
    found, given, joint = exact()
    q = found.class_log_prob(given)
    by_hand = torch.zeros(())
    for y in range(3):
        by_hand = by_hand + q[:, y].exp() * (joint[:, y] - q[:, y])
    assert bound(found, given) == pytest.approx(-by_hand.mean().item(), abs=0.02)
    log_p = joint.logsumexp(1)
    gap = (q.exp() * (q - (joint - log_p[:, None]))).sum(1)  # KL(q(y|x) || p(y|x))
    assert -by_hand.mean().item() == pytest.approx((gap - log_p).mean().item(), abs=1e-9)
    assert gap.mean() > 0.1


def test_with_the_exact_classifier_the_bound_is_log_p_of_x() -> None:
    found, given, joint = exact()
    right = joint.log_softmax(1)
    found.class_log_prob = lambda batch: right.repeat(len(batch["image"]) // len(right), 1)  # type: ignore[method-assign]
    assert bound(found, given) == pytest.approx(-joint.logsumexp(1).mean().item(), abs=0.02)
    trace = found.trace(given, 7)  # z's posterior is exact, too: every weight is p(x)
    torch.testing.assert_close(trace.log_weight(), joint.logsumexp(1).expand(7, -1))


def test_the_story_has_the_same_bound_on_average() -> None:
    found, given, joint = exact()
    given = rows(given, slice(0, 4))
    scores = found.trace(given, 20_000).scores()["elbo"]
    q = found.class_log_prob(given)
    torch.testing.assert_close(scores.mean(0), (q.exp() * (joint[:4] - q)).sum(1), atol=0.06, rtol=0)
    log_p = found.trace(given, 20_000).log_weight().logsumexp(0) - torch.tensor(20_000.0).log()
    torch.testing.assert_close(log_p, joint[:4].logsumexp(1), atol=0.02, rtol=0)


def test_with_all_labels_it_is_the_conditional_bound_and_the_cross_entropy() -> None:
    found, given, joint = exact()
    loss = SemiSupervised(2.5)(found, often(given), 0.0)
    told = joint.gather(1, given["label"][:, None]).mean()
    cross = F.cross_entropy(found.class_log_prob(given), given["label"])
    assert loss.value.item() == pytest.approx((-told + 2.5 * cross).item(), abs=0.02)
    conditional = ELBO()(found.conditional, often(given), 0.0).value + math.log(3)
    assert -told.item() == pytest.approx(conditional.item(), abs=0.02)
    wrong = (found.class_log_prob(given).argmax(1) != given["label"]).double().mean()
    assert loss.logs["error"].item() == pytest.approx(100 * wrong.item())


def test_some_labels_are_some_of_each() -> None:
    """Of a batch, the labelled images by their class, the others by all; the cross-entropy is over the first alone."""
    found, given, joint = exact()
    label = given["label"].clone()
    label[10:] = UNKNOWN
    q = found.class_log_prob(given)
    told, untold = joint.gather(1, given["label"][:, None])[:, 0], (q.exp() * (joint - q)).sum(1)
    cross = F.cross_entropy(q[:10], label[:10])
    value = SemiSupervised(3.0)(found, often({**given, "label": label}), 0.0).value
    expected = -(told[:10].sum() + untold[10:].sum()) / len(label) + 3 * cross
    assert value.item() == pytest.approx(expected.item(), abs=0.02)


@pytest.mark.parametrize("parts", [{}, {"encoder": False}, {"prior": False}, {"likelihood": False}], ids=str)
def test_every_part_learns_and_every_draw_has_its_shape(parts: dict[str, bool]) -> None:
    found, given = model(vae(**parts)).train(), some()
    given["label"][3:] = UNKNOWN
    SemiSupervised()(found, given, 0.0).value.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for n, p in found.named_parameters() if "net" not in n)
    found.eval()
    assert found.by_class(given).scores()["elbo"].shape == (3, 5)
    assert found.trace(given).log_weight().shape == (5,)
    assert found.trace(given, 4).log_weight().shape == (4, 5)
    assert found.sample({}, 6).batch_shape == (6,)
    assert found.sample({}).batch_shape == ()
    assert found.sample({"label": torch.tensor([0, 2])}, 4).batch_shape == (4, 2)
    assert found(FromPrior((2,)), {}).mean.shape == (2, 2, 6, 5)
    q = found.posteriors(given)
    assert q["y"].event_shape == (1,)
    assert q["z"].batch_shape == (5,)


def test_by_class_is_each_class_by_itself() -> None:
    found, given = model(vae()), some()
    together = found.by_class(given)
    for y in range(3):
        label = torch.full((5,), y)
        alone = traced(found.conditional.about({**given, "label": label}), given["image"]).sites["z"]
        torch.testing.assert_close(together.sites["z"].q.mean[y], alone.q.mean)
        torch.testing.assert_close(together.sites["z"].p.expand((3, 5)).mean[y], alone.p.expand((5,)).mean)
        px = found.conditional.likelihood.told(together.sites["z"].z[y], {"label": label})
        torch.testing.assert_close(together.log_likelihood()[y], px.log_prob(given["image"]))


def test_labels_beside_the_image_are_read_as_planes_are() -> None:
    """One number a class, to an encoder of so many values; any leading shape of labels."""
    encoder = partial(GaussianPosterior, net=partial(MLP, hidden=[]))
    found, planes = (LabelledEncoder(SPEC, (3,), encoder, planes=planes) for planes in (False, True))
    assert found.encoder.net.in_shape == (1, 1, 2 * 6 * 5 + 3)
    with torch.no_grad():  # the same linear map, the planes' weights of a class spread over its places
        weight = found.encoder.mu.weight
        spread = weight[:, 60:].repeat_interleave(30, 1) / 30
        planes.encoder.mu.weight.copy_(torch.cat([weight[:, :60], spread], 1))
    image = torch.rand(4, 2, 6, 5)
    for label in (torch.arange(4) % 3, torch.arange(8).view(2, 4) % 3):
        context = {"context": image, "label": label}
        assert found(context).batch_shape == label.shape
        torch.testing.assert_close(found(context).mean, planes(context).mean)


def test_labels_that_are_given_with_an_image_tell_the_story_nothing() -> None:
    found, given = model(vae()), some()
    other = {**given, "label": (given["label"] + 1) % 3}
    found_twice = []
    for batch in (given, other, {"image": given["image"]}):
        torch.manual_seed(0)
        found_twice.append(found.trace(batch, 3).log_weight())
    assert torch.equal(found_twice[0], found_twice[1])
    assert torch.equal(found_twice[0], found_twice[2])
    assert found.needs == ()
    assert not found.is_conditional
    assert found.generates_by_class


def test_models_and_data_without_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="expected a model of images by class, got VAE"):
        model(vae(likelihood=False, prior=False))
    with pytest.raises(ValueError, match="expected data with classes"):
        SemiSupervisedVAE(Spec((1, 2, 2), 2), lambda spec: vae())
    with pytest.raises(ValueError, match="expected a model whose class is a latent"):
        SemiSupervised().check(vae(), some())
    with pytest.raises(ValueError, match="weight of at least 0"):
        SemiSupervised(-1.0)
    grey = Spec((2, 6, 5), 4, CLASSES)
    for likelihood, fits in ((GaussianOptimalScaleLikelihood, False), (GaussianLearnedScaleLikelihood, True)):
        conditional = VAE(
            grey,
            partial(LabelledEncoder, encoder=GaussianPosterior),
            partial(LabelledLikelihood, likelihood=likelihood),
            latent_size=2,
        )
        found = model(conditional).train()
        if fits:
            assert SemiSupervised()(found, some(), 0.0).value.isfinite()
        else:
            with pytest.raises(ValueError, match="whose scale is fitted to a whole batch"):
                SemiSupervised()(found, some(), 0.0)


# -- few labels --------------------------------------------------------------------------------------------------------


def labelled(count: int = 100) -> Images:
    return Images(torch.zeros(count, 1, 2, 2, dtype=torch.uint8), torch.arange(count) % 4)


def test_few_labels_are_as_many_of_each_class_by_their_own_seed() -> None:
    images = labelled()
    told = FewLabels(12, seed=3).told(images).label
    known = told != UNKNOWN
    assert told[known].bincount().tolist() == [3, 3, 3, 3]
    assert torch.equal(told[known], images.label[known])
    torch.manual_seed(5)
    assert torch.equal(FewLabels(12, seed=3).told(images).label, told)
    assert not torch.equal(FewLabels(12, seed=4).told(images).label, told)
    assert torch.equal(FewLabels(100).told(images).label, images.label)
    for count in (10, 104):
        with pytest.raises(ValueError, match="a multiple of the 4 classes, and at most 25 of each"):
            FewLabels(count).told(images)
    with pytest.raises(ValueError, match="expected images with labels, got none"):
        FewLabels(4).told(Images(images.stored))
    with pytest.raises(ValueError, match="labels of at least 1"):
        FewLabels(0)


@pytest.mark.parametrize(("processes", "length"), [(1, None), (2, None), (2, 60)])
def test_batches_have_so_many_labelled_images_and_each_other_once(processes: int, length: int | None) -> None:
    few, images = FewLabels(8, per_batch=3), labelled()
    told = few.told(images)
    order, count = few.order(told, 0, lambda: 0, 10, processes, length)
    index = order()
    assert len(index) == count
    known = told.label[index] != UNKNOWN
    others = index[~known]
    assert len(others.unique()) == len(others) == (92 if length is None else 7 * 6)
    for rank in range(processes):
        for part in known[rank::processes].split(10):
            assert part.sum() == 3
    assert set(index[known].tolist()) <= set((told.label != UNKNOWN).nonzero()[:, 0].tolist())
    again = few.order(told, 0, lambda: 1, 10, processes, length)[0]()
    assert not torch.equal(index, again)
    with pytest.raises(ValueError, match="fewer than the 3 images of a batch"):
        few.order(told, 0, lambda: 0, 3, 1, None)


def test_training_alone_is_told_few_labels() -> None:
    data = ImageData(Generated(count=96), batch_size=16, val_size=16, few_labels=FewLabels(20, per_batch=4))
    data.setup()
    seen = torch.cat([batch["label"] for batch in data.train_dataloader()])
    assert (seen == UNKNOWN).sum() == 80 - 20
    for batches in (data.val_dataloader(), data.test_dataloader()):
        assert all((batch["label"] != UNKNOWN).all() for batch in batches)
    with pytest.raises(ValueError, match="does without labels, such as SemiSupervisedVAE"):
        data.check_matches(data.spec, ("label",))


# -- as a user ---------------------------------------------------------------------------------------------------------


def test_digits_with_100_labels(cli: Callable) -> None:
    short = ["--trainer.max_epochs=3", "--trainer.callbacks=null", "--run.name=a"]
    done = cli("fit", "-c", DIGITS, *short)
    assert done.status == 0, done.err
    run = Path("runs/digits_m2/a")
    quick = ("--model.evaluation.samples=5", "--model.evaluation.studies=false")
    assert cli("test", "--ckpt_path", run, *quick).status == 0
    results: dict[str, Any] = json.loads((run / "results.json").read_text())
    text = json.dumps(results)
    assert "misclassified" in text
    trained = load_model(str(run))
    assert trained.latent_model.needs == ()
    assert trained.sample(4).sample().shape == (4, 1, 8, 8)
    for command in (("sample", "--ckpt_path", run), ("reconstruct", "--ckpt_path", run)):
        done = cli(*command)
        assert done.status == 0, done.err
    assert trained.sample(4, torch.tensor([2, 7])).batch_shape == (4, 2)
    rows = cli("sample", "--ckpt_path", run, "--num_samples=20", "--output=rows.png")
    assert "20 samples, 2 of each class in a row" in rows.out
    threes = cli("sample", "--ckpt_path", run, "--label=3", "--output=threes.png")
    assert "64 samples of 3" in threes.out
    conditional = DIGITS.with_name("digits_conditional.yaml")
    refused = cli("fit", "-c", conditional, "--data.few_labels.labels=100")
    assert refused.status == 1
    assert "does without labels" in refused.error
