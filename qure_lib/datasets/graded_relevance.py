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
    whole = len(entries) == len(rows) + query_set.dropped_triplets
    wanted = [entries[row].get("wanted", {}) for row in rows] if whole else []
    file = f"{dataset_name(root).lower()}.json"
    known = read_json(Path(root, file), dict).get("images", {})
    images = [known.get(i, {}) for i in query_set.corpus.image_ids]
    names = sorted(wanted[0]) if wanted else []
    if not names or any(row.keys() != set(names) for row in (*wanted, *images)):
        raise ValueError(
            f"{path} and {file} do not fit the {len(query_set)} queries and "
            f"{len(images)} images of {query_set.name}; make them again with `make data`"
        )
    closeness = (_closeness(name, wanted, images) for name in names)
    return sum(closeness, torch.zeros(())) / len(names)


def _closeness(name: str, wanted: list[dict[str, Any]], images: list[dict[str, Any]]) -> Tensor:
    """(Q, N) in [0, 1]: whether an attribute is the wanted word, or how near on its scale."""
    a, b = ([row[name] for row in rows] for rows in (wanted, images))
    if isinstance(a[0], str):
        codes = {word: code for code, word in enumerate(dict.fromkeys(a + b))}
        a, b = ([codes[word] for word in words] for words in (a, b))
        return (torch.tensor(a)[:, None] == torch.tensor(b)).float()
    apart = (torch.tensor(a)[:, None] - torch.tensor(b)).abs()
    return 1 - (2 * torch.minimum(apart, 1 - apart) if name == "colour" else apart)
