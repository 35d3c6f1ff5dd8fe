"""A set of hard negatives a query, and how negatives are drawn from it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class HardNegativeSet:
    """Q ragged sets of corpus positions: query q's are negatives[offsets[q]:offsets[q + 1]].

    A query with an empty set draws uniformly from the corpus of `corpus_size` images, without its
    target, and without its reference where `references` gives its position (-1: not in the corpus).

    offsets: (Q + 1,). negatives: (M,) corpus positions. targets, references: (Q,) corpus positions.

    Raises:
        ValueError: lengths differ, a position is outside the corpus, or the corpus holds no image
            that a query may draw.
    """

    offsets: Tensor
    negatives: Tensor
    targets: Tensor
    corpus_size: int
    references: Tensor | None = None

    def __post_init__(self) -> None:
        positions = {"targets": self.targets, "negatives": self.negatives}
        if self.references is not None:
            positions["references"] = self.references
        for name, values in positions.items():
            lowest = -1 if name == "references" else 0
            if ((values < lowest) | (values >= self.corpus_size)).any():
                raise ValueError(f"{name} lie outside the corpus of {self.corpus_size} images")
        q, references = len(self.targets), positions.get("references", self.targets)
        bounds = self.offsets[[0, -1]].tolist()
        if not q == len(references) == len(self.sizes) or bounds != [0, len(self.negatives)]:
            raise ValueError(f"offsets, negatives and references do not fit {q} targets")
        left_out = 1 + int((self.excluded >= 0).any())
        if self.corpus_size <= left_out:
            raise ValueError(
                f"a corpus of {self.corpus_size} images holds no negative: {left_out} of them "
                "(target, excluded reference) may not be drawn"
            )

    @classmethod
    def uniform(cls, targets: Tensor, corpus_size: int, references: Tensor | None = None) -> Self:
        """The warm-up's: every set is empty, so every draw is uniform."""
        empty = torch.zeros(0, dtype=torch.int64)
        offsets = torch.zeros(len(targets) + 1, dtype=torch.int64)
        return cls(offsets, empty, targets, corpus_size, references)

    @property
    def sizes(self) -> Tensor:
        """(Q,) number of negatives of each query."""
        return self.offsets.diff()

    @property
    def excluded(self) -> Tensor:
        """(Q,) position of the reference that may not be drawn; -1 if none beside the target."""
        if self.references is None:
            return torch.full_like(self.targets, -1)
        return self.references.where(self.references != self.targets, -1)

    def __getitem__(self, query: int) -> Tensor:
        return self.negatives[self.offsets[query] : self.offsets[query + 1]]

    def sample(self, generator: torch.Generator, count: int = 1) -> Tensor:
        """Draw `count` negatives a query: distinct ones where its set holds so many.

        Returns:
            (Q, count) int64 corpus positions.

        Raises:
            ValueError: count is below 1.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, not {count}")
        sets = self._shuffled(generator) if count > 1 else self
        places = range(count) if count > 1 else [None]
        return torch.stack([sets._draw(generator, place) for place in places], dim=1)

    def sample_positives(self, generator: torch.Generator) -> Tensor:
        """(Q, 1) an image of each set of auxiliary positives; of an empty one, the target."""
        return self.sample(generator).where(self.sizes[:, None] > 0, self.targets[:, None])

    def _draw(self, generator: torch.Generator, place: int | None) -> Tensor:
        """(Q,) the element at `place` of each set, cyclically; None: any element."""
        sizes, chosen = self.sizes, self._draw_uniformly(generator)
        u = torch.rand(sizes.shape, generator=generator, dtype=torch.float64)
        within = (u * sizes).long() if place is None else place % sizes.clamp(min=1)
        full = sizes > 0
        chosen[full] = self.negatives[(self.offsets[:-1] + within)[full]]
        return chosen

    def _draw_uniformly(self, generator: torch.Generator) -> Tensor:
        """(Q,) corpus positions, any but the target's and an excluded reference's."""
        if self.references is None:
            drawn = torch.randint(self.corpus_size - 1, self.targets.shape, generator=generator)
            return drawn + (drawn >= self.targets)
        counts = self.excluded >= 0
        other = self.excluded.where(counts, self.corpus_size)  # past the end: shifts no draw
        u = torch.rand(self.targets.shape, generator=generator, dtype=torch.float64)
        drawn = (u * (self.corpus_size - 1 - counts.long())).long()
        drawn += drawn >= self.targets.minimum(other)
        return drawn + (drawn >= self.targets.maximum(other))

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """The sets of consecutive queries over one corpus, as one."""
        offsets = F.pad(torch.cat([part.sizes for part in parts]).cumsum(0), (1, 0))
        negatives = torch.cat([part.negatives for part in parts])
        targets = torch.cat([part.targets for part in parts])
        known = [part.references for part in parts if part.references is not None]
        references = torch.cat(known) if known else None
        return cls(offsets, negatives, targets, parts[0].corpus_size, references)

    def _shuffled(self, generator: torch.Generator) -> Self:
        """The same sets, each in random order."""
        rows = torch.repeat_interleave(torch.arange(len(self.targets)), self.sizes)
        keys = torch.rand(len(self.negatives), generator=generator, dtype=torch.float64)
        return replace(self, negatives=self.negatives[torch.argsort(rows + keys)])
