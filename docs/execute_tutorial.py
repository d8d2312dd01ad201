"""The tutorial's outputs, made again: `python docs/execute_tutorial.py`, about two minutes on two cores.

Runs all cells of `tutorial.ipynb` and writes what they print and draw into it. Progress bars and TensorFlow's
log are left out: they name times and the machine.
"""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

PATH = Path(__file__).parent / "tutorial.ipynb"
CELL_SECONDS = 900
"""Seconds after which a cell counts as stuck."""


def main() -> None:
    notebook = nbformat.read(PATH, as_version=4)
    folder = {"metadata": {"path": str(PATH.parent)}}
    NotebookClient(notebook, timeout=CELL_SECONDS, record_timing=False, resources=folder).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    # Not the version of this Python.
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, PATH)


if __name__ == "__main__":
    main()
