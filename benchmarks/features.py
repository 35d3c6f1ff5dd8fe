"""What the feature store saves: training steps and definitions, from it and without it.

    python benchmarks/features.py [--reduced]

ViT-L's published shape with random weights, on drawn pictures. "store" reads frozen features that
were computed once; "encode" decodes and encodes each image whenever it is needed, three a training
sample (reference, target, negative). Both run the same code from the same weights and seeds, in
turns. `limit` is the ratio of the operations alone, by the cost model of notebooks/plan.py.
--reduced keeps the code and the images' size and cuts layers and batch: 2 minutes of one core. The
full size has about seven times the operations.
"""

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from common import ROOT, parser, write_rows
from torch import Tensor

from data_prep.stand_in import draw
from qure_lib.config import MiningConfig, TrainConfig
from qure_lib.data import Corpus, QuerySet, Triplet
from qure_lib.embeddings import Retriever
from qure_lib.features import extract_features
from qure_lib.images import image_transform, read_image
from qure_lib.losses import bradley_terry_loss
from qure_lib.mining import mine_hard_negatives
from qure_lib.model import ModelConfig, QuReModel, load_tokenizer, paired_scores
from qure_lib.runs import set_seed

sys.path.insert(0, str(ROOT / "notebooks"))
import plan  # noqa: E402

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


class Clock:
    """Seconds by part, the device's work included."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[part] += time.perf_counter() - started


class EncodedEachTime:
    """In the place of a FeatureStore: decodes and encodes the images it is asked for."""

    def __init__(self, model: QuReModel, images: dict[str, Path], batch: int, clock: Clock) -> None:
        self.model, self.images, self.batch, self.clock = model, images, batch, clock
        self.transform = image_transform(model.config.image_size)

    def get(self, image_ids: list[str]) -> Tensor:
        with self.clock("decoding"):
            pixels = torch.stack([self.transform(read_image(self.images[i])) for i in image_ids])
        device = self.model.temperature.device
        with self.clock("encoding"):
            parts = [self.model.encode_features(p.to(device)) for p in pixels.split(self.batch)]
            return torch.cat(parts)


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


def take_step(
    retriever: Retriever, optimizer: torch.optim.Optimizer, batch: list[Triplet], clock: Clock
) -> float:
    """One step as `qure_lib.train` takes it; another sample's target is the negative."""
    model, negatives = retriever.model, [t.target for t in batch[1:] + batch[:1]]
    with clock("reading"):
        references = retriever.read_features([t.reference for t in batch])
        images = retriever.read_features([t.target for t in batch] + negatives)
    with clock("forward"):
        queries = model.encode_query(references, *retriever.tokenize([t.caption for t in batch]))
        scores = [paired_scores(queries, i) for i in model.encode_image(images).split(len(batch))]
        loss = bradley_terry_loss(*scores, model.temperature)
    with clock("backward"):
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
    with clock("optimizer"):
        optimizer.step()
    return loss.item()


def train(retriever: Retriever, queries: QuerySet, size: Size, clock: Clock) -> list[float]:
    """Take the steps from the same seed. Returns the loss of each."""
    set_seed(0)
    retriever.model.train()
    config = TrainConfig()
    optimizer = torch.optim.AdamW(
        retriever.model.trainable_parameters().values(),
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
    )
    asked = [queries.triplets[k % len(queries)] for k in range(size.batch * size.steps)]
    batches = [asked[s : s + size.batch] for s in range(0, len(asked), size.batch)]
    return [take_step(retriever, optimizer, batch, clock) for batch in batches]


def define(retriever: Retriever, queries: QuerySet, clock: Clock) -> None:
    """Embed the queries and the corpus, rank, and choose the hard negatives."""
    with clock("definition"):
        embedded = retriever.embed_queries(queries), retriever.embed_corpus(queries.corpus)
        mine_hard_negatives(
            *embedded, queries.target_positions.to(retriever.device), MiningConfig()
        )


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
    retriever: Retriever, queries: QuerySet, size: Size, clock: Clock
) -> tuple[list, dict]:
    """Losses of the steps, and (part, unit) -> value."""
    clock.seconds.clear()
    losses = train(retriever, queries, size, clock)
    seconds = sum(clock.seconds[part] for part in ("reading", "forward", "backward", "optimizer"))
    row = {("training", "samples/s"): size.batch * size.steps / seconds}
    row |= {(f"training: {p}", "s/step"): s / size.steps for p, s in clock.seconds.items()}
    define(retriever, queries, clock)
    return losses, row | {("definition", "s"): clock.seconds["definition"]}


def measure(size: Size, folder: Path) -> dict[tuple[str, str], float]:
    """(what, unit) -> value, the median over the repetitions."""
    set_seed(0)
    model = QuReModel(size.config).to("cuda" if torch.cuda.is_available() else "cpu")
    start = {n: p.detach().clone() for n, p in model.trainable_parameters().items()}
    queries = draw_queries(folder, size.images)
    store = extract_features(model.vision_encoder, queries.images, size.config, folder / "stores")
    tokenizer, clock = load_tokenizer(ROOT / "data_prep" / "mini_stage1"), Clock()
    ways = {"store": store, "encode": EncodedEachTime(model, queries.images, size.batch, clock)}
    rows = []
    for _ in range(size.repeats):
        losses, row = {}, {}
        for way, features in ways.items():
            model.load_state_dict(start, strict=False)
            retriever = Retriever(model, tokenizer, features)
            losses[way], timed = time_way(retriever, queries, size, clock)
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
