"""Published weights' names -> QuReModel's."""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

State = dict[str, Tensor]
TOWER = "vision_encoder.tower."

# Substitutions, made in this order; a name that no pattern matches stays as it is.
_UNUSED = r"Qformer\.cls\.|itm_head\.|(.*\.)?position_ids$"
_LAVIS = (
    (r"^Qformer\.bert\.embeddings\.LayerNorm\.", "qformer.layernorm."),
    (r"^Qformer\.bert\.embeddings\.", "embeddings."),
    (r"^Qformer\.bert\.encoder\.", "qformer.encoder."),
    (r"(attention\.)self\.", r"\1attention."),
    (r"^temp$", "temperature"),
)
_CLIP_AND_EVA = (
    (r"^(class_embedding|cls_token)$", "embeddings.class_embedding"),
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^(conv1|patch_embed\.proj)\.", "embeddings.patch_embedding."),
    (r"^ln_pre\.", "pre_layrnorm."),
    (r"^(transformer\.res)?blocks\.", "encoder.layers."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
    (r"\.attn\.", ".self_attn."),
    (r"\.(ln_|norm)([12])\.", r".layer_norm\2."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
_HUB = (
    (r"^vision_model\.post_layernorm\.", "ln_vision."),
    (r"^vision_model\.", TOWER),
    (r"^(vision|text)_projection\.", r"\1_proj."),
)


def rename_lavis(name: str) -> str | None:
    """LAVIS's name of a trained parameter -> `QuReModel`'s; None if QuRe does not use it."""
    return None if re.match(_UNUSED, name) else _substitute(name, _LAVIS)


def rename_hub(name: str) -> str | None:
    """The name in a `Blip2ForImageTextRetrieval` -> `QuReModel`'s; None if QuRe does not use it."""
    return None if re.match(_UNUSED, name) else _substitute(name, _HUB)


def rename_tower(tower: State) -> Iterator[tuple[str, Tensor]]:
    """The weights of CLIP's or EVA's own tower as `QuReModel`'s.

    CLIP's joint q, k and v are split; EVA's biases of q and v are joined, with zero for k.
    """
    for name, value in tower.items():
        if match := re.search(r"in_proj_(weight|bias)$", name):
            for part, third in zip("qkv", value.chunk(3), strict=False):
                split = name.replace(match[0], f"{part}_proj.{match[1]}")
                yield TOWER + _substitute(split, _CLIP_AND_EVA), third
        elif name.endswith(".q_bias"):
            v_bias = tower.get(name.replace(".q_bias", ".v_bias"), torch.empty(0))
            joined = torch.cat([value, torch.zeros_like(v_bias), v_bias])
            yield TOWER + _substitute(name.replace("q_bias", "qkv.bias"), _CLIP_AND_EVA), joined
        elif not name.endswith(".v_bias"):
            yield TOWER + _substitute(name, _CLIP_AND_EVA), value
    if "conv1.weight" in tower:  # `CLIPVisionModel` has this norm for an output that QuRe ignores
        width = tower["conv1.weight"].shape[:1]
        yield TOWER + "post_layernorm.weight", torch.ones(width)
        yield TOWER + "post_layernorm.bias", torch.zeros(width)


def rename(
    weights: Iterable[tuple[str, Tensor]], rule: Callable[[str], str | None], path: Path
) -> State:
    """The (name, tensor) pairs of `path` under the names of `rule`, which is None for unused ones.

    Raises:
        ValueError: two tensors get one name.
    """
    state: State = {}
    for name, value in weights:
        if (ours := rule(name)) in state:
            raise ValueError(f"{path} holds {ours} twice, once as {name}; remove one of them")
        if ours is not None:
            state[ours] = value
    return state


def _substitute(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
