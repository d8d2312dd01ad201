"""The config of a meta-training run, one frozen dataclass, and the named presets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from rnnprop_tf.network import Architecture
from rnnprop_tf.rule import AnnealingRule, DMRule, RNNpropRule, Rule
from trainer.estimators.base import Objective
from trainer.problems import catalog

RULES: Mapping[str, type[Rule]] = {
    "rnnprop": RNNpropRule,
    "rnnprop-annealing": AnnealingRule,
    "dm": DMRule,
}

RENAMED = {
    "tasks": "meta_batch_size",
    "steps": "episode_steps",
    "longest": "longest_episode",
    "learning_rate": "outer_learning_rate",
}
"""Settings of version 0.1 by the names that they have now; cards and checkpoints still name them so."""
RETIRED = ("doubling", "log_loss")
"""Settings of version 0.1 that are gone; no weights that ship were made with them."""


class Entry(NamedTuple):
    """An optimizee of a run."""

    task: str
    """A name of the catalog."""
    longest: int
    """Steps of its longest episodes."""


def _setting(default: Any, help: str) -> Any:
    """A field whose help is also its command-line flag's."""
    return dataclasses.field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class MetaTrainConfig:
    """A meta-training run. The defaults are the paper's for RNNprop (sections 4 and 5)."""

    rule: str = _setting(
        "rnnprop",
        "update rule: rnnprop, rnnprop-annealing (later steps are shorter) or dm (Andrychowicz et al. 2016); "
        "for dm give --preprocess= too",
    )
    preprocess: str = _setting(
        "20", "units of the network's layers before its LSTM, with commas between; empty for none"
    )
    lstm: str = _setting("20,20", "units of the network's LSTM layers, with commas between, bottom first")
    task: str = _setting(
        "mnist-nn-sigmoid-100",
        "optimizee, a name of trainer.problems.catalog; or several, with commas, of which episodes draw one; "
        "NAME:STEPS for one whose episodes are no longer than that, whatever `longest_episode` says",
    )
    initial: str = _setting("", "weights to begin with, a name or folder; fresh ones by default")
    teacher: str = _setting(
        "",
        "weights whose steps to imitate, a name or folder, in place of making the loss small; the loss shown "
        "is then the sum of two logarithms of relative squared errors, of the steps and of their sums",
    )
    teacher_warmup: int = _setting(
        0, "steps over which what is imitated rises to the teacher's full step, along a line; 0 for none"
    )
    teacher_share: float = _setting(
        0.0,
        "share of the iterations in which the teacher has a part in the steps that are taken; its weight "
        "falls from 1 to 0 along a line; 0 for none",
    )
    scaling: float = _setting(3.0, "Random Scaling's log-range L for f (section 4.1); 0 for none")
    mixed_scaling: bool = _setting(
        False,
        "scale by coordinate, by tensor and as a whole, each in some episodes only, up to the log-range",
    )
    convex_dimension: int = _setting(20, "n of the convex function g (section 4.2); 0 for none")
    convex_scaling: float = _setting(1.0, "Random Scaling's log-range L for g; 0 for none")
    meta_batch_size: int = _setting(1, "episodes per outer update, side by side")
    alpha: float = _setting(0.1, "learning rate of the rule, the bound on one step, Eq. (7)")
    episode_steps: int = _setting(100, "optimizer steps in an episode; a multiple of the period")
    longest_episode: int = _setting(
        0,
        "if above `episode_steps`, episodes are of log-uniform length from that to this, in whole periods",
    )
    period: int = _setting(20, "steps between two outer updates, T of truncated BPTT")
    loss_weights: str = _setting("last", "the outer loss: last (w_T = 1) or mean (w_t = 1 for all)")
    last_batches: int = _setting(1, "batches over which the last loss of a period is taken")
    sample: float = _setting(
        0.05, "share of the coordinates that the backward pass replays, in (0, 1]; 1 is exact, each once"
    )
    plain_tape: bool = _setting(
        False, "one tape over the whole unroll, the slow reference, in place of the replay"
    )
    evolution_pairs: int = _setting(
        0,
        "pairs of perturbed weights whose losses are compared over whole episodes, in place of a gradient; "
        "on one replica; the loss shown is then the mean logarithm of the problems' losses; 0 for none",
    )
    evolution_deviation: float = _setting(0.02, "standard deviation of a weight's perturbation")
    iterations: int = _setting(15_000, "episodes to train for")
    outer_learning_rate: float = _setting(1e-4, "learning rate of the outer Adam")
    cosine_decay: bool = _setting(False, "let the outer learning rate fall to 0 over the run along a cosine")
    clipnorm: float = _setting(0.0, "bound on the meta-gradient's global norm; 0 for none")
    select: str = _setting(
        "train",
        "what makes the best checkpoint: train (lowest moving-average loss) or validation (a plain task)",
    )
    checkpoint_every: int = _setting(1_000, "iterations between two checkpoints")
    seed: int = _setting(0, "seed of the initial weights, the episodes and the data order")

    def __post_init__(self) -> None:
        for entry in self.entries:
            catalog.task(entry.task)
        self._expect(self.rule in RULES, "rule", f"one of {', '.join(RULES)}")
        for name, fewest in (("preprocess", 0), ("lstm", 1)):
            layers = "layers of 1 or more units, such as 20,20"
            expected = layers if fewest else f"{layers}, or nothing for none"
            self._expect(len(self._units(name, expected)) >= fewest, name, expected)
        self._expect(self.select in ("train", "validation"), "select", "train or validation")
        self._expect(self.loss_weights in ("last", "mean"), "loss_weights", "last or mean")
        for name in ("meta_batch_size", "episode_steps", "period", "last_batches", "iterations"):
            self._expect(getattr(self, name) >= 1, name, "at least 1")
        self._expect(self.checkpoint_every >= 1, "checkpoint_every", "at least 1")
        for name in ("scaling", "convex_dimension", "convex_scaling", "clipnorm", "longest_episode"):
            self._expect(0 <= getattr(self, name) < float("inf"), name, "0 or more")
        self._expect(0 <= self.seed < 2**31, "seed", "a number from 0 to 2^31 - 1")
        self._expect(self.evolution_pairs >= 0, "evolution_pairs", "0 or more")
        self._expect(1e-6 <= self.evolution_deviation <= 1, "evolution_deviation", "from 1e-6 to 1")
        for name in ("alpha", "outer_learning_rate"):
            self._expect(0 < getattr(self, name) < float("inf"), name, "a positive number")
        self._expect(0 < self.sample <= 1, "sample", "a share above 0, up to 1")
        longest = self.longest_episode
        self._expect(
            not 0 < longest < self.episode_steps, "longest_episode", f"0, or {self.episode_steps} or more"
        )
        whole = self.episode_steps % self.period == 0
        self._expect(whole, "episode_steps", f"a multiple of the period, {self.period}")
        longest = min(entry.longest for entry in self.entries)
        steps = self.episode_steps
        self._expect(longest >= steps, "task", f"NAME or NAME:STEPS with {steps} steps or more")
        self._check_teacher()
        if self.evolution_pairs:
            simple = not (self.teacher or self.plain_tape) and self.meta_batch_size == 1
            expected = "0 with a teacher, plain_tape, a meta_batch_size above 1 or several replicas"
            self._expect(simple, "evolution_pairs", expected)

    def _check_teacher(self) -> None:
        self._expect(self.teacher_warmup >= 0, "teacher_warmup", "0 or more")
        self._expect(0 <= self.teacher_share <= 1, "teacher_share", "a share from 0 to 1")
        if not self.teacher:
            for name in ("teacher_warmup", "teacher_share"):
                self._expect(not getattr(self, name), name, "0 without a teacher")
            return
        needed = {
            "--noplain_tape": not self.plain_tape,
            "--convex_dimension=0": not self.convex_dimension,
            "--meta_batch_size=1": self.meta_batch_size == 1,
            "--last_batches=1": self.last_batches == 1,
        }
        missing = " ".join(flag for flag, given in needed.items() if not given)
        others = "plain_tape, convex_dimension, meta_batch_size or last_batches"
        self._expect(not missing, "teacher", f"none with {others}; for one give {missing}")

    def _units(self, name: str, expected: str) -> tuple[int, ...]:
        """The units of the layers that a setting names."""
        words = [word.strip() for word in getattr(self, name).split(",")] if getattr(self, name) else []
        self._expect(all(word.isdecimal() and int(word) > 0 for word in words), name, expected)
        return tuple(map(int, words))

    def _expect(self, holds: bool, name: str, expected: str) -> None:
        if not holds:
            raise ValueError(f"{name}: expected {expected}. Received: {getattr(self, name)!r}")

    @property
    def entries(self) -> list[Entry]:
        """The optimizees; one that is named twice is drawn twice as often."""
        longest = max(self.episode_steps, self.longest_episode)
        found = []
        for text in self.task.split(","):
            name, colon, own = text.partition(":")
            self._expect(not colon or own.isdecimal(), "task", "NAME or NAME:STEPS, with commas between")
            found.append(Entry(name, min(int(own), longest) if own else longest))
        return found

    @property
    def longest_periods(self) -> int:
        """Periods in the longest episode."""
        return max(self.episode_steps, self.longest_episode) // self.period

    @property
    def objective(self) -> Objective:
        """The objective of a period."""
        return Objective(period=self.period, weights=self.loss_weights, last_batches=self.last_batches)

    @property
    def update_rule(self) -> Rule:
        """The rule, with its default hyperparameters, which for the paper's rules are the paper's."""
        return RULES[self.rule]()

    @property
    def architecture(self) -> Architecture:
        """Sizes of the rule's network."""
        preprocess, lstm = (self._units(name, "layers of units") for name in ("preprocess", "lstm"))
        return Architecture(self.update_rule.inputs_size, preprocess, lstm)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> MetaTrainConfig:
        """The inverse of `as_dict`, for settings of earlier versions too.

        A setting that is missing, younger than a checkpoint, has its default; one that is gone is left out.

        Raises:
            ValueError: a setting is none of ours, or its value cannot be.
        """
        named = {RENAMED.get(name, name): value for name, value in settings.items() if name not in RETIRED}
        if "preprocess" not in named and named.get("rule") == "dm":
            named["preprocess"] = ""  # In version 0.1 the rule decided.
        unknown = sorted(set(named) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(
                f"The run has settings that this version does not know: {', '.join(unknown)}. "
                "Use the version of rnnprop_tf that began it."
            )
        return cls(**named)

    def check_continues(self, settings: Mapping[str, Any]) -> None:
        """Checks that a run whose checkpoint names these settings goes on as one of this config.

        Raises:
            ValueError: it does not. Only `iterations` may have grown, and not with `cosine_decay` or
                `teacher_share`.
        """
        if gone := [name for name in RETIRED if settings.get(name)]:
            raise ValueError(
                f"The run was started with settings that this version does not have: {', '.join(gone)}. "
                "Use version 0.1 of rnnprop_tf, or name another folder for a new run."
            )
        saved = MetaTrainConfig.from_dict(settings)
        ours, theirs = self.as_dict(), saved.as_dict()
        differing = [name for name in ours if ours[name] != theirs[name]]
        if differing == ["iterations"] and self.iterations > saved.iterations:
            if not (self.cosine_decay or self.teacher_share):
                return
            reason = "the cosine decay of this run's learning rate ended there"
            if not self.cosine_decay:
                reason = "the teacher's share in this run's steps was measured by them"
            raise ValueError(
                f"iterations: expected {saved.iterations}, as {reason}. Received: {self.iterations}. "
                "Name another folder for a new run."
            )
        if differing:
            raise ValueError(
                "The run to be resumed was started with another config: "
                + "; ".join(f"{name} was {theirs[name]!r}, is {ours[name]!r}" for name in differing)
                + ". Give the same settings (iterations may be more), or another folder for a new run."
            )


PAPER_RNNPROP = MetaTrainConfig()
PAPER_DM = MetaTrainConfig(
    rule="dm",
    preprocess="",
    scaling=0.0,
    convex_dimension=0,
    loss_weights="mean",
    iterations=5_000,
    select="validation",
)

# An outer optimizer faster than the paper's, so that an hour on one core is enough.
QUICK: dict[str, Any] = {
    "iterations": 2_000,
    "outer_learning_rate": 1e-3,
    "cosine_decay": True,
    "clipnorm": 1.0,
    "last_batches": 4,
    "checkpoint_every": 250,
}

# Besides the base MLP for 100 steps nothing of the paper's 22 tasks, and no CIFAR-10 in any form.
MIXTURE = (
    "mnist-nn-sigmoid-100:100",
    "mnist-nn-sigmoid-100:100",
    "mnist-pool2-nn-sigmoid-100",
    "mnist-pool4-nn-sigmoid-100",
    "mnist-pool4-nn-relu-100",
    "mnist-pool4-nn-relu-b16-100",
    "mnist-pool4-nn-l2-tanh-b64-100",
    "mnist-pool4-nn-l3-sigmoid-100",
    "mnist-pool4-nn-l5-sigmoid-100",
    "mnist-pool2-nn-l2-relu-b64-100",
    "digits-nn-wide-relu-b64-100:100",
    "digits-nn-elu-b32-100:800",
    "mnist-pool4-cnn-100:800",
    "mnist-pool2-cnn-100:400",
    "mnist-pool2-cnn-wide-100:100",
    "mnist-pool2-cnn-fc2-100:400",
    "digits-cnn-fc2-100:400",
    "mnist-pool4-lstm-100",
    "digits-lstm-l2-b32-100:800",
)

# With the Keras layers of `LAYER_TASKS`; the lengths keep an episode of the slow ones to some ten seconds.
WIDE_MIXTURE = (
    "mnist-nn-sigmoid-100:200",
    "mnist-pool2-nn-sigmoid-100:600",
    "mnist-pool4-nn-sigmoid-100",
    "mnist-pool4-nn-relu-100",
    "mnist-pool4-nn-relu-b16-100",
    "mnist-pool4-nn-l2-tanh-b64-100",
    "mnist-pool4-nn-l3-sigmoid-100:1600",
    "mnist-pool4-nn-l5-sigmoid-100:1600",
    "mnist-pool2-nn-l2-relu-b64-100:1200",
    "digits-nn-wide-relu-b64-100:800",
    "digits-nn-elu-b32-100",
    "mnist-pool4-cnn-100:200",
    "mnist-pool2-cnn-100:100",
    "digits-cnn-fc2-100:100",
    "mnist-pool4-lstm-100:800",
    "digits-lstm-l2-b32-100:400",
    "digits-logistic-b8-100",
    "digits-dense-b4-100",
    "digits-dense-l5-b32-100",
    "digits-batch-norm-b32-100",
    "digits-residual-b16-100",
    "digits-attention-b32-100:1200",
    "digits-conv-batch-norm-b32-100:200",
    "digits-autoencoder-b32-100",
    "table-relu-b16-100",
    "table-relu-b1-100",
    "table-tanh-b64-100",
    "sentences-bag-b32-100",
    "sentences-lstm-b16-100:800",
    "neighbours-pairs-b64-100",
    "chain-gru-b32-100:800",
    "digits-residual-b16-continued-50:400",
    "sentences-bag-b32-continued-50:400",
    "table-relu-b16-continued-50:400",
)

ON_MIXTURE: dict[str, Any] = {
    "task": ",".join(MIXTURE),
    "initial": "rnnprop-quick",
    "mixed_scaling": True,
    "convex_dimension": 0,
    "episode_steps": 100,
    "sample": 0.1,
    "cosine_decay": True,
    "clipnorm": 1.0,
}

PRESETS: dict[str, MetaTrainConfig] = {
    # The paper's recipe to the letter, but for the backward pass on a sample of the coordinates.
    "paper-rnnprop": PAPER_RNNPROP,
    "paper-rnnprop-no-scaling": dataclasses.replace(
        PAPER_RNNPROP, scaling=0.0, convex_scaling=0.0, iterations=5_000
    ),
    "paper-rnnprop-no-convex": dataclasses.replace(PAPER_RNNPROP, convex_dimension=0),
    "paper-dm": PAPER_DM,
    "paper-dm-tricks": dataclasses.replace(PAPER_DM, scaling=3.0, convex_dimension=20, select="train"),
    # The smaller, equal budget at which several seeds are compared.
    "quick-rnnprop": dataclasses.replace(PAPER_RNNPROP, **QUICK),
    "quick-rnnprop-no-scaling": dataclasses.replace(PAPER_RNNPROP, **QUICK, scaling=0.0, convex_scaling=0.0),
    "quick-dm": dataclasses.replace(PAPER_DM, **QUICK),
    # The steps of rnnprop-quick, but small ones at first.
    "rnnprop-1": dataclasses.replace(
        PAPER_RNNPROP,
        **ON_MIXTURE,
        teacher="rnnprop-quick",
        teacher_warmup=30,
        longest_episode=1_600,
        period=50,
        iterations=1_000,
        outer_learning_rate=1e-3,
        checkpoint_every=100,
    ),
    # A small network that makes the steps of its teacher: for later weights give another one.
    "small": dataclasses.replace(
        PAPER_RNNPROP,
        **(ON_MIXTURE | {"initial": ""}),
        preprocess="4",
        lstm="4",
        teacher="rnnprop-1",
        longest_episode=1_600,
        period=50,
        iterations=3_000,
        outer_learning_rate=2e-3,
        checkpoint_every=500,
    ),
    # Small weights that go on by what whole episodes end at.
    "evolved": dataclasses.replace(
        PAPER_RNNPROP,
        **(ON_MIXTURE | {"task": ",".join(WIDE_MIXTURE), "initial": "rnnprop-1-small", "clipnorm": 0.0}),
        preprocess="4",
        lstm="4",
        evolution_pairs=8,
        evolution_deviation=0.002,
        loss_weights="mean",
        longest_episode=2_400,
        period=50,
        iterations=1_500,
        checkpoint_every=100,
    ),
    # The run of `make demo`, two minutes.
    "demo": dataclasses.replace(
        PAPER_RNNPROP,
        **(
            QUICK
            | {"task": "digits-nn-sigmoid-100", "iterations": 650, "sample": 0.5, "checkpoint_every": 50}
        ),
    ),
}


def preset(name: str) -> MetaTrainConfig:
    """The preset of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in PRESETS:
        raise ValueError(f"No preset named {name!r}. Expected one of {', '.join(PRESETS)}.")
    return PRESETS[name]
