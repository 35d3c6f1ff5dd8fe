"""QuRe's model: BLIP-2's Q-Former over a frozen vision encoder.

Shapes: B batch, P vision tokens, C vision width, T query tokens, D embedding, L caption tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel
from transformers.models.blip_2.modeling_blip_2 import Blip2TextEmbeddings

from .config import ModelConfig
from .encoders import ENCODERS


class QuReModel(nn.Module):
    """Query and image embeddings of composed image retrieval.

    The vision encoder is frozen; `ln_vision`, the Q-Former with its query tokens, `vision_proj`,
    `text_proj` and the temperature are trained. Frozen features are taken before `ln_vision`, so
    that they can be computed once.

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
        self.temperature = nn.Parameter(torch.tensor(0.07))  # BLIP-2's initial value
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
