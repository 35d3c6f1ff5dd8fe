"""What the feature store saves: training steps and definitions, from it and without it.

    python benchmarks/features.py [--reduced]

ViT-L's published shape with random weights, on drawn pictures. "store" reads frozen features that
were computed once; "encode" decodes and encodes each image whenever it is needed, three a training
sample (reference, target, negative). Both run the training loop from the same weights and seeds, in
turns. `limit` is the ratio of the operations alone, by the cost model of notebooks/plan.py.
--reduced keeps the code and the images' size and cuts layers and batch: 2 minutes of one core. The
full size takes 9 minutes of two.
"""

import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from common import PARTS, ROOT, clocks, parser, write_rows
from torch import Tensor

from data_prep.stand_in import draw
from qure_lib.datasets.image_files import read_image
from qure_lib.datasets.preprocessing import image_transform
from qure_lib.datasets.queries import Corpus, QuerySet, Triplet
from qure_lib.features.retriever import Retriever
from qure_lib.features.store import extract_features
from qure_lib.features.tokenizer import load_tokenizer
from qure_lib.method.config import MiningConfig, ModelConfig, TrainConfig
from qure_lib.method.model import QuReModel
from qure_lib.train.definition import define_hard_negatives
from qure_lib.train.loop import Loop
from qure_lib.train.progress import set_seed
from qure_lib.train.run_folder import RunFolder
from qure_lib.train.training_data import TrainingData

sys.path.insert(0, str(ROOT / "notebooks"))
import plan

CAPTION = "is dark red with longer sleeves and has a round neck"


@dataclass(frozen=True)
class Size:
    """What is run: the model, distinct images, training samples a step, steps, and how often."""

    config: ModelConfig = ModelConfig()
    images: int = 48
    batch: int = 32
    steps: int = 2
    repeats: int = 1


SIZES = {
    "full": Size(),
    "reduced": Size(replace(ModelConfig(), vision_layers=4, qformer_layers=2), 16, 16, 2, 2),
}


class EncodedEachTime:
    """In the place of a FeatureStore: decodes and encodes the images it is asked for."""

    key = "none"

    def __init__(self, model: QuReModel, images: dict[str, Path], batch: int) -> None:
        self.model, self.images, self.batch = model, images, batch
        self.transform = image_transform(model.config.image_size)

    def decode(self, image_ids: list[str]) -> Tensor:
        return torch.stack([self.transform(read_image(self.images[i])) for i in image_ids])

    def get(self, image_ids: list[str]) -> Tensor:
        parts = self.decode(image_ids).to(self.model.temperature.device).split(self.batch)
        return torch.cat([self.model.encode_features(part) for part in parts])


WITHOUT_STORE = {
    "decoding": [(EncodedEachTime, "decode")],
    "encoding": [(QuReModel, "encode_features")],
}


def draw_queries(folder: Path, count: int) -> QuerySet:
    """Each image is once a reference and once a target."""
    ids = [f"drawn-{number:03d}" for number in range(count)]
    paths = [folder / f"{image_id}.png" for image_id in ids]
    for image_id, path in zip(ids, paths, strict=True):
        draw(image_id, ((300, 400),)).save(path)
    triplets = [
        Triplet(f"q{k}", ids[k], CAPTION, ids[(k + 1) % count], "drawn", (CAPTION,))
        for k in range(count)
    ]
    return QuerySet("drawn", tuple(triplets), Corpus(tuple(ids), tuple(paths)), {})


def limits(config: ModelConfig) -> dict[str, float]:
    """How much faster the store can be at best, by operations."""
    vision, image = plan.vision_operations(config), plan.qformer_operations(config, 0)
    query = plan.qformer_operations(config, plan.CAPTION_TOKENS)
    training, definition = 3 * (query + 2 * image), query + image
    return {
        "training": 1 + 3 * vision / training,
        "definition": 1 + 2 * vision / definition,
    }


def time_way(
    retriever: Retriever, queries: QuerySet, size: Size, runs: Path
) -> tuple[list[float], dict[tuple[str, str], float]]:
    """Losses of the steps, each an epoch of the training loop, and (part, unit) -> value."""
    config = TrainConfig(2, size.batch, n_def=2, mining=MiningConfig("all_corpus"))
    whole = TrainingData({"drawn": queries}, {"drawn": queries}, {"drawn": None})
    batch = {"drawn": replace(queries, triplets=queries.triplets[: size.batch])}
    folder = RunFolder(runs, "features", config, {})
    loop = Loop(config, retriever, replace(whole, train=batch), folder)
    start = time.perf_counter()
    with clocks(PARTS | WITHOUT_STORE) as spent:
        losses = [loop.take_steps(step, set_seed(step)) for step in range(size.steps)]
    taken = time.perf_counter() - start
    row = {("training", "samples/s"): size.batch * size.steps / taken}
    row |= {(f"training: {part}", "s/step"): s / size.steps for part, s in spent.items()}
    start = time.perf_counter()
    define_hard_negatives(retriever, whole, TrainConfig())
    return losses, row | {("definition", "s"): time.perf_counter() - start}


def measure(size: Size, folder: Path) -> dict[tuple[str, str], float]:
    """(what, unit) -> value, the median over the repetitions."""
    set_seed(0)
    model = QuReModel(size.config).to("cuda" if torch.cuda.is_available() else "cpu")
    start = {n: p.detach().clone() for n, p in model.trainable_parameters().items()}
    queries = draw_queries(folder, size.images)
    store = extract_features(model.vision_encoder, queries.images, size.config, folder / "stores")
    tokenizer = load_tokenizer(ROOT / "data_prep" / "mini_stage1")
    ways = {"store": store, "encode": EncodedEachTime(model, queries.images, size.batch)}
    warm = Retriever(model, tokenizer, store)
    time_way(warm, queries, replace(size, steps=1), folder / "warm")  # what runs first is slower
    rows = []
    for _ in range(size.repeats):
        losses, row = {}, {}
        for way, features in ways.items():
            model.load_state_dict(start, strict=False)
            retriever = Retriever(model, tokenizer, features)
            losses[way], timed = time_way(retriever, queries, size, folder / way)
            row |= {(f"{part}, {way}", unit): value for (part, unit), value in timed.items()}
        rates = [row[f"training, {way}", "samples/s"] for way in ways]
        times = [row[f"definition, {way}", "s"] for way in ways]
        row["training, store over encode", "ratio"] = rates[0] / rates[1]
        row["definition, store over encode", "ratio"] = times[1] / times[0]
        apart = [abs(a - b) for a, b in zip(*losses.values(), strict=True)]
        row["largest difference of a loss", "nat"] = max(apart)
        rows.append(row)
    middle = {key: median(row[key] for row in rows) for key in rows[0]}
    limit = {
        (f"{what}, limit by operations", "ratio"): v for what, v in limits(size.config).items()
    }
    return middle | limit


def main() -> None:
    options = parser(__doc__).parse_args()
    name = "reduced" if options.reduced else "full"
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(SIZES[name], Path(folder))
    size = SIZES[name]
    layers = f"{size.config.vision_layers} + {size.config.qformer_layers} layers"
    about = f"{name}: ViT-L and Q-Former of {layers}, batch {size.batch}, {size.images} images"
    rows = [dict(what=w, value=v, unit=u, size=about) for (w, u), v in measured.items()]
    write_rows(rows, options.out, "features")


if __name__ == "__main__":
    main()
