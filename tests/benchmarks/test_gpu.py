"""The GPU's benchmark: every part runs on a tiny model, on whatever device there is."""

import subprocess
import sys

import gpu
import pytest
import torch
from shared import ROOT

from qure_lib.method.config import ModelConfig, TrainConfig

TINY = ModelConfig(
    image_size=32, patch_size=16, vision_width=32, vision_layers=1, vision_heads=2,
    qformer_width=32, qformer_layers=2, qformer_heads=2, num_query_tokens=4, embedding_dim=16,
)  # fmt: skip
NEEDED = {
    "features: files to store", "features: the encoder alone", "opening a finished store",
    "features onto the card", "compilation", "step: compiled", "step: not compiled",
    "step: the release's arithmetic", "step: ours over the release's",
    "embedding: queries and images", "val of an epoch", "a definition, float32",
    "a definition, float16", "sets of float16 beside float32's: Jaccard",
    "the recipe, its parts added",
}  # fmt: skip


def test_every_part_gives_its_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "SETTLED", -1.0)
    sizes = {"train_images": 30, "val_images": 15, "train_queries": 24, "val_queries": 12}
    size = gpu.Size(TINY, TrainConfig(batch_size=8), drawn=6, steps=4, **sizes)
    bench = gpu.Bench(size, tmp_path)
    rows = {what: value for what, value, _ in bench.rows()}
    assert "failed" not in bench.known and rows.keys() >= NEEDED
    on_gpu = torch.cuda.is_available()
    placed = "step: features on the card", "step: features in host memory"
    assert {what for what in placed if what in rows} == (set(placed) if on_gpu else {placed[1]})
    assert all(
        value > 0
        for what, value in rows.items()
        if "compiled" not in what and "GPU memory" not in what
    )
    whole = rows["the recipe, its parts added"]
    rate = rows[placed[0] if on_gpu else placed[1]]
    by_hand = 45 / rows["features: files to store"] + rows["features onto the card"]
    saved = rows["saving an epoch, until training goes on"]
    by_hand += rows["compilation"] + 30 * (24 / rate + rows["val of an epoch"] + saved)
    by_hand += 5 * rows["a definition, float32"]
    assert whole == pytest.approx(by_hand / 60)
    if not on_gpu:  # float16 is the GPU's
        assert rows["sets of float16 beside float32's: Jaccard"] == 1


def test_jaccard_of_sets():
    def sets(*members):
        offsets = torch.tensor([0, *map(len, members)]).cumsum(0)
        return gpu.HardNegativeSet(
            offsets, torch.tensor(sum(members, [])), torch.zeros(len(members), dtype=int), 9
        )

    one, other = sets([1, 2], [], [3, 4]), sets([2, 3], [], [3, 4])
    assert gpu.jaccard({"a": (one, None)}, {"a": (other, None)}) == pytest.approx((1 / 3 + 2) / 3)


WITHOUT = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
sys.argv = ["gpu.py"]
import runpy
runpy.run_path({script!r}, run_name="__main__")
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="would measure this machine's GPU")
def test_it_needs_no_notebook_package_and_says_that_there_is_no_gpu():
    names = {
        "matplotlib",
        "seaborn",
        "papermill",
        "IPython",
        "ipywidgets",
        "jupyter_core",
        "nbformat",
    }
    script = WITHOUT.format(names=names, script=str(ROOT / "benchmarks" / "gpu.py"))
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT / "benchmarks")
    assert done.returncode == 2, done.stderr
    assert done.stderr == "benchmarks/gpu.py measures an NVIDIA GPU, and there is none here\n"
