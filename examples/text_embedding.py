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

from rnnprop_tf import RNNprop
from trainer.comparison import ACCURACY, LOSSES, LOWEST, Fit, beside_adam, draw, fit, print_table

PACKAGES = ("keras", "numpy", "scipy", "sklearn")
WORDS = 3000
"""Size of the vocabulary."""
LENGTH = 60
"""Words of a paragraph that the model sees."""


def run(picture: Path, epochs: int = 10, seeds: int = 3) -> list[Fit]:
    """Trains with RNNprop, its learning rate and weights as they come, and with Adam to compare."""
    (x, y), validation = load()

    def train(optimizer: keras.optimizers.Optimizer, seed: int) -> dict[str, list[float]]:
        keras.utils.set_random_seed(seed)
        model = make_model()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, metrics=["accuracy"])
        return fit(model, x, y, batch_size=64, epochs=epochs, validation_data=validation, verbose=0)

    fits = beside_adam(train, {"RNNprop": RNNprop.from_pretrained}, range(seeds))
    size = f"{make_model().count_params():,} parameters"
    print(f"\nDocstrings by library, {size}, {epochs} epochs, {seeds} seeds\n")
    print_table(LOSSES | ACCURACY | LOWEST, fits)
    draw(fits, picture, title="Docstrings by library")
    return fits


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


def load() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
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


GIVEAWAYS = re.compile(r"keras|tensorflow|numpy|scipy|sklearn|scikit|\b(np|tf|sp)\b", re.IGNORECASE)
OTHERS = re.compile(r"test|vendor|extern")
"""In the paths of files that are left out."""
PARAGRAPHS = 800
"""Paragraphs of each package, so that guessing is right one time in four."""
PER_FILE = 10
"""The most paragraphs of a file."""


def paragraphs(package: str, chance: random.Random) -> list[tuple[str, str]]:
    """`PARAGRAPHS` of (file, paragraph) from the package's docstrings; needs no import of it."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
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


if __name__ == "__main__":
    run(Path(__file__).with_suffix(".png"))
