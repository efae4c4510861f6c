"""The transformer: what a position sees, and a cache that changes nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vae_lightning.nets import Cache, Transformer

WIDTH, LENGTH = 16, 7


def transformer(causal: bool = True) -> Transformer:
    torch.manual_seed(0)
    return Transformer(WIDTH, depth=3, heads=4, causal=causal).eval()


def sequence(batch: int = 2) -> Tensor:
    return torch.randn(batch, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))


def influence(net: Transformer, x: Tensor, **settings: object) -> Tensor:
    """(T, T): how much output t hangs on input s."""

    def told(x: Tensor) -> Tensor:
        return net(x, **settings)

    jacobian = torch.autograd.functional.jacobian(told, x)  # (B, T, width, B, T, width)
    return torch.as_tensor(jacobian).abs().sum((0, 2, 3, 5))


def test_no_position_sees_a_later_one() -> None:
    found = influence(transformer(), sequence(1))
    assert (found.triu(1) == 0).all()
    assert (found[torch.ones(LENGTH, LENGTH).tril().bool()] > 0).all()  # and each sees all that come before


def test_without_causality_every_position_sees_every_other() -> None:
    assert (influence(transformer(causal=False), sequence(1)) > 0).all()


def test_padding_is_seen_by_nobody() -> None:
    padding = torch.zeros(1, LENGTH, dtype=torch.bool)
    padding[:, 5:] = True
    for causal in (True, False):
        found = influence(transformer(causal), sequence(1), padding=padding)
        assert (found[:5, 5:] == 0).all()
        assert (found[:5, 0] > 0).all()


def test_padding_changes_nothing_of_what_stands_before_it() -> None:
    x, padding = sequence(), torch.zeros(2, LENGTH, dtype=torch.bool)
    padding[:, 4:] = True
    for causal in (True, False):
        net = transformer(causal)
        torch.testing.assert_close(net(x, padding=padding)[:, :4], net(x[:, :4]), rtol=0, atol=1e-5)


def test_a_sequence_of_padding_alone_is_finite() -> None:
    assert transformer(False)(sequence(), padding=torch.ones(2, LENGTH, dtype=torch.bool)).isfinite().all()


def test_a_prefix_is_seen_both_ways_and_the_rest_is_causal() -> None:
    found = influence(transformer(), sequence(1), prefix=3)
    assert (found[:3, :3] > 0).all()
    assert (found[:3, 3:] == 0).all()
    assert (found[3:, 3:].triu(1) == 0).all()
    assert (found[3:, :3] > 0).all()


@pytest.mark.parametrize("cuts", [[1] * LENGTH, [3, 1, 3], [LENGTH]])
@pytest.mark.parametrize("prefix", [0, 3])
@pytest.mark.parametrize("padded", [False, True])
def test_the_cache_gives_what_the_whole_sequence_gives(cuts: list[int], prefix: int, padded: bool) -> None:
    if cuts[0] < prefix:
        pytest.skip("a prefix comes whole")
    net, x = transformer(), sequence()
    padding = torch.zeros(2, LENGTH, dtype=torch.bool)
    if padded:
        padding[0, 2:5] = True
        padding[1, 6:] = True
    whole = net(x, padding=padding if padded else None, prefix=prefix)
    cache, parts, first = Cache(), [], 0
    for count in cuts:
        new = slice(first, first + count)
        parts.append(net(x[:, new], cache, padding[:, new] if padded else None, 0 if first else prefix))
        first += count
    assert len(cache) == LENGTH
    difference = (torch.cat(parts, 1) - whole).abs()[~padding]
    assert difference.max() < 1e-5


def test_it_equals_torchs_own_encoder_with_the_same_weights() -> None:
    net, x = transformer(), sequence()
    layer = torch.nn.TransformerEncoderLayer(
        WIDTH, 4, 4 * WIDTH, dropout=0.0, activation=F.gelu, batch_first=True, norm_first=True
    )
    oracle = torch.nn.TransformerEncoder(layer, 3, net.norm, enable_nested_tensor=False)
    for ours, theirs in zip(net.blocks, oracle.layers, strict=True):
        theirs.self_attn.in_proj_weight, theirs.self_attn.in_proj_bias = ours.query_key_value.parameters()
        theirs.self_attn.out_proj.weight, theirs.self_attn.out_proj.bias = ours.merge.parameters()
        theirs.linear1, theirs.linear2 = ours.expand, ours.contract
        theirs.norm1, theirs.norm2 = ours.before_attention, ours.before_mlp
    mask = torch.nn.Transformer.generate_square_subsequent_mask(LENGTH)
    torch.testing.assert_close(net(x), oracle(x, mask=mask), rtol=0, atol=1e-5)
    net.causal = False
    torch.testing.assert_close(net(x), oracle(x), rtol=0, atol=1e-5)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of the number of heads, got 10 for 4"):
        Transformer(10, 1, 4, causal=True)
    with pytest.raises(ValueError, match="at least 1 block, got 0"):
        Transformer(8, 0, 4, causal=True)
    with pytest.raises(ValueError, match="expected a causal transformer"):
        transformer(causal=False)(sequence(), Cache())
    net, cache = transformer(), Cache()
    net(sequence(), cache)
    with pytest.raises(ValueError, match="behind 7 cached ones"):
        net(sequence(), cache, prefix=2)
