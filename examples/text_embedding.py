"""Which library is this paragraph of documentation from? An Embedding under a small classifier.

    python -m examples.text_embedding

The texts are the docstrings of four installed packages, a file's all on one side of the split; the names of
the packages are taken out.
"""

import ast
import importlib.util
import random
import re
from pathlib import Path

import keras
import numpy as np
from keras import layers

from examples.compare import Data, Fit, compare

PACKAGES = ("keras", "numpy", "scipy", "sklearn")
GIVEAWAYS = re.compile(r"keras|tensorflow|numpy|scipy|sklearn|scikit|\b(np|tf|sp)\b", re.IGNORECASE)
OTHERS = re.compile(r"test|vendor|extern")
PARAGRAPHS, PER_FILE = 800, 10
"""Of each package, so that guessing is right one time in four."""
WORDS, LENGTH = 3000, 60


def paragraphs(package: str, chance: random.Random) -> list[tuple[str, str]]:
    """`PARAGRAPHS` of (file, paragraph) from the package's docstrings; needs no import of it."""
    root = Path(importlib.util.find_spec(package).origin).parent
    files = [f for f in sorted(root.rglob("*.py")) if not OTHERS.search(str(f.relative_to(root)))]
    chance.shuffle(files)
    found: list[tuple[str, str]] = []
    for file in files:
        nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        docstrings = [
            ast.get_docstring(n) or "" for n in nodes if isinstance(n, ast.ClassDef | ast.FunctionDef)
        ]
        texts = [text for docstring in docstrings for text in re.split(r"\n\s*\n", docstring)]
        long = [GIVEAWAYS.sub(" ", text) for text in texts if len(text.split()) >= 10]
        found += [(str(file), text) for text in chance.sample(long, min(PER_FILE, len(long)))]
        if len(found) >= PARAGRAPHS:
            break
    return found[:PARAGRAPHS]


def load() -> tuple[Data, Data]:
    """Word numbers [N, LENGTH] and labels, for training and for validation."""
    chance = random.Random(0)
    texts: dict[bool, list[tuple[str, int]]] = {False: [], True: []}
    for label, package in enumerate(PACKAGES):
        found = paragraphs(package, chance)
        held_out = {file for file in sorted({file for file, _ in found}) if chance.random() < 0.25}
        for file, text in found:
            texts[file in held_out].append((text, label))
    to_numbers = layers.TextVectorization(WORDS, output_sequence_length=LENGTH)
    to_numbers.adapt([text for text, _ in texts[False]])
    train, validation = (
        (np.asarray(to_numbers([text for text, _ in part])), np.array([label for _, label in part]))
        for part in texts.values()
    )
    return train, validation


def make_model() -> keras.Model:
    """The mean of the words' vectors, and a hidden layer."""
    return keras.Sequential(
        [
            keras.Input((LENGTH,), dtype="int64"),
            layers.Embedding(WORDS, 16, mask_zero=True),
            layers.GlobalAveragePooling1D(),
            layers.Dense(16, activation="relu"),
            layers.Dense(len(PACKAGES)),
        ]
    )


def run(picture: Path, epochs: int = 10, seeds: int = 3) -> list[Fit]:
    """The comparison."""
    train, validation = load()
    return compare(
        "Docstrings by library",
        make_model,
        train,
        validation,
        picture,
        batch_size=64,
        epochs=epochs,
        seeds=seeds,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


if __name__ == "__main__":
    run(Path(__file__).with_suffix(".png"))
