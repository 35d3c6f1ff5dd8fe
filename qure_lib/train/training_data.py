"""Training and val queries of a data set, by its published protocol."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd
from torch import Tensor

from qure_lib.datasets.graded_relevance import load_graded_relevance
from qure_lib.datasets.queries import QuerySet
from qure_lib.evaluation.protocol import Training
from qure_lib.evaluation.registry import find_protocol, training_of
from qure_lib.features.retriever import Retriever
from qure_lib.method.ranking import DEFAULT_MEMORY

POOLS = ("released", "targets", "original")


@dataclass(frozen=True)
class TrainingData:
    """Training queries over their pools of negatives, val queries over the protocol's corpus.

    Both by category. relevance, val_relevance: (Q, N) graded relevance by category, where the data
    set knows it. protocol: name of the data set in the registry, by which val is ranked.
    """

    train: dict[str, QuerySet]
    val: dict[str, QuerySet]
    relevance: dict[str, Tensor | None]
    val_relevance: dict[str, Tensor | None] = field(default_factory=dict)
    protocol: str = "fashioniq"

    @property
    def _query_sets(self) -> Iterator[QuerySet]:
        yield from self.train.values()
        yield from self.val.values()

    @property
    def images(self) -> dict[str, Path]:
        """Every distinct image of both splits, by id."""
        return {i: path for queries in self._query_sets for i, path in queries.images.items()}

    @property
    def whole(self) -> bool:
        """Whether nothing was left out because its image file is missing."""
        return not any(q.dropped_triplets or q.dropped_images for q in self._query_sets)

    @property
    def training(self) -> Training:
        """How the data set is trained on."""
        return training_of(self.protocol)

    def evaluate(self, retriever: Retriever, memory: int = DEFAULT_MEMORY) -> pd.DataFrame:
        """One row a val query, with its category, by the data set's own protocol."""
        return self.training.evaluate(retriever, self.val, memory, self.val_relevance)

    def hashes(self, retriever: Retriever) -> dict[str, str]:
        """What a run starts from: hashes of triplets and pools, of the images' content (by their
        features), of the model's configuration, tokenizer and starting weights.
        """
        annotations, weights = hashlib.sha256(), hashlib.sha256()
        for queries in self._query_sets:
            rows = [(t.query_id, t.reference, t.caption, t.target) for t in queries.triplets]
            annotations.update(repr((rows, queries.corpus.image_ids)).encode())
        for name, parameter in sorted(retriever.model.trainable_parameters().items()):
            weights.update(name.encode() + parameter.detach().cpu().numpy().tobytes())
        words = json.loads(retriever.tokenizer.backend_tokenizer.to_str())
        words |= {"truncation": None, "padding": None}  # state of the last call
        known = {"model": asdict(retriever.model.config), "tokenizer": words}
        hashes = {
            name: hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
            for name, value in known.items()
        }
        hashes |= {"annotations": annotations.hexdigest(), "features": retriever.features.key}
        return hashes | {"starting_weights": weights.hexdigest()}


def load_training_data(
    root: str | Path, allow_missing: bool = False, pool: str = "released"
) -> TrainingData:
    """The data set at `root`, by its published protocol; the registry says which one it is.

    Args:
        allow_missing: leave out what needs an image file that is missing (the loaders say by how
            much).
        pool: where negatives come from: the "targets" of the (same category's) train triplets, or
            all images of the "original" train split. "released": targets on FashionIQ, all on CIRR.

    Raises:
        ValueError: an unknown pool, or what the loaders refuse.
    """
    if pool not in POOLS:
        raise ValueError(f"pool must be one of {POOLS}, not {pool!r}")
    protocol = find_protocol(root)
    train, val = training_of(protocol.name).load(Path(root), pool, allow_missing)
    if protocol.layout != "fashioniq":  # only FashionIQ's layout has graded relevance
        graded, val_graded = dict.fromkeys(train), dict.fromkeys(val)
    else:
        graded = {c: load_graded_relevance(root, q, "train") for c, q in train.items()}
        val_graded = {c: load_graded_relevance(root, q, "val") for c, q in val.items()}
    return TrainingData(train, val, graded, val_graded, protocol.name)
