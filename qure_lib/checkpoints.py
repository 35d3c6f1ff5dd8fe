"""Published weights in, one model out: LAVIS's, the hub's and our own (METHOD section 4).

    python -m qure_lib.checkpoints blip2_pretrained_vitL.pth OUT --vocabulary bert-base-uncased \\
        --vision clip_vit_L.pth

writes config.json, model.safetensors and the tokenizer, which `Retriever.open` reads.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .data import read_json
from .files import replacing
from .model import ModelConfig, QuReModel, bert_tokenizer, read_safetensors

State = dict[str, Tensor]

# Blocks that BLIP-2 keeps of each tower, by encoder and width: all but the last.
PUBLISHED_BLOCKS = {("clip", 1024): 23, ("eva", 1408): 39}
# The width of an attention head, which shapes do not tell: ViT-L 1024 / 16, ViT-g 1408 / 16, BERT.
HEAD_WIDTH = {"clip": 64, "eva": 88, "qformer": 64}
# How to tell a file's kind: a tensor that only it has.
QFORMER_MARKERS = ("query_tokens",)
TOWER_MARKERS = {"conv1.weight": "clip", "patch_embed.proj.weight": "eva"}
AFTER_LAST_BLOCK = r"(ln_post|ln_final|norm|fc_norm|head)\.|proj$"

# METHOD section 4's table: substitutions in this order. What they leave alone keeps its name.
_DROPPED = r"Qformer\.cls\.|itm_head\.|(.*\.)?position_ids$"
_LAVIS = (
    (r"^Qformer\.bert\.embeddings\.LayerNorm\.", "qformer.layernorm."),
    (r"^Qformer\.bert\.embeddings\.", "embeddings."),
    (r"^Qformer\.bert\.encoder\.", "qformer.encoder."),
    (r"(attention\.)self\.", r"\1attention."),
    (r"^temp$", "temperature"),
)
_CLIP = (
    (r"^class_embedding$", "embeddings.class_embedding"),
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
    (r"^conv1\.", "embeddings.patch_embedding."),
    (r"^ln_pre\.", "pre_layrnorm."),
    (r"^transformer\.resblocks\.", "encoder.layers."),
    (r"\.attn\.", ".self_attn."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
_EVA = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^blocks\.", "encoder.layers."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
    (r"\.attn\.", ".self_attn."),
    (r"\.norm([12])\.", r".layer_norm\1."),
)
_HUB = (
    (r"^vision_model\.post_layernorm\.", "ln_vision."),
    (r"^vision_model\.", "vision_encoder.tower."),
    (r"^(vision|text)_projection\.", r"\1_proj."),
)


def load_pretrained(path: str | Path, vision: str | Path | None = None) -> QuReModel:
    """Load published weights, whatever they come in; content decides, never the name.

    The architecture is read from the tensors' shapes, so every size of it loads; only the width of
    an attention head is BLIP-2's (64; ViT-g 88). Every weight becomes float32.

    - A LAVIS checkpoint (`blip2_pretrained_vitL.pth`, `blip2_pretrained.pth`) or the release's
      fine-tuned `model.pth`: the state dict bare or nested, under any one prefix.
    - A hub snapshot folder of `blip2-itm-vit-g` in safetensors, sharded or not. It has no
      temperature: 0.07 is taken, with a warning. Its ln_vision has eps 1e-6, ours LAVIS's 1e-5.
    - A folder that `QuReModel.save` wrote.

    Args:
        path: the file or folder.
        vision: the frozen tower's own file, for a LAVIS checkpoint that comes without one
            (`clip_vit_L.pth`, `eva_vit_g.pth`; names without `visual_encoder.`). BLIP-2 reads the
            tower's last layer but one, so of a file with all of its blocks (the original ViT-L's
            24, ViT-g's 40) the last, and what follows it, are left out, with a warning.

    Raises:
        ValueError: missing, truncated, of another kind, or a pickle that holds more than tensors;
            a tower that is missing, given twice, or of another width or depth than the published
            (PyPI's salesforce-lavis 1.0.2 builds 21 of ViT-L's 23 blocks and drops two silently);
            a vocabulary without [DEC]; any key missing, unexpected or of another shape, by name.
    """
    return _recognise(Path(path), None if vision is None else Path(vision))[0]


def convert_lavis_checkpoint(
    source: str | Path, out: str | Path, vocabulary: str | Path, vision: str | Path | None = None
) -> tuple[QuReModel, str]:
    """Write weights that `load_pretrained` reads as a folder that `Retriever.open` reads.

    Args:
        source, vision: as for `load_pretrained`.
        out: folder to make: config.json, model.safetensors and the tokenizer; whole or not at all.
        vocabulary: folder of BERT-uncased's vocabulary (`model.bert_tokenizer`).

    Returns:
        The model, and in words what `source` was recognised as.

    Raises:
        ValueError: as `load_pretrained` and `bert_tokenizer`; or `out` exists, or the model's
            vocabulary is not the tokenizer's.
    """
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"{out} exists; name a folder to make, or remove it first")
    tokenizer = bert_tokenizer(vocabulary)
    model, kind = _recognise(Path(source), None if vision is None else Path(vision))
    if model.config.vocab_size != len(tokenizer):
        raise ValueError(
            f"{source} embeds {model.config.vocab_size:,} tokens, {vocabulary} has "
            f"{len(tokenizer):,}: these weights were trained with another vocabulary"
        )
    with replacing(out) as scratch:
        model.save(scratch)
        tokenizer.save_pretrained(scratch)
    return model, kind


def parameter_counts(model: QuReModel) -> dict[str, int]:
    """Part -> number of parameters. The Q-Former's are counted as BLIP-2 does, with its queries."""
    parts = {"vision encoder": 0, "Q-Former": 0, "ln_vision, projections, temperature": 0}
    for name, parameter in model.named_parameters():
        if name.startswith("vision_encoder."):
            part = "vision encoder"
        elif re.match(r"qformer\.|embeddings\.|query_tokens$", name):
            part = "Q-Former"
        else:
            part = "ln_vision, projections, temperature"
        parts[part] += parameter.numel()
    return parts


def rename_lavis(name: str) -> str | None:
    """LAVIS's name of a trained parameter -> `QuReModel`'s; None for what QuRe has no use for."""
    return None if re.match(_DROPPED, name) else _substitute(name, _LAVIS)


def _recognise(path: Path, vision: Path | None) -> tuple[QuReModel, str]:
    """The model, and in words what `path` is."""
    if path.is_dir():
        if vision is not None:
            raise ValueError(f"{path} holds its own vision tower; leave {vision} out")
        config = read_json(path / "config.json", dict)
        if "model_type" not in config:
            return QuReModel.load(path), "a saved QuReModel"
        return _from_hub(path, config), "a hub snapshot of BLIP-2"
    state = _read_state(path, QFORMER_MARKERS)
    kind = "weights in LAVIS's names, " + ("whole" if vision is None else f"with {vision.name}")
    return _from_lavis(state, path, vision), kind


# --- LAVIS ---------------------------------------------------------------------------------------


def _from_lavis(state: State, path: Path, vision: Path | None) -> QuReModel:
    prefix = "visual_encoder."
    tower = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if tower and vision is not None:
        raise ValueError(f"{path} holds its own vision tower; leave {vision} out")
    if not tower and vision is None:
        raise ValueError(
            f"{path} comes without its frozen vision tower ({prefix}*), which LAVIS keeps in a "
            "file of its own (clip_vit_L.pth or eva_vit_g.pth): name that file as `vision`"
        )
    if vision is not None:
        tower = _without_last_block(_read_state(vision, tuple(TOWER_MARKERS)), vision)
    encoder = next((e for marker, e in TOWER_MARKERS.items() if marker in tower), None)
    if encoder is None:
        raise ValueError(f"{path}: {prefix}* is neither CLIP's ViT-L nor EVA's ViT-g")
    try:
        mapped = _map_clip(tower) if encoder == "clip" else _map_eva(tower)
    except RuntimeError as error:
        raise ValueError(f"{vision or path}: a misshapen tensor in the tower ({error})") from error
    mapped = {f"vision_encoder.tower.{name}": value for name, value in mapped.items()}
    for name, value in state.items():
        if not name.startswith(prefix) and (ours := rename_lavis(name)) is not None:
            mapped[ours] = value
    return _build(mapped, encoder, path)


def _map_clip(tower: State) -> State:
    """CLIP's names -> `CLIPVisionModel`'s, q, k and v apart."""
    mapped = {}
    for name, value in tower.items():
        if match := re.search(r"in_proj_(weight|bias)$", name):
            for part, third in zip("qkv", value.chunk(3), strict=False):
                split = name.replace(match[0], f"{part}_proj.{match[1]}")
                mapped[_substitute(split, _CLIP)] = third
        else:
            mapped[_substitute(name, _CLIP)] = value
    # `CLIPVisionModel` has this norm, but only its pooled output, which is never read, uses it.
    width = tower["conv1.weight"].shape[:1]
    mapped["post_layernorm.weight"] = torch.ones(width)
    mapped["post_layernorm.bias"] = torch.zeros(width)
    return mapped


def _map_eva(tower: State) -> State:
    """EVA's names -> `Blip2VisionModel`'s, with one bias for q, k and v; k has none."""
    mapped = {}
    for name, value in tower.items():
        if name.endswith(".q_bias"):
            v_bias = tower.get(name.replace(".q_bias", ".v_bias"), torch.empty(0))
            joined = torch.cat([value, torch.zeros_like(v_bias), v_bias])
            mapped[_substitute(name.replace("q_bias", "qkv.bias"), _EVA)] = joined
        elif not name.endswith(".v_bias"):
            mapped[_substitute(name, _EVA)] = value
    return mapped


def _without_last_block(tower: State, path: Path) -> State:
    """The tower as BLIP-2 reads it, from a file that may go on to its end."""
    marker = next(m for m in TOWER_MARKERS if m in tower)
    kept = PUBLISHED_BLOCKS.get((TOWER_MARKERS[marker], *tower[marker].shape[:1]))
    block = r"(?:transformer\.resblocks|blocks)\.(\d+)\."
    dropped = {name for name in tower if re.match(AFTER_LAST_BLOCK, name)}
    if kept is not None and _count(tower, block) == kept + 1:
        dropped |= {name for name in tower if re.match(block.replace(r"(\d+)", str(kept)), name)}
    if dropped:
        warnings.warn(
            f"{path}: BLIP-2 reads the output of the last block but one; left out: "
            f"{', '.join(sorted(dropped))}",
            stacklevel=2,
        )
    return {name: value for name, value in tower.items() if name not in dropped}


# --- the hub -------------------------------------------------------------------------------------


def _from_hub(folder: Path, config: Mapping[str, Any]) -> QuReModel:
    """A snapshot of `Blip2ForImageTextRetrieval`."""
    if config["model_type"] != "blip-2":
        raise ValueError(
            f"{folder / 'config.json'} is of a {config['model_type']!r} model; "
            "QuRe starts from blip2-itm-vit-g"
        )
    tensors = _read_shards(folder).items()
    state = {_substitute(k, _HUB): v for k, v in tensors if not re.match(_DROPPED, k)}
    state["temperature"] = torch.tensor(0.07)
    model = _build(state, "eva", folder)
    heads = {"vision_config": model.config.vision_heads}
    heads |= {"qformer_config": model.config.qformer_heads}
    for section, ours in heads.items():
        stated = config.get(section)
        if isinstance(stated, dict) and stated.get("num_attention_heads", ours) != ours:
            raise ValueError(
                f"{folder / 'config.json'}: {section}.num_attention_heads is not {ours}, as in "
                "BLIP-2 at this width; get blip2-itm-vit-g"
            )
    warnings.warn(f"{folder} has no temperature; it starts from BLIP-2's 0.07", stacklevel=4)
    return model


def _read_shards(folder: Path) -> State:
    """All tensors of a snapshot, in one file or in those that its index names."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return read_safetensors(folder / "model.safetensors")
    places = read_json(index, dict).get("weight_map")
    if not isinstance(places, dict) or not all(
        isinstance(name, str) and Path(name).name == name for name in places.values()
    ):
        raise ValueError(f"{index}: weight_map must map each tensor to a file beside it")
    state: State = {}
    for name in sorted(set(places.values())):
        state |= read_safetensors(folder / name)
    if absent := sorted(set(places) - set(state)):
        raise ValueError(f"{index} names tensors that its files lack: {', '.join(absent)}")
    return state


# --- reading and fitting -------------------------------------------------------------------------


def _read_state(path: Path, markers: tuple[str, ...]) -> State:
    """The one state dict of a file that has a marker, without the prefix before it."""
    if not path.is_file():
        raise ValueError(f"{path} is missing; name a checkpoint file, or a folder of weights")
    try:
        with path.open("rb") as stream:  # from a path, torch would go by the name's ending
            loaded = torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling a broken file can raise anything
        raise ValueError(
            f"{path} is not a checkpoint of plain tensors ({type(error).__name__}): truncated, of "
            "another kind, or a pickle that holds code, which is never run; get the file again"
        ) from error
    found = [
        (state, name.removesuffix(marker))
        for state in _state_dicts(loaded)
        for marker in markers
        for name in state
        if name == marker or name.endswith("." + marker)
    ]
    if len(found) != 1:
        raise ValueError(
            f"{path} holds {len(found) or 'no'} tensors named {' or '.join(markers)}, not one: it "
            f"is not {'a BLIP-2 checkpoint' if markers == QFORMER_MARKERS else 'a vision tower'}"
        )
    state, prefix = found[0]
    if strays := sorted(name for name in state if not name.startswith(prefix)):
        raise ValueError(f"{path}: unexpected beside {prefix}*: {', '.join(strays)}")
    if odd := sorted(k for k, v in state.items() if getattr(v, "layout", None) != torch.strided):
        raise ValueError(f"{path}: not dense tensors: {', '.join(odd)}")
    if sum(v.numel() * v.element_size() for v in state.values()) > 2 * path.stat().st_size + 2**20:
        raise ValueError(f"{path}: its tensors claim more bytes than the file has; get it again")
    return {name.removeprefix(prefix): value for name, value in state.items()}


def _state_dicts(value: Any, depth: int = 2) -> Iterator[State]:
    """The dictionaries of named tensors, down to `depth` dictionaries within others."""
    if not isinstance(value, dict):
        return
    if any(isinstance(v, Tensor) for v in value.values()):
        yield {str(name): v for name, v in value.items()}
    if depth:
        for inner in value.values():
            yield from _state_dicts(inner, depth - 1)


def _build(state: State, encoder: str, path: Path) -> QuReModel:
    """A model of the state's own architecture that holds it, strictly."""
    config = _architecture(state, encoder, path)
    with torch.device("meta"):  # shapes alone: nothing is allocated before they fit
        expected = {k: v.shape for k, v in QuReModel(config).state_dict().items()}
    problems = {
        "missing": expected.keys() - state.keys(),
        "unexpected": state.keys() - expected.keys(),
        "of another shape": {
            f"{k} {tuple(state[k].shape)}, not {tuple(expected[k])}"
            for k in expected.keys() & state.keys()
            if state[k].shape != expected[k]
        },
        "not finite floating-point numbers": {
            k
            for k in expected.keys() & state.keys()
            if not (state[k].is_floating_point() and state[k].isfinite().all())
        },
    }
    if any(problems.values()):
        named = "; ".join(f"{what}: {', '.join(sorted(k))}" for what, k in problems.items() if k)
        raise ValueError(f"{path} does not fit (names are QuReModel's). {named}")
    model = QuReModel(config)
    model.load_state_dict(state, strict=True)
    return model


def _architecture(state: State, encoder: str, path: Path) -> ModelConfig:
    """Read the configuration from shapes; heads are those of BLIP-2's width."""
    tower = "vision_encoder.tower."
    position = f"{tower}embeddings.position_embedding" + (".weight" if encoder == "clip" else "")
    dims = {
        "embeddings.word_embeddings.weight": 2,
        "query_tokens": 3,
        "text_proj.weight": 2,
        "ln_vision.weight": 1,
        f"{tower}embeddings.patch_embedding.weight": 4,
        position: 2 if encoder == "clip" else 3,
    }
    fits = {k: k in state and state[k].dim() == n and state[k].numel() for k, n in dims.items()}
    if wrong := [name for name, fit in fits.items() if not fit]:
        raise ValueError(f"{path}: missing or not shaped as QuReModel's: {', '.join(wrong)}")
    words, queries, projection, norm, patch, positions = (tuple(state[k].shape) for k in dims)
    grid = math.isqrt(positions[-2] - 1)
    config = ModelConfig(
        encoder=encoder,
        image_size=grid * patch[-1],
        patch_size=patch[-1],
        vision_width=patch[0],
        vision_layers=_count(state, re.escape(tower) + r"encoder\.layers\.(\d+)\."),
        vision_heads=patch[0] // HEAD_WIDTH[encoder],
        qformer_width=words[1],
        qformer_layers=_count(state, r"qformer\.encoder\.layer\.(\d+)\."),
        qformer_heads=words[1] // HEAD_WIDTH["qformer"],
        num_query_tokens=queries[1],
        embedding_dim=projection[0],
        vocab_size=words[0],
    )
    _check_architecture(config, norm[0], path)
    if grid < 1 or grid**2 + 1 != positions[-2]:
        raise ValueError(f"{path}: {positions[-2]} positions are not a square of patches and [CLS]")
    return config


def _check_architecture(config: ModelConfig, read_width: int, path: Path) -> None:
    """Refuse towers and vocabularies that look right and are not."""
    width, blocks = config.vision_width, config.vision_layers
    if read_width != width:
        raise ValueError(
            f"{path}: its Q-Former reads features of width {read_width}, the vision tower gives "
            f"{width}: 1024 needs clip_vit_L.pth, 1408 eva_vit_g.pth"
        )
    for part, side in (("qformer", config.qformer_width), (config.encoder, width)):
        if side % HEAD_WIDTH[part]:
            raise ValueError(f"{path}: width {side} is no multiple of a head's {HEAD_WIDTH[part]}")
    if config.vocab_size == 30_522:
        raise ValueError(
            f"{path}: 30,522 word embeddings, the class default of transformers, are BERT's without"
            " [DEC]; BLIP-2's weights have 30,523: get blip2-itm-vit-g or the LAVIS checkpoint"
        )
    wanted = PUBLISHED_BLOCKS.get((config.encoder, width), blocks)
    if blocks != wanted:
        cause = "; PyPI's salesforce-lavis 1.0.2 builds 21 and drops two silently" * (blocks == 21)
        raise ValueError(
            f"{path}: {blocks} vision blocks of width {width}, BLIP-2 has {wanted}{cause}: get the "
            "published file, or save the model again with LAVIS from its source repository"
        )


def _substitute(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _count(state: State, pattern: str) -> int:
    """How many different numbers the names have where `pattern` has its group."""
    return len({match[1] for name in state if (match := re.match(pattern, name))})


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Convert published BLIP-2 or QuRe weights into a folder that qure_lib reads."
    )
    parser.add_argument("source", type=Path, help="a LAVIS .pth, model.pth, or a snapshot folder")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument(
        "--vocabulary", type=Path, required=True, help="folder with BERT-uncased's vocab.txt"
    )
    parser.add_argument("--vision", type=Path, help="the tower's file, where source has none")
    options = parser.parse_args()
    try:
        model, kind = convert_lavis_checkpoint(
            options.source, options.out, options.vocabulary, options.vision
        )
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    print(f"{options.source}: {kind}")
    print(json.dumps(vars(model.config)))
    for part, count in parameter_counts(model).items():
        print(f"{count:>13,}  {part}")
    print(f"{options.out}: config.json, model.safetensors and the tokenizer")


if __name__ == "__main__":
    main()
