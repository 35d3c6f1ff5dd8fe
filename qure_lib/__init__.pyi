from .datasets.fashioniq import load_fashioniq
from .datasets.queries import Corpus, QuerySet, Triplet
from .evaluation.metrics import average_precision_at_k, ndcg_at_k, preference_rate, recall_at_k
from .evaluation.registry import PROTOCOLS
from .evaluation.statistics import Interval, bootstrap_ci, paired_bootstrap
from .features.hub import QuReModel
from .features.published_weights import convert_lavis_checkpoint, load_pretrained
from .features.retriever import Embedder, Retriever
from .method.config import MiningConfig, ModelConfig, TrainConfig
from .method.drops import DropPair, find_steepest_drops
from .method.losses import OBJECTIVES, bradley_terry_loss, info_nce_loss, plackett_luce_loss
from .method.mining import mine_hard_negatives
from .own_scores import hard_negatives
from .train.definition import define_hard_negatives

__all__ = [
    "OBJECTIVES", "PROTOCOLS", "Corpus", "DropPair", "Embedder", "Interval", "MiningConfig",
    "ModelConfig", "QuReModel", "QuerySet", "Retriever", "TrainConfig", "Triplet",
    "average_precision_at_k", "bootstrap_ci", "bradley_terry_loss", "convert_lavis_checkpoint",
    "define_hard_negatives", "find_steepest_drops", "hard_negatives", "info_nce_loss",
    "load_fashioniq", "load_pretrained", "mine_hard_negatives", "ndcg_at_k", "paired_bootstrap",
    "plackett_luce_loss", "preference_rate", "recall_at_k",
]  # fmt: skip
