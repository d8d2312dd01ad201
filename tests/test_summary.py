"""What runs say together: intervals, differences in pairs, verdicts, which runs count."""

import numpy as np
import pytest
from made_runs import add

from trainer.evaluation.results import TUNING_SEED, Results
from trainer.evaluation.summary import (
    HELD,
    Summary,
    bootstrap,
    difference,
    geometric_mean,
    ratio,
    reported,
    summary,
    verdict,
)
from trainer.paper import tables
from trainer.paper.experiments import BASE, RNNPROP, TRADITIONAL


def test_the_bootstrap_interval_has_the_width_of_the_standard_error():
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    mean, low, high = bootstrap(values)
    assert mean == values.mean()
    np.testing.assert_allclose([mean - low, high - mean], 1.96 * values.std() / 20, rtol=0.06)
    assert bootstrap(values) == (mean, low, high)


@pytest.mark.parametrize("values", [[1.5], [1.0, np.inf], [np.nan, 1.0]])
def test_one_run_or_a_diverged_one_has_no_width(values):
    mean, low, high = bootstrap(np.array(values))
    np.testing.assert_equal([low, high], [mean, mean])


def test_differences_are_taken_in_pairs():
    """Starts differ much more than optimizers do."""
    starts = np.random.default_rng(0).normal(0.0, 10.0, 50)
    ours, theirs = (Summary(0.1, starts + shift, tuple(range(50))) for shift in (1.0, 1.5))
    np.testing.assert_allclose(difference(ours, theirs), [-0.5] * 3)
    later = Summary(0.1, starts[10:] + 1.0, tuple(range(10, 50)))
    np.testing.assert_allclose(difference(later, theirs), [-0.5] * 3)


def test_ratios_are_of_the_means_in_pairs():
    """Starts differ much more than optimizers do."""
    starts = np.random.default_rng(0).uniform(1.0, 100.0, 50)
    ours, theirs = (Summary(0.1, starts * factor, tuple(range(50))) for factor in (0.9, 1.0))
    np.testing.assert_allclose(ratio(ours, theirs), [0.9] * 3)
    noisy = Summary(0.1, ours.losses * np.random.default_rng(1).uniform(0.5, 1.5, 50), ours.seeds)
    mean, low, high = ratio(noisy, theirs)
    assert low < mean == noisy.mean / theirs.mean < high
    later = Summary(0.1, starts[10:] * 0.9, tuple(range(10, 50)))
    np.testing.assert_allclose(ratio(later, theirs), [0.9] * 3)


def test_no_single_ratio_decides_a_geometric_mean():
    mean, low, high = geometric_mean([0.5, 2.0, 1.0, 1.0])
    np.testing.assert_allclose(mean, 1.0)
    assert 1 / HELD <= low < 1.0 < high <= HELD
    np.testing.assert_allclose(geometric_mean([1e-9, np.nan]).mean, 1.0)
    np.testing.assert_allclose(geometric_mean([0.8, 0.8]), [0.8] * 3)


@pytest.mark.parametrize(
    ("shift", "noise", "expected"),
    [(-0.05, 0.01, "won"), (0.05, 0.01, "lost"), (0.005, 1e-4, "tied"), (-0.05, 0.5, "tied")],
)
def test_verdicts(shift, noise, expected):
    rng = np.random.default_rng(0)
    theirs = Summary(0.1, 1.0 + 0.01 * rng.normal(size=30), tuple(range(30)))
    ours = Summary(0.1, theirs.losses + shift + noise * rng.normal(size=30), theirs.seeds)
    assert verdict(ours, theirs) == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_diverged_run_neither_is_the_best_nor_wins(tmp_path, bad):
    results = Results(str(tmp_path))
    add(results, BASE, "sgd", [0.1, bad])  # the first of the traditional ones
    for name in TRADITIONAL[1:-1]:
        add(results, BASE, name, [0.6, 0.6])
    assert tables.best_traditional(results, BASE, 100) is None  # one is not there
    add(results, BASE, "adam", [0.5, 0.5])
    add(results, BASE, RNNPROP, [0.4, bad])
    name, best = tables.best_traditional(results, BASE, 100)
    assert name == "adam"
    diverged = summary(results, BASE, 100, RNNPROP)
    assert verdict(diverged, best) == "lost"
    assert verdict(best, diverged) == "won"
    assert verdict(diverged, diverged) == "tied"


def test_tuning_runs_and_former_cells_are_not_reported(tmp_path):
    results = Results(str(tmp_path))
    add(results, BASE, "adam", [9.0], first_seed=TUNING_SEED)
    assert summary(results, BASE, 100, "adam") is None
    add(results, BASE, "adam", [5.0], rate=0.2)
    add(results, BASE, "adam", [2.0, 1.0], rate=0.1)
    assert [row.final_loss for row in reported(results, BASE, 100, "adam")] == [2.0, 1.0]
    assert summary(results, BASE, 100, "adam").rate == 0.1
    assert summary(results, BASE, 2_000, "adam") is None


def test_a_rate_given_by_hand_is_not_reported_as_the_tuned_one(tmp_path):
    results = Results(str(tmp_path))
    for rate, loss in ((0.1, 0.3), (0.2, np.nan), (0.4, 0.4)):
        add(results, BASE, "adam", [loss], first_seed=TUNING_SEED, rate=rate)
    add(results, BASE, "adam", [0.31], rate=0.1)
    add(results, BASE, "adam", [0.41], rate=0.4)
    assert summary(results, BASE, 100, "adam").rate == 0.1
