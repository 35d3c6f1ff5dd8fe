"""What a profile of published size takes, before anything is downloaded or trained.

    python notebooks/plan.py --profile fashioniq      (or: make plan PROFILE=fashioniq)

Prints what is missing (data, images, weights), what the run costs by a stated model (disk, GPU
memory, hours), and the next command. With --check it prints only where something is missing, and
then exits 1: `make reproduce` asks first.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import run
import torch

from qure_lib.config import TrainConfig
from qure_lib.data import (
    load_circo,
    load_cirr,
    load_fashioniq,
    load_hp_fashioniq,
    load_set_scores,
    real_annotations,
)
from qure_lib.model import ModelConfig, QuReModel

ROOT = run.HERE.parent
# The cost model. A multiplication with its addition is two operations, a backward pass costs two
# forward ones. How much of a GPU's peak such small batches reach is an assumption and not measured:
# cards of 24 GB peak at 70 to 165 tera-operations a second in fp16. Read hours as an order of
# magnitude.
SUSTAINED = 2e13  # operations a second
CAPTION_TOKENS = 16
RUNS = 4  # that notebook 04 trains; 02 and 03 open the same
RANKED = RUNS + 1  # models that are ranked on CIRCO: the runs, and the start
GPU_MEMORY = 24  # GB, what the profiles are made for
GB, HOUR = 1e9, 3600


@dataclass(frozen=True)
class Size:
    """A data set: distinct images that are trained on or ranked, and queries of either kind."""

    train_images: int = 0
    images: int = 0  # that are ranked for val
    train_queries: int = 0
    queries: int = 0


# Counted in the annotations; CIRR's train queries are its paper's, CIRCO's images COCO's.
SIZES = {
    "fashioniq": Size(25_136, 15_415, 18_000, 6_016),
    "cirr": Size(16_939, 2_297, 28_225, 4_181),
    "circo": Size(images=123_403, queries=220),
    "hpfiq": Size(images=5_473, queries=3_050),
}
# Profile -> data set -> the parameter that names its folder.
READS = {
    "fashioniq": {"fashioniq": "data_root"},
    "cirr": {"cirr": "data_root"},
    "circo": {"cirr": "data_root", "circo": "circo_root"},
    "hp-fashioniq": {"hpfiq": "data_root"},
}


@dataclass(frozen=True)
class Need:
    """Something that a run takes: whether it is there, and the command that gets it."""

    what: str
    state: str
    remedy: str | None = None


def main(arguments: list[str] | None = None) -> int:
    """Print the plan; the exit status is 1 if --check finds something missing, 2 if it cannot."""
    options = parser().parse_args(arguments)
    try:
        places = read_places(options.profile)
        needs = list(find_needs(options.profile, places))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    missing = [need for need in needs if need.remedy]
    if options.allow_missing:
        missing = [need for need in missing if not need.what.endswith("images")]
    if options.check and not missing:
        return 0
    ready = f"make reproduce PROFILE={options.profile}"
    for need in [*needs, *costs(options.profile, places)]:
        print(f"{need.what:<24}{need.state}")
    print(f"\nNext: {missing[0].remedy if missing else ready}")
    return int(options.check)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--profile", required=True, choices=READS)
    result.add_argument("--check", action="store_true", help="say nothing if nothing is missing")
    result.add_argument("--allow-missing", action="store_true", help="images may be missing")
    return result


def read_places(profile: str) -> dict[str, Path]:
    """The folders that a profile's notebooks read, by parameter, as seen from the root."""
    jobs = run.plan(run.HERE, profile, [], {"reports_dir": ROOT / "reports"})
    named = {"data_root", "circo_root", "checkpoint", "set_scores"}
    return {
        name: Path(os.path.relpath(run.HERE / value, ROOT))
        for job in jobs
        for name, value in job.parameters.items()
        if name in named
    }


def find_needs(profile: str, places: dict[str, Path]) -> Iterator[Need]:
    """What the profile's data, weights and scores lack, in the order of getting them."""
    for name, parameter in READS[profile].items():
        if name == "hpfiq":
            yield from judgement_needs(places)
        else:
            yield from data_needs(name, places[parameter])
    if "checkpoint" in places:
        yield weights_need(places["checkpoint"])


def data_needs(name: str, root: Path) -> Iterator[Need]:
    """Annotations and images of one data set."""
    command, size = f"{python()} -m data_prep.{name}", SIZES[name]
    try:
        found = read_images(name)(ROOT / root)
    except ValueError as error:
        yield Need(f"{name}: annotations", first_words(error), f"{command} fetch {root}")
        yield Need(f"{name}: images", f"{size.train_images + size.images:,} are wanted in {root}")
        return
    there = sum(path.is_file() for path in found.values())
    yield Need(f"{name}: annotations", f"in {root}")
    look = f"{command} check {root} --images"
    remedy = None
    if there < len(found):
        remedy = f"get the images (README, Reproducing the paper), then {look}"
    yield Need(f"{name}: images", f"{there:,} of {len(found):,} in {root}", remedy)


def read_images(name: str) -> Callable[[Path], dict[str, Path]]:
    """What lists the images that a run on this data set reads: root -> id -> file."""

    def fashioniq(root: Path) -> dict[str, Path]:
        train = load_fashioniq(root, "train", corpus="targets", images=False)
        sets = [*train.values(), *load_fashioniq(root, "val", images=False).values()]
        return {i: path for queries in sets for i, path in queries.images.items()}

    def cirr(root: Path) -> dict[str, Path]:
        sets = [load_cirr(root, split, images=False) for split in ("train", "val")]
        return {i: path for queries in sets for i, path in queries.images.items()}

    def circo(root: Path) -> dict[str, Path]:
        return load_circo(root, "val", images=False).images

    return {"fashioniq": fashioniq, "cirr": cirr, "circo": circo}[name]


def judgement_needs(places: dict[str, Path]) -> Iterator[Need]:
    """HP-FashionIQ's judgements, and a model's scores of the sets that were judged."""
    command, scores = f"{python()} -m data_prep.hp_fashioniq", places["set_scores"]
    folder = real_annotations("hpfiq")
    if folder is None:
        fetch = f"{command} fetch data/hpfiq; export QURE_DATA=$PWD/data"
        yield Need("hpfiq: judgements", "missing: QURE_DATA names no folder with hpfiq/", fetch)
        return
    judged = load_hp_fashioniq(folder / "hpfiq.json")
    yield Need("hpfiq: judgements", f"{len(judged):,} in {folder}")
    try:
        load_set_scores(ROOT / scores, len(judged))
        yield Need("hpfiq: scores", f"in {scores}")
    except ValueError as error:
        runs = sorted((ROOT / "runs").glob("between_drops-*/last"), key=os.path.getmtime)
        model = os.path.relpath(runs[-1], ROOT) if runs else ""
        score = f"{python()} -m qure_lib.evaluation hp-fashioniq --checkpoint {model} --root "
        score += f"{places['data_root']} --annotations {folder} --set-scores {scores}"
        remedy = score if runs else "make reproduce PROFILE=fashioniq"
        yield Need("hpfiq: scores", first_words(error), remedy)


def first_words(error: ValueError) -> str:
    """An error's first sentence, without the root's path."""
    return str(error).partition(". ")[0].replace(f"{ROOT}{os.sep}", "")[:150]


def weights_need(folder: Path) -> Need:
    """The starting model, converted."""
    files = ("config.json", "model.safetensors", "tokenizer.json")
    missing = [name for name in files if not (ROOT / folder / name).is_file()]
    if not missing:
        return Need("weights", f"in {folder}")
    convert = f"{python()} -m qure_lib.checkpoints blip2_pretrained_vitL.pth {folder} --vocabulary"
    convert += " bert-base-uncased --vision clip_vit_L.pth"
    return Need("weights", f"missing: {folder} has no {missing[0]}", convert)


def python() -> str:
    """The interpreter as commands name it."""
    return ".venv/bin/python"


def costs(profile: str, places: dict[str, Path]) -> Iterator[Need]:
    """Disk, GPU memory and hours, by the cost model."""
    config, train = ModelConfig(), TrainConfig()
    frozen, trained = count_parameters(config)
    for name in READS[profile]:
        yield from data_costs(name, config)
    if "checkpoint" in places:
        kept = RUNS * (2 * 4 * (frozen + trained) + 12 * trained + 4 * trained * train.n_def)
        yield Need("disk: runs", f"{kept / GB:.0f} GB: {RUNS} runs, each with two whole models")
        memory = 4 * frozen + 16 * trained + activations(config, train.batch_size)
        yield Need("GPU: training", f"about {memory / GB:.0f} GB, of {GPU_MEMORY} GB meant")
    free = shutil.disk_usage(ROOT).free / GB
    gpu = "none"
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory / GB
        gpu = f"{torch.cuda.get_device_name()}, {total:.0f} GB"
    yield Need("here", f"{free:.0f} GB of disk free; GPU: {gpu}")


def data_costs(name: str, config: ModelConfig) -> Iterator[Need]:
    """What a data set's features or embeddings take on disk, and the hours of its run."""
    size = SIZES[name]
    stored = size.train_images + size.images
    if size.train_images:
        each = 2 * vision_tokens(config) * config.vision_width
        what = f"{stored:,} images x {each / 1e3:.0f} KB = {stored * each / GB:.1f} GB"
        of_train = size.train_images * each / GB
        yield Need(f"disk: {name}", f"{what} of frozen features ({of_train:.1f} GB for training)")
    elif name == "circo":
        each = 2 * config.num_query_tokens * config.embedding_dim
        total = RANKED * stored * each / GB
        what = f"{stored:,} images x {each / 1e3:.0f} KB x {RANKED} models = {total:.1f} GB"
        yield Need(f"disk: {name}", f"{what} of embeddings")
    hours = [f"{step} {seconds / HOUR:.1f} h" for step, seconds in times(name, config).items()]
    yield Need(f"time: {name}", f"{', '.join(hours)} (order of magnitude, by the cost model)")


def times(name: str, config: ModelConfig) -> dict[str, float]:
    """Seconds of each step on a data set, by the cost model."""
    size, vision = SIZES[name], vision_operations(config)
    image = qformer_operations(config, 0)
    query = qformer_operations(config, CAPTION_TOKENS)
    if not size.train_images:
        models = RANKED if name == "circo" else 1
        operations = size.images * (vision + image) + size.queries * query
        return {"ranking": models * operations / SUSTAINED}
    train = TrainConfig(epochs=50) if name == "cirr" else TrainConfig()
    step = 3 * (query + 2 * image)  # forward and backward; one query, one target, one negative
    define = size.train_queries * query + size.train_images * image
    val = size.queries * query + size.images * image
    parts = {
        "features": (size.train_images + size.images) * vision,
        "training": RUNS * train.epochs * size.train_queries * step,
        "definitions": RUNS * len(train.definition_epochs) * define,
        "val": RUNS * train.epochs * val,
    }
    return {part: operations / SUSTAINED for part, operations in parts.items()}


def vision_tokens(config: ModelConfig) -> int:
    return (config.image_size // config.patch_size) ** 2 + 1


def vision_operations(config: ModelConfig) -> float:
    """Of encoding one image: 12 C^2 weights a block on each token, and the attention."""
    tokens, width = vision_tokens(config), config.vision_width
    return config.vision_layers * (24 * tokens * width**2 + 4 * tokens**2 * width)


def qformer_operations(config: ModelConfig, caption: int) -> float:
    """Of one pass of the Q-Former over its query tokens and `caption` more."""
    queries, width = config.num_query_tokens, config.qformer_width
    tokens, patches = queries + caption, vision_tokens(config)
    block = 24 * tokens * width**2 + 4 * tokens**2 * width
    cross = 4 * queries * width**2 + 4 * patches * config.vision_width * width
    cross += 4 * queries * patches * width
    return config.qformer_layers * (block + cross / 2)  # every second layer looks at the image


def activations(config: ModelConfig, batch: int) -> float:
    """Bytes kept for the backward pass: about 20 values a token, layer and channel, in fp16."""
    tokens = 3 * config.num_query_tokens + CAPTION_TOKENS
    kept = 20 * tokens * config.qformer_width
    kept += 3 * vision_tokens(config) * config.qformer_width  # keys and values, every second layer
    return 2 * batch * config.qformer_layers * kept


def count_parameters(config: ModelConfig) -> tuple[int, int]:
    """Frozen and trained parameters, without making them."""
    with torch.device("meta"):
        model = QuReModel(config)
    trained = sum(p.numel() for p in model.trainable_parameters().values())
    return sum(p.numel() for p in model.parameters()) - trained, trained


if __name__ == "__main__":
    sys.exit(main())
