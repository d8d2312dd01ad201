"""Imports follow the arrows: the table says what each module may import, and no module is missing in it.

Rows refer to packages and to modules of earlier rows, so data flows one way and there are no cycles. The
standard library is free for all. A new module fails until it has a row; a row may wait for its module.
"""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

ALLOWED = {
    # What a user installs: needs tensorflow, keras, numpy and safetensors, and never `trainer`.
    "rnnprop_tf.hub": "huggingface_hub",
    "rnnprop_tf.network": "keras numpy",
    "rnnprop_tf.rule": "keras numpy rnnprop_tf.network",
    "rnnprop_tf.state_types": "keras rnnprop_tf.network",
    "rnnprop_tf.files": "keras tensorflow",
    "rnnprop_tf.pretrained": "keras numpy safetensors rnnprop_tf.files rnnprop_tf.hub rnnprop_tf.network"
    " rnnprop_tf.rule rnnprop_tf.state_types",
    "rnnprop_tf.network_config": "numpy rnnprop_tf.network rnnprop_tf.pretrained",
    "rnnprop_tf.environment": "keras",
    "rnnprop_tf.layout": "keras rnnprop_tf.network rnnprop_tf.rule",
    "rnnprop_tf.rows": "tensorflow rnnprop_tf.network",
    "rnnprop_tf.compute": "keras numpy tensorflow rnnprop_tf.layout rnnprop_tf.network rnnprop_tf.rows"
    " rnnprop_tf.rule rnnprop_tf.state_types",
    "rnnprop_tf.averaging": "keras rnnprop_tf.network",
    # The common class knows no backend; each backend's module knows one.
    "rnnprop_tf.learned": "keras numpy rnnprop_tf.network rnnprop_tf.rule rnnprop_tf.pretrained"
    " rnnprop_tf.network_config rnnprop_tf.environment rnnprop_tf.averaging rnnprop_tf.state_types",
    "rnnprop_tf.backends.tensorflow": "keras tensorflow rnnprop_tf.averaging rnnprop_tf.compute"
    " rnnprop_tf.layout rnnprop_tf.learned rnnprop_tf.network rnnprop_tf.rows rnnprop_tf.rule",
    "rnnprop_tf.backends.jax": "jax keras rnnprop_tf.layout rnnprop_tf.learned rnnprop_tf.network"
    " rnnprop_tf.rule rnnprop_tf.state_types",
    "rnnprop_tf.backends.torch": "keras torch rnnprop_tf.layout rnnprop_tf.learned rnnprop_tf.network"
    " rnnprop_tf.rule rnnprop_tf.state_types",
    "rnnprop_tf.backends": "keras rnnprop_tf.environment rnnprop_tf.backends.tensorflow"
    " rnnprop_tf.backends.jax rnnprop_tf.backends.torch",
    "rnnprop_tf.batch_norm": "keras numpy rnnprop_tf.backends",
    "rnnprop_tf.optimizer": "keras rnnprop_tf.network rnnprop_tf.rule rnnprop_tf.pretrained"
    " rnnprop_tf.backends rnnprop_tf.learned rnnprop_tf.state_types",
    "rnnprop_tf.loss_scale": "keras",
    "rnnprop_tf.profile": "keras numpy rnnprop_tf.backends rnnprop_tf.learned rnnprop_tf.optimizer",
    "rnnprop_tf.callbacks": "keras tensorflow rnnprop_tf.layout rnnprop_tf.learned rnnprop_tf.network"
    " rnnprop_tf.rule rnnprop_tf.state_types",
    "rnnprop_tf": "rnnprop_tf.network rnnprop_tf.rule rnnprop_tf.pretrained rnnprop_tf.optimizer"
    " rnnprop_tf.environment rnnprop_tf.batch_norm rnnprop_tf.loss_scale rnnprop_tf.profile"
    " rnnprop_tf.callbacks",
    # Problems and their data: no rule in sight.
    "trainer": "",
    "trainer.files": "numpy tensorflow",
    "trainer.datasets": "numpy sklearn tensorflow tensorflow_datasets trainer.files",
    "trainer.problems": "",
    "trainer.problems.base": "numpy tensorflow",
    "trainer.problems.mlp": "numpy tensorflow trainer.datasets trainer.problems.base",
    "trainer.problems.cnn": "numpy tensorflow trainer.datasets trainer.problems.base",
    "trainer.problems.lstm": "numpy tensorflow trainer.datasets trainer.problems.base",
    "trainer.problems.convex": "numpy tensorflow trainer.problems.base",
    "trainer.problems.tricks": "numpy tensorflow trainer.problems.base",
    "trainer.problems.layers": "keras numpy tensorflow trainer.datasets trainer.problems.base",
    "trainer.problems.catalog": "keras trainer.datasets trainer.problems.base trainer.problems.mlp"
    " trainer.problems.cnn trainer.problems.lstm trainer.problems.convex trainer.problems.tricks"
    " trainer.problems.layers",
    # The Keras models that weights are judged by.
    "trainer.keras_models": "",
    "trainer.keras_models.data": "matplotlib numpy sklearn tensorflow trainer.datasets",
    "trainer.keras_models.models": "keras numpy trainer.keras_models.data",
    "trainer.keras_models.catalog": "keras trainer.keras_models.data trainer.keras_models.models",
    # Where rules meet problems, and what stands on it.
    "trainer.unroll": "numpy tensorflow rnnprop_tf.network rnnprop_tf.rule trainer.problems.base",
    # Ways to estimate the outer gradient: one interface, a module each.
    "trainer.estimators": "",
    "trainer.estimators.base": "numpy tensorflow rnnprop_tf.network rnnprop_tf.rule trainer.problems.base"
    " trainer.unroll",
    "trainer.estimators.tape": "tensorflow trainer.estimators.base trainer.problems.base trainer.unroll",
    "trainer.estimators.replay": "tensorflow rnnprop_tf.network rnnprop_tf.rule trainer.estimators.base"
    " trainer.problems.base trainer.unroll",
    "trainer.estimators.evolution": "tensorflow rnnprop_tf.network trainer.estimators.base"
    " trainer.problems.base trainer.unroll",
    "trainer.estimators.imitation": "tensorflow rnnprop_tf.network rnnprop_tf.rule trainer.estimators.base"
    " trainer.estimators.replay trainer.problems.base trainer.unroll",
    "trainer.config": "rnnprop_tf.network rnnprop_tf.rule trainer.problems.catalog trainer.estimators.base",
    "trainer.estimators.catalog": "tensorflow rnnprop_tf.pretrained trainer.config trainer.estimators.base"
    " trainer.estimators.tape trainer.estimators.replay trainer.estimators.imitation"
    " trainer.estimators.evolution",
    "trainer.checkpoint": "numpy safetensors tensorflow rnnprop_tf.network trainer.config trainer.files",
    # Evaluation: runs are computed, then read.
    "trainer.evaluation": "",
    "trainer.evaluation.runner": "numpy",
    "trainer.evaluation.unrolled_runner": "keras numpy tensorflow rnnprop_tf.network rnnprop_tf.rule"
    " trainer.problems.base trainer.unroll trainer.evaluation.runner",
    "trainer.evaluation.fit_runner": "keras numpy tensorflow trainer.keras_models.catalog"
    " trainer.keras_models.data trainer.evaluation.runner",
    "trainer.evaluation.rivals": "keras rnnprop_tf.averaging",
    "trainer.evaluation.baselines": "keras numpy trainer.evaluation.rivals",
    "trainer.evaluation.block": "trainer.evaluation.baselines",
    "trainer.evaluation.results": "numpy tensorflow trainer.files trainer.evaluation.runner",
    "trainer.evaluation.summary": "numpy trainer.evaluation.results",
    "trainer.evaluation.markdown": "trainer.evaluation.summary",
    "trainer.evaluation.arrival": "numpy trainer.evaluation.baselines trainer.evaluation.block"
    " trainer.evaluation.results trainer.evaluation.summary",
    "trainer.evaluation.competitors": "keras rnnprop_tf rnnprop_tf.pretrained rnnprop_tf.rule"
    " trainer.evaluation.baselines trainer.evaluation.results",
    "trainer.evaluation.tasks": "trainer.keras_models.catalog trainer.problems.catalog"
    " trainer.evaluation.baselines trainer.evaluation.block trainer.evaluation.competitors"
    " trainer.evaluation.fit_runner trainer.evaluation.runner trainer.evaluation.unrolled_runner",
    "trainer.evaluation.evaluation": "numpy trainer.evaluation.baselines trainer.evaluation.competitors"
    " trainer.evaluation.results trainer.evaluation.runner trainer.evaluation.tasks",
    "trainer.evaluation.race": "trainer.evaluation.arrival trainer.evaluation.baselines"
    " trainer.evaluation.block trainer.evaluation.competitors trainer.evaluation.evaluation"
    " trainer.evaluation.results",
    "trainer.evaluation.schedule": "tqdm rnnprop_tf.pretrained trainer.keras_models.catalog"
    " trainer.evaluation.arrival trainer.evaluation.baselines trainer.evaluation.block"
    " trainer.evaluation.competitors trainer.evaluation.evaluation trainer.evaluation.race"
    " trainer.evaluation.results trainer.evaluation.summary",
    # The paper's experiments, and the documents that are made from runs.
    "trainer.paper": "",
    "trainer.paper.experiments": "rnnprop_tf.pretrained trainer.problems.catalog"
    " trainer.keras_models.catalog trainer.evaluation.baselines trainer.evaluation.block"
    " trainer.evaluation.competitors",
    "trainer.paper.learned_update": "numpy tensorflow rnnprop_tf.network rnnprop_tf.pretrained"
    " rnnprop_tf.rule trainer.files trainer.problems.catalog trainer.unroll",
    "trainer.paper.tables": "numpy trainer.problems.catalog trainer.evaluation.markdown"
    " trainer.evaluation.results trainer.evaluation.summary trainer.paper.experiments",
    "trainer.paper.default_weights_tables": "trainer.evaluation.markdown trainer.evaluation.results"
    " trainer.evaluation.summary trainer.paper.experiments trainer.paper.tables",
    "trainer.paper.keras_models_tables": "numpy trainer.evaluation.block trainer.evaluation.markdown"
    " trainer.evaluation.results trainer.evaluation.summary trainer.paper.experiments trainer.paper.tables",
    "trainer.paper.races_tables": "numpy trainer.evaluation.arrival trainer.evaluation.block"
    " trainer.evaluation.markdown trainer.evaluation.results trainer.evaluation.summary"
    " trainer.paper.experiments",
    "trainer.paper.claims": "numpy trainer.problems.catalog trainer.evaluation.markdown"
    " trainer.evaluation.results trainer.evaluation.summary trainer.paper.experiments trainer.paper.tables",
    "trainer.paper.plots": "matplotlib numpy trainer.problems.catalog trainer.evaluation.block"
    " trainer.evaluation.results trainer.evaluation.summary trainer.paper.experiments",
    "trainer.paper.report": "matplotlib trainer.files trainer.evaluation.markdown trainer.evaluation.results"
    " trainer.evaluation.schedule trainer.evaluation.summary trainer.paper.claims"
    " trainer.paper.default_weights_tables trainer.paper.experiments trainer.paper.keras_models_tables"
    " trainer.paper.learned_update trainer.paper.plots trainer.paper.races_tables trainer.paper.tables",
    # Meta-training, which evaluates as it goes.
    "trainer.distribution": "tensorflow",
    "trainer.interrupts": "",
    "trainer.episodes": "numpy tensorflow trainer.config trainer.distribution trainer.problems.base"
    " trainer.problems.catalog trainer.problems.convex trainer.problems.tricks",
    "trainer.meta_train": "keras numpy tensorflow tqdm rnnprop_tf.network rnnprop_tf.pretrained"
    " trainer.checkpoint trainer.config trainer.distribution trainer.episodes trainer.estimators.base"
    " trainer.estimators.catalog trainer.evaluation.unrolled_runner trainer.files trainer.interrupts"
    " trainer.problems.base trainer.problems.catalog",
    # Several optimizers on one model, for the demo, the examples and the studies.
    "trainer.comparison": "keras matplotlib numpy",
    # The commands: the only modules that know flags; `commands` parses them for all.
    "trainer.commands": "absl",
    "trainer.train": "absl tensorflow trainer.config trainer.meta_train trainer.checkpoint trainer.commands"
    " trainer.distribution",
    "trainer.evaluate": "absl numpy tqdm rnnprop_tf.pretrained trainer.problems.catalog"
    " trainer.evaluation.baselines trainer.evaluation.competitors trainer.evaluation.evaluation"
    " trainer.evaluation.results trainer.evaluation.summary trainer.evaluation.tasks trainer.commands",
    "trainer.export": "absl numpy rnnprop_tf.network rnnprop_tf.pretrained rnnprop_tf.rule"
    " rnnprop_tf.state_types trainer.config trainer.checkpoint trainer.evaluation.results trainer.commands",
    "trainer.report": "absl trainer.paper.experiments trainer.paper.report trainer.commands",
    "trainer.convert": "absl numpy rnnprop_tf.network rnnprop_tf.pretrained rnnprop_tf.rule trainer.files"
    " trainer.commands",
    "trainer.demo": "absl keras numpy tensorflow rnnprop_tf rnnprop_tf.pretrained trainer.comparison"
    " trainer.config trainer.datasets trainer.meta_train trainer.export trainer.commands",
}

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("rnnprop_tf", "trainer")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imports(source: str) -> set[str]:
    """Our modules by full name and other packages by first name; the standard library left out."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import: name the module in full"
            # `from package import module` imports the module; `from module import name` does not.
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {member for member in members if member in MODULES or member in ALLOWED}
            names |= modules if modules == members else modules | {node.module}
    ours = {name for name in names if name.split(".")[0] in ("rnnprop_tf", "trainer")}
    return ours | {name.split(".")[0] for name in names - ours} - set(sys.stdlib_module_names)


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_what_its_row_allows(module: str) -> None:
    assert module in ALLOWED, f"{module} has no row in ALLOWED: decide what it may import"
    forbidden = imports(MODULES[module].read_text()) - set(ALLOWED[module].split())
    assert not forbidden, f"{module} must not import {sorted(forbidden)}"


def test_rows_refer_to_earlier_rows_only() -> None:
    rows = list(ALLOWED)
    for position, module in enumerate(rows):
        ours = {name for name in ALLOWED[module].split() if name.split(".")[0] in ("rnnprop_tf", "trainer")}
        assert ours <= set(rows[:position]), module


def test_table_keeps_the_layout_s_promises() -> None:
    def allowed_to(prefix: str) -> set[str]:
        rows = [row for module, row in ALLOWED.items() if f"{module}.".startswith(f"{prefix}.")]
        return {name.split(".")[0] for row in rows for name in row.split()}

    needed = {"rnnprop_tf", "keras", "numpy", "safetensors", "tensorflow", "jax", "torch"}
    assert allowed_to("rnnprop_tf") == needed | {"huggingface_hub"}  # The hub's package is an extra.
    for package in ("tensorflow", "jax", "torch"):
        assert package not in allowed_to("rnnprop_tf.learned")
    assert not {"jax", "torch"} & allowed_to("trainer")
    assert "rnnprop_tf" not in allowed_to("trainer.problems")
    makes_runs = {
        f"trainer.evaluation.{name}"
        for name in ("runner", "unrolled_runner", "fit_runner", "tasks", "evaluation", "race", "schedule")
    }
    tables = ("tables", "default_weights_tables", "keras_models_tables", "races_tables", "claims", "plots")
    for reader in (
        "evaluation.summary",
        "evaluation.arrival",
        "evaluation.markdown",
        *(f"paper.{name}" for name in tables),
    ):
        assert not set(ALLOWED[f"trainer.{reader}"].split()) & (makes_runs | {"tensorflow", "keras"})
    with_flags = {module for module, row in ALLOWED.items() if "absl" in row.split()}
    assert with_flags == {
        f"trainer.{command}"
        for command in ("commands", "train", "evaluate", "export", "convert", "report", "demo")
    }


OURS = ("rnnprop_tf", "trainer", "benchmarks", "examples", "studies")
"""The last three use the packages; the rows above keep the packages from importing them."""


MAY_USE = {
    "examples": r"rnnprop_tf|trainer\.comparison",
    "benchmarks": r"(rnnprop_tf|trainer)(\..*)?|benchmarks",
    "studies": r"(rnnprop_tf|trainer)(\..*)?|benchmarks|studies",
}


@pytest.mark.parametrize("folder", MAY_USE)
def test_what_uses_the_packages_knows_no_more_than_it_must(folder: str) -> None:
    for path in (ROOT / folder).glob("*.py"):
        ours = {name for name in imports(path.read_text()) if name.split(".")[0] in OURS}
        assert all(re.fullmatch(MAY_USE[folder], name) for name in ours), (path.name, ours)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import os, numpy as np", {"numpy"}),
        ("import tensorflow.io.gfile", {"tensorflow"}),
        ("from keras import ops", {"keras"}),
        ("from trainer import datasets", {"trainer.datasets"}),
        ("from trainer.problems.base import Problem", {"trainer.problems.base"}),
        ("from rnnprop_tf import RNNprop, rule", {"rnnprop_tf", "rnnprop_tf.rule"}),
        ("def f():\n    import tqdm", {"tqdm"}),
    ],
)
def test_imports_are_found(source: str, found: set[str]) -> None:
    assert imports(source) == found
