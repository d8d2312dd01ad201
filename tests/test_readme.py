"""What the README shows works: its Python runs, its commands and flags exist, its links lead somewhere."""

import ast
import dataclasses
import re
from pathlib import Path

import keras
import numpy as np
import pytest

import rnnprop_tf
from trainer.config import MetaTrainConfig, preset
from trainer.evaluation import baselines
from trainer.evaluation.tasks import check_task

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTIONS = {part.splitlines()[0]: part for part in re.split(r"^## ", README, flags=re.MULTILINE)}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("section", [name for name, text in SECTIONS.items() if blocks(text, "python")])
def test_python_of_a_section_runs(section, tmp_path, monkeypatch):
    """In one namespace, which holds what a reader has: a model, its data, a folder of weights."""
    monkeypatch.chdir(tmp_path)
    rnnprop_tf.RNNprop.from_pretrained().save_pretrained("path/to/a/folder")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, "softmax")])
    x, y = np.ones((8, 3), "float32"), np.arange(8) % 2
    namespace = {"rnnprop_tf": rnnprop_tf, "keras": keras, "np": np, "model": model, "x": x, "y": y}
    for block in blocks(SECTIONS[section], "python"):
        exec(compile(block, f"README.md, {section}", "exec"), namespace)
    if "parameters" in namespace:  # The loop of one's own arrives.
        np.testing.assert_allclose(namespace["parameters"], namespace["target"], atol=0.1)
    if "monitor" in namespace:
        assert list(Path("logs/optimizer").iterdir())


def commands() -> list[tuple[str, dict[str, str]]]:
    """(module, flags) of each `python -m` in the README."""
    text = README.replace("\\\n", " ")
    found = re.findall(r"python -m ([\w.]+)((?:\s+--[\w]+(?:=[^\s`]+)?)*)", text)
    return [(module, dict(re.findall(r"--(\w+)=?(\S*)", rest))) for module, rest in found if module != "pip"]


def flags_of(module: str) -> set[str]:
    """The flags that the module defines."""
    source = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    names = {
        node.args[0].value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr.startswith("DEFINE_")
        and isinstance(node.args[0], ast.Constant)
    }
    if module == "trainer.train":  # One flag for each field.
        names |= {field.name for field in dataclasses.fields(MetaTrainConfig)}
    return names


def test_commands_exist_with_their_flags_and_values():
    shown = commands()
    assert {module for module, _ in shown} >= {"trainer.train", "trainer.export", "trainer.evaluate"}
    for module, flags in shown:
        assert set(flags) <= flags_of(module), module
        if "preset" in flags:
            preset(flags["preset"])
        # trainer.train's --tasks is a number.
        tasks = flags.get("tasks", "") if module == "trainer.evaluate" else ""
        for task in filter(None, tasks.split(",")):
            check_task(task)
        for optimizer in filter(None, flags.get("optimizers", "").split(",")):
            known = [*rnnprop_tf.list_pretrained(), *baselines.OPTIMIZERS, "weights/mine"]
            assert optimizer in known, optimizer


def test_make_targets_exist():
    targets = set(re.findall(r"`make ([\w-]+)`", README))
    assert targets >= {"demo", "test", "examples"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_links_to_files_and_sections_lead_somewhere():
    anchors = {re.sub(r"[^\w -]", "", name).lower().replace(" ", "-") for name in SECTIONS}
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert len(links) > 5
    for link in links:
        if link.startswith("#"):
            assert link[1:] in anchors, link
        elif not link.startswith("http"):
            assert (ROOT / link).is_file(), link
    for path in re.findall(
        r"`((?:rnnprop_tf|trainer|benchmarks|studies|results|examples|tests)/[\w./-]+)`", README
    ):
        assert (ROOT / path).exists(), path


def test_names_in_code_are_there():
    for name in set(re.findall(r"`rnnprop_tf\.(\w+)", README)):
        assert hasattr(rnnprop_tf, name), name
    assert set(re.findall(r"^\| `([\w-]+)` \|", SECTIONS["Choosing weights"], re.MULTILINE)) == set(
        rnnprop_tf.list_pretrained()
    )
