"""What tests share: no network, few threads, the repository's root, and tiny notebooks."""

import json
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "agg"

import matplotlib.pyplot as plt
import nbformat
import pytest

from data_prep import synthfashion
from qure_lib.reporting.style import use_house_style

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture
def style():
    """The house style of figures, which are closed afterwards."""
    use_house_style()
    yield
    plt.close("all")


@pytest.fixture(scope="session")
def stage1() -> Path:
    """The mini model's stage-1 checkpoint, as shipped."""
    return ROOT / "data_prep" / "mini_stage1"


@pytest.fixture(scope="session")
def bert_captions() -> dict:
    """Captions with the ids that the real BERT-uncased gives, and its ids of their tokens."""
    return json.loads((ROOT / "tests/data/bert_uncased.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def bert_vocabulary(tmp_path_factory, bert_captions) -> Path:
    """A stand-in for BERT-uncased's folder: the known tokens at their ids, the rest made up."""
    tokens = [f"[unused{i}]" for i in range(30_522)]
    for token, position in bert_captions["tokens"].items():
        tokens[position] = token
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def smoke_world(tmp_path_factory) -> Path:
    """SynthFashion at its smallest, drawn once for all tests."""
    return synthfashion.prepare(tmp_path_factory.mktemp("world") / "smoke", size="smoke")


@pytest.fixture
def write_notebook(tmp_path):
    """Write a notebook of code cells; the first is tagged `parameters` unless `tags` says else."""

    def write(name: str, *sources: str, tags: tuple[tuple[str, ...], ...] = (("parameters",),)):
        cells = [nbformat.v4.new_markdown_cell(f"# {name[:2]} A question?\n\nWhy it is asked.")]
        for number, source in enumerate(sources):
            cell = nbformat.v4.new_code_cell(source, id=f"code-{number}")
            cell.metadata["tags"] = list(tags[number]) if number < len(tags) else []
            cells.append(cell)
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
        return path

    return write
