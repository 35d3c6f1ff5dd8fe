"""Graded relevance of every image to every query, where a data set knows it."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qure_lib.files import read_json

from .queries import QuerySet

DESCRIBED = ("SynthFashion", "Photographs")  # data sets that know every image's attributes


def dataset_name(root: str | Path) -> str:
    """Which data set lies at `root`: one of DESCRIBED by its file of attributes, else FashionIQ."""
    return next((n for n in DESCRIBED if Path(root, f"{n.lower()}.json").is_file()), "FashionIQ")


def load_graded_relevance(root: str | Path, query_set: QuerySet, split: str) -> Tensor | None:
    """Exact graded relevance of every corpus image to every query, where the data set knows it.

    Returns:
        (Q, N) float32 in [0, 1], the share of the wanted attributes that an image has; an attribute
        on a scale of [0, 1] counts by its closeness (a hue goes round). None where `root` has no
        relevance/ folder (every real data set).

    Raises:
        ValueError: the relevance file and the captions do not belong together.
    """
    path = Path(root, "relevance", f"rel.{query_set.name}.{split}.json")
    if not path.parent.is_dir():
        return None
    entries, rows = read_json(path), [int(t.query_id.split("/")[-1]) for t in query_set.triplets]
    file = f"{dataset_name(root).lower()}.json"
    known = read_json(Path(root, file), dict)
    try:
        if len(entries) != len(rows) + query_set.dropped_triplets:
            raise ValueError(f"{len(entries)} entries")
        wanted = [entries[row]["wanted"] for row in rows]
        return _grade(wanted, [known["images"][i] for i in query_set.corpus.image_ids])
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} and {file} do not fit the {len(query_set)} queries and {len(query_set.corpus)}"
            f" images of {query_set.name} ({error}); make them again with `make data`"
        ) from error


def _grade(wanted: list[dict[str, Any]], images: list[dict[str, Any]]) -> Tensor:
    """(Q, N) mean closeness over the attributes, which must be the same ones everywhere."""
    names = sorted(wanted[0])
    if not names or any(row.keys() != set(names) for row in (*wanted, *images)):
        raise ValueError("the attributes differ")
    closeness = (_closeness(name, wanted, images) for name in names)
    relevance = sum(closeness, torch.zeros(())) / len(names)
    if not ((relevance >= 0) & (relevance <= 1)).all():
        raise ValueError("an attribute is not on the scale from 0 to 1")
    return relevance


def _closeness(name: str, wanted: list[dict[str, Any]], images: list[dict[str, Any]]) -> Tensor:
    """(Q, N) in [0, 1]: whether an attribute is the wanted word, or how near on its scale."""
    a, b = ([row[name] for row in rows] for rows in (wanted, images))
    if isinstance(a[0], str):
        codes = {word: code for code, word in enumerate(dict.fromkeys(a + b))}
        a, b = ([codes[word] for word in words] for words in (a, b))
        return (torch.tensor(a)[:, None] == torch.tensor(b)).float()
    apart = (torch.tensor(a)[:, None] - torch.tensor(b)).abs()
    return 1 - (2 * torch.minimum(apart, 1 - apart) if name == "colour" else apart)
