"""A model as the Hugging Face hub knows it: from_pretrained, save_pretrained, push_to_hub."""

from pathlib import Path
from typing import Any, Self

from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download
from huggingface_hub.errors import HFValidationError
from transformers import PreTrainedTokenizerFast

from qure_lib.files import replacing
from qure_lib.method import model

from .model_folder import FROZEN, load_model, save_model
from .tokenizer import load_tokenizer


class QuReModel(model.QuReModel, ModelHubMixin):
    """`method.model.QuReModel` with the tokenizer and the model card (README.md) of its folder."""

    tokenizer: PreTrainedTokenizerFast | None = None
    card = "---\nlibrary_name: qure-lib\n---\n\n[Its data, recall, licence and limits.]\n"

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        local_files_only: bool = True,
        **more: Any,
    ) -> Self:
        """Open a model in evaluation mode, on the CPU. Nothing is downloaded unless asked for.

        Args:
            pretrained_model_name_or_path: a folder, such as a run's best/, or "user/model" on the
                hub, which is looked for in this machine's cache.
            local_files_only: False downloads from the hub what the cache lacks.
            more: of `huggingface_hub.snapshot_download`, such as revision, token and cache_dir.

        Raises:
            ValueError: no such folder or model, or as `load_model` and `load_tokenizer`.
        """
        if not (folder := Path(pretrained_model_name_or_path)).is_dir():
            more |= {"local_files_only": local_files_only}
            folder = _find_snapshot(str(pretrained_model_name_or_path), more)
        opened = load_model(folder, cls)
        assert isinstance(opened, cls)
        if (folder / "tokenizer.json").exists():
            opened.tokenizer = load_tokenizer(folder, opened.config.vocab_size)
        if (card := folder / "README.md").exists():
            opened.card = card.read_text(encoding="utf-8")
        return opened.eval()

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Write model, tokenizer and card into a folder, whole or not at all; options as the hub's.

        Raises:
            ValueError: the folder holds other files, which would be deleted.
        """
        folder, push = Path(save_directory).resolve(), options.pop("push_to_hub", False)
        name = options.pop("repo_id", None) or folder.name
        with replacing(folder) as scratch:
            super().save_pretrained(scratch)
            old = {path.name for path in folder.glob("*")} - {FROZEN}
            if others := old - {path.name for path in scratch.iterdir()}:
                raise ValueError(f"{folder} holds {min(others)}, too; name a new folder")
        return self.push_to_hub(name, **options) if push else None

    def _save_pretrained(self, save_directory: Path) -> None:
        save_model(self, save_directory, self.tokenizer)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        return ModelCard(self.card)


def _find_snapshot(name: str, download: dict[str, Any]) -> Path:
    """The folder of a hub's model in the cache, once it is there."""
    try:  # what a model folder holds, and no pickle
        files = ["*.json", "model.safetensors", "README.md"]
        return Path(snapshot_download(name, allow_patterns=files, **download))
    except (OSError, HFValidationError) as error:
        where = "in the hub's cache here; to download it, pass local_files_only=False"
        if not download["local_files_only"]:
            where = f"that the hub gives ({' '.join(str(error).split())})"
        raise ValueError(f"{name} is no folder, and no model {where}") from error
