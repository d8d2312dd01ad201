"""The paper's figures from the runs. Reads results only."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from trainer.evaluation.results import Results
from trainer.evaluation.summary import NotRunError, mean_curve, reported, summary, tuning
from trainer.paper.experiments import (
    ADAM_DEFAULT,
    BASE,
    BEYOND,
    CNNS,
    DEFAULT,
    DEPTHS,
    DM,
    DM_TRICKS,
    FIGURE_9,
    FIGURE_9_STEPS,
    KERAS_MODEL_OPTIMIZERS,
    NO_CONVEX,
    NO_CONVEX_5000,
    NO_SCALING,
    RELU,
    RNNPROP,
    RNNPROP_5000,
    TRADITIONAL,
    Block,
)
from trainer.problems.catalog import PAPER_TASKS

COLOURS: Mapping[str, str] = {
    RNNPROP: "tab:red",
    DM: "black",
    NO_SCALING: "tab:orange",
    NO_CONVEX: "tab:pink",
    DM_TRICKS: "tab:gray",
    RNNPROP_5000: "tab:red",
    NO_CONVEX_5000: "tab:pink",
    "adam": "tab:blue",
    "rmsprop": "tab:green",
    "adagrad": "tab:purple",
    "adadelta": "tab:cyan",
    "momentum": "tab:olive",
    "sgd": "tab:brown",
}
CEILING = 4.0
"""Curves are shown up to this many times the untrained loss; DMoptimizer's leave every scale."""


def _curves(axes: Axes, results: Results, task: str, optimizers: Sequence[str], steps: int = 0) -> None:
    """Mean loss by step, smoothed over windows of half a per cent of the run."""
    steps = steps or PAPER_TASKS[task].steps
    window = max(1, steps // 200)
    start = highest = 0.0
    for name in optimizers:
        try:
            curve = mean_curve(results, task, steps, name, window)
        except NotRunError:
            continue
        found = summary(results, task, steps, name)
        label = f"{name} {found.rate:.3g}" if found and name in TRADITIONAL else name
        x = (np.arange(len(curve)) + 0.5) * window
        axes.plot(x, curve, label=label, color=COLOURS[name], lw=1.6 if name not in TRADITIONAL else 0.9)
        start, highest = max(start, float(curve[0])), max(highest, float(np.nanmax(curve)))
    # The scale first: limits taken on a linear axis reach below zero.
    axes.set(title=f"{task}, {steps:,} steps", xlabel="step", ylabel="loss", yscale="log")
    if highest > CEILING * start:
        axes.set_ylim(top=CEILING * start)
    if axes.lines:
        axes.legend(fontsize=6, loc="upper right")


def _panels(results: Results, tasks: Sequence[str]) -> Figure:
    figure, grid = plt.subplots(
        1, len(tasks), figsize=(4.2 * len(tasks), 3.4), squeeze=False, layout="constrained"
    )
    for axes, task in zip(grid[0], tasks, strict=True):
        _curves(axes, results, task, (RNNPROP, DM, *TRADITIONAL))
    return figure


def figure2(results: Results) -> Figure:
    """The base MLP for 2,000 and 10,000 steps."""
    return _panels(results, ["mnist-nn-sigmoid-2000", "mnist-nn-sigmoid-10000"])


def figure3(results: Results) -> Figure:
    """Final loss after 10,000 steps by learning rate; RNNprop's as a dashed line."""
    figure, axes = plt.subplots(figsize=(5, 3.6))
    task, steps = "mnist-nn-sigmoid-10000", 10_000
    for name in TRADITIONAL:
        if by_rate := tuning(results, task, steps, name):
            axes.plot(*zip(*by_rate.items(), strict=True), "o-", ms=2, color=COLOURS[name], label=name)
    if ours := summary(results, task, steps, RNNPROP):
        axes.axhline(ours.mean, ls="--", color=COLOURS[RNNPROP], label=RNNPROP)
    axes.set(title=task, xlabel="learning rate", ylabel="final loss", xscale="log", yscale="log")
    axes.legend(fontsize=6)
    return figure


def figure4(results: Results) -> Figure:
    """ReLU."""
    return _panels(results, [RELU])


def figure5(results: Results) -> Figure:
    """Five hidden layers."""
    return _panels(results, [DEPTHS[5]])


def figure6(results: Results) -> Figure:
    """Final loss by the number of hidden layers."""
    figure, axes = plt.subplots(figsize=(5, 3.6))
    for name in (RNNPROP, DM, "adam"):
        found = {d: summary(results, task, PAPER_TASKS[task].steps, name) for d, task in DEPTHS.items()}
        if points := [(depth, *one.interval) for depth, one in found.items() if one]:
            depth, mean, low, high = np.array(points).T
            axes.plot(depth, mean, "o-", ms=3, label=name, color=COLOURS[name])
            axes.fill_between(depth, low, high, alpha=0.3, color=COLOURS[name])
    axes.set(xlabel="hidden layers", ylabel="final loss after 100 steps", ylim=(0, 3.0))
    axes.legend(fontsize=7)
    return figure


def figure7(results: Results) -> Figure:
    """The four convolutional networks."""
    return _panels(results, CNNS)


def figure8(results: Results) -> Figure:
    """The sine LSTM."""
    return _panels(results, ["sin_lstm"])


def figure9(results: Results) -> Figure:
    """The controls on ReLU for 1,000 steps."""
    figure, axes = plt.subplots(figsize=(5, 3.6))
    _curves(axes, results, RELU, FIGURE_9, FIGURE_9_STEPS)
    return figure


def learned_update(npz: bytes) -> Figure:
    """The direction by m~ and g~: RNNprop's fresh and used, Adam's and RMSprop's in the same terms.

    Dots: all that a first step can meet.
    """
    with np.load(io.BytesIO(npz)) as maps:
        m_axis, g_axis, fresh, used = (maps[name] for name in ("m", "g", "fresh", "used"))
    m, g = np.meshgrid(m_axis, g_axis, indexing="ij")
    shown = {
        "RNNprop, first step": fresh,
        "RNNprop, after 50 steps": used,
        "Adam: -m~": -m,
        "RMSprop: -g~": -g,
    }
    figure, grid = plt.subplots(1, len(shown), figsize=(3.1 * len(shown), 3.1), layout="constrained")
    for axes, (title, values) in zip(grid, shown.items(), strict=True):
        limit = np.abs(values).max()
        image = axes.pcolormesh(g_axis, m_axis, values, cmap="RdBu", vmin=-limit, vmax=limit, rasterized=True)
        axes.set(title=title, xlabel="g~", ylabel="m~")
        figure.colorbar(image, ax=axes)
    grid[0].plot([-1, 1], [-1, 1], "k.", clip_on=False)
    return figure


def validation_models(results: Results) -> Figure:
    """The Keras models by which weights are chosen."""
    return keras_models(results, "keras-models")


def test_models(results: Results) -> Figure:
    """The Keras models looked at once."""
    return keras_models(results, "keras-models-test")


def models_held_back(results: Results) -> Figure:
    """The Keras models looked at once, when all else was decided."""
    return keras_models(results, "keras-models-held-back")


def keras_models(results: Results, experiment: str) -> Figure:
    """Validation loss by seconds of training, of the longest runs of each Keras model."""
    longest = {block.task: block.steps for block in BEYOND[experiment] if _there(results, block)}
    columns = min(max(len(longest), 1), 4)
    lines = math.ceil(max(len(longest), 1) / columns)
    figure, grid = plt.subplots(
        lines, columns, figsize=(3.4 * columns, 3.0 * lines), squeeze=False, layout="constrained"
    )
    for unused in grid.flat[max(len(longest), 1) :]:
        unused.remove()
    for axes, (task, steps) in zip(grid.flat, longest.items(), strict=False):
        for name in KERAS_MODEL_OPTIMIZERS:
            if rows := reported(results, task, steps, name):
                curves = results.curves(rows)
                seconds, loss = (curves[column].mean(axis=0) for column in ("seconds", "validation_loss"))
                axes.plot(seconds, loss, "o-", ms=2, label=name)
        axes.set(title=f"{task}, {steps:,} steps", xlabel="seconds", xscale="log", yscale="log")
        axes.xaxis.set_minor_formatter(NullFormatter())  # within one decade the labels overlap
        axes.title.set_fontsize(8)
    for axes in grid[:, 0]:
        axes.set_ylabel("validation loss")
    grid[0][0].legend(fontsize=6)
    return figure


HEADLINE: Mapping[str, str] = {
    BASE: "MLP on MNIST",
    CNNS[0]: "CNN on MNIST",
    "sin_lstm-x2": "two-layer LSTM on noisy sines",
}
"""Tasks of the headline figure and what they are."""
HEADLINE_OPTIMIZERS: Mapping[str, tuple[str, str]] = {
    ADAM_DEFAULT: ("Adam, default learning rate 0.001", "tab:gray"),
    "adam": ("Adam, learning rate tuned for each task", "tab:blue"),
    DEFAULT: (f"RNNprop ({DEFAULT}), nothing tuned", "tab:red"),
}
"""Optimizers of the headline figure: label and colour."""


def headline(results: Results) -> Figure:
    """Mean loss by step of the default weights beside Adam, untuned and tuned."""
    figure, grid = plt.subplots(1, len(HEADLINE), figsize=(10.5, 3.4), layout="constrained")
    for axes, (task, title) in zip(grid, HEADLINE.items(), strict=True):
        for name, (label, colour) in HEADLINE_OPTIMIZERS.items():
            try:
                curve = mean_curve(results, task, PAPER_TASKS[task].steps, name, window=1)
            except NotRunError:
                continue
            axes.plot(curve, label=label, color=colour, lw=2.4 if name == DEFAULT else 1.6)
        axes.set_title(title, fontsize=12)
        axes.set_yscale("log")
        axes.set_xlabel("step", fontsize=11)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(which="both", labelsize=10)
        axes.grid(which="major", alpha=0.3)
    grid[0].set_ylabel("training loss", fontsize=11)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=11, frameon=False)
    return figure


def _there(results: Results, block: Block) -> bool:
    return bool(reported(results, block.task, block.steps, DEFAULT))


def png(figure: Figure) -> bytes:
    """The picture's bytes; the figure is closed."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    return content.getvalue()
