"""The independent reference of the parity tests: QuRe on salesforce-lavis 1.0.2's own modules.

LAVIS was written for transformers < 4.27, and importing it as a whole needs timm, fairscale,
iopath and torchvision. Its Q-Former, its vision towers and its caption cleaning use next to nothing
of them, so those files alone are loaded here, and the stand-ins that this takes are gone again once
they are.
"""

import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock, patch

import torch
import torch.nn.functional as F
import transformers.modeling_utils
from torch import Tensor, nn
from transformers import BertConfig, pytorch_utils

from qure_lib.features.weight_names import rename_lavis
from qure_lib.method.config import ModelConfig

VOCAB = 50  # of the tiny models


@contextmanager
def _stand_ins(modules: dict[str, ModuleType]) -> Iterator[None]:
    """Put `modules` where imports look; then forget them, and all that was loaded below them."""
    before = set(sys.modules)
    roots = {name.split(".")[0] for name in modules}
    for name, module in modules.items():
        sys.modules.setdefault(name, module)
    try:
        yield
    finally:
        for name in set(sys.modules) - before:
            if name.split(".")[0] in roots:
                del sys.modules[name]


def _bare_lavis() -> dict[str, ModuleType]:
    """LAVIS's packages without their `__init__`s, which import every model and all they need."""
    spec = find_spec("lavis")
    if spec is None:
        raise ModuleNotFoundError(
            "the parity tests compare with LAVIS: "
            "pip install --no-deps --requirement requirements/lavis.lock"
        )
    root = Path(spec.submodule_search_locations[0])
    packages = {}
    for name in ("lavis", "lavis.models", "lavis.processors"):
        packages[name] = ModuleType(name)
        packages[name].__path__ = [str(root.joinpath(*name.split(".")[1:]))]
    return packages


def _import_qformer() -> ModuleType:
    """LAVIS's Q-Former module, made to run under transformers 5."""
    moved = {
        "apply_chunking_to_forward": pytorch_utils.apply_chunking_to_forward,
        "prune_linear_layer": pytorch_utils.prune_linear_layer,
        "find_pruneable_heads_and_indices": None,  # gone; imported, but never called here
    }
    with (
        _stand_ins(_bare_lavis()),
        patch.multiple(transformers.modeling_utils, create=True, **moved),
    ):
        module = importlib.import_module("lavis.models.blip2_models.Qformer")
    base = module.BertPreTrainedModel
    # Two methods that its forward calls and transformers 5 no longer has.
    base.get_head_mask = lambda self, head_mask, num_layers: [None] * num_layers
    base.invert_attention_mask = _invert_attention_mask
    # Its constructor calls init_weights before transformers 5 is ready for it. Nothing is lost:
    # the tests draw every weight themselves.
    base.all_tied_weights_keys = {}
    base.init_weights = lambda self: None
    return module


def _invert_attention_mask(self: nn.Module, mask: Tensor) -> Tensor:
    """(B, P) mask, 1 = attend, as transformers 4 added it to (B, heads, T, P) logits."""
    return (1.0 - mask[:, None, None, :].to(self.dtype)) * torch.finfo(self.dtype).min


def _import_caption_processor() -> type:
    """LAVIS's BlipCaptionProcessor; the image augmentations in its file are never called."""
    packages = _bare_lavis()
    augmentation = (
        "torchvision",
        "torchvision.transforms",
        "torchvision.transforms.functional",
        "lavis.processors.randaugment",  # needs OpenCV
    )
    with _stand_ins(packages | {name: MagicMock() for name in augmentation}):
        base = importlib.import_module("lavis.processors.base_processor").BaseProcessor
        packages["lavis.processors"].BaseProcessor = base  # its registry asks the package for it
        return importlib.import_module("lavis.processors.blip_processors").BlipCaptionProcessor


def _import_towers() -> tuple[ModuleType, ModuleType]:
    """LAVIS's modules of CLIP's ViT-L and EVA's ViT-g."""
    absent = (
        *("timm", "timm.models", "timm.models.layers", "timm.models.registry"),
        *("fairscale", "fairscale.nn", "fairscale.nn.checkpoint"),
        "fairscale.nn.checkpoint.checkpoint_activations",
        *("lavis.common", "lavis.common.dist_utils"),
    )
    stubs = {name: MagicMock() for name in absent}
    stubs["timm.models.layers"].to_2tuple = lambda side: (side, side)
    with _stand_ins(_bare_lavis() | stubs):
        clip = importlib.import_module("lavis.models.clip_vit")
        eva = importlib.import_module("lavis.models.eva_vit")
    clip.LayerNorm = nn.LayerNorm  # its own computes in float32 whatever it is given
    return clip, eva


lavis_qformer = _import_qformer()
lavis_clip, lavis_eva = _import_towers()
LavisCaptionProcessor = _import_caption_processor()


def tiny_config(encoder: str = "clip", num_tokens: int = 4) -> ModelConfig:
    """Two heads everywhere, of the published widths: a checkpoint's shapes tell nothing of them."""
    return ModelConfig(
        encoder=encoder,
        image_size=16,
        patch_size=8,
        vision_width=128 if encoder == "clip" else 176,
        vision_layers=3,
        vision_heads=2,
        qformer_width=128,
        qformer_layers=4,
        qformer_heads=2,
        num_query_tokens=num_tokens,
        embedding_dim=16,
        vocab_size=VOCAB,
    )


def make_tower(config: ModelConfig) -> nn.Module:
    """LAVIS's vision tower: (B, 3, H, W) -> (B, P, C)."""
    if config.encoder == "clip":
        return lavis_clip.VisionTransformer(
            input_resolution=config.image_size,
            patch_size=config.patch_size,
            width=config.vision_width,
            layers=config.vision_layers + 1,  # it builds one fewer than it is told
            heads=config.vision_heads,
            use_grad_checkpointing=False,
        )
    return lavis_eva.VisionTransformer(  # as its create_eva_vit_g asks, but for sizes
        img_size=config.image_size,
        patch_size=config.patch_size,
        use_mean_pooling=False,
        embed_dim=config.vision_width,
        depth=config.vision_layers,
        num_heads=config.vision_heads,
        mlp_ratio=4.3637,
        qkv_bias=True,
        drop_path_rate=0,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )


class LavisQuRe(nn.Module):
    """QuRe's scoring path (docs/method.md, section 1) under the parameter names of LAVIS.

    It starts from frozen features (B, P, C), like `QuReModel`, and shares no code with it.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.visual_encoder = make_tower(config).requires_grad_(False)
        bert = BertConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.qformer_width,
            num_hidden_layers=config.qformer_layers,
            num_attention_heads=config.qformer_heads,
            intermediate_size=4 * config.qformer_width,
        )
        # What Blip2Base.init_Qformer sets on BERT's own configuration.
        bert.encoder_width = config.vision_width
        bert.add_cross_attention = True
        bert.cross_attention_freq = 2
        bert.query_length = config.num_query_tokens
        self.Qformer = lavis_qformer.BertLMHeadModel(bert)
        shape = (1, config.num_query_tokens, config.qformer_width)
        self.query_tokens = nn.Parameter(torch.empty(shape))
        self.ln_vision = nn.LayerNorm(config.vision_width)
        self.vision_proj = nn.Linear(config.qformer_width, config.embedding_dim)
        self.text_proj = nn.Linear(config.qformer_width, config.embedding_dim)
        self.itm_head = nn.Linear(config.qformer_width, 2)
        self.temp = nn.Parameter(torch.empty(()))

    @torch.no_grad()
    def randomise(self, seed: int) -> "LavisQuRe":
        """Draw every weight, LayerNorms and query tokens too, so that no wrong path is hidden."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            mean = 1.0 if re.search(r"(LayerNorm|norm\d|ln_\w+)\.weight$", name) else 0.0
            parameter.normal_(mean, 0.11, generator=generator)
        self.temp.fill_(0.3)
        return self

    def image_only(self, features: Tensor) -> Tensor:
        """(B, P, C) -> (B, T, width) last hidden states."""
        image = self.ln_vision(features)
        return self.Qformer.bert(
            query_embeds=self.query_tokens.expand(len(image), -1, -1),
            encoder_hidden_states=image,
            encoder_attention_mask=torch.ones(image.shape[:-1], dtype=torch.long),
            return_dict=True,
        ).last_hidden_state

    def joint(self, features: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, P, C) and (B, L) twice -> (B, T + L, width) last hidden states."""
        image = self.ln_vision(features)
        tokens = self.query_tokens.expand(len(image), -1, -1)
        query_mask = torch.ones(tokens.shape[:-1], dtype=torch.long)
        return self.Qformer.bert(
            input_ids,
            query_embeds=tokens,
            attention_mask=torch.cat([query_mask, attention_mask], dim=1),
            encoder_hidden_states=image,
            encoder_attention_mask=torch.ones(image.shape[:-1], dtype=torch.long),
            return_dict=True,
        ).last_hidden_state

    def text_only(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, L) twice -> (B, L, width) last hidden states."""
        return self.Qformer.bert(
            input_ids, attention_mask=attention_mask, return_dict=True
        ).last_hidden_state

    def image_embedding(self, features: Tensor) -> Tensor:
        """(B, P, C) -> (B, T, D), unit length."""
        return F.normalize(self.vision_proj(self.image_only(features)), dim=-1)

    def query_embedding(self, features: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """-> (B, D), unit length: project each of the first T outputs, mean, normalise."""
        fused = self.joint(features, ids, mask)[:, : self.query_tokens.shape[1], :]
        return F.normalize(self.text_proj(fused).mean(dim=1), dim=-1)

    def text_embedding(self, ids: Tensor, mask: Tensor) -> Tensor:
        """-> (B, D), unit length, from [CLS]: stage 1's contrastive text side."""
        return F.normalize(self.text_proj(self.text_only(ids, mask)[:, 0, :]), dim=-1)

    @staticmethod
    def scores(queries: Tensor, images: Tensor) -> Tensor:
        """(Q, D) and (N, T, D) -> (Q, N), as LAVIS multiplies them."""
        products = torch.matmul(queries[:, None, None, :], images.permute(0, 2, 1))  # (Q, N, 1, T)
        return products.squeeze(2).max(dim=-1).values

    def kl_loss(self, positive: Tensor, negative: Tensor) -> Tensor:
        """KL([1, 0] || softmax([s(p), s(n)] / tau)), mean over the batch, from (B,) raw scores."""
        log_probabilities = F.log_softmax(torch.stack([positive, negative], 1) / self.temp, dim=1)
        certain = torch.tensor([1.0, 0.0]).to(positive).expand_as(log_probabilities)
        return F.kl_div(log_probabilities, certain, reduction="batchmean")


def to_qure_names(lavis: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name LAVIS's trained parameters (or their gradients) as `QuReModel` does."""
    trained = {n: v for n, v in lavis.items() if not n.startswith("visual_encoder.")}
    return {new: v for name, v in trained.items() if (new := rename_lavis(name)) is not None}
