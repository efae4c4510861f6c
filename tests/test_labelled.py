"""The class-conditional VAE: its three densities, log p(x|y) and log p(x) against exact ones, and every command."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from tests.codec_models import files, loaded, saved, some
from tests.conftest import Generated
from tests.test_bad_input import refused
from tests.test_experiment import DIGITS
from vae_lightning import TrainedModel, load_model
from vae_lightning.compression import container, decode, encode
from vae_lightning.conditionals import (
    BernoulliLikelihood,
    Corrupted,
    DiscretizedLogisticLikelihood,
    GaussianLikelihood,
    GaussianPosterior,
    LabelledEncoder,
    LabelledGaussian,
    LabelledLikelihood,
    StandardNormal,
)
from vae_lightning.core import FromPosterior, FromPrior, PosteriorMean, Spec, rows
from vae_lightning.data import CIFAR10, KMNIST, MNIST, FashionMNIST, ImageData, ImageFolder
from vae_lightning.metrics import log_prob
from vae_lightning.metrics.classifier import accuracy, class_log_prob, frequencies, sum_out
from vae_lightning.metrics.information import decompose_rate, decompose_rate_by_class
from vae_lightning.models import VAE, Frozen
from vae_lightning.nets import MLP, ConvDecoder, ConvEncoder, GaussianNoise
from vae_lightning.report.results import Results

CLASSES = ("cat", "dog", "eel")
SPEC = Spec((2, 6, 5), 4, CLASSES)
NAMES = Generated().classes
MLPS = partial(MLP, hidden=[8]), partial(MLP, hidden=[8])
CONVS = partial(ConvEncoder, channels=[4], hidden=8), partial(ConvDecoder, channels=[4], hidden=8)


def vae(
    encoder: bool = True, likelihood: bool = True, prior: bool = True, nets: tuple = MLPS, spec: Spec = SPEC
) -> VAE:
    """With labels where asked."""
    q, p = partial(GaussianPosterior, net=nets[0]), partial(DiscretizedLogisticLikelihood, net=nets[1])
    return VAE(
        spec,
        partial(LabelledEncoder, encoder=q) if encoder else q,
        partial(LabelledLikelihood, likelihood=p) if likelihood else p,
        LabelledGaussian if prior else StandardNormal,
        latent_size=3,
    ).eval()


def batch(count: int = 4) -> dict[str, Tensor]:
    return {"image": torch.randint(4, (count, 2, 6, 5)).float(), "label": torch.arange(count) % 3}


@pytest.mark.parametrize("nets", [MLPS, CONVS], ids=["mlp", "conv"])
@pytest.mark.parametrize("prior", [True, False])
@pytest.mark.parametrize("likelihood", [True, False])
@pytest.mark.parametrize("encoder", [True, False])
def test_draws_coder_and_library_agree_on_shapes(encoder: bool, likelihood: bool, prior: bool, nets: tuple) -> None:
    model, given = vae(encoder, likelihood, prior, nets), batch()
    assert model.needs == (("label",) if encoder or likelihood or prior else ())
    assert model.is_conditional == (likelihood or prior)
    label = {"label": given["label"]}
    assert model(FromPosterior(5), given).batch_shape == (5, 4)
    assert model(FromPosterior(), given).batch_shape == (4,)
    assert model(FromPrior((5, 4)), label).batch_shape == (5, 4)
    assert model.sample(label, 5).batch_shape == (5, 4)
    assert model.sample(label).batch_shape == (4,)
    trace = model.trace(given, 5)
    assert trace.log_weight().shape == (5, 4)
    assert trace.sites["z"].z.shape == (5, 4, 3)
    assert log_prob(model, given, 7).shape == (4,)
    trained = TrainedModel(model, SPEC)
    x, y = given["image"], given["label"]
    z = trained.encode(x, y)["z"].mean
    assert z.shape == (4, 3)
    assert trained.decode(z, y).batch_shape == (4,)
    assert trained.decode(z.expand(5, 4, 3), y).batch_shape == (5, 4)
    assert trained.reconstruct(x, y).batch_shape == (4,)
    assert trained.log_prob(x, 3, label=y).shape == trained.elbo(x, y).shape == (4,)
    if likelihood or prior:
        assert trained.sample(5, y).batch_shape == (5, 4)
    image = x.to(torch.uint8)
    coded = encode(model, image, others=label)
    assert torch.equal(decode(model, coded, SPEC.image_shape, others=label), image)


def test_the_part_within_is_told_what_it_needs_beside_the_label() -> None:
    class ToldText(GaussianPosterior):
        needs = ("text",)

        def forward(self, context: Mapping[str, Tensor]) -> Distribution:
            return super().forward(context["context"] + context["text"][:, :1, None, None])

    made = partial(LabelledEncoder, encoder=partial(ToldText, net=partial(MLP, hidden=[4])))
    model = VAE(SPEC, made, partial(DiscretizedLogisticLikelihood, net=partial(MLP, hidden=[4])), latent_size=3)
    assert model.needs == ("label", "text")
    given = {**batch(), "text": torch.tensor([[0, 2]] * 4)}
    first, second = (model.posteriors({**given, "text": given["text"] + more})["z"].mean for more in (0, 1))
    assert not torch.allclose(first, second)


def test_each_density_depends_on_the_label() -> None:
    model, given = vae(), batch(3)
    with torch.no_grad():
        model.prior.mean.normal_()
    other = {**given, "label": given["label"].roll(1)}
    a, b = (model.trace(g).sites["z"] for g in (given, other))
    assert (a.q.mean - b.q.mean).abs().min(1).values.max() > 0
    assert not torch.equal(a.p.mean, b.p.mean)
    z = torch.zeros(3, 3)
    ours, others = (model.likelihood.told(z, g).mean for g in (given, other))
    assert (ours - others).abs().flatten(1).amax(1).min() > 0
    fresh = LabelledGaussian((3,), SPEC)({"label": given["label"]})
    assert kl_divergence(fresh, Independent(Normal(torch.zeros(3, 3), 1.0), 1)).abs().max() == 0  # starts at N(0, I)


def test_one_label_may_stand_for_all_and_a_wrong_number_is_refused() -> None:
    trained = TrainedModel(vae(), SPEC)
    assert trained.decode(torch.zeros(5, 3), torch.tensor([2])).batch_shape == (5,)
    with pytest.raises(ValueError, match=r"expected latents \(\.\.\., 2, d\) for 2 labels, got \(5, 3\)"):
        trained.decode(torch.zeros(5, 3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"label: expected a vector of integers 0\.\.2"):
        trained.sample(2, torch.tensor([3]))
    with pytest.raises(ValueError, match="expected a label for each image, got image: give the labels"):
        trained.elbo(batch()["image"])
    with pytest.raises(ValueError, match="label: expected none"):
        TrainedModel(vae(True, False, False), SPEC).sample(2, torch.tensor([0]))
    with pytest.raises(ValueError, match="expected data with classes, got images without labels"):
        vae(spec=Spec((2, 6, 5), 4))


def test_what_is_set_from_data_reaches_a_wrapped_likelihood() -> None:
    plain, wrapped, given = vae(likelihood=False), vae(), batch(50)
    before = wrapped.likelihood.likelihood.head.last.bias.clone()
    for model in (plain, wrapped):
        model.init_from_data(given)
    bias = wrapped.likelihood.likelihood.head.last.bias
    torch.testing.assert_close(bias, plain.likelihood.head.last.bias)
    assert not torch.equal(bias, before)


def test_corruption_goes_around_a_labelled_encoder() -> None:
    """It leaves the classes' channels as they are, and corrupts in training alone."""
    inner = partial(LabelledEncoder, encoder=partial(GaussianPosterior, net=MLPS[0]))
    encoder = Corrupted(SPEC, (3,), inner, GaussianNoise(10.0))
    seen: list[Tensor] = []
    encoder.encoder.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    image, label = batch()["image"] / 3, {"label": batch()["label"]}
    for training in (True, False):
        encoder.train(training).told(image, label)
    for planes in seen:
        assert torch.equal(planes[:, 2:].amax((2, 3)), torch.eye(3)[label["label"]])
        assert torch.equal(planes[:, 2:].amin((2, 3)), torch.eye(3)[label["label"]])
    assert not torch.allclose(seen[0][:, :2], image)
    assert torch.equal(seen[1][:, :2], image)


def linear_gaussian(off: float = 0.0) -> tuple[VAE, dict[str, Tensor], list[MultivariateNormal]]:
    """A linear VAE of three classes, its posterior exact or `off`; 60 images, and the exact p(x|y) of each class."""
    linear, scale = partial(MLP, hidden=[]), 0.5
    model = VAE(
        Spec((1, 2, 3), 2, CLASSES),
        partial(LabelledEncoder, encoder=partial(GaussianPosterior, net=linear)),
        partial(LabelledLikelihood, likelihood=partial(GaussianLikelihood, net=linear, scale=scale)),
        LabelledGaussian,
        latent_size=2,
    ).double()
    weight = torch.linalg.qr(torch.randn(6, 2).double())[0] * torch.tensor([1.5, 0.7])  # so posteriors are diagonal
    bias, mean, prior_scale = torch.randn(3, 6).double(), torch.randn(3, 2).double(), torch.tensor([0.6, 1.3]).double()
    precision = prior_scale**-2 + weight.square().sum(0) / scale**2
    gain = weight.T / scale**2 / precision[:, None]
    with torch.no_grad():
        model.prior.mean.copy_(mean)
        model.prior.log_scale.copy_(7 * torch.atanh(prior_scale.log() / 7).expand(3, 2))
        model.likelihood.likelihood.head.last.weight.copy_(torch.cat([weight, bias.T], 1))
        q = model.encoder.encoder
        q.mu.weight.zero_()
        q.mu.weight[:, :6] = gain
        for y in range(3):  # by the first pixel of each class's channel
            q.mu.weight[:, 6 * (y + 1)] = mean[y] / prior_scale**2 / precision - gain @ bias[y] + off
        q.log_scale.bias.copy_(7 * torch.atanh((-0.5 * precision.log() + off) / 7))
    cov = weight @ torch.diag(prior_scale**2) @ weight.T + scale**2 * torch.eye(6).double()
    exact = [MultivariateNormal(weight @ mean[y] + bias[y], cov) for y in range(3)]
    label = torch.arange(60) % 3
    x = torch.stack([exact[int(y)].sample() for y in label])
    return model.eval(), {"image": x.view(-1, 1, 2, 3), "label": label}, exact


@pytest.mark.parametrize(("off", "samples", "tolerance"), [(0.0, 1, 1e-9), (0.2, 20_000, 0.03)])
def test_log_p_of_x_given_y_and_of_x_are_exact(off: float, samples: int, tolerance: float) -> None:
    model, given, exact = linear_gaussian(off)
    flat, p_y = given["image"].flatten(1), torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    found = class_log_prob(model, given, 3, samples)
    torch.testing.assert_close(found, torch.stack([p.log_prob(flat) for p in exact]), atol=tolerance, rtol=0)
    told = log_prob(model, given, samples)
    torch.testing.assert_close(told, found.gather(0, given["label"][None])[0], atol=2 * tolerance, rtol=0)
    stacked = MultivariateNormal(torch.stack([p.mean for p in exact]), exact[0].covariance_matrix)
    mixture = MixtureSameFamily(Categorical(p_y), stacked)
    torch.testing.assert_close(sum_out(found, p_y), mixture.log_prob(flat), atol=tolerance, rtol=0)
    best = torch.stack([p.log_prob(flat) for p in exact]).argmax(0)
    share = accuracy(found, given["label"])
    assert share.value == pytest.approx((best == given["label"]).double().mean().item(), abs=0.02)
    assert share.standard_error == pytest.approx((share.value * (1 - share.value) / 60) ** 0.5)


def test_frequencies_are_those_of_the_labels() -> None:
    assert frequencies(torch.tensor([0, 2, 2, 2]), 4).tolist() == [0.25, 0, 0.75, 0]
    unseen = sum_out(torch.tensor([[-3.0], [-1.0]]).double(), frequencies(torch.tensor([0, 0]), 2))
    assert unseen.item() == -3  # a class that training has not seen takes no part
    with pytest.raises(ValueError, match=r"expected labels 0\.\.1, at least one, got 0\.\.2"):
        frequencies(torch.tensor([0, 2]), 2)


def test_the_rate_comes_apart_within_each_class() -> None:
    model, given, _ = linear_gaussian(0.1)
    found = decompose_rate_by_class(model, [given], max_images=60)
    parts = []
    for y in range(3):
        chosen = given["label"] == y
        parts.append(decompose_rate(model, [{name: value[chosen] for name, value in given.items()}], 400))
    for name in ("mutual_information", "prior_hole"):
        expected = sum(getattr(part, name)[0] for part in parts) / 3
        value, error = getattr(found, name)
        assert abs(value - expected) < 4 * error
    assert found.rate[0] == pytest.approx(found.mutual_information[0] + found.prior_hole[0])
    assert found.mutual_information[0] <= np.log(20) + 1e-9  # the most that 20 images a class can show


def test_classes_of_different_rates_widen_its_error() -> None:
    """The error is that of the mean over all images, whose rates differ most from class to class."""
    model, given, _ = linear_gaussian()
    with torch.no_grad():
        model.encoder.encoder.mu.weight[:, 18:] += 6.0
    found, rate = decompose_rate_by_class(model, [given]).rate, model.trace(given).kl().detach()
    assert rate[given["label"] == 2].mean() > 3 * rate[given["label"] == 0].mean()
    assert found[0] == pytest.approx(rate.mean().item(), rel=0.1)
    assert found[1] == pytest.approx((rate.std() / len(rate) ** 0.5).item(), rel=0.15)


def test_a_frozen_model_says_as_it_did_what_its_density_is() -> None:
    for told in ({"likelihood": False, "prior": False}, {}):
        model = vae(**told)
        assert Frozen.of(model, SPEC).is_conditional == model.is_conditional == (not told)


@pytest.mark.parametrize("source", [MNIST, FashionMNIST, KMNIST, CIFAR10], ids=lambda source: source.__name__)
def test_classes_are_called_as_torchvision_has_them(source: type) -> None:
    from torchvision import datasets

    if source is CIFAR10:  # torchvision reads them from the data
        assert len(source().classes) == 10
        assert source().classes[3] == "cat"
    else:
        assert source().classes == tuple(getattr(datasets, source.__name__).classes)


def test_a_folder_knows_its_classes_before_its_pixels() -> None:
    for name in ("b/x.png", "a/y.png"):
        Path(f"in/{name}").parent.mkdir(parents=True)
        Path(f"in/{name}").write_bytes(b"no picture")
    assert ImageFolder("in", size=(4, 4)).classes == ("a", "b")
    saved(some(1)[0], "plain/x.png")
    assert ImageFolder("plain").classes is None


def test_data_of_other_classes_are_refused_for_a_model_that_is_told_them() -> None:
    data = ImageData(Generated((1, 4, 4)))
    spec = Spec((1, 4, 4), 256, CLASSES)
    data.check_matches(spec)
    with pytest.raises(ValueError, match="built for the classes cat, dog, eel, got data with zero, one"):
        data.check_matches(spec, ("label",))


def test_a_class_is_found_by_name_or_number() -> None:
    spec = Spec((1, 4, 4), 256, ("2", "0", "Ankle boot"))
    assert [spec.class_number(word) for word in ("2", "0", "1", "Ankle boot")] == [0, 1, 1, 2]  # names go first
    with pytest.raises(ValueError, match="'ankle bot': did you mean Ankle boot"):
        spec.class_number("ankle bot")
    with pytest.raises(ValueError, match=r"0\.\.2, got '3': choose from 2, 0, Ankle boot"):
        spec.class_number("3")


@pytest.mark.usefixtures("quick")
def test_sample_by_class(cli: Callable, labelled: Path, grey: Path) -> None:
    assert load_model(str(labelled)).spec.classes == NAMES
    done = cli("sample", "--ckpt_path", labelled, "--label", "seven", "--num_samples", 6, "--output", "s.npy")
    assert done.status == 0, done.err
    assert "6 samples of seven" in done.out
    assert np.load("s.npy").shape == (6, 1, 4, 4)
    for word in ("7", "seven"):
        assert cli("sample", "--ckpt_path", labelled, "--label", word, "--output", f"{word}.npy").status == 0
    np.testing.assert_array_equal(np.load("7.npy"), np.load("seven.npy"))
    done = cli("sample", "--ckpt_path", labelled, "--num_samples", 25, "--output", "grid.png")
    assert done.status == 0, done.err
    assert "30 samples, 3 of each class in a row" in done.out
    width, height = Image.open("grid.png").size
    assert (width - 2) * 10 == (height - 2) * 3  # ten rows of three
    refused(cli("sample", "--ckpt_path", labelled, "--label", "sevn"), "'sevn'", "did you mean seven")
    refused(cli("sample", "--ckpt_path", labelled, "--label", "10"), "0..9", "'10'")
    source = ["--data.source=tests.test_flows.Unlabelled", "--data.source.shape=[1,8,8]", "--data.source.levels=17"]
    short = ["--trainer.max_epochs=1", "--data.val_size=16", "--trainer.callbacks=null", "--run.name=plain"]
    assert cli("fit", "-c", DIGITS, *source, *short).status == 0  # of images without classes
    refused(cli("sample", "--ckpt_path=runs/digits/plain", "--label=3"), "expected none", "does not generate by class")
    refused(cli("sample", "--ckpt_path", grey, "--label", "7"), "label: expected none")


def test_every_command_tells_labels(cli: Callable, labelled: Path) -> None:
    done = cli("test", "--ckpt_path", labelled, "--model.evaluation.samples=10")
    assert done.status == 0, done.err
    assert "Left out" not in done.out
    for words in ("-log p(x|y), 10 samples", "Bayes classifier", "independent pixels, -log p(x) ", "p(y) are the freq"):
        assert words in done.out
    results = Results.read(labelled)
    assert results.settings["density"] == "p(x|y)"
    rows = results.rows
    ceiling = np.log(10) + 4 * rows["bayes_nll"].error  # log p(x) is no less than log p(y) + log p(x|y)
    assert rows["bayes_nll"].mean <= rows["bayes_told_nll"].mean + ceiling
    assert 0 <= rows["bayes_accuracy"].mean <= 100
    for command in ("predict", "validate", "reconstruct", "encode"):
        assert cli(command, "--ckpt_path", labelled).status == 0
    odd = ["--ood=tests.conftest.Generated", "--ood.shape=[1,8,8]", "--num_samples=5"]
    told = cli("anomaly", "--ckpt_path", labelled, *odd)
    assert told.status == 0, told.err
    assert "the classes are summed out" in told.out
    kept = json.loads((labelled / "anomaly-Generated.json").read_text())
    assert {"auroc_elbo", "auroc_log_prob", "auroc_rate", "auroc_distortion"} <= set(kept)


def test_pictures_show_a_row_a_class() -> None:
    from vae_lightning.train.pictures import Interpolations, PriorSamples, Traversals

    model, given = vae(), batch(7)
    images, columns = PriorSamples(num_images=12).draw(model, given)
    assert (len(images), columns) == (12, 4)
    with torch.no_grad():
        model.prior.mean.copy_(torch.tensor([-50.0, 0.0, 50.0])[:, None].expand(3, 3))
    drawn = PriorSamples(num_images=12).draw(model, given)[0].unflatten(0, (3, 4))
    within, between = drawn.std(1).mean(), drawn.mean(1).std(0).mean()
    assert between > 2 * within  # a row is of one class
    assert Traversals(rows=2, columns=5).draw(model, given)[0].shape == (10, 2, 6, 5)
    lines = Interpolations(columns=3).draw(model, given)[0].unflatten(0, (3, 5))
    for place, ends in ((1, slice(0, 3)), (-2, slice(3, 6))):  # each end is told its own label
        torch.testing.assert_close(lines[:, place], model(PosteriorMean(), rows(given, ends)).mean)
    plain = PriorSamples(num_images=9).draw(vae(False, False, False), given)
    assert (len(plain[0]), plain[1]) == (9, 3)


@pytest.mark.usefixtures("quick")
def test_a_split_and_an_array_come_back_by_their_classes(cli: Callable, labelled: Path) -> None:
    np.savez("in.npz", image=some(5), label=np.array([3, 1, 3, 9, 0]))
    for given, count in (("test", 32), ("in.npz", 5)):
        done = cli("compress", given, "-o", "out.vlz", "--overwrite", "--ckpt_path", labelled)
        assert done.status == 0, done.err
        form = container.read(Path("out.vlz")).header.form
        assert form.classes == NAMES
        back = cli("decompress", "out.vlz", "-o", "back", "--overwrite", "--ckpt_path", labelled)
        assert back.status == 0, back.err
        assert np.load("back/labels.npy").tolist() == list(form.labels)
        assert len(np.load("back/images.npy")) == count
        weighed = cli("surprise", given, "--num_samples", 5, "--ckpt_path", labelled)
        assert weighed.status == 0, weighed.err
        assert "-log p(x|y) in bits" in weighed.out
    np.testing.assert_array_equal(np.load("back/images.npy"), some(5))


@pytest.mark.usefixtures("quick")
def test_folders_are_mapped_to_classes_by_name(cli: Callable, labelled: Path) -> None:
    pixels, names = some(4), ["seven/a.png", "one/b.png", "one/c.png", "nine/d.png"]
    for image, name in zip(pixels, names, strict=True):
        saved(image, f"in/{name}")
    done = cli("compress", "in", "-o", "out.vlz", "--ckpt_path", labelled)
    assert done.status == 0, done.err
    form = container.read(Path("out.vlz")).header.form
    assert dict(zip(form.names, form.labels, strict=True)) == {names[0]: 7, names[1]: 1, names[2]: 1, names[3]: 9}
    assert cli("decompress", "out.vlz", "-o", "back", "--ckpt_path", labelled).status == 0
    assert files("back") == sorted(names)
    for image, name in zip(pixels, names, strict=True):
        np.testing.assert_array_equal(loaded(Path("back") / name), image)


@pytest.mark.usefixtures("quick")
def test_images_without_a_known_class_are_refused(cli: Callable, labelled: Path) -> None:
    saved(some(1)[0], "in/sevn/a.png")
    np.save("plain.npy", some(2))
    np.savez("far.npz", image=some(2), label=np.array([0, 10]))
    for given, words in (
        ("in", ["'sevn'", "'seven'"]),
        ("in/sevn/a.png", ["images with their classes"]),
        ("plain.npy", ["images with their classes"]),
        ("far.npz", ["0..9", "got 10"]),
    ):
        for command in (["compress", given, "-o", "out.vlz"], ["surprise", given]):
            refused(cli(*command, "--ckpt_path", labelled), *words)
    assert not Path("out.vlz").exists()


def test_other_labels_decode_nothing_of_the_images() -> None:
    model, given = vae(), batch(40)
    with torch.no_grad():
        model.prior.mean.normal_(std=3)
    image, label = given["image"].to(torch.uint8), given["label"]
    coded = encode(model, image, others={"label": label})
    assert torch.equal(decode(model, coded, SPEC.image_shape, others={"label": label}), image)
    with pytest.raises(ValueError, match="the words do not decode"):
        decode(model, coded, SPEC.image_shape, others={"label": label.roll(1)})


def test_a_binary_model_takes_labels_too() -> None:
    likelihood = partial(LabelledLikelihood, likelihood=partial(BernoulliLikelihood, net=MLPS[1]))
    model = VAE(Spec((1, 4, 4), 2, CLASSES), likelihood=likelihood, latent_size=2).eval()
    image, label = torch.randint(2, (9, 1, 4, 4), dtype=torch.uint8), {"label": torch.arange(9) % 3}
    assert torch.equal(decode(model, encode(model, image, others=label), (1, 4, 4), others=label), image)
