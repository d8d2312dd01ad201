"""What the documents show works: Python runs, commands and flags exist, links and anchors lead somewhere."""

import ast
import dataclasses
import importlib
import importlib.util
import json
import os
import re
from pathlib import Path

import keras
import numpy as np
import pytest

import rnnprop_tf
from trainer.config import MetaTrainConfig, preset
from trainer.evaluation import baselines
from trainer.evaluation.tasks import check_task
from trainer.paper.experiments import EXPERIMENTS

ROOT = Path(__file__).parent.parent
TOP = ("README.md", "CONTRIBUTING.md", "BUILD_NOTES.md")
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [*(ROOT / name for name in TOP), *sorted((ROOT / "docs").rglob("*.md"))]
}
README = PAGES["README.md"]
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LANGUAGES = {"python", "bash", "text"}
PACKAGES = "rnnprop_tf|trainer|benchmarks|studies|results|examples|tests|docs"


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_blocks_say_what_they_are(page):
    found = re.findall(r"^```(.*)$", PAGES[page], flags=re.MULTILINE)
    assert set(found[::2]) <= LANGUAGES
    assert set(found[1::2]) <= {""}


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if blocks(text, "python")])
def test_python_of_a_page_runs(page, tmp_path, monkeypatch):
    """In one namespace, which holds what a reader has: a model, its data, a folder of weights."""
    monkeypatch.chdir(tmp_path)
    rnnprop_tf.RNNprop.from_pretrained().save_pretrained("path/to/a/folder")
    # Of one shape for all pages, so that the optimizer is compiled once.
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, "softmax")])
    x, y = np.ones((8, 3), "float32"), np.arange(8) % 2
    namespace = {"model": model, "x": x, "y": y}
    for block in blocks(PAGES[page], "python"):
        if not re.search(r"^import (jax|torch)$", block, re.MULTILINE):  # Those run in tests/backends.
            exec(compile(block, page, "exec"), namespace)
    if "parameters" in namespace:  # The loop of one's own arrives.
        np.testing.assert_allclose(namespace["parameters"], namespace["target"], atol=0.1)
    if "monitor" in namespace:
        assert list(Path("logs/optimizer").iterdir())


def commands() -> list[tuple[str, str, dict[str, str]]]:
    """(page, module, flags) of each `python -m`."""
    found = []
    for page, text in PAGES.items():
        for module, rest in re.findall(r"python -m ([\w.]+)((?:\s+--\w+(?:=[^\s`]+)?)*)", text):
            found.append((page, module, dict(re.findall(r"--(\w+)=?(\S*)", rest))))
    return found


def flags_of(module: str) -> set[str]:
    """The flags that the module defines."""
    spec = importlib.util.find_spec(module)
    assert spec is not None, module
    assert spec.origin is not None, module
    names = {
        node.args[0].value
        for node in ast.walk(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr.startswith("DEFINE_")
        and isinstance(node.args[0], ast.Constant)
    }
    if module == "trainer.train":  # One flag for each field.
        names |= {field.name for field in dataclasses.fields(MetaTrainConfig)} | {"help"}
    return names


def listed(flags: dict[str, str], name: str) -> list[str]:
    return [value for value in flags.get(name, "").split(",") if value]


def test_commands_exist_with_their_flags_and_values():
    shown = commands()
    assert {module for _, module, _ in shown} >= {"trainer.train", "trainer.export", "trainer.evaluate"}
    for page, module, flags in shown:
        where = f"{page}: {module}"
        there = flags_of(module)
        assert set(flags) <= there | {f"no{name}" for name in there}, where
        if "preset" in flags:
            preset(flags["preset"])
        for task in listed(flags, "tasks"):
            if module == "trainer.evaluate" or module == "studies.checkpoints":
                check_task(task)
        for optimizer in listed(flags, "optimizers"):
            known = [*rnnprop_tf.list_pretrained(), *baselines.OPTIMIZERS, "weights/mine"]
            assert optimizer.partition(":")[0] in known, where  # arguments follow
        assert set(listed(flags, "experiments")) <= set(EXPERIMENTS), where


def test_flags_in_prose_are_settings():
    """Those of the table of settings of a meta-training."""
    table = re.findall(r"^\| (`--[^|]*) \|", PAGES["docs/meta-training.md"], flags=re.MULTILINE)
    names = [name for cell in table for name in re.findall(r"--(\w+)", cell)]
    assert len(names) > 5
    assert set(names) <= flags_of("trainer.train")


def test_presets_exist():
    table = re.findall(r"^\| (`[\w-]+`[^|]*) \| ", PAGES["docs/meta-training.md"], flags=re.MULTILINE)
    names = [name for cell in table for name in re.findall(r"`([\w-]+)`", cell) if not name.startswith("--")]
    assert len(names) > 5
    for name in names:
        preset(name)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {target for text in PAGES.values() for target in re.findall(r"\bmake ([a-z][\w-]*)`", text)}
    targets |= {target for text in PAGES.values() for target in re.findall(r"^make ([\w-]+)", text, re.M)}
    assert targets >= {"demo", "test", "examples", "docs"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
    described = set(re.findall(r"^\| `make ([\w-]+)` \|", PAGES["CONTRIBUTING.md"], re.MULTILINE))
    assert described == set(re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split())


def anchors(text: str) -> set[str]:
    """Of the headings of a page, as GitHub and MkDocs both make them."""
    headings = re.findall(r"^#+ (.*)$", CODE.sub("", text), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def links(page: str) -> list[str]:
    text = re.sub(r"`[^`\n]*`", "", CODE.sub("", PAGES[page]))
    return re.findall(r"\]\(([^)\s]+)\)", text)


@pytest.mark.parametrize("page", PAGES)
def test_links_and_anchors_lead_somewhere(page):
    for link in links(page):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.is_file(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link
        assert ROOT in target.resolve().parents, link


def test_links_of_the_tutorial_lead_somewhere():
    notebook = json.loads((ROOT / "docs/tutorial.ipynb").read_text(encoding="utf-8"))
    texts = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    for link in re.findall(r"\]\(([^)\s]+)\)", "\n".join(texts)):
        # The site leaves a notebook's links as they are, so they stay within `docs/`.
        assert link.startswith("https://") or (ROOT / "docs" / link.partition("#")[0]).is_file(), link


@pytest.mark.parametrize("page", PAGES)
def test_paths_and_names_in_code_are_there(page):
    for path in re.findall(rf"`((?:{PACKAGES})/[\w./-]*)`", PAGES[page]):
        assert (ROOT / path).exists(), path
    for name in set(re.findall(r"`rnnprop_tf\.(\w+)[`(.]", PAGES[page])):
        assert hasattr(rnnprop_tf, name) or importlib.util.find_spec(f"rnnprop_tf.{name}"), name


def test_code_and_tests_of_the_paper_are_there():
    text = PAGES["docs/architecture.md"].partition("## From the paper")[2].partition("\n## ")[0]
    for name in re.findall(r"`(test_\w+)`", text):
        assert (ROOT / f"tests/{name}.py").is_file(), name
    for name in re.findall(r"`([a-zA-Z_.]+)`", text):
        if not name.startswith("test_"):
            assert found_in_code(name), name


def found_in_code(name: str) -> bool:
    """Whether `module.attribute`, without the packages before it, is in one of ours."""
    parts = name.split(".")
    for path in [*(ROOT / "rnnprop_tf").glob("*.py"), *(ROOT / "trainer").rglob("*.py")]:
        module = path.relative_to(ROOT).with_suffix("").parts
        for k in range(1, len(parts) + 1):
            if list(module[-k:]) == parts[:k]:
                value = importlib.import_module(".".join(module))
                for attribute in parts[k:]:
                    value = getattr(value, attribute, None)
                if value is not None:
                    return True
    return False


def test_weights_are_described():
    table = PAGES["docs/choosing-weights.md"].partition("## In the package")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)) == set(rnnprop_tf.list_pretrained())


def test_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_numbers_of_the_readme_stand_in_the_page_of_their_subject():
    for section, page in (("reaches", "docs/choosing-weights.md"), ("costs", "docs/cost-and-limits.md")):
        text = README.partition(f"## What it {section}")[2].partition("\n## ")[0]
        rows = [row.split("|")[2:-1] for row in text.splitlines() if row.startswith("|")]
        cells = [cell.strip() for row in rows[2:] for cell in row]
        assert len(cells) > 6
        for cell in cells:
            assert re.search(rf"\| {re.escape(cell)} \|", PAGES[page]), (section, cell)


def test_private_parts_of_keras_are_there():
    """Those that CONTRIBUTING names are Keras's, and in use here."""
    text = PAGES["CONTRIBUTING.md"].partition("## Private parts of Keras")[2].partition("\n## ")[0]
    names = re.findall(r"`(_\w+)`", text)
    assert len(names) > 5
    optimizer = keras.optimizers.Adam()
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "rnnprop_tf").rglob("*.py"))
    for name in names:
        assert hasattr(optimizer, name), name
        assert name in source, name


def test_every_page_has_a_place_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES:
        if page.startswith(f"docs{os.sep}"):
            assert page.removeprefix("docs/") in menu, page
