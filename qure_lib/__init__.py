"""QuRe: composed image retrieval with hard negatives between two drops (arXiv:2507.12416).

A query is a reference image with a relative caption; its answer in the corpus is the target.
Shapes: B batch, Q queries, N corpus images, T query tokens, P vision tokens, D embedding.
A rank is 0-based: the image at rank 0 has the best relevance score.

`hard_negatives(scores, targets)` applies the drop rule to the scores of any model.

The rooms, each of which uses only those before it (method and datasets not one another), and their
main names, which `from qure_lib import ...` gives too (but for `train.loop.train`: `qure_lib.train`
is a room):

method.config              MiningConfig, TrainConfig, ModelConfig
method.drops               DropPair, find_steepest_drops
method.mining              mine_hard_negatives
method.losses              bradley_terry_loss, plackett_luce_loss, info_nce_loss, OBJECTIVES
datasets.queries           Triplet, Corpus, QuerySet
datasets.fashioniq         load_fashioniq
features.hub               QuReModel
features.retriever         Retriever, Embedder
features.published_weights load_pretrained, convert_lavis_checkpoint
evaluation.registry        PROTOCOLS
evaluation.metrics         recall_at_k, average_precision_at_k, ndcg_at_k, preference_rate
evaluation.statistics      Interval, bootstrap_ci, paired_bootstrap
train.definition           define_hard_negatives
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # of __init__.pyi
