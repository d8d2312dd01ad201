"""What is public says what it takes, gives and raises, in Keras's form; worked examples work."""

import doctest
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

import rnnprop_tf
from rnnprop_tf import network, pretrained, rule

CLASSES = (rnnprop_tf.RNNprop, rnnprop_tf.DMOptimizer, rnnprop_tf.OptimizerMonitor)
CLASSES += (rule.RNNpropRule, rule.SettlingRule, rule.AnnealingRule, rule.DMRule)
WITH_EXAMPLE = {*rnnprop_tf.__all__, "RNNprop.from_pretrained", "RNNprop.save_pretrained"}
WITH_REFERENCE = {"RNNprop", "DMOptimizer", "RNNpropRule", "DMRule"}


def public() -> Iterator[tuple[str, Any]]:
    """All functions, classes and methods of ours that a user meets, by name."""
    for name in rnnprop_tf.__all__:
        yield name, getattr(rnnprop_tf, name)
    for module in (network, pretrained, rule):
        for name, value in vars(module).items():
            if inspect.isfunction(value) and value.__module__ == module.__name__ and name[0] != "_":
                yield name, value
    for cls in CLASSES:
        for name, value in inspect.getmembers(cls, callable):
            ours = (getattr(value, "__module__", None) or "").startswith("rnnprop_tf.")
            # Keras's hooks of a callback are described there.
            if ours and name[0] != "_" and not name.startswith("on_") and not inspect.isclass(value):
                yield f"{cls.__name__}.{name}", value
    yield from (("RNNpropRule", rule.RNNpropRule), ("DMRule", rule.DMRule))


@pytest.mark.parametrize(("name", "value"), [pytest.param(*item, id=item[0]) for item in public()])
def test_docstring_has_all_its_sections(name, value):
    text = inspect.getdoc(value) or ""
    signature = inspect.signature(value)
    sections = text.split("\n\n")
    arguments = next((section for section in sections if section.startswith("Args:")), "")
    inherited = "See `keras" in text
    for parameter in signature.parameters.values():
        stars = {inspect.Parameter.VAR_KEYWORD: "**", inspect.Parameter.VAR_POSITIONAL: "*"}
        line = f"\n    {stars.get(parameter.kind, '')}{parameter.name}: "
        assert parameter.name == "self" or inherited or line in arguments, (
            f"{parameter.name} is not explained"
        )
    returns = signature.return_annotation
    if not inspect.isclass(value) and returns not in (None, "None") and not inherited:
        assert "\n\nReturns:\n    " in text
    assert name not in WITH_EXAMPLE or "\n\nExample:\n\n>>> " in text
    assert name not in WITH_REFERENCE or "\n\nReference:\n\n- [" in text
    assert text[0].isupper() or text[0] == "`"
    assert text.split("\n\n")[0].rstrip().endswith((".", ":"))


def test_worked_example_of_the_rule():
    result = doctest.testmod(rule, raise_on_error=False)
    assert result.attempted > 5
    assert result.failed == 0


def test_listed_names_are_those_of_the_docstring():
    doc = " ".join((pretrained.list_pretrained.__doc__ or "").split())
    assert repr(rnnprop_tf.list_pretrained()) in doc
