"""SoFT's labels: which other val images fit a FashionIQ or CIRR query, by a language model."""

from pathlib import Path

from qure_lib.files import read_json

from .loading import check_entries
from .queries import QuerySet

CONFIDENCE = 0.85  # of the model; what the released files hold is at least as sure
ENTRY = {"reference_image_name": str, "target_image_name": str, "confidence_scores": dict}

Labels = dict[str, frozenset[str]]  # query id -> the images that fit it, the target among them


def load_soft_labels(folder: str | Path, queries: QuerySet) -> Labels:
    """Read the images that fit each of a FashionIQ category's, or CIRR's, val queries.

    A multimodal language model judged the images of three lists of twenty, so an image without a
    label may fit as well. The released labels lack some targets; the target always counts.

    Args:
        folder: holds {queries.name}_multi_target_selection.json, an entry a query: its
            reference_image_name and target_image_name, by which it is joined, and
            confidence_scores, image id -> confidence.
        queries: of val.

    Returns:
        Labels of the queries that the file holds, in the order of `queries`.

    Raises:
        ValueError: the file is missing or broken, an entry is there twice or of no query, or
            labels an image outside the corpus; the message names the file and the entry.

    Source: SoFT, arXiv:2512.20781.
    """
    path = Path(folder, f"{queries.name}_multi_target_selection.json")
    wanted = {(t.reference, t.target): t.query_id for t in queries.triplets}
    if len(wanted) < len(queries):
        raise ValueError(f"{queries.name}: two queries share reference and target: no labels fit")
    corpus, found = frozenset(queries.corpus.image_ids), {}
    for place, entry in check_entries(path, read_json(path), ENTRY):
        pair = entry["reference_image_name"], entry["target_image_name"]
        fitting = {i for i, sure in _scores(entry, place).items() if sure >= CONFIDENCE}
        if pair not in wanted or wanted[pair] in found:
            known = "is there twice" if pair in wanted else f"is no val query of {queries.name}"
            raise ValueError(f"{place}: {' -> '.join(pair)} {known}; get the file again")
        if strangers := sorted(fitting - corpus):
            raise ValueError(f"{place}: image {strangers[0]!r} is not in the corpus; is this val?")
        found[wanted[pair]] = frozenset(fitting | {pair[1]})
    return {query: found[query] for query in wanted.values() if query in found}


def _scores(entry: dict, place: str) -> dict[str, float]:
    scores = entry["confidence_scores"]
    if wrong := {i: s for i, s in scores.items() if type(s) not in (int, float) or not 0 <= s <= 1}:
        raise ValueError(f"{place}: confidence_scores must lie in [0, 1], not {wrong}")
    return scores
