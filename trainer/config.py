"""What a meta-training run is: one frozen dataclass, and the named presets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from trainer.meta_gradient import Objective
from trainer.problems import catalog

RULES = ("rnnprop", "dm")


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

    rule: str = _setting("rnnprop", "update rule: rnnprop or dm (Andrychowicz et al. 2016)")
    task: str = _setting(
        "mnist-nn-sigmoid-100",
        "optimizee, a name of trainer.problems.catalog; or several, with commas, of which episodes draw one; "
        "NAME:STEPS for one whose episodes are no longer than that, whatever `longest` says",
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
    scaling: float = _setting(3.0, "Random Scaling's log-range L for f (section 4.1); 0 for none")
    mixed_scaling: bool = _setting(
        False,
        "scale by coordinate, by tensor and as a whole, each in some episodes only, up to the log-range",
    )
    convex_dimension: int = _setting(20, "n of the convex function g (section 4.2); 0 for none")
    convex_scaling: float = _setting(1.0, "Random Scaling's log-range L for g; 0 for none")
    tasks: int = _setting(1, "episodes per outer update, side by side")
    alpha: float = _setting(0.1, "learning rate of the rule, the bound on one step, Eq. (7)")
    steps: int = _setting(100, "steps an episode; a multiple of the period")
    longest: int = _setting(
        0, "if above `steps`, episodes are of log-uniform length from `steps` to this, in whole periods"
    )
    period: int = _setting(20, "steps between two outer updates, T of truncated BPTT")
    doubling: bool = _setting(
        False,
        "outer updates at the end of an episode, at half of it, at a quarter and so on, each for all periods "
        "since the one before; the first one for the mean loss, the others for the last",
    )
    loss_weights: str = _setting("last", "the outer loss: last (w_T = 1) or mean (w_t = 1 for all)")
    log_loss: bool = _setting(False, "take the logarithm of the losses")
    last_batches: int = _setting(1, "batches over which the last loss of a period is taken")
    sample: float = _setting(
        0.05, "share of the coordinates that the backward pass replays, in (0, 1]; 1 is exact, each once"
    )
    plain_tape: bool = _setting(
        False, "one tape over the whole unroll, the slow reference, in place of the replay"
    )
    iterations: int = _setting(15_000, "episodes to train for")
    learning_rate: float = _setting(1e-4, "learning rate of the outer Adam")
    cosine_decay: bool = _setting(False, "let the outer learning rate fall to 0 over the run along a cosine")
    clipnorm: float = _setting(0.0, "bound on the meta-gradient's global norm; 0 for none")
    select: str = _setting(
        "train",
        "what makes the best checkpoint: train (lowest moving-average loss) or validation (a plain task)",
    )
    checkpoint_every: int = _setting(1_000, "iterations between two checkpoints")
    seed: int = _setting(0, "of the initial weights, the episodes and the data order")

    def __post_init__(self) -> None:
        for entry in self.entries:
            catalog.task(entry.task)
        self._expect(self.rule in RULES, "rule", f"one of {', '.join(RULES)}")
        self._expect(self.select in ("train", "validation"), "select", "train or validation")
        self._expect(self.loss_weights in ("last", "mean"), "loss_weights", "last or mean")
        for name in ("tasks", "steps", "period", "last_batches", "iterations", "checkpoint_every"):
            self._expect(getattr(self, name) >= 1, name, "at least 1")
        for name in (
            "scaling",
            "convex_dimension",
            "convex_scaling",
            "clipnorm",
            "longest",
            "teacher_warmup",
        ):
            self._expect(0 <= getattr(self, name) < float("inf"), name, "0 or more")
        self._expect(0 <= self.seed < 2**31, "seed", "a number from 0 to 2^31 - 1")
        for name in ("alpha", "learning_rate"):
            self._expect(0 < getattr(self, name) < float("inf"), name, "a positive number")
        self._expect(0 < self.sample <= 1, "sample", "a share above 0, up to 1")
        self._expect(not 0 < self.longest < self.steps, "longest", f"0, or {self.steps} steps or more")
        self._expect(self.steps % self.period == 0, "steps", f"a multiple of the period, {self.period}")
        last = self.loss_weights == "last" and not self.plain_tape
        self._expect(last or not self.doubling, "doubling", "the loss weights last, and no plain tape")
        others = ("doubling", "plain_tape", "log_loss", "convex_dimension")
        alone = not any(getattr(self, name) for name in others) and self.tasks == self.last_batches == 1
        self._expect(
            alone or not self.teacher, "teacher", f"none with {', '.join(others)}, tasks or last_batches"
        )
        self._expect(bool(self.teacher) or not self.teacher_warmup, "teacher_warmup", "0 without a teacher")
        longest = min(entry.longest for entry in self.entries)
        self._expect(longest >= self.steps, "task", f"NAME or NAME:STEPS with {self.steps} steps or more")

    def _expect(self, holds: bool, name: str, expected: str) -> None:
        if not holds:
            raise ValueError(f"{name}: expected {expected}. Received: {getattr(self, name)!r}")

    @property
    def entries(self) -> list[Entry]:
        """The optimizees; one that is named twice is drawn twice as often."""
        longest = max(self.steps, self.longest)
        found = []
        for text in self.task.split(","):
            name, _, own = text.partition(":")
            self._expect(not own or own.isdecimal(), "task", "NAME or NAME:STEPS, with commas between")
            found.append(Entry(name, min(int(own), longest) if own else longest))
        return found

    @property
    def periods(self) -> int:
        """Of the longest episode."""
        return max(self.steps, self.longest) // self.period

    @property
    def objective(self) -> Objective:
        return Objective(
            steps=self.period, weights=self.loss_weights, log=self.log_loss, last_batches=self.last_batches
        )

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> MetaTrainConfig:
        """The inverse of `as_dict`; a setting that is missing, younger than a checkpoint, has its default.

        Raises:
            ValueError: a setting is none of ours, or its value cannot be.
        """
        unknown = sorted(set(settings) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(
                f"The run has settings that this version does not know: {', '.join(unknown)}. "
                "Use the version of rnnprop_tf that began it."
            )
        return cls(**settings)


PAPER_RNNPROP = MetaTrainConfig()
PAPER_DM = MetaTrainConfig(
    rule="dm", scaling=0.0, convex_dimension=0, loss_weights="mean", iterations=5_000, select="validation"
)

# An outer optimizer faster than the paper's, so that an hour on one core is enough.
QUICK: dict[str, Any] = {
    "iterations": 2_000,
    "learning_rate": 1e-3,
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

ON_MIXTURE: dict[str, Any] = {
    "task": ",".join(MIXTURE),
    "initial": "rnnprop-quick",
    "mixed_scaling": True,
    "convex_dimension": 0,
    "steps": 100,
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
    # Many small problems, and episodes of up to 3,200 steps.
    "mixture": dataclasses.replace(
        PAPER_RNNPROP,
        **ON_MIXTURE,
        longest=3_200,
        period=20,
        doubling=True,
        log_loss=True,
        last_batches=8,
        iterations=6_000,
        learning_rate=3e-4,
        checkpoint_every=250,
    ),
    # The steps of rnnprop-quick, but small ones at first.
    "rnnprop-1": dataclasses.replace(
        PAPER_RNNPROP,
        **ON_MIXTURE,
        teacher="rnnprop-quick",
        teacher_warmup=30,
        longest=1_600,
        period=50,
        iterations=1_000,
        learning_rate=1e-3,
        checkpoint_every=100,
    ),
    # What `make demo` does in two minutes.
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
