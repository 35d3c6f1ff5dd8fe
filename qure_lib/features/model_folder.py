"""A model on disk: config.json, its weights in safetensors, and often its tokenizer.

A run keeps its frozen vision tower once. Its model folders hold the trained weights only, and
frozen.json names the tower's file, relative to the folder, with its SHA-256.
"""

import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from qure_lib.files import file_sha256, read_json, replacing, restore, write_json
from qure_lib.method.config import ModelConfig
from qure_lib.method.model import QuReModel
from qure_lib.method.scores import all_finite

WEIGHTS, FROZEN = "model.safetensors", "frozen.json"
TOWER = "vision_encoder."  # what the names of the frozen weights begin with
CONVERTER = "python -m qure_lib.features.published_weights"


def save_model(
    model: QuReModel,
    folder: str | Path,
    tokenizer: PreTrainedTokenizerFast | None = None,
    tower: str | Path | None = None,
) -> None:
    """Write a model folder, or replace one, whole or not at all.

    Args:
        tokenizer: kept with the model for `Retriever.open`.
        tower: the run's file of the frozen tower, to which the folder then refers (see
            `save_tower`). None writes the tower into the folder, which then loads alone.
    """
    state = model.state_dict()
    if tower is not None:
        save_tower(model, tower)
        state = {name: value for name, value in state.items() if not name.startswith(TOWER)}
    with replacing(folder) as scratch:
        scratch.mkdir()
        save_file(state, scratch / WEIGHTS)
        write_json(scratch / "config.json", asdict(model.config))
        if tokenizer is not None:
            tokenizer.save_pretrained(scratch)
        if tower is not None:
            file = Path(os.path.relpath(Path(tower).resolve(), Path(folder).resolve())).as_posix()
            write_json(scratch / FROZEN, {"file": file, "sha256": file_sha256(tower)})


def save_tower(model: QuReModel, path: str | Path) -> None:
    """Write the frozen vision tower's weights, unless the file holds them already.

    Raises:
        ValueError: the file is damaged, or holds another tower.
    """
    path = Path(path)
    tower = {name: v for name, v in model.state_dict().items() if name.startswith(TOWER)}
    if not path.exists():
        with replacing(path) as scratch:
            save_file(tower, scratch)
    stored = read_safetensors(path)
    if stored.keys() != tower.keys() or any(_differ(stored[name], tower[name]) for name in tower):
        raise ValueError(f"{path} holds the vision tower of another model; name another file")


def load_model(folder: str | Path, kind: type[QuReModel] = QuReModel) -> QuReModel:
    """Load what `save_model` wrote, strictly, on the CPU, as a model of class `kind`.

    Raises:
        ValueError: a file is missing, damaged or of another model, config.json has not exactly the
            keys of ModelConfig, or the weights do not fit it; the message names file and key. For
            published weights and for a run's folder it says what to name instead.
    """
    folder = Path(folder)
    restore(folder)
    config = _read_config(folder / "config.json")
    state = read_safetensors(folder / WEIGHTS)
    if not any(name.startswith(TOWER) for name in state):
        state |= _read_tower(folder)
    elif (folder / FROZEN).exists():
        raise ValueError(f"{folder / WEIGHTS} holds a vision tower, and {FROZEN} names another one")
    return build_model(config, state, folder, kind)


def build_model(
    config: ModelConfig, state: dict[str, Tensor], path: Path, kind: type[QuReModel] = QuReModel
) -> QuReModel:
    """A model with the weights `state`, which `path` holds, strictly.

    Raises:
        ValueError: an impossible configuration, or a weight is missing, unknown or misshapen.
    """
    try:
        if max(config.vision_layers, config.qformer_layers) > len(state):
            raise ValueError(f"more layers than its {len(state)} weights")
        with torch.device("meta"):  # nothing is allocated before all shapes fit
            kind(config).load_state_dict({n: v.to("meta") for n, v in state.items()})
        model = kind(config)
        model.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} does not fit {config}: {reason}") from error
    return model


def load_trained(path: Path, model: QuReModel) -> None:
    """Put the trained weights of a file into a model, in place; its frozen tower stays.

    Raises:
        ValueError: the file is damaged, or of another model: a weight is missing, unknown or of
            another shape, or the file holds another frozen tower.
    """
    state, trained, known = read_safetensors(path), model.trainable_parameters(), model.state_dict()
    wrong = [k for k, v in trained.items() if k not in state or state[k].shape != v.shape]
    others = state.keys() - trained.keys()
    wrong += [k for k in others if k not in known or _differ(state[k], known[k])]
    if wrong:
        reason = f"{min(wrong)} is missing, unknown or differs"
        raise ValueError(f"{path} belongs to another model: {reason}; take that of its run")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(state[name])


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Name -> tensor, on the CPU.

    Raises:
        ValueError: missing, truncated, not safetensors, or a weight is NaN or infinite.
    """
    try:
        state = load_file(path)
        if wrong := [n for n, v in state.items() if v.numel() and not all_finite(v)]:
            raise ValueError(f"{min(wrong)} is not finite")
    except Exception as error:  # decoders raise errors of any type on damaged files
        raise ValueError(f"{path} cannot be read ({error}); get or make it again") from error
    return state


def _differ(stored: Tensor, tensor: Tensor) -> bool:
    return not torch.equal(stored, tensor.cpu())


def _read_tower(folder: Path) -> dict[str, Tensor]:
    """The frozen weights that a model folder refers to."""
    named = read_json(folder / FROZEN, dict) if (folder / FROZEN).is_file() else {}
    path = Path(folder, str(named.get("file", FROZEN))).resolve()
    if not path.is_file():
        raise ValueError(
            f"{folder} holds trained weights only, and its frozen vision tower, {path}, is missing:"
            " copy the run's whole folder, or write a whole model with Retriever.save"
        )
    if file_sha256(path) != named.get("sha256"):
        raise ValueError(f"{path} is not the vision tower of {folder}; get that of its run")
    return read_safetensors(path)


def _read_config(path: Path) -> ModelConfig:
    settings = read_json(path, dict) if path.is_file() else {"model_type": None}
    if "model_type" in settings:  # or of a hub snapshot
        raise ValueError(_explain_no_model(path.parent))
    types = {field.name: type(field.default) for field in fields(ModelConfig)}
    names = sorted(types.keys() | settings.keys())
    if wrong := [n for n in names if not _is_setting(settings.get(n), types.get(n))]:
        raise ValueError(f"{path}: missing, unknown, of another type or range: {', '.join(wrong)}")
    return ModelConfig(**settings)


def _is_setting(value: Any, kind: type | None) -> bool:
    """Whether a value of config.json is of its kind: a name, a size above 0, or a share."""
    fits = kind is type(value)
    if not fits or kind is str:
        return fits
    return 0 < value < 2**31 if kind is int else 0 <= value <= 1


def _explain_no_model(path: Path) -> str:
    """What to name instead of a file or folder that is no saved QuReModel."""
    if not path.exists():
        return f"{path} is missing; name the folder of a saved model, with its config.json"
    for run in (path, path.parent):
        if (run / "best" / "config.json").is_file():
            return f"{path} is no saved QuReModel: of the run {run}, name best/ or last/"
    return (
        f"{path} is no saved QuReModel (a folder with config.json); if it holds published weights, "
        f"convert them: {CONVERTER} {path} OUT --vocabulary bert-base-uncased"
    )
