"""Gates, blocks, normalisation, squeeze-and-excitation and sizes of the nets; output biases at the data's mean."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_lightning.conditionals import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    ContinuousBernoulliLikelihood,
    DiscretizedLogisticLikelihood,
    GaussianLearnedScaleLikelihood,
    GaussianLikelihood,
    GaussianOptimalScaleLikelihood,
    GaussianPixelScaleLikelihood,
    GaussianPosterior,
    LinkedLogisticLikelihood,
)
from vae_lightning.core import Spec
from vae_lightning.models import VAE
from vae_lightning.nets import MLP, ConvDecoder, ConvEncoder, MapNorm, Net, UNet
from vae_lightning.nets.layers import ResidualBlock
from vae_lightning.objectives import ELBO
from vae_lightning.train.averaging import AveragedWeights

GATE = partial(nn.GLU, dim=1)
SIZES = [(1, 28, 20), (3, 7, 13), (2, 1, 1)]
ACTIVATIONS = [nn.SiLU, GATE]
NORMS = [None, nn.BatchNorm2d, MapNorm]


def nets(shape: tuple[int, int, int], activation: Any, norm: Any, **more: Any) -> list[Net]:
    """Of every kind, small, with what is asked for."""
    flat = None if norm is None else nn.LayerNorm if norm is not nn.BatchNorm2d else nn.BatchNorm1d
    maps = {"channels": [4, 6], "blocks": 1, "squeeze": 2, "activation": activation, "norm": norm, **more}
    return [
        MLP(shape, shape, hidden=[8, 6], blocks=1, activation=activation, norm=flat),
        ConvEncoder(shape, shape, hidden=[7, 5], **maps),
        ConvEncoder(shape, shape, hidden=0, spatial=True, **maps),
        ConvDecoder((5,), shape, hidden=7, **maps),
        UNet(shape, shape, features=2, **maps),
    ]


def stirred(net: nn.Module) -> nn.Module:
    """With weights that start at zero moved away from it, so that blocks are not the identity."""
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=["silu", "gate"])
@pytest.mark.parametrize("shape", SIZES)
def test_any_size_any_lead_and_a_gradient_everywhere(shape: tuple[int, int, int], activation: Any, norm: Any) -> None:
    for net in nets(shape, activation, norm):
        stirred(net)
        x = torch.rand(3, 4, *net.in_shape)
        net(x).square().sum().backward()
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None, f"{type(net).__name__}: {name}"
            assert torch.isfinite(parameter.grad).all()
        net.eval()
        together = net(x)
        assert together.shape == (3, 4, *net.out_shape)
        alone = torch.stack([net(x[k, b]) for k, b in itertools.product(range(3), range(4))])
        torch.testing.assert_close(together.flatten(0, 1), alone, atol=1e-5, rtol=1e-4)


def test_no_part_of_a_net_is_without_effect() -> None:
    """Every parameter has a gradient that is not zero, on an image with more than one place."""
    for activation, norm in itertools.product(ACTIVATIONS, (None, MapNorm)):
        for net in nets((1, 9, 7), activation, norm):
            stirred(net)
            net(torch.rand(16, *net.in_shape)).pow(3).sum().backward()
            dead = [name for name, p in net.named_parameters() if p.grad.abs().max() == 0]
            assert not [name for name in dead if ".fc" not in name], dead  # a squeezed unit may be off by its ReLU


def test_a_gated_layer_is_one_map_times_the_sigmoid_of_another() -> None:
    x = torch.randn(5, 6)
    net = MLP((6,), (1, 2, 3), hidden=4, activation=nn.GLU)
    a, b = net.layers[1].weight.chunk(2)
    torch.testing.assert_close(net(x), (x @ a.T) * torch.sigmoid(x @ b.T))
    assert net.out_shape == (4,)
    for half in (a, b):  # each is begun as a layer of its own would be
        assert half.abs().max().item() == pytest.approx((6 / 10) ** 0.5, rel=0.1)
    image = torch.rand(2, 1, 5, 5)
    maps = ConvEncoder((1, 5, 5), (1, 5, 5), channels=[3], hidden=0, activation=GATE)
    first = maps.layers[0]
    (a, b), (at, bt) = first.weight.chunk(2), first.bias.chunk(2)
    convolved = [F.conv2d(image, w, bias, stride=2, padding=1) for w, bias in ((a, at), (b, bt))]
    torch.testing.assert_close(maps(image), (convolved[0] * convolved[1].sigmoid()).flatten(1))


def test_blocks_begin_as_the_identity() -> None:
    for activation in ACTIVATIONS:
        for net in nets((1, 8, 8), activation, MapNorm):
            found = [part for part in net.modules() if isinstance(part, ResidualBlock)]
            assert len(found) == 2
            for block in found:
                x = torch.randn(2, block.body[-1].out_features) if isinstance(net, MLP) else None
                width = next(p for p in block.body.parameters() if p.dim() == 4).shape[1] if x is None else 0
                x = torch.randn(2, width, 3, 3) if x is None else x
                torch.testing.assert_close(block(x), x)


def test_one_group_is_layer_normalisation_and_groups_are_normalised_apart() -> None:
    x = 3 + 2 * torch.randn(4, 6, 3, 5)
    torch.testing.assert_close(MapNorm(6)(x), F.layer_norm(x, (6, 3, 5)))
    apart = MapNorm(6, groups=2)(x).reshape(4, 2, -1)
    torch.testing.assert_close(apart.mean(-1), torch.zeros(4, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(apart.var(-1, correction=0), torch.ones(4, 2), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="a divisor of the 6 channels, got 4"):
        MapNorm(6, groups=4)


def test_batch_normalisation_is_that_of_the_batch_in_training_and_fixed_in_evaluation() -> None:
    x = torch.rand(64, 1, 8, 8)
    net = ConvEncoder((1, 8, 8), (1, 8, 8), channels=[4], hidden=0, norm=partial(nn.BatchNorm2d, momentum=None))
    raw = net.layers[0](x)
    torch.testing.assert_close(net(x), F.silu(F.batch_norm(raw, None, None, training=True)).flatten(1))
    net.eval()
    norm = net.layers[1]
    torch.testing.assert_close(norm.running_mean, raw.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, raw.var((0, 2, 3)))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    torch.testing.assert_close(net(x[:1]), net(x)[:1])  # nothing of the others, one image alone among them
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_settings_without_sense_are_refused() -> None:
    image = (1, 8, 8)
    refused: list[tuple[Any, str]] = [
        (lambda: ConvEncoder(image, image, squeeze=16), "ConvEncoder.squeeze: expected 0 without blocks"),
        (lambda: ConvDecoder((3,), image, squeeze=-1, blocks=1), "at least 1, or 0"),
        (lambda: ConvEncoder(image, image, activation=nn.GLU), "a gate is {class_path: torch.nn.GLU"),
        (lambda: MLP(image, image, activation=nn.Flatten, blocks=-1), "MLP.blocks: expected at least 0"),
        (lambda: ConvEncoder(image, image, channels=[]), "ConvEncoder.channels: expected 1 or more"),
        (lambda: ConvEncoder(image, image, channels=0), "ConvEncoder.channels: expected 1 or more"),
        (lambda: UNet(image, image, channels=[4, 0]), "UNet.channels: expected 1 or more"),
        (lambda: MLP(image, image, hidden=-3), "MLP.hidden: expected 0 or more widths"),
    ]
    for make, said in refused:
        with pytest.raises(ValueError, match=said):
            make()


def test_every_net_says_widths_alike() -> None:
    """A list has one width a layer or stage; one number is one layer, or stages that grow with the image."""
    shape = (1, 17, 17)
    assert [len(m.weight) for m in MLP(shape, shape, hidden=9).modules() if isinstance(m, nn.Linear)] == [9]
    assert MLP(shape, shape, hidden=0).out_shape == MLP(shape, shape, hidden=[]).out_shape == (17 * 17,)
    for one, listed in ((6, [6, 12, 24]), (100, [100, 128, 128])):
        for few, many in (
            (ConvEncoder(shape, shape, channels=one, hidden=4), ConvEncoder(shape, shape, channels=listed, hidden=[4])),
            (ConvDecoder((3,), shape, channels=one), ConvDecoder((3,), shape, channels=listed[::-1])),
            (UNet(shape, shape, channels=one), UNet(shape, shape, channels=listed)),
        ):
            assert [p.shape for p in few.parameters()] == [p.shape for p in many.parameters()]


def test_dynamo_takes_gates_blocks_and_norms_whole() -> None:
    for net in nets((1, 9, 7), GATE, nn.BatchNorm2d)[:2]:
        torch._dynamo.reset()
        x = torch.rand(4, *net.in_shape)
        whole = torch.compile(net.eval(), backend="eager", fullgraph=True)
        torch.testing.assert_close(whole(x), net(x))


def test_an_average_of_weights_has_the_average_of_their_statistics() -> None:
    """BatchNorm's running mean and variance are averaged as the weights are, and its count is the newest: the average
    describes images as well as statistics that are gathered anew with the averaged weights do."""
    net = partial(MLP, hidden=[32], norm=nn.BatchNorm1d)
    model = VAE(
        Spec((1, 4, 4), 2), partial(GaussianPosterior, net=net), partial(BernoulliLikelihood, net=net), latent_size=2
    )
    x = (torch.rand(400, 1, 1, 1) < torch.linspace(0.1, 0.9, 16).view(1, 1, 4, 4)).float() * (
        torch.rand(400, 1, 4, 4) < 0.9
    )
    average, optimizer = AveragedWeights(model, 0.99), torch.optim.Adam(model.parameters(), 3e-3)
    means = []
    for step in range(300):
        optimizer.zero_grad()
        ELBO()(model, {"image": x[torch.randint(400, (64,))]}, step).value.backward()
        optimizer.step()
        average.update()
        means.append(model.encoder.net.layers[2].running_mean.clone())
    expected = torch.zeros(32)
    for n, value in enumerate(means):
        d = min(0.99, n / (n + 9))
        expected = d * expected + (1 - d) * value
    average.swap()
    norm = model.encoder.net.layers[2]
    torch.testing.assert_close(norm.running_mean, expected)
    assert norm.num_batches_tracked == 300

    def bound() -> float:
        torch.manual_seed(1)
        return model.eval().trace({"image": x}, 50).scores()["elbo"].mean().item()

    kept = bound()
    with torch.no_grad():
        model.train()
        for part in model.modules():
            if isinstance(part, nn.BatchNorm1d):
                part.reset_running_stats()
                part.momentum = None
        for _ in range(20):
            model.trace({"image": x})
    assert kept == pytest.approx(bound(), abs=0.05)


MEANS = [
    BernoulliLikelihood,
    ContinuousBernoulliLikelihood,
    DiscretizedLogisticLikelihood,
    GaussianLearnedScaleLikelihood,
    GaussianLikelihood,
    GaussianOptimalScaleLikelihood,
    GaussianPixelScaleLikelihood,
    LinkedLogisticLikelihood,
]


def begun(likelihood: type, net: Any, x: Tensor, levels: int) -> Any:
    """p(x|z) of what is left without features, the bias."""
    module = likelihood((2,), Spec(tuple(x.shape[1:]), levels), net)
    module.init_from_data(x)
    nn.init.zeros_(module.head.last.weight)
    return module.eval()(torch.zeros(1, 2))


@pytest.mark.parametrize("likelihood", MEANS)
@pytest.mark.parametrize("net", [MLP, partial(ConvDecoder, channels=[4])], ids=["of each value", "of each channel"])
def test_output_biases_begin_at_the_mean_of_the_data(likelihood: type, net: Any) -> None:
    """Of each value, or of each channel where the bias is one of a convolution: that of what is white nearly always and
    black nearly always is grey, and not the middle of the logits."""
    levels = 2 if likelihood is BernoulliLikelihood else 4
    p = torch.tensor([[0.001, 0.02, 0.9], [0.5, 0.1, 0.999]]).view(1, 2, 1, 3)
    x = ((torch.rand(20_000, 2, 2, 3) < p) * (levels - 1)).float()
    target = x.mean(0) if net is MLP else x.mean((0, 2, 3))[:, None, None].expand(2, 2, 3)
    px = begun(likelihood, net, x, levels)
    if likelihood in (
        DiscretizedLogisticLikelihood,
        LinkedLogisticLikelihood,
    ):  # their means are pulled in by open ends
        loc = px.base_dist.loc if likelihood is DiscretizedLogisticLikelihood else px.loc
        torch.testing.assert_close(loc[0], target, atol=1e-3, rtol=0)
        return
    atol = 0.31 if likelihood is ContinuousBernoulliLikelihood and net is MLP else 2e-3  # by a bounded logit
    torch.testing.assert_close(px.mean[0], target, atol=atol, rtol=0)


def test_a_categorical_begins_at_the_shares_of_each_level_in_a_channel() -> None:
    x = torch.randint(0, 3, (5000, 2, 2, 3)).float()
    x[:, 1] = 0
    probs = begun(CategoricalLikelihood, partial(ConvDecoder, channels=[4]), x, 3).base_dist.logits.softmax(-1)[0]
    torch.testing.assert_close(probs[0], torch.full((2, 3, 3), 1 / 3), atol=0.01, rtol=0)
    torch.testing.assert_close(probs[1], torch.tensor([1.0, 0, 0]).expand(2, 3, 3), atol=1e-3, rtol=0)
