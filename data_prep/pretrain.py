"""Stage 1 of a small model: BLIP-2's image-text contrastive objective on drawn garments.

    python -m data_prep.pretrain                    (or: make pretrain)
    python -m data_prep.pretrain --model large      the strong world's, best on a GPU

The model is BLIP-2 at small dimensions. It is trained on images and their descriptions of a world
of its own (its seed is not the notebooks'), never on relative captions. Its WordPiece vocabulary is
trained on that world's descriptions and captions.
"""

import argparse
import json
import random
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import BertWordPieceTokenizer
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from data_prep import synthfashion
from data_prep.wordings import describe as describe_garment
from qure_lib.datasets.captions import clean_caption
from qure_lib.datasets.fashioniq import load_fashioniq
from qure_lib.datasets.image_files import read_image
from qure_lib.datasets.preprocessing import image_transform
from qure_lib.features.model_folder import save_model
from qure_lib.features.tokenizer import as_bert_tokenizer, tokenize
from qure_lib.files import file_sha256, read_json, replacing, run_command
from qure_lib.manifest import run_manifest
from qure_lib.method.config import ModelConfig
from qure_lib.method.losses import info_nce_loss
from qure_lib.method.model import QuReModel
from qure_lib.method.scores import relevance_scores
from qure_lib.train.progress import set_seed

WORLD_SEED = 1  # the notebooks' world is drawn from seed 0
VOCABULARY = 1024  # at most


@dataclass(frozen=True)
class Recipe:
    """How one model's stage 1 is trained.

    shape: fields of ModelConfig; the vocabulary's size comes from its tokenizer.
    settings: of the optimiser, and the seed.
    size: of the world, a key of synthfashion.SIZES.
    world, folder: where the world and the checkpoint are written.
    gpu: whether a GPU is used where there is one, in bfloat16 autocast.
    """

    shape: dict[str, int]
    settings: dict[str, Any]
    size: str
    world: Path
    folder: Path
    gpu: bool


MINI = Recipe(
    shape={
        "image_size": 64,
        "patch_size": 8,
        "vision_width": 128,
        "vision_layers": 3,
        "vision_heads": 4,
        "qformer_width": 96,
        "qformer_layers": 4,
        "qformer_heads": 4,
        "num_query_tokens": 8,
        "embedding_dim": 64,
        "max_caption_tokens": 48,
    },
    settings={
        "epochs": 50,
        "batch_size": 64,
        "learning_rate": 1e-3,
        "weight_decay": 0.05,
        "seed": 0,
    },
    size="mini",
    world=Path("data/synthfashion-stage1"),
    folder=Path(__file__).parent / "mini_stage1",
    gpu=False,  # the shipped checkpoint's bits are a CPU's
)
LARGE = Recipe(
    shape={
        "image_size": 64,
        "patch_size": 8,
        "vision_width": 256,
        "vision_layers": 6,
        "vision_heads": 8,
        "qformer_width": 192,
        "qformer_layers": 6,
        "qformer_heads": 6,
        "num_query_tokens": 16,
        "embedding_dim": 128,
        "max_caption_tokens": 48,
    },
    settings={
        "epochs": 30,
        "batch_size": 256,
        "learning_rate": 8e-4,
        "weight_decay": 0.05,
        "seed": 0,
    },
    size="large_stage1",
    world=Path("data/synthfashion-large-stage1"),
    folder=Path("data/large_stage1"),
    gpu=True,
)
MODELS = {"mini": MINI, "large": LARGE}


def train_tokenizer(captions: list[str]) -> PreTrainedTokenizerFast:
    """Train a lower-case WordPiece tokenizer, [CLS] ... [SEP], on the cleaned captions."""
    wordpiece = BertWordPieceTokenizer(lowercase=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
    wordpiece.train_from_iterator(
        map(clean_caption, captions),
        vocab_size=VOCABULARY,
        special_tokens=special,
        show_progress=False,
    )
    return as_bert_tokenizer(wordpiece)


def initialise(model: QuReModel) -> None:
    """Draw initial weights that suit the small widths.

    BLIP-2's standard deviation of 0.02 suits a width of 768. At a width of 96 the image's part of
    the residual stream is then so small that the loss stays at chance (log 64 for 300 steps).
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.xavier_uniform_(module.weight)
    for embedding in (model.embeddings.word_embeddings, model.embeddings.position_embeddings):
        torch.nn.init.normal_(embedding.weight, std=0.3)
    torch.nn.init.normal_(model.query_tokens, std=1.0)


def contrastive_loss(model: QuReModel, pixels: Tensor, tokens: tuple[Tensor, Tensor]) -> Tensor:
    """BLIP-2's image-text contrastive loss of a batch, the mean of both directions."""
    images = model.encode_image(model.vision_encoder(pixels))
    scores = relevance_scores(model.encode_text(*tokens), images)
    both = info_nce_loss(scores, model.temperature) + info_nce_loss(scores.T, model.temperature)
    return both / 2


def read_pixels(root: Path, image_ids: list[str], size: int) -> Tensor:
    """(images, 3, size, size) normalised pixels."""
    transform = image_transform(size)
    paths = [root / "images" / f"{i}.png" for i in image_ids]
    return torch.stack([transform(read_image(p)) for p in tqdm(paths, "pixels", mininterval=1.0)])


@torch.no_grad()
def top1(model: QuReModel, pixels: Tensor, tokens: tuple[Tensor, Tensor]) -> float:
    """Share of descriptions whose own image ranks first among `pixels`."""
    model.eval()
    images = torch.cat([model.encode_image(model.encode_features(p)) for p in pixels.split(256)])
    best = relevance_scores(model.encode_text(*tokens), images).argmax(dim=1)
    return (best == torch.arange(len(best), device=best.device)).float().mean().item()


def pretrain(recipe: Recipe) -> tuple[QuReModel, PreTrainedTokenizerFast, dict[str, Any]]:
    """Train stage 1 on every train image of a world, which is drawn where it is missing.

    Returns:
        The model, on the CPU; its tokenizer; and the results.
    """
    world, settings = recipe.world, recipe.settings
    device = torch.device("cuda" if recipe.gpu and torch.cuda.is_available() else "cpu")
    set_seed(settings["seed"])
    rng = random.Random(settings["seed"])
    synthfashion.prepare(world, size=recipe.size, seed=WORLD_SEED)
    known = read_json(world / "synthfashion.json", dict)["images"]
    sets = {s: load_fashioniq(world, s) for s in ("train", "val")}
    ids = {s: [i for q in sets[s].values() for i in q.corpus.image_ids] for s in sets}
    category = {i: c for s in sets for c, q in sets[s].items() for i in q.corpus.image_ids}

    def describe(image_ids: list[str]) -> list[str]:
        return [describe_garment(known[i], category[i], rng) for i in image_ids]

    captions = [t.caption for q in sets["train"].values() for t in q.triplets]
    tokenizer = train_tokenizer(captions + [d for _ in range(5) for d in describe(ids["train"])])
    config = ModelConfig(**recipe.shape, vocab_size=len(tokenizer))
    model = QuReModel(config)
    initialise(model)
    model.vision_encoder.requires_grad_(True)
    model.to(device)
    pixels = {s: read_pixels(world, ids[s], config.image_size).to(device) for s in ids}

    def tokens_of(image_ids: list[str]) -> tuple[Tensor, Tensor]:
        input_ids, mask = tokenize(tokenizer, describe(image_ids), config.max_caption_tokens)
        return input_ids.to(device), mask.to(device)

    losses = _optimise(model, pixels["train"], ids["train"], tokens_of, settings)
    record = {
        "loss_first_epoch": losses[0],
        "loss_last_epoch": losses[-1],
        "val_images": len(ids["val"]),
        "val_top1": top1(model, pixels["val"], tokens_of(ids["val"])),
        "trained_on": device.type,
    }
    return model.cpu(), tokenizer, record


def _optimise(model, pixels, image_ids, tokens_of, settings) -> list[float]:
    """Train with AdamW on a one-cycle schedule; return the mean loss of each epoch."""
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=settings["weight_decay"])
    steps = settings["epochs"] * (len(image_ids) // settings["batch_size"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings["learning_rate"], steps)
    losses = []
    bar = tqdm(total=steps, desc="stage 1", unit="step", mininterval=1.0)
    for _ in range(settings["epochs"]):
        model.train()
        batches = torch.randperm(len(image_ids)).split(settings["batch_size"])
        batches = [b for b in batches if len(b) == settings["batch_size"]]
        epoch = []
        for batch in batches:
            tokens = tokens_of([image_ids[i] for i in batch])
            with torch.autocast(pixels.device.type, torch.bfloat16, enabled=pixels.is_cuda):
                loss = contrastive_loss(model, pixels[batch.to(pixels.device)], tokens)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            epoch.append(loss.item())
            bar.update()
        losses.append(sum(epoch) / len(epoch))
        bar.set_postfix(loss=f"{losses[-1]:.3f}")
    bar.close()
    return losses


def write(folder: Path, model: QuReModel, tokenizer: PreTrainedTokenizerFast, record: dict) -> None:
    """Write the checkpoint with its tokenizer and manifest, whole or not at all."""
    with replacing(folder) as scratch:
        save_model(model, scratch, tokenizer)
        hashes = {"model.safetensors": file_sha256(scratch / "model.safetensors")}
        manifest = run_manifest(**record, sha256=hashes)
        (scratch / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("folder", type=Path, nargs="?", help="of the checkpoint")
    result.add_argument("--model", default="mini", choices=MODELS)
    result.add_argument("--world", type=Path, help="folder of the world, drawn where it is missing")
    result.add_argument("--size", choices=sorted(synthfashion.SIZES), help="of the world")
    result.add_argument("--epochs", type=int)
    return result


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    given = {n: getattr(options, n) for n in ("world", "size", "folder") if getattr(options, n)}
    recipe = replace(MODELS[options.model], **given)
    if options.epochs is not None:
        if options.epochs < 1:
            parser().error(f"--epochs must be at least 1, not {options.epochs}")
        recipe = replace(recipe, settings=recipe.settings | {"epochs": options.epochs})
    started = time.perf_counter()
    model, tokenizer, record = pretrain(recipe)
    record |= {"settings": recipe.settings, "model": asdict(model.config)}
    record |= {"world_seed": WORLD_SEED, "world_size": recipe.size}
    record |= {"seconds": round(time.perf_counter() - started)}
    write(recipe.folder, model, tokenizer, record)
    print(f"{recipe.folder}: {record}")


if __name__ == "__main__":
    run_command(main)
