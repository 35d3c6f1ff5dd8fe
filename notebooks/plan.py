"""What a profile of published size takes, before anything is downloaded or trained.

    python notebooks/plan.py --profile fashioniq      (or: make plan PROFILE=fashioniq)

Prints what is missing (data, images, weights), what the run costs (disk, GPU memory, time), and the
next command. Times come from rates: those of your own card, which `make bench` writes, else the
shipped ones, else some that were seen by hand; the plan says which. With --check it prints only if
something is missing, and then exits 1: `make reproduce` runs this first.
"""

import argparse
import csv
import math
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
from qure_lib.features.reading import RESERVED
from qure_lib.files import run_command
from qure_lib.method.config import ModelConfig, TrainConfig
from qure_lib.method.model import QuReModel

ROOT = run.HERE.parent
# Rates of the published ViT-L shape, by `what` of the rows that benchmarks/gpu.py writes. The
# values were seen by hand on an NVIDIA H200 with 16 cores, before this code had met a GPU; they are
# used if there is no CSV.
FEATURES, EMBEDDING = "features: files to store", "embedding: queries and images"
ON_CARD, IN_HOST = "step: features on the card", "step: features in host memory"
COMPILATION = "compilation"
BY_HAND = {
    FEATURES: 1836.0,  # images/s; 14 processes decode, the encoder works in float16
    ON_CARD: 1555.0,  # samples/s; batch 32, compiled, with CUDA graphs
    IN_HOST: 1063.0,  # samples/s; a CUDA graph, pinned buffers that a thread fills
    EMBEDDING: 3960.0,  # queries and images a second, in float32
    COMPILATION: 90.0,  # seconds, once a run
}
OWN_CSV = Path("reports/benchmarks/gpu.csv")  # relative to the root, as the next
SHIPPED_CSV = Path("reports/shipped/benchmarks/gpu.csv")
MEASURE = "`make bench` on your card writes your own"
NOT_COUNTED = "slow disks and few cores (they decode the images); ranking, mining and opening a "
NOT_COUNTED += "store, seconds each; another card has other rates"
# For notebook 10, which counts operations (a multiplication with its addition is two, a backward
# pass costs two forward ones) and assumes so many a second. No time of this plan does: small steps
# wait for kernel launches, not for arithmetic.
SUSTAINED = 2e13
CAPTION_TOKENS = 16
TRAINED = "the released rule, the preference curve, uniform negatives, in-batch contrast"
RUNS = 4  # those, trained by notebooks 02 and 03 and opened by 04
RANKED = RUNS + 1  # models that are ranked on CIRCO: the runs, and the starting model
GPU_MEMORY = 24  # GB that the profiles are made for
GB, MINUTE, HOUR = 1e9, 60, 3600
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


@dataclass(frozen=True)
class Rates:
    """What a card does, by the names of BY_HAND (ON_CARD may be missing), and whose rates it is."""

    values: dict[str, float]
    source: str


def main(arguments: list[str] | None = None) -> int:
    """Print the plan; the exit status is 1 if --check finds something missing, 2 on an error."""
    options = parser().parse_args(arguments)
    try:
        places = read_places(options.profile)
        required = list(requirements(options.profile, places))
        missing = [line for line in required if line.remedy]
        if options.allow_missing:
            missing = [line for line in missing if not line.what.endswith("images")]
        if options.check and not missing:
            return 0
        expected = list(costs(options.profile, places))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    ready = f"make reproduce PROFILE={options.profile}"
    for line in [*required, *expected]:
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
    """The folders that a profile's notebooks read, by parameter, relative to the root; not ""."""
    jobs = run.plan(run.HERE, profile, [], {"reports_dir": ROOT / "reports"})
    wanted = {"data_root", "circo_root", "checkpoint", "set_scores"}
    return {
        name: Path(os.path.relpath(run.HERE / value, ROOT))
        for job in jobs
        for name, value in job.parameters.items()
        if name in wanted and value
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
        remedy = "get the images (docs/reproduce.md), then "
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
    """Disk, GPU memory and time."""
    config, train, rates = ModelConfig(), TrainConfig(), find_rates()
    frozen, trained = count_parameters(config)
    for name in data_folders(profile):
        yield from data_costs(name, config, rates)
    yield PlanLine("rates from", rates.source)
    yield PlanLine("not counted", NOT_COUNTED)
    if "checkpoint" in places:
        # last and best, two checkpoints with two moments of the optimizer, and the definitions
        kept = RUNS * 4 * (frozen + (2 + 2 * 3 + train.n_def) * trained)
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


def data_costs(name: str, config: ModelConfig, rates: Rates) -> Iterator[PlanLine]:
    """What a data set's features or embeddings take on disk, and the times of its run."""
    protocol = PROTOCOLS[name]
    key, counts = protocol.key, protocol.counts
    stored = counts.train_images + counts.images
    if counts.train_images:
        each = feature_bytes(config)
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
    parts = times(name, config, rates)
    state = ", ".join(f"{part} {duration(seconds)}" for part, seconds in parts.items())
    if len(parts) > 1:
        state += f"; together {duration(sum(parts.values()))}"
    if counts.train_images:
        yield PlanLine(f"GPU: {key}", place_features(name, config, rates)[1])
    yield PlanLine(f"time: {key}", state)
    yield PlanLine(f"rates: {key}", describe_rates(name, config, rates))


def find_rates() -> Rates:
    """The user's own rates, else the shipped ones, else those seen by hand.

    Raises:
        ValueError: the CSV lacks a row, has it twice, or a value is not a positive number.
    """
    for path in (OWN_CSV, SHIPPED_CSV):
        if (ROOT / path).is_file():
            return read_rates(path)
    source = f"seen by hand on an NVIDIA H200, not measured with this code; {MEASURE}"
    return Rates(BY_HAND, source)


def read_rates(path: Path) -> Rates:
    """The rates in a CSV of benchmarks/gpu.py; raises as `find_rates` does.

    A card that cannot hold FashionIQ's features writes no row ON_CARD; all other rows are needed.
    """
    with (ROOT / path).open(newline="", encoding="utf-8-sig", errors="replace") as file:
        rows = list(csv.DictReader(file))
    values, remedy = {}, "delete the file, or run `make bench` on your card"
    for what in BY_HAND:
        found = [row for row in rows if row.get("what") == what]
        if what == ON_CARD and not found:
            continue
        if len(found) != 1:
            raise ValueError(f"{path} has {len(found)} rows {what!r}, not one; {remedy}")
        text = found[0].get("value") or ""
        values[what] = positive_number(text)
        if math.isnan(values[what]):
            raise ValueError(f"{path}, row {what!r}: {text!r} is no positive number; {remedy}")
    size, device = (found[0].get(name) or f"no {name} given" for name in ("size", "device"))
    source = f"measured with this code on {device} ({path}: {size})"
    return Rates(values, source if path == OWN_CSV else f"{source}; {MEASURE}")


def positive_number(text: str) -> float:
    """A finite number above 0; NaN if the text is none."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if 0 < value < math.inf else math.nan


def times(name: str, config: ModelConfig, rates: Rates) -> dict[str, float]:
    """Seconds of each part of a data set's run."""
    protocol, values = PROTOCOLS[name], rates.values
    counts = protocol.counts
    definition, val = embedding_times(name, rates)
    if not counts.train_images:
        models = 1 if protocol.command.keeps_features else RANKED
        return {"ranking": models * (counts.images / values[FEATURES] + val)}
    train = TrainConfig(**protocol.training.recipe)
    epoch = counts.train_queries / values[place_features(name, config, rates)[0]]
    return {
        "features": (counts.train_images + counts.images) / values[FEATURES],
        "training": RUNS * (train.epochs * epoch + values[COMPILATION]),
        "definitions": RUNS * len(train.definition_epochs) * definition,
        "val": RUNS * train.epochs * val,
    }


def embedding_times(name: str, rates: Rates) -> tuple[float, float]:
    """Seconds of embedding the queries and images of one definition, and of one val."""
    counts, rate = PROTOCOLS[name].counts, rates.values[EMBEDDING]
    # A pool is FashionIQ's 18,000 targets, or all of CIRR's images, which its queries outnumber.
    pool = min(counts.train_queries, counts.train_images)
    definition = (counts.train_queries + pool) / rate
    return definition, (counts.queries + counts.images) / rate


def place_features(name: str, config: ModelConfig, rates: Rates) -> tuple[str, str]:
    """Where a data set's features are in training: ON_CARD or IN_HOST, and the reason in words.

    They are on the card if they fit it and leave RESERVED free, as in training.
    """
    counts, memory = PROTOCOLS[name].counts, gpu_memory()
    size = (counts.train_images + counts.images) * feature_bytes(config)
    needed = f"{size / GB:.1f} GB of them and {RESERVED / GB:.0f} GB kept free"
    gpu = f"a GPU of {memory / GB:.0f} GB"
    if size + RESERVED > memory:
        return IN_HOST, f"features in host memory: {needed} do not fit {gpu}"
    why = f"features on the card: {needed} fit {gpu}"
    if ON_CARD not in rates.values:
        return IN_HOST, f"{why}; this was not measured, so the rate is that of host memory"
    return ON_CARD, why


def gpu_memory() -> float:
    """Bytes of this machine's GPU; without one, of a GPU that the profiles are made for."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    return GPU_MEMORY * GB


def describe_rates(name: str, config: ModelConfig, rates: Rates) -> str:
    """The rates behind `times`, to be compared with what is measured."""
    values = rates.values
    features = f"features {values[FEATURES]:,.0f} images/s"
    if not PROTOCOLS[name].counts.train_images:
        return f"{features}, embedding {values[EMBEDDING]:,.0f} queries and images/s"
    definition, val = embedding_times(name, rates)
    place = place_features(name, config, rates)[0]
    return (
        f"{features}, training {values[place]:,.0f} samples/s ({place.removeprefix('step: ')}), "
        f"a definition {definition:.1f} s, a val {val:.1f} s, "
        f"compilation {values[COMPILATION]:.0f} s a run"
    )


def duration(seconds: float) -> str:
    """Seconds below two minutes, minutes below two hours, else hours.

    Example:
        >>> duration(22), duration(348), duration(9000)
        ('22 s', '5.8 min', '2.5 h')
    """
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / MINUTE:.1f} min" if seconds < 2 * HOUR else f"{seconds / HOUR:.1f} h"


def feature_bytes(config: ModelConfig) -> int:
    """Bytes of one image's frozen features, in float16."""
    return 2 * vision_tokens(config) * config.vision_width


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
    run_command(main)
