"""What the benchmarks share: made-up training data, clocks, and the CSV of the results."""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch

from qure_lib.datasets.queries import Corpus, QuerySet, Triplet
from qure_lib.device import describe_device
from qure_lib.features.retriever import Retriever
from qure_lib.features.store import FeatureStore
from qure_lib.features.tokenizer import load_tokenizer
from qure_lib.files import replacing
from qure_lib.method.config import ModelConfig
from qure_lib.method.model import QuReModel
from qure_lib.train.training_data import TrainingData

ROOT = Path(__file__).resolve().parents[1]
PARTS = {  # part of a step -> the calls that it consists of
    "reading features": [(Retriever, "read_features")],
    "Q-Former forward": [(QuReModel, "encode_query"), (QuReModel, "encode_image")],
    "backward": [(torch.Tensor, "backward")],
    "optimizer": [(torch.optim.AdamW, "step")],
}


def parser(description: str) -> argparse.ArgumentParser:
    """The command line that every benchmark has."""
    result = argparse.ArgumentParser(description=description.splitlines()[0])
    result.add_argument("--reduced", action="store_true", help="a small size, a minute or two")
    result.add_argument("--out", type=Path, default=ROOT / "reports" / "benchmarks")
    return result


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Median wall-clock seconds of `work`, after one call that is not counted."""
    taken = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


@contextmanager
def clocks(parts: dict[str, list] = PARTS) -> Iterator[dict[str, float]]:
    """Seconds spent in each part, less the parts called from it, while the block runs."""
    spent: dict[str, float] = defaultdict(float)

    def timed(part: str, call: Callable) -> Callable:
        def run(*arguments, **named):
            inside = sum(spent.values())
            start = time.perf_counter()
            result = call(*arguments, **named)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            spent[part] += time.perf_counter() - start - (sum(spent.values()) - inside)
            return result

        return run

    with ExitStack() as stack:
        for part, calls in parts.items():
            for owner, name in calls:
                clocked = timed(part, getattr(owner, name))
                stack.enter_context(mock.patch.object(owner, name, clocked))
        yield spent


def write_rows(rows: list[dict], out: Path, name: str) -> None:
    """Print the rows (what, value, unit, size) and write them as CSV with device and threads."""
    machine = {"device": describe_device(), "threads": torch.get_num_threads()}
    frame = pd.DataFrame(rows).assign(**machine)
    with replacing(out / f"{name}.csv") as path:
        frame.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")
    print(frame.to_string(index=False))


def make_up_training(
    config: ModelConfig, queries: int, images: int, seed: int = 0
) -> tuple[Retriever, TrainingData]:
    """A model of random weights over random frozen features, and queries over these images."""
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    tokens = (config.image_size // config.patch_size) ** 2 + 1
    features = generator.standard_normal((images, tokens, config.vision_width), np.float32)
    ids = tuple(f"image-{number}" for number in range(images))
    rows = {image_id: row for row, image_id in enumerate(ids)}
    store = FeatureStore((features.astype(np.float16),), rows, "made-up")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = load_tokenizer(ROOT / "data_prep" / "mini_stage1")
    retriever = Retriever(QuReModel(config).to(device), tokenizer, store)
    chosen = [generator.choice(images, 2, replace=False) for _ in range(queries)]
    words = "is blue with longer sleeves", "is a red dress and has no pattern"
    triplets = tuple(
        Triplet(f"q{n}", ids[a], words[n % 2], ids[b], "dress", (words[n % 2],))
        for n, (a, b) in enumerate(chosen)
    )
    asked = QuerySet("made-up", triplets, Corpus(ids, (Path(),) * images), {})
    return retriever, TrainingData({"dress": asked}, {"dress": asked}, {"dress": None})
