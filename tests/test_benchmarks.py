"""The hand-written loop that speed is measured against does what `fit` does."""

from __future__ import annotations

import pytest

from benchmarks.train import by_hand, follow, project
from tests.conftest import Generated, generated_flags
from vae_lightning.data import ImageData


@pytest.mark.parametrize(("name", "side"), [("mlp", 28), ("conv", 32)])
def test_the_hand_written_loop_has_the_loss_curve_of_fit(name: str, side: int) -> None:
    shape = (1, side, side)
    flags = [*generated_flags(shape, 2), "--data.source.count=176", "--trainer.log_every_n_steps=1"]
    _, losses, bounds = project(f"{name}.yaml", 2, *flags)
    data = ImageData(Generated(shape, 2, 176), batch_size=16, val_size=16)
    data.setup()
    _, expected, expected_bounds = by_hand(name, data, 2, every=1)
    assert len(losses) == 2 * 10
    assert losses[:10] == pytest.approx(expected[:10], rel=1e-5)  # seen: 2e-7
    assert losses == pytest.approx(expected, rel=1e-3)  # seen: 3e-5, where the convolutions' rounding grows
    assert bounds == pytest.approx(expected_bounds, rel=1e-3)
    assert losses[-1] < losses[0]


def test_a_loss_curve_that_is_another_one_ends_the_benchmark() -> None:
    expected = [200.0, 150.0, 120.0, 110.0]
    assert follow([200.0, 150.0, 120.3, 111.0], expected, 101) == pytest.approx(
        {"first step": 0, "step 50": 0, "first epoch": 2.5e-3, "all": 1 / 110}
    )
    for other in ([200.1, 150, 120, 110], [200, 150.3, 120, 110], [200, 150, 120, 112]):
        with pytest.raises(SystemExit, match="does not train as the hand-written loop does"):
            follow(other, expected, 101)
