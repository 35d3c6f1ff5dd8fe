"""Ranking files: read, checked and written by one set of rules (METHOD section 6).

CIRR       {"version": "rc2", "metric": "recall", pairid: [50 image names]} without the query's
           reference, and the same with "recall_subset": 3 names of its group of six.
CIRCO      {query id: [50 image ids]}, COCO's whole numbers.
FashionIQ  {category: {query: [50 image ids or more]}}, best first; a query is its row in
           cap.{category}.val.json, from 0, as "12" or "dress/val/12". The reference may be listed.

No image twice, every query of the split and no other. A file that breaks a rule is neither read nor
written: the ValueError names file, query and remedy.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .data import QuerySet, Triplet, read_json
from .files import replacing

CIRCO_LISTED = 50
CIRR_LISTED = 50
CIRR_SUBSET_LISTED = 3
FASHIONIQ_LISTED = 50  # at least: Recall@50 is the last cut-off
CIRR_METRICS = ("recall", "recall_subset")
LARGEST_FILE = 2**29  # bytes
LARGEST_COCO_ID = 10**12 - 1  # its file names have twelve digits
Rankings = Mapping[str, Sequence[str]]  # query id -> image ids, best first


@dataclass(frozen=True)
class _Rule:
    """What one ranking must be. known: images it may list; None where nobody says."""

    count: int
    known: Collection[str] | None
    or_more: bool = False
    group_only: bool = False
    reference: bool = True  # may be listed

    def problem(self, ranking: Sequence[str], triplet: Triplet) -> str | None:
        """What is wrong with a query's ranking, and what to do."""
        n, seen = len(ranking), set(ranking)
        if n < self.count or (n > self.count and not self.or_more):
            more = " or more" if self.or_more else ""
            return f"{n} images; list {self.count}{more}, best first"
        if len(seen) < n:
            twice = Counter(ranking).most_common(1)[0][0]
            return f"image {twice!r} is listed twice; keep its first place and add another image"
        if not self.reference and triplet.reference in seen:
            return f"{triplet.reference!r} is the query's reference; leave it out of the ranking"
        known = triplet.group if self.group_only else self.known
        unknown = [i for i in ranking if i not in known] if known is not None else []
        if unknown:
            place = "the query's group" if self.group_only else "the corpus of this protocol"
            return f"image {unknown[0]!r} is not in {place}; rank the images of its split list"
        return None


def read_circo(path: str | Path, queries: QuerySet) -> dict[str, list[str]]:
    """Read a CIRCO submission.

    Args:
        queries: of `load_circo`, of the submission's split. Where COCO's list is missing, any of
            COCO's numbers passes for an image.

    Returns:
        Query id -> image ids as strings, best first.

    Raises:
        ValueError: see this module.
    """
    rankings = {}
    for query, ids in _read(path).items():
        if not isinstance(ids, list) or any(type(i) is not int for i in ids):
            raise ValueError(f"{path}, query {query}: write a list of COCO's ids, whole numbers")
        if ids and not 0 <= min(ids) <= max(ids) <= LARGEST_COCO_ID:
            raise ValueError(f"{path}, query {query}: {min(ids)} to {max(ids)} are not COCO's ids")
        rankings[query] = [str(i) for i in ids]
    _check(path, rankings, queries, _circo_rule(queries))
    return rankings


def write_circo(path: str | Path, rankings: Rankings, queries: QuerySet) -> None:
    """Write what CIRCO's server takes, whole or not at all.

    Args:
        rankings: query id -> image ids, best first (`evaluation.rank_circo`).
        queries: of the same split.

    Raises:
        ValueError: see this module.
    """
    _check(path, rankings, queries, _circo_rule(queries))
    _write(path, {query: [int(i) for i in ids] for query, ids in rankings.items()})


def read_cirr(path: str | Path, queries: QuerySet) -> tuple[str, dict[str, list[str]]]:
    """Read a file in the format of CIRR's server.

    Args:
        queries: of `load_cirr`, of the file's split.

    Returns:
        The file's metric, "recall" or "recall_subset", and query id -> image names, best first.

    Raises:
        ValueError: see this module; also another version or metric.
    """
    content = _read(path)
    version, metric = content.pop("version", None), content.pop("metric", None)
    if version != "rc2" or metric not in CIRR_METRICS:
        raise ValueError(
            f"{path}: version {version!r} and metric {metric!r}; \"version\" must be 'rc2' and "
            f'"metric" one of {CIRR_METRICS}'
        )
    rankings = {query: _names(ids, f"{path}, query {query}") for query, ids in content.items()}
    _check(path, rankings, queries, _cirr_rule(metric, queries))
    return metric, rankings


def write_cirr(path: str | Path, metric: str, rankings: Rankings, queries: QuerySet) -> None:
    """Write one of the two files that CIRR's server takes, whole or not at all.

    Args:
        metric: "recall" or "recall_subset".
        rankings: query id -> image names, best first (`evaluation.rank_cirr`).
        queries: of the same split.

    Raises:
        ValueError: see this module.
    """
    if metric not in CIRR_METRICS:
        raise ValueError(f"metric must be one of {CIRR_METRICS}, not {metric!r}")
    _check(path, rankings, queries, _cirr_rule(metric, queries))
    _write(path, {"version": "rc2", "metric": metric} | {q: list(i) for q, i in rankings.items()})


def read_fashioniq(
    path: str | Path, queries: Mapping[str, QuerySet]
) -> dict[str, dict[str, list[str]]]:
    """Read rankings of FashionIQ's val queries, each over its category's corpus.

    Args:
        queries: of `load_fashioniq`, over the corpus of the protocol that the file was made for.

    Returns:
        Category -> query id -> image ids, best first.

    Raises:
        ValueError: see this module; also a category that is missing or unknown.
    """
    content, rankings = _read(path), {}
    if content.keys() != queries.keys():
        raise ValueError(f"{path}: categories {sorted(content)}; write {sorted(queries)}")
    for category, query_set in queries.items():
        if not isinstance(content[category], dict):
            raise ValueError(f"{path}, {category}: expected {{query: [image ids]}}")
        prefix = f"{category}/val/"
        named = {prefix + q.removeprefix(prefix): ids for q, ids in content[category].items()}
        if len(named) < len(content[category]):
            raise ValueError(f"{path}, {category}: a query is there by number and by id; keep one")
        rankings[category] = {q: _names(ids, f"{path}, query {q}") for q, ids in named.items()}
        known = set(query_set.corpus.image_ids)
        _check(path, rankings[category], query_set, _Rule(FASHIONIQ_LISTED, known, or_more=True))
    return rankings


def knows_corpus(queries: QuerySet) -> bool:
    """Whether CIRCO's corpus is more than what the annotations name: whether COCO's list is there.

    Args:
        queries: of `load_circo`.
    """
    named = {i for t in queries.triplets for i in (t.reference, *t.ground_truths)}
    return not named.issuperset(queries.corpus.image_ids)


def _circo_rule(queries: QuerySet) -> _Rule:
    known = set(queries.corpus.image_ids) if knows_corpus(queries) else None
    return _Rule(CIRCO_LISTED, known)


def _cirr_rule(metric: str, queries: QuerySet) -> _Rule:
    if metric == "recall_subset":
        return _Rule(CIRR_SUBSET_LISTED, None, group_only=True, reference=False)
    return _Rule(CIRR_LISTED, set(queries.corpus.image_ids), reference=False)


def _check(path: str | Path, rankings: Rankings, queries: QuerySet, rule: _Rule) -> None:
    wanted = {t.query_id: t for t in queries.triplets}
    missing = [q for q in wanted if q not in rankings]
    unknown = [q for q in rankings if q not in wanted]
    for kind, ids in (("no ranking of", missing), ("a ranking of unknown", unknown)):
        if ids:
            raise ValueError(
                f"{path}: {kind} query {ids[0]!r} ({len(ids)} like it); give one of each of the "
                f"{len(wanted)} {queries.name} queries of this split"
            )
    for query, triplet in wanted.items():
        if problem := rule.problem(rankings[query], triplet):
            raise ValueError(f"{path}, query {query}: {problem}")


def _names(ids: Any, place: str) -> list[str]:
    if not isinstance(ids, list) or any(type(i) is not str for i in ids):
        raise ValueError(f"{place}: write a list of image names, as strings")
    return ids


def _read(path: str | Path) -> dict[str, Any]:
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is missing; name a file of rankings")
    if (size := path.stat().st_size) > LARGEST_FILE:
        raise ValueError(f"{path} has {size} bytes; keep the first 50 images of each ranking")
    return read_json(path, dict)


def _write(path: str | Path, content: dict[str, Any]) -> None:
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder; name a file in it")
    with replacing(path) as scratch:
        scratch.write_text(json.dumps(content) + "\n", encoding="utf-8")
