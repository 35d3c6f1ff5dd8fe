"""Ranking files: read, checked and written by one set of rules.

In every format a ranking begins with its best image and lists none twice, and a file ranks every
query of its split and no other. What breaks a rule is neither read nor written. A file that is read
may list any number of images a query; one that is written, for a server, lists as many as it takes.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qure_lib.datasets.queries import QuerySet, Triplet
from qure_lib.files import read_json, replacing

LARGEST_FILE = 2**29  # bytes
LARGEST_NUMBER = 10**12 - 1  # as an id: COCO's file names have twelve digits
Rankings = Mapping[str, Sequence[str]]  # query id -> image ids, best first


@dataclass(frozen=True)
class RankingFile:
    """A format: a JSON object of the keys `head`, and query id -> image ids, best first."""

    count: int  # images a query that the measures need, and that a server takes
    reference: bool = True  # whether the query's reference may be listed
    in_group: bool = False  # whether a query's group is ranked, not the corpus
    numbers: bool = False  # whether the file holds image ids as whole numbers
    head: dict[str, str] = field(default_factory=dict)
    # queries -> the images that may be listed; None if the corpus is unknown
    corpus: Callable[[QuerySet], Collection[str] | None] = lambda queries: queries.corpus.image_ids

    def read(self, path: str | Path, queries: QuerySet) -> Rankings:
        """The rankings of a file; ValueError as `read_object` and `parse`."""
        return self.parse(read_object(path), queries, path)

    def parse(self, content: Mapping[str, Any], queries: QuerySet, place: str | Path) -> Rankings:
        """The rankings of a JSON object, image ids as strings.

        Raises:
            ValueError: a rule is broken; the message names `place`, the query and the remedy.
        """
        kind, rankings = int if self.numbers else str, {}
        for query, ids in content.items():
            valid = isinstance(ids, list) and all(type(i) is kind for i in ids)
            if not valid or (self.numbers and not all(0 <= i <= LARGEST_NUMBER for i in ids)):
                of = f"whole numbers up to {LARGEST_NUMBER}" if self.numbers else "strings"
                raise ValueError(f"{place}, query {query}: write a list of image ids, as {of}")
            rankings[query] = [str(i) for i in ids]
        self.check(rankings, queries, place)
        return rankings

    def check(self, rankings: Rankings, queries: QuerySet, place: str | Path) -> None:
        """Raise the errors of `parse`."""
        wanted = {t.query_id: t for t in queries.triplets}
        missing = [q for q in wanted if q not in rankings]
        unknown = [q for q in rankings if q not in wanted]
        for kind, ids in (("no ranking of", missing), ("a ranking of unknown", unknown)):
            if ids:
                raise ValueError(
                    f"{place}: {kind} query {ids[0]!r} ({len(ids)} like it); give one of each of "
                    f"the {len(wanted)} {queries.name} queries of this split"
                )
        known = None if (listed := self.corpus(queries)) is None else frozenset(listed)
        for query, triplet in wanted.items():
            allowed = triplet.group if self.in_group else known
            if problem := self._problem(rankings[query], triplet, allowed):
                raise ValueError(f"{place}, query {query}: {problem}")

    def _problem(
        self, ranking: Sequence[str], triplet: Triplet, allowed: Collection[str] | None
    ) -> str | None:
        if not ranking:
            return "0 images; list 1 or more, best first"
        if len(set(ranking)) < len(ranking):
            twice = next(i for i in ranking if ranking.count(i) > 1)
            return f"image {twice!r} is listed twice; keep its first place and add another image"
        if not self.reference and triplet.reference in ranking:
            return f"{triplet.reference!r} is the query's reference; leave it out of the ranking"
        unknown = [i for i in ranking if allowed is not None and i not in allowed]
        place = "the query's group" if self.in_group else "the corpus of this protocol"
        return f"image {unknown[0]!r} is not in {place}; rank its images" if unknown else None

    def write(self, path: str | Path, rankings: Rankings, queries: QuerySet) -> None:
        """Write a server's file, whole or not at all.

        Raises:
            ValueError: as `parse`, a ranking has not `count` images, or the path is a folder.
        """
        self.check(rankings, queries, path)
        for query, ids in rankings.items():
            if len(ids) != self.count:
                raise ValueError(f"{path}, query {query}: {len(ids)} images; list {self.count}")
        if Path(path).is_dir():
            raise ValueError(f"{path} is a folder; name a file in it")
        kind = int if self.numbers else str
        content = {query: [kind(i) for i in ids] for query, ids in rankings.items()}
        with replacing(path) as scratch:
            scratch.write_text(json.dumps(self.head | content) + "\n", encoding="utf-8")


def read_object(path: str | Path) -> dict[str, Any]:
    """A ranking file's JSON object; ValueError if the file is missing, too large or no JSON."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is missing; name a file of rankings")
    if (size := path.stat().st_size) > LARGEST_FILE:
        raise ValueError(f"{path} has {size} bytes; keep the first 50 images of each ranking")
    return read_json(path, dict)
