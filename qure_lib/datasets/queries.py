"""Triplets, the corpus that they rank, and both together."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from torch import Tensor


def check_distinct(named: Iterable[tuple[str | int, Hashable]], what: str) -> None:
    """Raise ValueError, naming both places, if a value of (place, value) pairs comes twice."""
    first: dict[Hashable, str | int] = {}
    for place, value in named:
        if value in first:
            raise ValueError(f"{place}: {what} {value!r} is already at {first[value]}; keep one")
        first[value] = place


@dataclass(frozen=True)
class Triplet:
    """One query and its answer: (reference image, relative caption) -> target. Ids are strings.

    CIRR adds `group`, six similar images with reference and target among them. CIRCO adds
    `ground_truths`, every image that answers, `aspects` of the caption and the `concept` that
    reference and target share. A query of a test split has no target: "".
    """

    query_id: str
    reference: str
    caption: str
    target: str
    category: str
    phrases: tuple[str, ...]
    group: tuple[str, ...] = ()
    ground_truths: tuple[str, ...] = ()
    aspects: tuple[str, ...] = ()
    concept: str = ""


@dataclass(frozen=True)
class Corpus:
    """The N distinct images that are ranked, in one fixed order (ties are broken by it)."""

    image_ids: tuple[str, ...]
    paths: tuple[Path, ...]  # empty where embeddings are read instead

    def __post_init__(self) -> None:
        check_distinct(enumerate(self.image_ids), "corpus image")

    def __len__(self) -> int:
        return len(self.image_ids)

    @cached_property
    def _position(self) -> dict[str, int]:
        return {image_id: position for position, image_id in enumerate(self.image_ids)}

    def positions(self, image_ids: Sequence[str]) -> Tensor:
        """(len(image_ids),) int64 corpus positions; ValueError if an id is not in the corpus."""
        try:
            return torch.tensor([self._position[i] for i in image_ids], dtype=torch.int64)
        except KeyError as error:
            raise ValueError(f"image {error} is not in this corpus of {len(self)}") from None


@dataclass(frozen=True)
class QuerySet:
    """Q distinct triplets that rank one corpus of N images, for example FashionIQ's val shirts.

    `dropped_triplets` and `dropped_images` (of the corpus) count what was left out because files
    are missing (`allow_missing`): unless both are 0, results are not the protocol's.
    """

    name: str
    triplets: tuple[Triplet, ...]
    corpus: Corpus
    reference_paths: dict[str, Path]
    dropped_triplets: int = 0
    dropped_images: int = 0

    def __post_init__(self) -> None:
        check_distinct(enumerate(t.query_id for t in self.triplets), f"{self.name}: query")

    def __len__(self) -> int:
        return len(self.triplets)

    @cached_property
    def target_positions(self) -> Tensor:
        """(Q,) corpus position of each query's target."""
        return self.corpus.positions([t.target for t in self.triplets])

    @cached_property
    def reference_positions(self) -> Tensor:
        """(Q,) corpus position of each query's reference, -1 where it is not in the corpus."""
        known = self.corpus._position
        return torch.tensor([known.get(t.reference, -1) for t in self.triplets])

    def only_targets(self) -> Self:
        """The same queries over the images that are a target, in the corpus's order."""
        targets = {t.target for t in self.triplets}
        pairs = zip(self.corpus.image_ids, self.corpus.paths, strict=True)
        kept = {image_id: path for image_id, path in pairs if image_id in targets}
        return replace(self, corpus=Corpus(tuple(kept), tuple(kept.values())))

    @property
    def images(self) -> dict[str, Path]:
        """Every distinct image needed: the corpus, then references outside it."""
        corpus = dict(zip(self.corpus.image_ids, self.corpus.paths, strict=True))
        return corpus | self.reference_paths


@dataclass(frozen=True)
class Counts:
    """A published data set's size: distinct images trained on and ranked for val, and queries."""

    train_images: int = 0
    images: int = 0
    train_queries: int = 0
    queries: int = 0
