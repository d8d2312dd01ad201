"""A pytest plugin, loaded before Keras's tests: SGD and Adam are RNNprop, listed failures are expected."""

import importlib.util
import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import keras
import pytest

import rnnprop_tf
from rnnprop_tf import compute

STOCK = bool(os.environ.get("KERAS_SUITE_STOCK"))
REPLACED = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}
OTHERS_ARGUMENTS = ("momentum", "nesterov", "amsgrad")
WEIGHTS = rnnprop_tf.RNNprop.from_pretrained()

outcomes: dict[str, str] = {}
made = 0


@keras.saving.register_keras_serializable(package="keras_suite")
class InPlace(rnnprop_tf.RNNprop):
    """RNNprop that can be made as SGD and Adam are: all arguments have defaults, theirs are ignored."""

    def __init__(self, learning_rate: Any = 0.1, *args: Any, **kwargs: Any) -> None:
        global made
        made += 1
        kwargs = {"network": WEIGHTS.network} | kwargs
        for name in OTHERS_ARGUMENTS:
            kwargs.pop(name, None)
        super().__init__(learning_rate=learning_rate, **kwargs)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Any:
        """Also of "sgd" and "adam", whose config is empty."""
        return super().from_config(WEIGHTS.get_config() | config, custom_objects)


def _replace() -> None:
    """Wherever Keras has the classes: its public names, its modules and its table of names."""
    for module in [module for name, module in sys.modules.items() if name.split(".")[0] == "keras"]:
        for name, value in list(vars(module).items()):
            if value in REPLACED.values() and not module.__name__.endswith(("adamw", "nadam")):
                setattr(module, name, InPlace)
    for name in REPLACED:
        keras.src.optimizers.ALL_OBJECTS_DICT[name] = InPlace


def _expected() -> dict[str, str]:
    """Test -> reason."""
    lines = Path(__file__).with_name("expected_failures.txt").read_text().splitlines()
    reasons: dict[str, str] = {}
    reason = ""
    for line in filter(None, lines):
        if line.startswith("#"):
            reason = line.removeprefix("# ")
        else:
            reasons[line] = reason
    return reasons


def pytest_configure() -> None:
    # What some files import on top and use with other backends only: a module of Keras's repository that its
    # wheel lacks, and JAX.
    sys.modules["conftest"] = types.ModuleType("conftest")
    sys.modules["conftest"].skip_if_backend = lambda *_: lambda test: test
    if importlib.util.find_spec("jax") is None:
        sys.modules["jax"] = types.ModuleType("jax")
    if not STOCK:
        _replace()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    expected = {} if STOCK else _expected()
    for item in items:
        if reason := expected.get(item.nodeid):
            # What a test needs may be there, and what depends on the machine may go well.
            strict = not reason.startswith(("needs", "depends"))
            item.add_marker(pytest.mark.xfail(reason=reason, strict=strict))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Any:
    before = made
    keras.utils.set_random_seed(0)
    if "distribute" in item.nodeid:  # Those reset TensorFlow's context, which loses all compiled programs.
        compute._program.cache_clear()
    yield
    if outcomes.get(item.nodeid) == "passed" and made == before:
        outcomes[item.nodeid] = "passed without an optimizer of these names"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        outcome = "expected failure" if hasattr(report, "wasxfail") else report.outcome
        outcomes[report.nodeid] = outcome


def pytest_sessionfinish() -> None:
    Path(os.environ["KERAS_SUITE_REPORT"]).write_text(json.dumps(outcomes))
