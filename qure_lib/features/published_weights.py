"""Convert published weights (LAVIS's, the hub's, the release's) into a QuReModel.

    python -m qure_lib.features.published_weights blip2_pretrained_vitL.pth OUT \\
        --vocabulary bert-base-uncased --vision clip_vit_L.pth

writes config.json, model.safetensors and the tokenizer, which `Retriever.open` reads.
"""

import argparse
import json
import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qure_lib.files import read_json, run_command
from qure_lib.method.config import ModelConfig
from qure_lib.method.model import QuReModel

from .model_folder import build_model, load_model, read_safetensors, save_model
from .tokenizer import bert_tokenizer
from .weight_names import TOWER, State, rename, rename_hub, rename_lavis, rename_tower

# Tensors that tell a file's kind, and the encoder of a tower.
QFORMER_MARKERS = ("query_tokens",)
TOWER_MARKERS = {"conv1.weight": "clip", "patch_embed.proj.weight": "eva"}
# The width of an attention head, which no shape tells: ViT-L 1024 / 16, ViT-g 1408 / 16, BERT.
HEAD_WIDTH = {"clip": 64, "eva": 88, "qformer": 64}
# Blocks that BLIP-2 keeps of each tower, by encoder and width: all but the last.
PUBLISHED_BLOCKS = {("clip", 1024): 23, ("eva", 1408): 39}
AFTER_LAST_BLOCK = r"(ln_post|ln_final|norm|fc_norm|head)\.|proj$"
# What may lie beside tensors in a pickle: to read it runs no code of the file's choice. NumPy's
# functions have had two addresses.
PLAIN_DATA: list[Any] = [argparse.Namespace, np.ndarray, np.dtype]
PLAIN_DATA += [type(np.dtype(code)) for code in np.typecodes["All"] if code != "O"]
_REBUILD: list[Any] = [np.float64().__reduce__()[0], np.zeros(0).__reduce__()[0]]
PLAIN_DATA += [
    (function, f"numpy.{core}.multiarray.{function.__name__}")
    for function in _REBUILD
    for core in ("core", "_core")
]


def load_pretrained(
    path: str | Path, vision: str | Path | None = None, state: str | None = None
) -> QuReModel:
    """Load published weights as float32; the content tells their format, not the file's name.

    Sizes are those of the tensors; a head has BLIP-2's width, 64 (ViT-g 88). Formats:

    - A LAVIS checkpoint (`blip2_pretrained_vitL.pth`, `blip2_pretrained.pth`) or the release's
      fine-tuned `model.pth`, pickled or in safetensors: the state dict bare or nested, under any
      prefix.
    - A hub snapshot folder of `blip2-itm-vit-g` in safetensors, sharded or not. It has no
      temperature: 0.07 is taken, with a warning. Its ln_vision has eps 1e-6, ours LAVIS's 1e-5.
    - A folder of `save_model`.

    Args:
        vision: the frozen tower's own file (`clip_vit_L.pth`, `eva_vit_g.pth`) for a LAVIS
            checkpoint without one. BLIP-2 reads the output of the last block but one: a last block
            (ViT-L's 24th, ViT-g's 40th) and what follows it are left out, with a warning.
        state: which of several state dicts of a file, such as "model_ema".

    Raises:
        ValueError: missing, truncated, of another kind, or a pickle that holds code; several state
            dicts, of which none is named; a tower that is missing, given twice, or of another width
            or depth than the published; a vocabulary without [DEC]; any key missing, unexpected or
            of another shape, by name.
    """
    path = Path(path)
    if not path.is_dir():
        return _from_lavis(path, None if vision is None else Path(vision), state)
    if vision is not None:
        raise ValueError(f"{path} holds its own vision tower; leave {vision} out")
    if state is not None:
        raise ValueError(f"{path} is a folder, which holds one state; leave {state!r} out")
    config = read_json(path / "config.json", dict)
    return _from_hub(path, config) if "model_type" in config else load_model(path)


def convert_lavis_checkpoint(
    source: str | Path,
    out: str | Path,
    vocabulary: str | Path,
    vision: str | Path | None = None,
    state: str | None = None,
) -> QuReModel:
    """Write weights that `load_pretrained` reads as a new folder `out` for `Retriever.open`.

    Args:
        source, vision, state: as for `load_pretrained`.
        vocabulary: folder of BERT-uncased's vocabulary, as for `bert_tokenizer`.

    Raises:
        ValueError: as `load_pretrained` and `bert_tokenizer`; or `out` exists, or the model's
            vocabulary is not the tokenizer's.
    """
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"{out} exists; name a folder to make, or remove it first")
    tokenizer = bert_tokenizer(vocabulary)
    model = load_pretrained(source, vision, state)
    if model.config.vocab_size != len(tokenizer):
        sizes = f"{model.config.vocab_size:,} tokens, {vocabulary} has {len(tokenizer):,}"
        raise ValueError(f"{source} embeds {sizes}; get the vocabulary that it was trained with")
    save_model(model, out, tokenizer)
    return model


def parameter_counts(model: QuReModel) -> dict[str, int]:
    """Part -> number of parameters. The Q-Former's include its queries, as BLIP-2 counts them."""
    counts = {"vision encoder": 0, "Q-Former": 0, "ln_vision, projections, temperature": 0}
    parts = {"vision_encoder": "vision encoder"}
    parts |= dict.fromkeys(("qformer", "embeddings", "query_tokens"), "Q-Former")
    for name, parameter in model.named_parameters():
        part = parts.get(name.split(".")[0], "ln_vision, projections, temperature")
        counts[part] += parameter.numel()
    return counts


def _from_lavis(path: Path, vision: Path | None, chosen: str | None) -> QuReModel:
    state, prefix = _read_state(path, QFORMER_MARKERS, chosen), "visual_encoder."
    tower = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if tower and vision is not None:
        raise ValueError(f"{path} holds its own vision tower; leave {vision} out")
    if vision is not None:
        tower = _without_last_block(_read_state(vision, tuple(TOWER_MARKERS)), vision)
    encoder = next((e for marker, e in TOWER_MARKERS.items() if marker in tower), None)
    if encoder is None:
        raise ValueError(
            f"{path} comes without CLIP's or EVA's frozen vision tower ({prefix}*), which LAVIS "
            "keeps in a file of its own (clip_vit_L.pth or eva_vit_g.pth): name it as `vision`"
        )
    try:
        weights = list(rename_tower(tower))
    except RuntimeError as error:
        raise ValueError(f"{vision or path}: a misshapen tensor in the tower ({error})") from error
    weights += [(name, value) for name, value in state.items() if not name.startswith(prefix)]
    return _build(rename(weights, rename_lavis, path), encoder, path)


def _without_last_block(tower: State, path: Path) -> State:
    """The part of a tower that BLIP-2 reads, from a file that may hold all of it."""
    marker = next(m for m in TOWER_MARKERS if m in tower)
    kept = PUBLISHED_BLOCKS.get((TOWER_MARKERS[marker], *tower[marker].shape[:1]))
    block = r"(?:transformer\.resblocks|blocks)\.(\d+)\."
    dropped = {name for name in tower if re.match(AFTER_LAST_BLOCK, name)}
    if kept is not None and _count_blocks(tower, block) == kept + 1:
        dropped |= {name for name in tower if re.match(block.replace(r"(\d+)", str(kept)), name)}
    if dropped:
        names = ", ".join(sorted(dropped))
        warnings.warn(f"{path}: BLIP-2 does not read these; left out: {names}", stacklevel=2)
    return {name: value for name, value in tower.items() if name not in dropped}


def _from_hub(folder: Path, config: dict[str, Any]) -> QuReModel:
    """A snapshot of `Blip2ForImageTextRetrieval`."""
    file, kind = folder / "config.json", config["model_type"]
    if kind != "blip-2":
        raise ValueError(f"{file} is of a {kind!r} model; QuRe starts from blip2-itm-vit-g")
    state = rename(_read_shards(folder), rename_hub, folder)
    state["temperature"] = torch.tensor(0.07)
    model = _build(state, "eva", folder)
    for part in ("vision", "qformer"):
        heads = getattr(model.config, f"{part}_heads")
        stated = config.get(f"{part}_config")
        if isinstance(stated, dict) and stated.get("num_attention_heads", heads) != heads:
            raise ValueError(f"{file}: {part}_config.num_attention_heads is not BLIP-2's {heads}")
    warnings.warn(f"{folder} has no temperature; it starts from BLIP-2's 0.07", stacklevel=4)
    return model


def _read_shards(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a snapshot, in one file or in those that its index names."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        yield from read_safetensors(folder / "model.safetensors").items()
        return
    places = read_json(index, dict).get("weight_map")
    if not isinstance(places, dict) or not all(
        isinstance(name, str) and Path(name).name == name for name in places.values()
    ):
        raise ValueError(f"{index}: weight_map must map each tensor to a file beside it")
    for file in sorted(set(places.values())):
        state = read_safetensors(folder / file)
        if absent := sorted(k for k in places if places[k] == file and k not in state):
            raise ValueError(f"{index} names tensors that {file} lacks: {', '.join(absent)}")
        yield from state.items()


def _read_state(path: Path, markers: tuple[str, ...], chosen: str | None = None) -> State:
    """The tensors of a file beside the only one that a marker names, under names without prefix.

    Args:
        chosen: which of several such states: the name of a dictionary that holds it.
    """
    weights = rename(_read_file(path), str, path)
    tensors = [name for name, value in weights.items() if isinstance(value, Tensor)]
    found = [n.removesuffix(m) for n in tensors for m in markers if f".{n}".endswith(f".{m}")]
    if not found:
        kind = "a BLIP-2 checkpoint" if markers == QFORMER_MARKERS else "a vision tower"
        raise ValueError(f"{path} holds no tensors named {' or '.join(markers)}: it is not {kind}")
    taken = [p for p in found if chosen is None or f"{p}.".startswith(f"{chosen}.")]
    if len(taken) != 1:
        names = ", ".join(repr(p.removesuffix(".")) for p in found)
        remedy = "with --state" if markers == QFORMER_MARKERS else "by saving it alone"
        raise ValueError(f"{path} holds weights under {names}; choose one of them {remedy}")
    prefix, inner = taken[0], tuple(p for p in found if len(p) > len(taken[0]))  # states within it
    own = [n for n in weights if n.startswith(prefix) and not n.startswith(inner)]
    state = {n.removeprefix(prefix): weights[n] for n in own}
    if odd := sorted(k for k, v in state.items() if getattr(v, "layout", None) != torch.strided):
        raise ValueError(f"{path}: not dense tensors: {', '.join(odd)}")
    if sum(v.numel() * v.element_size() for v in state.values()) > 2 * path.stat().st_size + 2**20:
        raise ValueError(f"{path}: its tensors claim more bytes than the file has; get it again")
    return state


def _read_file(path: Path) -> list[tuple[str, Any]]:
    """What a checkpoint file holds, by its names joined by dots; code in it is never run."""
    if not path.is_file():
        raise ValueError(f"{path} is missing; name a checkpoint file, or a folder of weights")
    with path.open("rb") as stream:
        if stream.read(9)[8:] == b"{":  # safetensors: the length of a header in JSON, and that
            return list(read_safetensors(path).items())
        stream.seek(0)
        try:  # given a path, torch would go by the name's ending
            with torch.serialization.safe_globals(PLAIN_DATA):
                content = torch.load(stream, map_location="cpu", weights_only=True)
            return list(_flatten(content))
        except Exception as error:  # unpickling a broken file can raise anything
            reason = f"({type(error).__name__}): truncated, or of another kind; get the file again"
            if code := re.search(r"(?:GLOBAL |but got <class ')([\w.]+)", str(error)):
                reason = (
                    f"alone: it holds {code[1]}, which only code can rebuild, and code in a file "
                    "is never run; write the tensors alone: torch.save(model.state_dict(), FILE)"
                )
            raise ValueError(f"{path} is not a checkpoint of plain tensors {reason}") from error


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dictionaries and lists within each other -> (names joined by dots, value) of all else."""
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        yield prefix.removesuffix("."), value
        return
    for name, inner in value.items():
        yield from _flatten(inner, f"{prefix}{name}.")


def _build(state: State, encoder: str, path: Path) -> QuReModel:
    """A model of the sizes of these weights that holds them."""
    odd = [k for k, v in state.items() if not (v.is_floating_point() and v.isfinite().all())]
    if odd:
        raise ValueError(f"{path}: not finite floating-point numbers: {', '.join(odd)}")
    return build_model(_read_config(state, encoder, path), state, path)


def _read_config(state: State, encoder: str, path: Path) -> ModelConfig:
    """The configuration, from shapes; heads are those of BLIP-2's width."""

    def shape(name: str, dims: int) -> tuple[int, ...]:
        value = state.get(name)
        if value is None or value.dim() != dims or not value.numel():
            raise ValueError(f"{path}: {name} is missing or not shaped as QuReModel's")
        return tuple(value.shape)

    def heads(part: str, width: int) -> int:
        if width % HEAD_WIDTH[part]:
            raise ValueError(f"{path}: width {width} is no multiple of a head's {HEAD_WIDTH[part]}")
        return width // HEAD_WIDTH[part]

    suffix, dims = (".weight", 2) if encoder == "clip" else ("", 3)
    positions = shape(f"{TOWER}embeddings.position_embedding{suffix}", dims)[-2]
    width, *_, patch = shape(f"{TOWER}embeddings.patch_embedding.weight", 4)
    tokens, qformer_width = shape("embeddings.word_embeddings.weight", 2)
    grid = math.isqrt(positions - 1)
    if grid < 1 or grid**2 + 1 != positions:
        raise ValueError(f"{path}: {positions} positions are not a square of patches and [CLS]")
    config = ModelConfig(
        encoder=encoder,
        image_size=grid * patch,
        patch_size=patch,
        vision_width=width,
        vision_layers=_count_blocks(state, re.escape(TOWER) + r"encoder\.layers\.(\d+)\."),
        vision_heads=heads(encoder, width),
        qformer_width=qformer_width,
        qformer_layers=_count_blocks(state, r"qformer\.encoder\.layer\.(\d+)\."),
        qformer_heads=heads("qformer", qformer_width),
        num_query_tokens=shape("query_tokens", 3)[1],
        embedding_dim=shape("text_proj.weight", 2)[0],
        vocab_size=tokens,
    )
    _check_config(config, shape("ln_vision.weight", 1)[0], path)
    return config


def _check_config(config: ModelConfig, read_width: int, path: Path) -> None:
    """Refuse towers and vocabularies of another model than BLIP-2."""
    width, blocks = config.vision_width, config.vision_layers
    if read_width != width:
        raise ValueError(
            f"{path}: its Q-Former reads features of width {read_width}, the vision tower gives "
            f"{width}: 1024 needs clip_vit_L.pth, 1408 eva_vit_g.pth"
        )
    if config.vocab_size == 30_522:
        raise ValueError(
            f"{path}: 30,522 word embeddings are BERT's without [DEC]; BLIP-2's weights have "
            "30,523: get blip2-itm-vit-g or the LAVIS checkpoint"
        )
    wanted = PUBLISHED_BLOCKS.get((config.encoder, width), blocks)
    if blocks != wanted:
        raise ValueError(
            f"{path}: {blocks} vision blocks of width {width}, BLIP-2 has {wanted}: get the "
            "published file, or save the model again with LAVIS from its source repository (PyPI's "
            "salesforce-lavis 1.0.2 builds 21 of ViT-L's and drops two silently)"
        )


def _count_blocks(state: State, pattern: str) -> int:
    """How many different numbers the names have in the group of `pattern`."""
    return len({match[1] for name in state if (match := re.match(pattern, name))})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="a LAVIS .pth, model.pth, or a snapshot folder")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--vocabulary", required=True, help="folder with BERT-uncased's vocab.txt")
    parser.add_argument("--vision", type=Path, help="the tower's file, if source has none")
    parser.add_argument("--state", metavar="NAME", help="which one, if source has several")
    options = parser.parse_args()
    try:
        model = convert_lavis_checkpoint(**vars(options))
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    print(json.dumps(vars(model.config)))
    for part, count in parameter_counts(model).items():
        print(f"{count:>13,}  {part}")
    print(f"{options.out}: config.json, model.safetensors and the tokenizer")


if __name__ == "__main__":
    run_command(main)
