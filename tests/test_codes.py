"""Discrete latents: quantisers, their usage, and the bound of codes."""

from __future__ import annotations

import copy
import itertools
import math
import sys
from functools import partial

import pytest
import torch
from scipy.stats import entropy
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from vae_lightning.conditionals import (
    BernoulliLikelihood,
    CodePosterior,
    CodePrior,
    CodeTransformer,
    GaussianPosterior,
    GumbelPosterior,
    StandardNormal,
)
from vae_lightning.core import Spec, is_discrete, is_point
from vae_lightning.distributions import AutoregressiveCategorical, Choice, CodePoint, Codes, as_latent, as_vectors
from vae_lightning.metrics import CodeUsage, ImageEvaluation
from vae_lightning.metrics.codes import code_rows
from vae_lightning.models import VAE
from vae_lightning.nets import FiniteScalarQuantiser, OneHotCodes, Quantiser, VectorQuantiser
from vae_lightning.objectives import ELBO, IWAE, VQ

SPEC = Spec((1, 4, 4), 2, ("a", "b", "c"))
LEVELS = [5, 4, 3]


def needs_the_package() -> None:
    pytest.importorskip("vector_quantize_pytorch", reason="pip install 'vae-lightning[vq]'")


def images(count: int = 24) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"image": torch.rand(count, 1, 4, 4, generator=generator).round(), "label": torch.arange(count) % 3}


def quantiser(kind: str) -> Quantiser:
    if kind == "finite":
        return FiniteScalarQuantiser(LEVELS)
    needs_the_package()
    return VectorQuantiser(16, 3, revive_below=0.0)


def vae(kind: str, prior: type = CodePrior, positions: int = 4) -> VAE:
    torch.manual_seed(0)
    made = VAE(
        SPEC, partial(CodePosterior, quantiser=partial(quantiser, kind)), BernoulliLikelihood, prior, 3 * positions
    )
    made.init_from_data(images())
    return made


KINDS = ("finite", "vector")
SMALL = partial(CodeTransformer, width=16, depth=1, heads=2)


# -- quantisers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [[2], [3], LEVELS, [8, 6, 5]])
def test_finite_scalar_codes_and_their_indices_are_one_to_one(levels: list[int]) -> None:
    book = FiniteScalarQuantiser(levels)
    indices = torch.arange(book.size)
    vectors = book.vectors(indices)
    assert book.size == math.prod(levels) == len(vectors.unique(dim=0))
    assert torch.equal(book.indices(vectors), indices)
    assert vectors.abs().max() <= 1
    codes, found = book(torch.cat([1.5 * torch.randn(50_000, len(levels)), torch.full((1, len(levels)), 1e6)]))
    assert torch.equal(book.vectors(found), codes)
    assert len(found.unique()) == book.size  # each can be reached
    near, _ = book(vectors_before(vectors, levels))
    torch.testing.assert_close(near, vectors)  # and is the nearest to what is bounded to it


def vectors_before(vectors: Tensor, levels: list[int]) -> Tensor:
    """The numbers that tanh takes to the levels themselves, by the paper's appendix A.1."""
    count = torch.tensor(levels)
    half, offset = (count - 1) / 2 * 1.001, 0.5 * (count % 2 == 0)
    at = (vectors * (count // 2) + offset) / half
    return at.clamp(-0.999, 0.999).atanh() - (offset / half).atanh()


def test_finite_scalar_codes_are_those_of_the_library() -> None:
    needs_the_package()
    from vector_quantize_pytorch import FSQ

    x = 2 * torch.randn(500, 3)
    codes, indices = FiniteScalarQuantiser(LEVELS)(x[None])
    theirs, their_indices = FSQ(LEVELS)(x[None])
    torch.testing.assert_close(codes, theirs)
    assert torch.equal(indices, their_indices.long())


def test_gradients_pass_straight_through_the_rounding() -> None:
    x = torch.randn(50, 3, dtype=torch.float64, requires_grad=True)
    codes, _ = FiniteScalarQuantiser(LEVELS)(x)
    weight = torch.randn_like(codes)
    (codes * weight).sum().backward()
    count = torch.tensor(LEVELS)
    half, offset = (count - 1) / 2 * 1.001, 0.5 * (count % 2 == 0)
    slope = half * (1 - (x + (offset / half).atanh()).tanh() ** 2) / (count // 2)
    torch.testing.assert_close(x.grad, weight * slope)


@pytest.mark.parametrize("kind", KINDS)
def test_quantisers_compute_in_float32_whatever_is_around_them(kind: str) -> None:
    book, x = quantiser(kind).eval(), torch.randn(200, 3)
    expected = book(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = book(x)
    assert found.vectors.dtype == torch.float32
    assert torch.equal(found.indices, expected.indices)
    assert torch.equal(found.vectors, expected.vectors)
    half = copy.deepcopy(book).to(torch.bfloat16)
    codes = half(x.bfloat16()).vectors
    assert codes.dtype == torch.float32
    assert {value.dtype for value in half.buffers() if value.is_floating_point()} == {torch.float32}


def test_a_learned_code_is_the_nearest_and_follows_the_mean_of_its_vectors() -> None:
    needs_the_package()
    torch.manual_seed(0)
    book = VectorQuantiser(8, 2, decay=0.5, revive_below=0.0).eval()
    x = torch.randn(4000, 2)
    codes, indices = book(x[None])
    table = book.vectors(torch.arange(8))
    assert torch.equal(indices[0], ((x[:, None] - table) ** 2).sum(-1).argmin(-1))
    torch.testing.assert_close(codes[0], table[indices[0]])
    assert torch.equal(book.indices(codes), indices)
    book.train()
    for _ in range(60):
        _, indices = book(x[None])
    means = torch.stack([x[indices[0] == i].mean(0) for i in range(8)])
    torch.testing.assert_close(book.vectors(torch.arange(8)), means, atol=0.02, rtol=0)


def test_k_means_begins_the_codes_at_the_clusters() -> None:
    needs_the_package()
    torch.manual_seed(0)
    centres = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 5.0]])
    book = VectorQuantiser(3, 2)
    for seed in range(5):  # of which a start at two vectors of one cluster may miss another
        torch.manual_seed(seed)
        book.fit((centres[:, None] + 0.01 * torch.randn(3, 100, 2)).flatten(0, 1))
        found = book.vectors(torch.arange(3))
        if (torch.cdist(centres, found).min(1).values < 0.05).all():
            break
    else:
        pytest.fail("no start of five found the three clusters")


@pytest.mark.parametrize("revive_below", [0.0, 1.0])
def test_dead_codes_are_put_into_use_and_stay_there(revive_below: float) -> None:
    needs_the_package()
    torch.manual_seed(0)
    book = VectorQuantiser(32, 2, decay=0.9, revive_below=revive_below)
    book._begin(torch.cat([torch.randn(2, 2), 100 + torch.randn(30, 2)]))  # 30 codes far from all vectors
    x = torch.randn(1, 2000, 2)
    for _ in range(60):
        book(x)
    used = len(book.eval()(x).indices.unique())
    assert used == 32 if revive_below else used == 2
    if revive_below:  # and no stale average takes them back
        assert book.vectors(torch.arange(32)).abs().max() < 10


def test_the_rotation_turns_gradients_as_it_turns_vectors() -> None:
    needs_the_package()
    torch.manual_seed(0)
    x = torch.randn(1, 40, 3, requires_grad=True)
    for rotation in (True, False):
        book = VectorQuantiser(8, 3, rotation=rotation, revive_below=0.0)
        weight = torch.randn(1, 40, 3)
        codes, _ = book(x)
        (grad,) = torch.autograd.grad((codes * weight).sum(), x)
        if not rotation:
            torch.testing.assert_close(grad, weight)
            continue
        # A rotation and a stretch by |code| / |x|: gradients keep their angle to the vector, and are stretched alike.
        stretch = codes.norm(dim=-1) / x.norm(dim=-1)
        torch.testing.assert_close(grad.norm(dim=-1), weight.norm(dim=-1) * stretch, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close((grad * x).sum(-1), (weight * codes).sum(-1), rtol=1e-3, atol=1e-3)


def test_bad_settings_and_a_missing_package_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for settings in ({"size": 1}, {"decay": 1.0}, {"depth": 1}, {"revive_below": -1.0}):
        with pytest.raises(ValueError, match="VectorQuantiser"):
            VectorQuantiser(**settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="levels: expected 2 or more"):
        FiniteScalarQuantiser([8, 1])
    with pytest.raises(ValueError, match="multiple of a code's 3 numbers, got 10"):
        CodePosterior(SPEC, (10,), quantiser=partial(FiniteScalarQuantiser, LEVELS))
    monkeypatch.setitem(sys.modules, "vector_quantize_pytorch", None)
    with pytest.raises(ValueError, match="expected the package vector-quantize-pytorch"):
        VectorQuantiser()


# -- the bound ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prior", [CodePrior, SMALL], ids=["independent", "transformer"])
@torch.no_grad()
def test_the_bound_is_the_sum_of_both_code_lengths(kind: str, prior: type) -> None:
    model, batch = vae(kind, prior).eval(), images()
    for parameter in model.prior.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    trace = model.trace(batch)
    site = trace.sites["z"]
    assert isinstance(site.q, CodePoint)
    indices = site.q.indices
    assert torch.equal(site.q.indices_of(site.z), indices)
    of_codes = model.prior(None).of_indices
    logits = of_codes.teach(indices) if isinstance(of_codes, AutoregressiveCategorical) else of_codes.base_dist.logits
    log_p = logits.log_softmax(-1).expand(24, 4, -1).gather(-1, indices[..., None]).flatten(1).sum(1)
    z = as_latent(model.encoder.quantiser.vectors(indices))
    log_px = model.likelihood(z).log_prob(batch["image"])
    scores = trace.scores()
    torch.testing.assert_close(scores["rate"], -log_p)
    torch.testing.assert_close(scores["elbo"], log_px + log_p)
    torch.testing.assert_close(trace.log_weight(), log_px + log_p)  # one sample is all
    assert trace.has_rate
    assert not trace.is_random
    assert is_discrete(site.p)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_that_is_repeated_has_the_same_loss(kind: str) -> None:
    objective = VQ(0.5) if kind == "vector" else ELBO()
    batch = images()
    twice = {name: torch.cat([value, value]) for name, value in batch.items()}
    found = [objective(vae(kind).train(), given, 0.0) for given in (batch, twice)]  # each moves the codes of its model
    assert found[0].value.item() == pytest.approx(found[1].value.item(), rel=1e-5)
    for name, value in found[0].logs.items():
        assert float(value) == pytest.approx(float(found[1].logs[name]), rel=1e-5), name


def test_the_commitment_is_the_squared_distance_of_an_image() -> None:
    model, batch = vae("vector").train(), images()
    with torch.no_grad():
        vectors = model.encoder.vectors(batch["image"])
        nearest = model.encoder.quantiser.vectors(model.encoder.quantiser.indices(vectors))
    loss = VQ(0.5)(model, batch, 0.0)
    distance = (vectors - nearest).square().sum((1, 2)).mean()
    assert loss.logs["commitment"].item() == pytest.approx(distance.item(), rel=1e-4)
    without = loss.logs["distortion"] + loss.logs["rate"]
    assert loss.value.item() == pytest.approx((without + 0.5 * distance).item(), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_decoder_teaches_the_encoder_and_the_rate_the_prior_alone(kind: str) -> None:
    model, batch = vae(kind).train(), images()
    scores = model.trace(batch).scores()
    scores["rate"].sum().backward(retain_graph=True)
    assert model.prior.logits.grad.abs().sum() > 0
    assert all(p.grad is None or not p.grad.any() for p in model.encoder.parameters())
    scores["distortion"].sum().backward()
    assert model.encoder.head.weight.grad.abs().sum() > 0


def test_pairs_without_sense_are_refused() -> None:
    batch = images()
    with pytest.raises(ValueError, match="expected a prior of codes"):
        ELBO().check(vae("finite", StandardNormal), batch)
    with pytest.raises(ValueError, match="expected an encoder of codes, such as CodePosterior"):
        VAE(SPEC, GaussianPosterior, BernoulliLikelihood, CodePrior, 4)
    with pytest.raises(ValueError, match="expects an encoder with a learned codebook"):
        VQ().check(vae("finite"), batch)
    with pytest.raises(ValueError, match="by `attach`"):
        CodePrior((4,))(None)
    assert (
        kl_divergence(vae("finite").trace(batch).sites["z"].q, Independent(Normal(torch.zeros(12), 1.0), 1))
        .isinf()
        .all()
    )
    needs_the_package()
    for objective in (ELBO(), IWAE(2)):
        with pytest.raises(ValueError, match="choose the objective VQ"):
            objective.check(vae("vector"), batch)
    VQ().check(vae("vector"), batch)
    ELBO().check(vae("finite"), batch)


# -- Gumbel-softmax ----------------------------------------------------------------------------------------------------


def gumbel(hard: bool = False, temperature: float = 0.67) -> VAE:
    torch.manual_seed(0)
    encoder = partial(GumbelPosterior, classes=3, temperature=temperature, hard=hard)
    model = VAE(SPEC, encoder, BernoulliLikelihood, CodePrior, 6)
    torch.nn.init.normal_(model.encoder.logits.weight)
    torch.nn.init.normal_(model.prior.logits)
    return model


@torch.no_grad()
def test_a_relaxed_posterior_is_discrete_in_evaluation_and_its_bound_is_exact() -> None:
    model, batch = gumbel().train(), images()
    assert not torch.isclose(model.trace(batch).sites["z"].z.unflatten(-1, (3, 2)).amax(1), torch.tensor(1.0)).all()
    model.eval()
    trace = model.trace(batch, 4000)
    z = trace.sites["z"].z
    assert torch.equal(
        z.unflatten(-1, (3, 2)).sort(2).values, torch.tensor([0.0, 0.0, 1.0])[:, None].expand(4000, 24, 3, 2)
    )
    # E_q log p(x|z) - KL, by the sum over all nine codes.
    q, p = trace.sites["z"].q, trace.sites["z"].p
    bound = torch.zeros(24)
    for pair in itertools.product(range(3), repeat=2):
        z = p.latent_of(torch.tensor(pair)).expand(24, -1)
        log_q, log_p = q.log_prob(z), p.log_prob(z)
        bound += log_q.exp() * (model.likelihood(z).log_prob(batch["image"]) + log_p - log_q)
    torch.testing.assert_close(trace.scores()["elbo"].mean(0), bound, atol=0.05, rtol=0)
    probability = Categorical(logits=q.logits)
    by_torch = kl_divergence(probability, p.of_indices.base_dist).sum(-1)
    torch.testing.assert_close(trace.sites["z"].kl(), by_torch)


@pytest.mark.parametrize("hard", [False, True])
def test_a_relaxed_posterior_learns_by_the_bound(hard: bool) -> None:
    torch.manual_seed(0)
    white = (torch.arange(64) % 2).float()[:, None, None, None].expand(64, 1, 4, 4)
    model = gumbel(hard).train()
    ELBO().check(model, {"image": white})
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(120):
        optimizer.zero_grad()
        ELBO()(model, {"image": white}, 0.0).value.backward()
        optimizer.step()
    assert -model.eval().trace({"image": white}).scores()["elbo"].mean() < 3 * math.log(2)  # one bit is what it takes


def test_a_cold_relaxation_is_the_categorical() -> None:
    model, batch = gumbel(temperature=0.05).train(), images(2)
    with torch.no_grad():
        site = model.trace(batch, 20_000).sites["z"]
    share = as_vectors(site.z, 3).argmax(-1)
    found = torch.stack([(share == i).float().mean(0) for i in range(3)], -1)
    torch.testing.assert_close(found, site.q.logits.softmax(-1), atol=0.02, rtol=0)


# -- usage -------------------------------------------------------------------------------------------------------------


def test_perplexity_is_that_of_scipy_and_the_number_of_codes_for_even_use() -> None:
    usage = CodeUsage(8)
    usage.update(torch.arange(8).repeat(5, 3))
    assert usage.compute().perplexity.item() == pytest.approx(8)
    usage.reset()
    counts = torch.tensor([5, 1, 0, 9, 2, 0, 0, 3])
    usage.update(torch.arange(8).repeat_interleave(counts))
    found = usage.compute()
    assert found.perplexity.item() == pytest.approx(math.exp(entropy(counts.numpy())))
    assert (found.used.item(), found.used_share.item()) == (5, 62.5)
    assert found.perplexity_share.item() == pytest.approx(100 * found.perplexity.item() / 8)


def test_usage_is_of_the_whole_set_and_not_the_mean_of_its_batches() -> None:
    parts = [torch.zeros(10, dtype=torch.long), torch.ones(10, dtype=torch.long)]
    whole, each = CodeUsage(2), []
    for part in parts:
        whole.update(part)
        one = CodeUsage(2)
        one.update(part)
        each.append(one.compute().perplexity.item())
    assert each == pytest.approx([1, 1])
    assert whole.compute().perplexity.item() == pytest.approx(2)
    assert CodeUsage(2)._reductions["counts"] is not None  # summed over processes


@torch.no_grad()
def test_an_evaluation_counts_over_its_batches() -> None:
    model, batch = vae("finite").eval(), images(48)
    evaluation = ImageEvaluation(samples=3, studies=False)
    for half in (slice(0, 24), slice(24, 48)):
        evaluation.update(model, SPEC, {name: value[half] for name, value in batch.items()}, "test")
    found = evaluation.results()
    counts = torch.bincount(model.trace(batch).sites["z"].q.indices.flatten(), minlength=60)
    assert found["codes_used"][0] == (counts > 0).sum()
    assert found["codes_perplexity"][0] == pytest.approx(math.exp(entropy(counts.numpy())))
    assert math.isnan(found["codes_used"][1])
    assert "nll" not in found  # importance samples of a point are all the same
    evaluation.start(torch.device("cpu"))
    assert not evaluation.results()
    two = code_rows({"a": CodeUsage(2), "b": CodeUsage(2)})
    assert {"codes_used_a", "codes_used_b"} <= two.keys()


# -- priors ------------------------------------------------------------------------------------------------------------


def transformer(labels: bool = False, codes: int = 3, positions: int = 4) -> CodeTransformer:
    torch.manual_seed(0)
    made = CodeTransformer((codes * positions,), SPEC, width=16, depth=2, heads=2, labels=labels).eval()
    made.attach(GumbelPosterior(SPEC, (codes * positions,), classes=codes))
    torch.nn.init.normal_(made.logits.weight, std=0.5)
    torch.nn.init.normal_(made.code.weight)
    torch.nn.init.normal_(made.start.weight)
    return made.double()


def everything(codes: int = 3, positions: int = 4) -> Tensor:
    return torch.tensor(list(itertools.product(range(codes), repeat=positions)))


@pytest.mark.parametrize("choice", [Choice(), Choice(temperature=0.5), Choice(top_k=2), Choice(top_p=0.7)])
@torch.no_grad()
def test_the_probabilities_of_all_sequences_sum_to_one_and_samples_follow_them(choice: Choice) -> None:
    p = transformer()(None).of_indices.chosen(choice)
    log_p = p.log_prob(everything())
    assert log_p.exp().sum().item() == pytest.approx(1)
    drawn = p.sample((10_000,)) @ torch.tensor([27, 9, 3, 1])
    found = torch.bincount(drawn, minlength=81) / 10_000
    torch.testing.assert_close(found.double(), log_p.exp(), atol=0.015, rtol=0)
    assert not found[log_p.isinf()].any()


@torch.no_grad()
def test_cached_steps_are_the_uncached_pass_and_no_position_sees_a_later_one() -> None:
    p = transformer()(None).of_indices
    codes = everything()
    step = p.begin(torch.Size((81,)))
    one_by_one = torch.stack([step(None if i == 0 else codes[:, i - 1]) for i in range(4)], 1)
    torch.testing.assert_close(one_by_one, p.teach(codes))
    for place in range(4):
        other = codes.clone()
        other[:, place] = (other[:, place] + 1) % 3
        moved = (p.teach(other) - p.teach(codes)).abs().amax((0, 2))
        assert (moved[: place + 1] == 0).all()
        assert (moved[place + 1 :] > 1e-3).all()


@torch.no_grad()
def test_a_label_decides_and_shapes_are_those_of_any_prior() -> None:
    model = VAE(
        SPEC,
        partial(CodePosterior, quantiser=partial(FiniteScalarQuantiser, LEVELS)),
        BernoulliLikelihood,
        partial(SMALL, labels=True),
        12,
    ).eval()
    assert model.needs == ("label",)
    assert model.is_conditional
    assert model.sample({"label": torch.tensor([0, 2])}, 5).batch_shape == (5, 2)
    assert model.trace(images(), 3).log_weight().shape == (3, 24)
    prior = transformer(labels=True)
    codes = everything()
    log_p = torch.stack([prior({"label": torch.full((81,), y)}).of_indices.log_prob(codes) for y in range(3)])
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(3).double())
    assert (log_p[0] - log_p[1]).abs().max() > 0.1
    both = prior({"label": torch.tensor([0, 1])}).of_indices
    torch.testing.assert_close(both.log_prob(codes[:, None].expand(-1, 2, -1)), log_p[:2].T)
    with pytest.raises(ValueError, match="expected a label"):
        prior.told(None, {})


@torch.no_grad()
def test_fresh_priors_are_uniform_and_know_their_own_codes() -> None:
    for prior in (CodePrior, partial(CodePrior, learned=False), SMALL):
        model = vae("finite", prior)
        p = model.prior.told(None, {})
        assert isinstance(p, Codes)
        z = p.sample((50,))
        assert p.support.check(z).all()
        assert not p.support.check(z + 0.1).any()
        torch.testing.assert_close(p.log_prob(z), torch.full((50,), -4 * math.log(60)))
        assert not is_point(p)
    assert not list(partial(CodePrior, learned=False)((12,)).parameters())


def test_choices_that_leave_nothing_are_refused() -> None:
    for settings in ({"temperature": 0.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}):
        with pytest.raises(ValueError, match="expected temperature > 0"):
            Choice(**settings)
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert Choice(top_p=0.5)(logits).isfinite().tolist() == [True, False, False, False]
    assert Choice(top_p=0.6)(logits).isfinite().tolist() == [True, True, False, False]
    assert Choice(top_k=3)(logits).isfinite().tolist() == [True, True, True, False]
    torch.testing.assert_close(Choice(temperature=2.0)(logits), logits / 2)


def test_one_hot_codes_lie_as_a_map_is_read() -> None:
    book = OneHotCodes(3)
    indices = torch.tensor([[0, 2, 1, 1]])
    z = as_latent(book.vectors(indices))
    assert torch.equal(z.unflatten(-1, (3, 2, 2)).argmax(1), indices.view(1, 2, 2))  # (depth, h, w)
    assert torch.equal(book.indices(as_vectors(z, 3)), indices)
