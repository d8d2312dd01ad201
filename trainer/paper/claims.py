"""The claims of the paper's sections 5.1 to 5.5, each held against the runs. Reads results only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from trainer.evaluation.markdown import NOT_RUN, number
from trainer.evaluation.results import Results
from trainer.evaluation.summary import NotRunError, Summary, mean_curve, summary, tuning, verdict
from trainer.paper.experiments import (
    ACTIVATIONS,
    BASE,
    CNNS,
    DEPTHS,
    DM,
    DM_TRICKS,
    FIGURE_9,
    FIGURE_9_STEPS,
    NO_CONVEX,
    NO_CONVEX_5000,
    NO_SCALING,
    OTHER_OPTIMIZEES,
    OTHER_OPTIMIZEES_STEPS,
    RELU,
    RNNPROP,
    RNNPROP_5000,
    SINES,
    TABLE_4_ITERATIONS,
    TRADITIONAL,
    at_iteration,
)
from trainer.paper.tables import best_traditional
from trainer.problems.catalog import PAPER_TASKS

HOLDS, IN_PART, FAILS = "holds", "holds in part", "does not hold"

UNTRAINED = 2.29
"""A classifier of ten classes that answers alike for all has the loss ln 10 = 2.303."""
FAILURE = 2.0
"""An optimizer fails on a task where its loss is more than this times the best traditional one's; on a
classifier also where it is untrained."""
COMPARABLE = 1.1
"""Losses are comparable up to this ratio."""
ADAMS_INTERVAL = (0.004, 0.01)
"""Learning rates between which the paper's Adam beats RNNprop after 10,000 steps."""


class Finding(NamedTuple):
    """What the runs say of a claim."""

    verdict: str
    evidence: tuple[str, ...]
    """The numbers that the verdict rests on, a sentence for each task."""


class Claim(NamedTuple):
    """A claim of the paper."""

    section: str
    text: str
    check: Callable[[Results], Finding]


def _get(results: Results, task: str, optimizer: str, steps: int | None = None) -> Summary:
    found = summary(results, task, steps or PAPER_TASKS[task].steps, optimizer)
    if found is None:
        raise NotRunError(f"{optimizer} on {task}")
    return found


def _best(results: Results, task: str, steps: int | None = None) -> tuple[str, Summary]:
    found = best_traditional(results, task, steps or PAPER_TASKS[task].steps)
    if found is None:
        raise NotRunError(f"traditional optimizers on {task}")
    return found


def _all(holding: Sequence[bool]) -> str:
    return HOLDS if all(holding) else IN_PART if any(holding) else FAILS


def _versus(name: str, ours: Summary, rival: str, theirs: Summary) -> str:
    ratio = f"{ours.mean / theirs.mean:.3f}"
    return (
        f"{name} {number(ours.mean)}, {rival} {number(theirs.mean)}, ratio {ratio}: "
        f"{name} {verdict(ours, theirs)}"
    )


def _against_best(
    results: Results,
    optimizer: str,
    tasks: Sequence[str],
    holds: Callable[[Summary, Summary], bool],
    steps: int | None = None,
) -> Finding:
    """Whether it holds of the optimizer's runs and the best traditional one's, task by task."""
    holding, evidence = [], []
    for task in tasks:
        ours, (name, theirs) = _get(results, task, optimizer, steps), _best(results, task, steps)
        holding.append(holds(ours, theirs))
        evidence.append(f"{task}: {_versus(optimizer, ours, name, theirs)}")
    return Finding(_all(holding), tuple(evidence))


def _beats_best(results: Results, optimizer: str, tasks: Sequence[str]) -> Finding:
    return _against_best(results, optimizer, tasks, lambda ours, theirs: verdict(ours, theirs) == "won")


def _fails(results: Results, optimizer: str, tasks: Sequence[str]) -> Finding:
    """Whether it fails on each task, see `FAILURE`; the sine LSTMs are no classifiers."""
    classifiers = not set(tasks) & set(SINES)
    return _against_best(
        results,
        optimizer,
        tasks,
        lambda ours, theirs: (
            not ours.mean <= FAILURE * theirs.mean or (classifiers and not ours.mean < UNTRAINED)
        ),
    )


def _comparable(results: Results, optimizer: str, tasks: Sequence[str], steps: int | None = None) -> Finding:
    return _against_best(
        results, optimizer, tasks, lambda ours, theirs: ours.mean <= COMPARABLE * theirs.mean, steps
    )


def _both(first: Finding, second: Finding) -> Finding:
    """Whether two findings both hold."""
    return Finding(_all([one.verdict == HOLDS for one in (first, second)]), first.evidence + second.evidence)


def _both_beat_all_on_the_base_mlp(results: Results) -> Finding:
    findings = [_beats_best(results, optimizer, [BASE]) for optimizer in (RNNPROP, DM)]
    return _both(*findings)


def _dm_is_better_where_it_was_trained(results: Results) -> Finding:
    ours, theirs = _get(results, BASE, DM), _get(results, BASE, RNNPROP)
    return Finding(_all([verdict(ours, theirs) == "won"]), (_versus(DM, ours, RNNPROP, theirs),))


def _comparable_at_2000(results: Results) -> Finding:
    task = "mnist-nn-sigmoid-2000"
    findings = [_comparable(results, RNNPROP, [task]), _fails(results, DM, [task])]
    return _both(*findings)


def _long_run(results: Results) -> Finding:
    task, steps, window = "mnist-nn-sigmoid-10000", 10_000, 100
    dm = np.nan_to_num(mean_curve(results, task, steps, DM, window), nan=np.inf, posinf=np.inf)
    ours = mean_curve(results, task, steps, RNNPROP, 1_000)
    lowest = int(dm.argmin())
    rises = lowest * window < 2_000 and bool(dm[-1] > 2 * dm[lowest])
    falls = bool((np.diff(ours) < 0).mean() >= 0.8)
    end, (name, theirs) = _get(results, task, RNNPROP), _best(results, task)
    overtaken = verdict(end, theirs) == "lost"
    return Finding(
        _all([rises, falls, overtaken]),
        (
            f"{DM}: the loss is lowest around step {(lowest + 0.5) * window:.0f}, {number(dm[lowest])}, and "
            f"{number(dm[-1])} at the end",
            f"{RNNPROP}: the loss falls in {np.count_nonzero(np.diff(ours) < 0)} of {len(ours) - 1} spans of "
            "1,000 steps",
            f"final loss: {_versus(RNNPROP, end, name, theirs)}",
        ),
    )


def _adams_interval(results: Results) -> Finding:
    task = "mnist-nn-sigmoid-10000"
    ours = _get(results, task, RNNPROP).mean
    by_rate = tuning(results, task, 10_000, "adam")
    if not by_rate:
        raise NotRunError(f"adam's learning rates on {task}")
    better = [rate for rate, loss in by_rate.items() if loss < ours]
    rates = ", ".join(f"{rate:.3g}" for rate in better) or "none"
    evidence = (f"{RNNPROP} {number(ours)}; learning rates at which Adam's tuning runs are below: {rates}",)
    if not better:
        return Finding(IN_PART, evidence)
    low, high = ADAMS_INTERVAL
    there = max(better) >= low and min(better) <= high
    wide = max(better) / min(better)
    return Finding(HOLDS if there and wide <= 4 else IN_PART if wide <= 16 else FAILS, evidence)


def _adam_is_the_best_traditional(results: Results) -> Finding:
    holding, evidence = [], []
    for depth, task in DEPTHS.items():
        adam, (name, best) = _get(results, task, "adam"), _best(results, task)
        holding.append(verdict(adam, best) != "lost")
        best_one = "adam is the best" if name == "adam" else _versus("adam", adam, name, best)
        evidence.append(f"{_layers(depth)}: {best_one}")
    return Finding(_all(holding), tuple(evidence))


def _layers(depth: int) -> str:
    return "1 hidden layer" if depth == 1 else f"{depth} hidden layers"


def _wins_until_none_trains(results: Results) -> Finding:
    holding, evidence = [], []
    for depth, task in DEPTHS.items():
        ours, (name, theirs) = _get(results, task, RNNPROP), _best(results, task)
        evidence.append(f"{_layers(depth)}: {_versus(RNNPROP, ours, name, theirs)}")
        if ours.mean < UNTRAINED or theirs.mean < UNTRAINED:
            holding.append(verdict(ours, theirs) == "won")
    return Finding(_all(holding), tuple(evidence))


def _only_the_best_is_better(results: Results) -> Finding:
    holding, evidence = [], []
    for task in CNNS[1:3]:
        ours = _get(results, task, RNNPROP)
        rivals = {name: _get(results, task, name) for name in TRADITIONAL}
        better = [name for name, one in rivals.items() if verdict(ours, one) == "lost"]
        # A wide interval is no evidence for RNNprop.
        tied = [name for name, one in rivals.items() if name not in better and one.mean < ours.mean]
        holding.append(len(better + tied) <= 1)
        listed = (
            ", ".join(f"{name} {number(rivals[name].mean)}" for name in names) or "none"
            for names in (better, tied)
        )
        evidence.append(
            "{}: {} {}; better: {}; lower but tied: {}".format(task, RNNPROP, number(ours.mean), *listed)
        )
    return Finding(_all(holding), tuple(evidence))


def _random_scaling_matters_most(results: Results) -> Finding:
    """RNNprop loses by its absence, more than by that of the convex part or of its own inputs and bound.

    The paper's DMoptimizers differ in both tricks, so their pair says less.
    """
    found = {name: _get(results, RELU, name, FIGURE_9_STEPS) for name in FIGURE_9}
    pairs = (
        (RNNPROP_5000, NO_SCALING),
        (NO_CONVEX_5000, NO_SCALING),
        (DM_TRICKS, NO_SCALING),
        (DM_TRICKS, DM),
    )
    holding = [verdict(found[better], found[worse]) == "won" for better, worse in pairs]
    return Finding(_all(holding), tuple(f"{name} {number(one.mean)}" for name, one in found.items()))


def _fewer_iterations_with_the_convex_part(results: Results) -> Finding:
    """RNNprop's checkpoint after fewer iterations is not worse than the control's best one."""
    holding, evidence = [], []
    for task in (BASE, RELU):
        ours, theirs = (
            {k: _get(results, task, at_iteration(name, k)) for k in TABLE_4_ITERATIONS}
            for name in (RNNPROP, NO_CONVEX)
        )
        best = min(theirs, key=lambda k: theirs[k].mean)
        fewer = [one for k, one in ours.items() if k < best or k == TABLE_4_ITERATIONS[0]]
        holding.append(any(verdict(one, theirs[best]) != "lost" for one in fewer))
        with_it, without = (
            ", ".join(f"{number(one.mean)} after {k:,}" for k, one in found.items())
            for found in (ours, theirs)
        )
        evidence.append(f"{task}: with the convex part {with_it}; without it {without}")
    return Finding(_all(holding), tuple(evidence))


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "5.1",
        "On the base MLP for 100 steps both learned optimizers beat all traditional ones.",
        _both_beat_all_on_the_base_mlp,
    ),
    Claim("5.1", "There DMoptimizer is the better of the two.", _dm_is_better_where_it_was_trained),
    Claim(
        "5.1", "For 2,000 steps RNNprop is comparable with them and DMoptimizer fails.", _comparable_at_2000
    ),
    Claim(
        "5.1",
        "In 10,000 steps DMoptimizer's loss rises after about 400; RNNprop's keeps falling, and traditional "
        "ones overtake it.",
        _long_run,
    ),
    Claim(
        "5.1",
        "After 10,000 steps Adam wins only at rates in a narrow interval, 0.004 to 0.01.",
        _adams_interval,
    ),
    Claim(
        "5.1",
        "On other optimizees RNNprop's ability for longer horizons is similar (here: two, 2,000 steps).",
        lambda results: _comparable(results, RNNPROP, OTHER_OPTIMIZEES, OTHER_OPTIMIZEES_STEPS),
    ),
    Claim(
        "5.2",
        "RNNprop beats the traditional optimizers on all four activations.",
        lambda results: _beats_best(results, RNNPROP, ACTIVATIONS),
    ),
    Claim(
        "5.2",
        "DMoptimizer fails on ReLU and ELU (Table 2).",
        lambda results: _fails(results, DM, ACTIVATIONS[1:3]),
    ),
    Claim("5.3", "RNNprop wins at every depth until no optimizer trains.", _wins_until_none_trains),
    Claim("5.3", "Adam is the best of the traditional ones at every depth.", _adam_is_the_best_traditional),
    Claim(
        "5.4.1",
        "RNNprop beats them on c-c-p-f on MNIST.",
        lambda results: _beats_best(results, RNNPROP, CNNS[:1]),
    ),
    Claim(
        "5.4.1", "On the other two CNNs only the best traditional one is better.", _only_the_best_is_better
    ),
    Claim("5.4.1", "DMoptimizer fails on all CNNs.", lambda results: _fails(results, DM, CNNS[:3])),
    Claim(
        "5.4.2",
        "RNNprop is comparable or better on the sine LSTMs.",
        lambda results: _comparable(results, RNNPROP, SINES),
    ),
    Claim("5.4.2", "DMoptimizer fails there.", lambda results: _fails(results, DM, SINES)),
    Claim("5.5", "Random Scaling is the most effective trick.", _random_scaling_matters_most),
    Claim(
        "5.5",
        "With the convex part fewer iterations of meta-training suffice.",
        _fewer_iterations_with_the_convex_part,
    ),
)


def check(claim: Claim, results: Results) -> Finding:
    """What the runs say of the claim."""
    try:
        return claim.check(results)
    except NotRunError as missing:
        return Finding(NOT_RUN, (f"missing: {missing}",))
