"""The search of the learning rate: the best of the grid, widened for it, past what diverges."""

import math

import numpy as np
import pytest

from trainer.evaluation import baselines


@pytest.mark.parametrize("strides", [baselines.STRIDES, (1,)])
@pytest.mark.parametrize("best", [-2, 0, 3, 9, -11, 40, -40])
def test_tuning_finds_the_best_rate_and_widens_the_grid_for_it(best, strides):
    tried = []

    def mean_loss(rate):
        tried.append(rate)
        return abs(math.log2(rate) * 2 - best)

    np.testing.assert_allclose(baselines.tune(range(-3, 4), mean_loss, strides), 2 ** (best / 2), rtol=1e-12)
    assert len(set(tried)) == len(tried)  # no rate twice
    exponents = [round(2 * math.log2(rate)) for rate in tried]
    # Both neighbours of the best were looked at.
    assert {best - 1, best + 1} & set(range(-40, 41)) <= set(exponents)


def test_tuning_passes_by_what_diverges():
    losses = {-3: 5.0, -2: 3.0, -1: 2.0, 0: float("nan"), 1: float("inf")}
    tune = baselines.tune(range(-3, 2), lambda rate: losses.get(round(2 * math.log2(rate)), 6.0))
    assert tune == pytest.approx(2**-0.5)


def test_tuning_ends_where_every_rate_diverges():
    with pytest.raises(ValueError, match=r"Every learning rate tried diverges: \[0.5, 2.0\]"):
        baselines.tune(range(-2, 4), lambda rate: float("nan"))


def test_tuning_ends_where_there_is_no_best():
    rates = []
    assert baselines.tune(range(2), lambda rate: rates.append(rate) or -rate) == 2.0**20
    assert max(rates) == 2.0**20
