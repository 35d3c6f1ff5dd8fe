"""What a profile of published size takes, before anything is downloaded or trained.

    python notebooks/plan.py --profile fashioniq      (or: make plan PROFILE=fashioniq)

Prints what is missing (data, images, weights), what the run costs by a stated model (disk, GPU
memory, hours), and the next command. With --check it prints only if something is missing, and then
exits 1: `make reproduce` runs this first.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import run
import torch

from qure_lib.datasets.hp_fashioniq import load_hp_fashioniq, load_set_scores
from qure_lib.datasets.loading import real_annotations
from qure_lib.evaluation.registry import PROTOCOLS
from qure_lib.method.config import ModelConfig, TrainConfig
from qure_lib.method.model import QuReModel

ROOT = run.HERE.parent
# The cost model. A multiplication with its addition is two operations, a backward pass costs two
# forward ones. How much of a GPU's peak such small batches reach is an assumption, not a
# measurement: cards of 24 GB peak at 70 to 165 tera-operations a second in fp16. Read hours as an
# order of magnitude.
SUSTAINED = 2e13  # operations a second
CAPTION_TOKENS = 16
TRAINED = "the released rule, the preference curve, uniform negatives, in-batch contrast"
RUNS = 4  # those, trained by notebooks 02 and 03 and opened by 04
RANKED = RUNS + 1  # models that are ranked on CIRCO: the runs, and the starting model
GPU_MEMORY = 24  # GB that the profiles are made for
GB, HOUR = 1e9, 3600
PYTHON = ".venv/bin/python"  # as commands name it

# A profile of published size is called like its data set, which `data_root` names, but this one
# reads two: data set -> the parameter that names its folder.
FOLDERS = {"circo": {"cirr": "data_root", "circo": "circo_root"}}


@dataclass(frozen=True)
class PlanLine:
    """A line of the plan: a thing and its state; remedy: the command to run if it is missing."""

    what: str
    state: str
    remedy: str | None = None


def main(arguments: list[str] | None = None) -> int:
    """Print the plan; the exit status is 1 if --check finds something missing, 2 on an error."""
    options = parser().parse_args(arguments)
    try:
        places = read_places(options.profile)
        required = list(requirements(options.profile, places))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    missing = [line for line in required if line.remedy]
    if options.allow_missing:
        missing = [line for line in missing if not line.what.endswith("images")]
    if options.check and not missing:
        return 0
    ready = f"make reproduce PROFILE={options.profile}"
    for line in [*required, *costs(options.profile, places)]:
        print(f"{line.what:<24}{line.state}")
    print(f"\nNext: {missing[0].remedy if missing else ready}")
    return int(options.check)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--profile", required=True, choices=PROTOCOLS)
    result.add_argument("--check", action="store_true", help="print only if something is missing")
    result.add_argument("--allow-missing", action="store_true", help="images may be missing")
    return result


def read_places(profile: str) -> dict[str, Path]:
    """The folders that a profile's notebooks read, by parameter, relative to the root."""
    jobs = run.plan(run.HERE, profile, [], {"reports_dir": ROOT / "reports"})
    wanted = {"data_root", "circo_root", "checkpoint", "set_scores"}
    return {
        name: Path(os.path.relpath(run.HERE / value, ROOT))
        for job in jobs
        for name, value in job.parameters.items()
        if name in wanted
    }


def data_folders(profile: str) -> dict[str, str]:
    """The data sets that a profile reads -> the parameter that names each one's folder."""
    return FOLDERS.get(profile, {profile: "data_root"})


def requirements(profile: str, places: dict[str, Path]) -> Iterator[PlanLine]:
    """Data, weights and scores that the profile needs, in the order of getting them."""
    for name, parameter in data_folders(profile).items():
        if name == "hp-fashioniq":
            yield from judgement_lines(places)
        else:
            yield from data_lines(name, places[parameter])
    if "checkpoint" in places:
        yield weights_line(places["checkpoint"])


def data_lines(name: str, root: Path) -> Iterator[PlanLine]:
    """Annotations and images of one data set."""
    protocol = PROTOCOLS[name]
    key, counts = protocol.key, protocol.counts
    command = f"{PYTHON} -m data_prep.{key}"
    try:
        found = protocol.list_images(ROOT / root)
    except ValueError as error:
        fetch = f"{command} fetch {root}"
        if find_spec(f"data_prep.{key}") is None:
            fetch = f"put the annotations of {name} into {root}"
        yield PlanLine(f"{key}: annotations", first_sentence(error), fetch)
        yield PlanLine(f"{key}: images", f"{counts.train_images + counts.images:,} go into {root}")
        return
    there = sum(path.is_file() for path in found.values())
    yield PlanLine(f"{key}: annotations", f"in {root}")
    remedy = None
    if there < len(found):
        remedy = "get the images (README, Reproducing the paper), then "
        remedy += f"{command} check {root} --images"
    yield PlanLine(f"{key}: images", f"{there:,} of {len(found):,} in {root}", remedy)


def judgement_lines(places: dict[str, Path]) -> Iterator[PlanLine]:
    """HP-FashionIQ's judgements, and a model's scores of the sets that were judged."""
    command, scores = f"{PYTHON} -m data_prep.hp_fashioniq", places["set_scores"]
    folder = real_annotations("hpfiq")
    if folder is None:
        fetch = f"{command} fetch data/hpfiq; export QURE_DATA=$PWD/data"
        yield PlanLine("hpfiq: judgements", "missing: QURE_DATA names no folder with hpfiq/", fetch)
        return
    judged = load_hp_fashioniq(folder / "hpfiq.json")
    yield PlanLine("hpfiq: judgements", f"{len(judged):,} in {folder}")
    try:
        load_set_scores(ROOT / scores, len(judged))
        yield PlanLine("hpfiq: scores", f"in {scores}")
    except ValueError as error:
        runs = sorted((ROOT / "runs").glob("cosine-*/last"), key=os.path.getmtime)
        model = os.path.relpath(runs[-1], ROOT) if runs else ""
        score = f"{PYTHON} -m qure_lib.evaluation hp-fashioniq --checkpoint {model} --root "
        score += f"{places['data_root']} --annotations {folder} --set-scores {scores}"
        remedy = score if runs else "make reproduce PROFILE=fashioniq"
        yield PlanLine("hpfiq: scores", first_sentence(error), remedy)


def first_sentence(error: ValueError) -> str:
    """An error's first sentence, at most 150 characters, with paths relative to the root."""
    return str(error).partition(". ")[0].replace(f"{ROOT}{os.sep}", "")[:150]


def weights_line(folder: Path) -> PlanLine:
    """The starting model, converted."""
    files = ("config.json", "model.safetensors", "tokenizer.json")
    missing = [name for name in files if not (ROOT / folder / name).is_file()]
    if not missing:
        return PlanLine("weights", f"in {folder}")
    convert = f"{PYTHON} -m qure_lib.features.published_weights blip2_pretrained_vitL.pth "
    convert += f"{folder} --vocabulary bert-base-uncased --vision clip_vit_L.pth"
    return PlanLine("weights", f"missing: {folder} has no {missing[0]}", convert)


def costs(profile: str, places: dict[str, Path]) -> Iterator[PlanLine]:
    """Disk, GPU memory and hours, by the cost model."""
    config, train = ModelConfig(), TrainConfig()
    frozen, trained = count_parameters(config)
    for name in data_folders(profile):
        yield from data_costs(name, config)
    if "checkpoint" in places:
        # last and best, the checkpoint with two moments of the optimizer, and the definitions
        kept = RUNS * 4 * (frozen + (2 + 3 + train.n_def) * trained)
        yield PlanLine("trained", f"{RUNS} runs: {TRAINED}")
        what = f"{RUNS} runs, each with two models and one frozen tower"
        yield PlanLine("disk: runs", f"{kept / GB:.0f} GB: {what}")
        memory = 4 * frozen + 16 * trained + activations(config, train.batch_size)
        yield PlanLine("GPU: training", f"about {memory / GB:.0f} GB, of {GPU_MEMORY} GB meant")
    free = shutil.disk_usage(ROOT).free / GB
    gpu = "none"
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory / GB
        gpu = f"{torch.cuda.get_device_name()}, {total:.0f} GB"
    yield PlanLine("here", f"{free:.0f} GB of disk free; GPU: {gpu}")


def data_costs(name: str, config: ModelConfig) -> Iterator[PlanLine]:
    """What a data set's features or embeddings take on disk, and the hours of its run."""
    protocol = PROTOCOLS[name]
    key, counts = protocol.key, protocol.counts
    stored = counts.train_images + counts.images
    if counts.train_images:
        each = 2 * vision_tokens(config) * config.vision_width
        what = f"{stored:,} images x {each / 1e3:.0f} KB = {stored * each / GB:.1f} GB"
        of_train = counts.train_images * each / GB
        yield PlanLine(
            f"disk: {key}", f"{what} of frozen features ({of_train:.1f} GB for training)"
        )
    elif not protocol.command.keeps_features:
        each = 2 * config.num_query_tokens * config.embedding_dim
        total = RANKED * stored * each / GB
        what = f"{stored:,} images x {each / 1e3:.0f} KB x {RANKED} models = {total:.1f} GB"
        yield PlanLine(f"disk: {key}", f"{what} of embeddings")
    hours = [f"{step} {seconds / HOUR:.1f} h" for step, seconds in times(name, config).items()]
    yield PlanLine(f"time: {key}", f"{', '.join(hours)} (order of magnitude, by the cost model)")


def times(name: str, config: ModelConfig) -> dict[str, float]:
    """Seconds of each step on a data set, by the cost model."""
    protocol, vision = PROTOCOLS[name], vision_operations(config)
    counts = protocol.counts
    image = qformer_operations(config, 0)
    query = qformer_operations(config, CAPTION_TOKENS)
    if not counts.train_images:
        models = 1 if protocol.command.keeps_features else RANKED
        operations = counts.images * (vision + image) + counts.queries * query
        return {"ranking": models * operations / SUSTAINED}
    train = TrainConfig(**protocol.training.recipe)
    step = 3 * (query + 2 * image)  # forward and backward; one query, one target, one negative
    define = counts.train_queries * query + counts.train_images * image
    val = counts.queries * query + counts.images * image
    parts = {
        "features": (counts.train_images + counts.images) * vision,
        "training": RUNS * train.epochs * counts.train_queries * step,
        "definitions": RUNS * len(train.definition_epochs) * define,
        "val": RUNS * train.epochs * val,
    }
    return {part: operations / SUSTAINED for part, operations in parts.items()}


def vision_tokens(config: ModelConfig) -> int:
    return (config.image_size // config.patch_size) ** 2 + 1


def vision_operations(config: ModelConfig) -> float:
    """Operations of encoding one image: 12 C^2 weights a block on each token, and attention."""
    tokens, width = vision_tokens(config), config.vision_width
    return config.vision_layers * (24 * tokens * width**2 + 4 * tokens**2 * width)


def qformer_operations(config: ModelConfig, caption: int) -> float:
    """Operations of one pass of the Q-Former over its query tokens and `caption` text tokens."""
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
    """Numbers of frozen and of trained parameters; none is allocated."""
    with torch.device("meta"):
        model = QuReModel(config)
    trained = sum(p.numel() for p in model.trainable_parameters().values())
    return sum(p.numel() for p in model.parameters()) - trained, trained


if __name__ == "__main__":
    sys.exit(main())
