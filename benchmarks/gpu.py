"""What the published FashionIQ recipe takes on this machine's GPU, part by part.

    python benchmarks/gpu.py              (make bench takes it along where there is a GPU)

ViT-L's published shape with random weights, on drawn JPEG files of the published number: five
minutes of one H100 by estimate (it has not run on a card yet), and 25 GB in the folder for
temporary files (TMPDIR). Beside the parts it runs the release's arithmetic on the same card: the
frozen encoder on every image of every step. Writes gpu.csv and gpu_step.csv, the kernels of a
training step. Needs torch for CUDA, transformers, pandas, Pillow, safetensors, accelerate and
tensorboard. Without a GPU it exits with 2.
"""

import io
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a GPU box may not install the kit

import numpy as np
import pandas as pd
import torch
from common import ROOT, parser, write_rows
from PIL import Image
from tqdm import tqdm

from data_prep.stand_in import draw
from qure_lib.datasets.queries import Corpus, QuerySet, Triplet
from qure_lib.device import autocast, describe_device, has_gpu
from qure_lib.evaluation.registry import PROTOCOLS
from qure_lib.features.reading import CardFeatures
from qure_lib.features.retriever import Retriever
from qure_lib.features.store import SETTLED, FeatureStore, extract_features
from qure_lib.features.tokenizer import load_tokenizer
from qure_lib.files import replacing
from qure_lib.method.config import ModelConfig, TrainConfig
from qure_lib.method.losses import find_objective
from qure_lib.method.model import QuReModel
from qure_lib.method.negatives import HardNegativeSet
from qure_lib.train.definition import define_hard_negatives
from qure_lib.train.execution import Encoder, Execution
from qure_lib.train.loop import Loop
from qure_lib.train.progress import set_seed
from qure_lib.train.run_folder import RunFolder
from qure_lib.train.training_data import TrainingData

COUNTS = PROTOCOLS["fashioniq"].counts
CATEGORIES = ("dress", "shirt", "toptee")
PHRASES = ("is blue", "has longer sleeves and a round neck", "is a red dress", "has no pattern",
           "is more formal with a belt at the waist", "has thin straps")  # fmt: skip
Row = tuple[str, float, str]  # what, value, unit


@dataclass(frozen=True)
class Size:
    """What is run. The defaults are FashionIQ's published numbers and ViT-L's shape."""

    config: ModelConfig = ModelConfig()
    recipe: TrainConfig = TrainConfig()
    train_images: int = COUNTS.train_images
    val_images: int = COUNTS.images
    train_queries: int = COUNTS.train_queries
    val_queries: int = COUNTS.queries
    drawn: int = 1000  # distinct pictures; files differ in what follows the picture
    steps: int = 50  # of what is timed for less than an epoch


def draw_files(folder: Path, count: int, drawn: int) -> dict[str, Path]:
    """Image id -> JPEG file of 375 x 500 pixels, as photographs of shops have; each distinct."""
    noise, pictures = np.random.default_rng(0), []
    for number in tqdm(range(min(drawn, count)), "drawing", delay=2.0, leave=False):
        pixels = np.asarray(draw(f"image-{number}", ((375, 500),)).convert("RGB"), dtype=np.int16)
        pixels = (pixels + noise.integers(-12, 13, pixels.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(picture := io.BytesIO(), "JPEG", quality=85)
        pictures.append(picture.getvalue())
    folder.mkdir()
    paths = {f"image-{number:05d}": folder / f"{number:05d}.jpg" for number in range(count)}
    for number, (image_id, path) in enumerate(paths.items()):
        path.write_bytes(pictures[number % len(pictures)] + image_id.encode())
    return paths


def make_queries(
    paths: dict[str, Path], queries: int, seed: int, only_targets: bool
) -> dict[str, QuerySet]:
    """Random queries, a third in each category, over a third of the images.

    only_targets: the corpus is the queries' targets, all different, as in FashionIQ's training.
    """
    chance, made = np.random.default_rng(seed), {}
    ids = list(paths)
    for number, category in enumerate(CATEGORIES):
        pool, triplets = list(chance.permutation(ids[number::3])), []
        for place, query in enumerate(range(number, queries, 3)):
            target, reference = str(pool[place]), str(pool[place - 1])
            captions = tuple(PHRASES[i] for i in chance.choice(len(PHRASES), 2, replace=False))
            named = f"{category}-{query}", reference, " and ".join(captions), target
            triplets.append(Triplet(*named, category, captions))
        pool = [str(i) for i in pool[: len(triplets) if only_targets else None]]
        corpus = Corpus(tuple(pool), tuple(paths[i] for i in pool))
        made[category] = QuerySet(category, tuple(triplets), corpus, {})
    return made


def wall(work: Callable[[], object]) -> float:
    """Wall-clock seconds until the GPU, too, has finished."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


class Bench:
    """The parts share a model, files, a feature store and a training loop, made in this order."""

    def __init__(self, size: Size, folder: Path) -> None:
        self.size, self.folder = size, folder
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        set_seed(0)
        self.model = QuReModel(size.config).to(self.device)
        self.tokenizer = load_tokenizer(ROOT / "data_prep" / "mini_stage1")
        count = size.train_images + size.val_images
        self.paths = draw_files(folder / "images", count, size.drawn)
        time.sleep(SETTLED + 1)  # newer files are hashed at every opening
        self.known: dict[str, float] = {}

    def rows(self) -> Iterator[Row]:
        """Every part's rows; a part that fails is printed, and the others go on."""
        parts = (self.features, self.encoder, self.opening, self.compiled_steps, self.host_steps)
        parts += (self.plain_steps, self.release, self.embedding, self.val, self.definition)
        for part in (*parts, self.saving, self.recipe):
            print(f"-- {part.__name__.replace('_', ' ')}", flush=True)
            try:
                for what, value, unit in part():
                    self.known[what] = value
                    print(f"   {what}: {value:,.4g} {unit}", flush=True)
                    yield what, value, unit
            except Exception:  # the other parts still count
                traceback.print_exc()
                self.known["failed"] = self.known.get("failed", 0) + 1

    # --- features ---------------------------------------------------------------------------------

    def extract(self) -> FeatureStore:
        vision, config = self.model.vision_encoder, self.size.config
        return extract_features(vision, self.paths, config, self.folder / "features")

    def features(self) -> Iterator[Row]:
        taken = wall(self.extract)
        yield "features: files to store", len(self.paths) / taken, "images/s"

    def encoder(self) -> Iterator[Row]:
        batch = torch.randn(128, 3, *2 * [self.size.config.image_size], device=self.device)
        batches = max(self.size.steps // 5, 1)

        def encode() -> None:
            with autocast(self.device, torch.float16):
                for _ in range(batches):
                    self.model.encode_features(batch)

        encode()
        yield "features: the encoder alone", 128 * batches / wall(encode), "images/s"

    def opening(self) -> Iterator[Row]:
        yield "opening a finished store", wall(self.extract), "s"
        ids = list(self.paths)
        train, val = (
            {i: self.paths[i] for i in part}
            for part in (ids[: self.size.train_images], ids[self.size.train_images :])
        )
        train = make_queries(train, self.size.train_queries, 1, only_targets=True)
        val = make_queries(val, self.size.val_queries, 2, only_targets=False)
        self.data = TrainingData(train, val, dict.fromkeys(train), dict.fromkeys(val))
        self.retriever = Retriever(self.model, self.tokenizer, self.extract())

    # --- steps ------------------------------------------------------------------------------------

    def epoch(self, triplets: int | None = None) -> float:
        """Samples a second of an epoch, or of the first so many triplets of each batch order."""
        whole = self.loop.triplets
        self.loop.triplets = whole[:triplets]
        taken = wall(lambda: self.loop.take_steps(0, set_seed(0)))
        rate, self.loop.triplets = len(self.loop.triplets) / taken, whole
        return rate

    def few(self) -> int:
        """Triplets of the steps that are timed for less than an epoch."""
        return min(self.size.steps * self.size.recipe.batch_size, len(self.loop.triplets))

    def compiled_steps(self) -> Iterator[Row]:
        folder = RunFolder(self.folder / "runs", "gpu", self.size.recipe, {})
        self.loop = Loop(self.size.recipe, self.retriever, self.data, folder)
        self.store = self.retriever.features
        on_gpu = self.device.type == "cuda"
        taken = wall(lambda: self.loop.prepare(Execution(compile=on_gpu)))
        yield "features onto the card", taken, "s"
        yield "compilation", wall(lambda: self.epoch(5 * self.size.recipe.batch_size)), "s"
        _reset_peak()
        on_card = isinstance(self.loop.retriever.features, CardFeatures)
        rate = self.epoch()
        yield f"step: features {'on the card' if on_card else 'in host memory'}", rate, "samples/s"
        yield "step: compiled", float(self.loop.encoder.is_compiled), "1 = yes"
        yield "GPU memory: features and step", _peak(), "GB"
        self.profile()

    def host_steps(self) -> Iterator[Row]:
        if not isinstance(self.loop.retriever.features, CardFeatures):
            return  # they were timed there already
        placed = self.loop.retriever
        self.loop.retriever = replace(placed, features=self.store)
        resident = placed.features.features.nbytes / 1e9
        _reset_peak()
        try:
            self.epoch(self.few())
            yield "step: features in host memory", self.epoch(), "samples/s"
            yield "GPU memory: step, features in host memory", _peak() - resident, "GB"
        finally:
            self.loop.retriever = placed

    def plain_steps(self) -> Iterator[Row]:
        compiled, self.loop.encoder = self.loop.encoder, Encoder(self.model, compiled=False)
        self.epoch(self.few() // 4)
        yield "step: not compiled", self.epoch(self.few()), "samples/s"
        self.loop.encoder = compiled

    def profile(self) -> None:
        """gpu_step.csv: the kernels of a step by their time on the GPU."""
        if self.device.type != "cuda":
            return
        from torch.profiler import ProfilerActivity, profile

        steps = 10
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            self.epoch(steps * self.size.recipe.batch_size)
        kernels = [
            {"kernel": e.key, "calls a step": e.count / steps, "ms a step": _time(e) / 1e3 / steps}
            for e in seen.key_averages()
        ]
        table = pd.DataFrame(kernels).sort_values("ms a step", ascending=False).head(25)
        self.table = table.assign(device=describe_device())

    def release(self) -> Iterator[Row]:
        """The release's step: three images a sample are encoded each time, all on the card."""
        batch, config = self.size.recipe.batch_size, self.size.config
        pixels = torch.randn(3 * batch, 3, *2 * [config.image_size], device=self.device)
        ids, mask = (t[:batch] for t in (self.loop.input_ids, self.loop.attention_mask))
        optimizer = torch.optim.AdamW(self.loop.parameters.values(), lr=1e-9)
        scaler = torch.amp.GradScaler("cuda", enabled=self.device.type == "cuda")
        objective = find_objective("bradley_terry")
        self.model.train()

        def steps(count: int) -> None:
            for _ in range(count):
                with autocast(self.device, torch.float16):
                    features = self.model.encode_features(pixels).float()
                    queries = self.model.encode_query(features[:batch], ids, mask)
                    images = self.model.encode_image(features[batch:])
                    given = queries, images[:batch], images[batch:, None]
                    loss = objective.function(*given, self.model.temperature)
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()

        steps(3)
        rate = self.size.steps * batch / wall(lambda: steps(self.size.steps))
        yield "step: the release's arithmetic", rate, "samples/s"
        best = max(v for w, v in self.known.items() if w.startswith("step: features"))
        yield "step: ours over the release's", best / rate, "ratio"

    # --- embedding --------------------------------------------------------------------------------

    def embedding(self) -> Iterator[Row]:
        retriever, queries = self.loop.retriever, self.data.train["dress"]

        def embed() -> None:
            retriever.embed_queries(queries)
            retriever.embed_corpus(queries.corpus)

        embed()
        count = len(queries) + len(queries.corpus)
        yield "embedding: queries and images", count / wall(embed), "items/s"

    def val(self) -> Iterator[Row]:
        yield "val of an epoch", wall(self.loop.validate), "s"

    def definition(self) -> Iterator[Row]:
        chosen = {}
        for name, dtype in {"float32": torch.float32, "float16": torch.float16}.items():
            retriever = replace(self.loop.retriever, precision=dtype)

            def define(name: str = name, retriever: Retriever = retriever) -> None:
                chosen[name] = define_hard_negatives(retriever, self.data, self.size.recipe)

            yield f"a definition, {name}", wall(define), "s"
        yield "sets of float16 beside float32's: Jaccard", jaccard(*chosen.values()), "mean"

    def saving(self) -> Iterator[Row]:
        """An epoch's end if its model is the best so far; all but the first row is a thread's."""
        folder = self.loop.folder

        def save() -> None:
            folder.save(self.loop.retriever, self.loop.state(), best=True)

        save()
        folder.finish_saving()
        yield "saving an epoch, until training goes on", wall(save), "s"
        yield "saving an epoch, the rest beside it", wall(folder.finish_saving), "s"

    def recipe(self) -> Iterator[Row]:
        """Seconds of the whole recipe, added up."""
        known, recipe = self.known, self.size.recipe
        rate = known.get("step: features on the card") or known["step: features in host memory"]
        once = len(self.paths) / known["features: files to store"]
        once += known["features onto the card"] + known["compilation"]
        each = self.size.train_queries / rate + known["val of an epoch"]
        each += known["saving an epoch, until training goes on"]
        defined = len(recipe.definition_epochs) * known["a definition, float32"]
        yield "the recipe, its parts added", (once + recipe.epochs * each + defined) / 60, "min"


Mined = dict[str, tuple[HardNegativeSet, object]]  # by category


def jaccard(ours: Mined, theirs: Mined) -> float:
    """Mean Jaccard of the queries' sets; two empty sets are equal."""
    shares = []
    for category, (one, _) in ours.items():
        other = theirs[category][0]
        for query in range(len(one.targets)):
            a, b = (
                set(s.negatives[s.offsets[query] : s.offsets[query + 1]].tolist())
                for s in (one, other)
            )
            shares.append(len(a & b) / len(a | b) if a | b else 1.0)
    return float(np.mean(shares))


def _time(event: object) -> float:
    """Microseconds on the GPU; torch has renamed the attribute."""
    for name in ("self_device_time_total", "self_cuda_time_total"):
        if hasattr(event, name):
            return float(getattr(event, name))
    raise AttributeError("the profiler gives no time on the device")


def _reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak() -> float:
    """GB that were held at most since the last reset, the memory of CUDA graphs included."""
    return torch.cuda.max_memory_reserved() / 1e9 if torch.cuda.is_available() else 0.0


def main() -> int:
    options = parser(__doc__).parse_args()
    if not torch.cuda.is_available():
        why = "torch is a build for CPUs" if has_gpu() else "there is none"
        print(f"benchmarks/gpu.py measures an NVIDIA GPU, and {why} here", file=sys.stderr)
        return 2
    size = Size(train_images=3000, val_images=1500, train_queries=3200, val_queries=800)
    size = size if options.reduced else Size()
    needed = 0.6e6 * (size.train_images + size.val_images)
    if (free := shutil.disk_usage(tempfile.gettempdir()).free) < needed:
        print(f"{needed / 1e9:.0f} GB are needed in {tempfile.gettempdir()}, {free / 1e9:.0f} GB "
              "are free: set TMPDIR to a larger disk", file=sys.stderr)  # fmt: skip
        return 2
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{folder}/compiled"  # not of an earlier run
        bench = Bench(size, Path(folder))
        measured = list(bench.rows())
    shape = f"ViT-L, batch 32, {size.train_images + size.val_images:,} images, "
    shape += f"{size.train_queries:,} queries"
    rows = [{"what": w, "value": v, "unit": u, "size": shape} for w, v, u in measured]
    write_rows(rows, options.out, "gpu")
    if hasattr(bench, "table"):
        with replacing(options.out / "gpu_step.csv") as path:
            bench.table.to_csv(path, index=False, float_format="%.4g", lineterminator="\n")
        print(bench.table.to_string(index=False))
    return 1 if "failed" in bench.known else 0


if __name__ == "__main__":
    sys.exit(main())
