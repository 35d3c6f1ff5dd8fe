"""Define hard negatives: mine the training queries with the model as it is now."""

from dataclasses import replace

from torch import Tensor

from qure_lib import processes
from qure_lib.datasets.queries import QuerySet
from qure_lib.features.retriever import Retriever
from qure_lib.method.config import TrainConfig
from qure_lib.method.mining import mine_hard_negatives
from qure_lib.method.mining_report import MiningReport
from qure_lib.method.negatives import HardNegativeSet

from .training_data import TrainingData


def define_hard_negatives(
    retriever: Retriever, data: TrainingData, config: TrainConfig
) -> dict[str, tuple[HardNegativeSet, MiningReport]]:
    """Mine every category's training queries with the model as it is now (Algorithm 1).

    By `config.mining`; see `TrainConfig.mining_at` for an epoch's. Its temperature is the model's,
    unless one is given.
    """
    if config.mining.temperature is None:
        own = retriever.model.temperature.item()
        config = replace(config, mining=replace(config.mining, temperature=own))
    return {
        category: _mine(retriever, queries, data.relevance.get(category), config)
        for category, queries in data.train.items()
    }


def _mine(
    retriever: Retriever, queries: QuerySet, relevance: Tensor | None, config: TrainConfig
) -> tuple[HardNegativeSet, MiningReport]:
    """One category's: each process mines its share of the queries, and all hold the whole."""
    rows = processes.share(len(queries))
    references = excluded_references(queries, config)
    mined = mine_hard_negatives(
        retriever.embed_queries(queries)[rows],
        retriever.embed_corpus(queries.corpus),
        queries.target_positions[rows].to(retriever.device),
        config.mining,
        None if relevance is None else relevance[rows],
        config.memory,
        None if references is None else references[rows],
    )
    chosen, reports = zip(*processes.gather_shares(mined, len(queries)), strict=True)
    return HardNegativeSet.concatenate(chosen), MiningReport.concatenate(reports)


def excluded_references(queries: QuerySet, config: TrainConfig) -> Tensor | None:
    """(Q,) references that mining and sampling leave out; None as released."""
    return queries.reference_positions if config.exclude_reference else None
