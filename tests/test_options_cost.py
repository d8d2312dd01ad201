"""No option without a price: each has a row in the document, which shows what was measured."""

import json
from pathlib import Path

import pytest

from benchmarks import options
from benchmarks.update_step import SHAPES

ROOT = Path(__file__).parent.parent
MEASURED = json.loads((ROOT / "results/benchmarks/options.json").read_text(encoding="utf-8"))["options"]
OF_LARGE = json.loads((ROOT / "results/benchmarks/options_large.json").read_text(encoding="utf-8"))
SMALL = ((5, 4), (3,))


def test_every_argument_has_a_row_or_costs_nothing_by_itself():
    priced = {name for option in options.OPTIONS.values() for name in option.arguments}
    assert priced | options.FREE == options.arguments()
    assert not priced & options.FREE


def test_the_document_shows_what_was_measured():
    assert set(MEASURED) == set(options.OPTIONS)
    page = (ROOT / "docs/cost-and-limits.md").read_text(encoding="utf-8")
    assert options.with_table(page, MEASURED) == page
    assert options.with_table(page, OF_LARGE["options"], OF_LARGE["weights"]) == page
    assert set(OF_LARGE["options"]) == set(options.OPTIONS)


def test_the_table_is_put_under_its_heading():
    cost = {"milliseconds": 2.0, "state_bytes_a_parameter": 300.0}
    rows = {"`a`": {"plain": cost, "option": {"milliseconds": 3.0, "state_bytes_a_parameter": 450.0}}}
    page = "# A\n\n| x |\n|---|\n\n## Options\n\nText.\n\n| old |\n|---|\n| 1 |\n\nMore.\n\n| y |\n|---|\n"
    before, after = options.with_table(page, rows).split("Text.")
    assert before == page.split("Text.")[0]
    assert "| `a` | 1.50 | 1.50 | 450 |\n\nMore.\n\n| y |\n|---|\n" in after
    assert "old" not in after
    with pytest.raises(ValueError, match="Expected a document with the heading '## Options'"):
        options.with_table("# A\n", rows)


def test_an_option_is_measured_beside_the_plain_update():
    """Of the arguments one, and what is no argument."""
    names = ['`state_dtype="float32"`', "`OptimizerMonitor`, a log after every update"]
    measured = options.measure({name: options.OPTIONS[name] for name in names}, SMALL, rounds=2)
    for name in names:
        assert options.ratio(measured[name], "milliseconds") > 0.0
    states = [options.ratio(measured[name], "state_bytes_a_parameter") for name in names]
    assert 1.4 < states[0] < 1.6
    assert states[1] == 1.0
    slower = {name: {**row, "option": {"milliseconds": 1e9}} for name, row in measured.items()}
    assert options.too_dear(slower, measured) == names
    assert options.too_dear(measured, measured) == []


@pytest.mark.slow
def test_no_option_costs_twice_what_the_table_says():
    assert options.too_dear(options.measure(options.OPTIONS, SHAPES, rounds=5), MEASURED) == []
