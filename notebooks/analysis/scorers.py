"""Notebook 06: scorers of image sets that look at no image.

They take Q judged queries, as `load_hp_fashioniq` gives them, and return (Q, 2) scores of set 1 and
set 2. The set with the higher score answers the query better; NaN says that nothing is known of a
set.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from qure_lib.datasets.fashioniq import load_fashioniq
from qure_lib.datasets.hp_fashioniq import load_set_scores
from qure_lib.datasets.loading import SPLITS
from qure_lib.datasets.queries import QuerySet
from qure_lib.datasets.soft import load_soft_labels
from qure_lib.files import read_json

Words = frozenset[str]
OWN_CHOICE = "own choice"
# Scorer -> what it sees. All others are given as a file of scores.
SEES = dict.fromkeys(("random", "attribute overlap", "caption overlap"), "sees the query")
SEES |= dict.fromkeys(("own caption kept", "holds the target"), "sees the answer")
SEES |= dict.fromkeys(("target, attributes, captions", "exact relevance"), "sees the answer")
LABELS = "SoFT's labels, by a model that saw images"
SEES |= dict.fromkeys(("labelled images", "labelled, target aside"), LABELS)
SEES |= {"participants' own": OWN_CHOICE}
# Words that describe no garment; comparatives are among them, since no image is "more" by itself.
FUNCTION_WORDS = (
    "a an and are as at be but by for from has have in is it its less like more not of on or same "
    "so than that the this to very with without"
)


def what_it_sees(scorer: str) -> str:
    """What a scorer knows of the answer, as the legends name it."""
    return SEES.get(scorer, "given as set_scores")


def score_without_images(
    judged: pd.DataFrame,
    captions: Mapping[str, Mapping[str, str]],
    attributes: Mapping[str, Mapping[str, str]],
    seed: int,
) -> dict[str, np.ndarray]:
    """Scores of the six scorers that need no image: scorer -> (Q, 2).

    Args:
        captions: of `load_target_captions`; empty if there are none.
        attributes: of `load_image_attributes`; empty if there are none.
        seed: of the random scorer.
    """
    by_caption, by_attribute = (word_overlap(judged, t) for t in (captions, attributes))
    holds = holds_target(judged)
    return {
        "random": np.random.default_rng(seed).random((len(judged), 2)),
        "attribute overlap": by_attribute,
        "caption overlap": by_caption,
        "own caption kept": word_overlap(judged, captions, own=True),
        "holds the target": holds,
        "target, attributes, captions": first_decisive(holds, by_attribute, by_caption),
    }


def score_by_file(path: str | Path, n_rows: int) -> dict[str, np.ndarray]:
    """A model's scores of the judged sets, under the name of their file.

    Raises:
        ValueError: as `load_set_scores`, or the file is called like a scorer of the study.
    """
    name = Path(path).stem
    if name in SEES:
        raise ValueError(f"{path}: the study has a scorer {name!r} of its own; rename the file")
    return {name: load_set_scores(path, n_rows)}


def known_images(judged: pd.DataFrame, texts: Mapping[str, Mapping[str, str]]) -> float:
    """Per cent of the images shown, each as often as it was, of which there is a text."""
    shown = list(chain.from_iterable(judged["set_1"] + judged["set_2"]))
    return 100 * np.mean([image in texts for image in shown])


def holds_target(judged: pd.DataFrame) -> np.ndarray:
    """1 where the set holds the target, 0 where it does not. It sees the answer."""
    return _score_sets(judged, lambda query, ids: float(query.target in ids))


def labelled_images(
    judged: pd.DataFrame, query_sets: Mapping[str, QuerySet], folder: str | Path
) -> dict[str, np.ndarray]:
    """How many of the set's images SoFT's labels call fitting: with the target, and without it.

    Args:
        query_sets: FashionIQ's val queries by category, which hold the judged ones.
        folder: of `load_soft_labels`.

    Returns:
        Scorer -> (Q, 2) counts, NaN where a query has no labels. Both see the answer.
    """
    fitting: dict[tuple[str, str, str], frozenset[str]] = {}
    for name, queries in query_sets.items():
        labels = load_soft_labels(folder, queries)
        named = {(name, t.reference, t.target): labels.get(t.query_id) for t in queries.triplets}
        fitting |= {query: ids for query, ids in named.items() if ids is not None}

    def count(query: Any, ids: Sequence[str], aside: AbstractSet[str]) -> float:
        labelled = fitting.get((query.category, query.reference, query.target))
        return math.nan if labelled is None else float(len((labelled - aside) & set(ids)))

    return {
        "labelled images": _score_sets(judged, lambda q, ids: count(q, ids, frozenset())),
        "labelled, target aside": _score_sets(judged, lambda q, ids: count(q, ids, {q.target})),
    }


def mean_relevance(
    judged: pd.DataFrame, query_sets: Mapping[str, QuerySet], relevance: Mapping[str, Tensor]
) -> np.ndarray:
    """Mean exact graded relevance of the set's images, where a data set knows it. Sees the answer.

    Args:
        judged: Q judged queries, all of them in `query_sets`.
        query_sets: category -> its queries.
        relevance: category -> `load_graded_relevance` of the same.

    Raises:
        ValueError: two queries of a category share reference and target.
    """
    rows = {
        (name, t.reference, t.target): row
        for name, queries in query_sets.items()
        for row, t in enumerate(queries.triplets)
    }
    if len(rows) < sum(map(len, query_sets.values())):
        raise ValueError("two queries have the same reference and target; which one was judged?")

    def score(query: Any, ids: Sequence[str]) -> float:
        row = rows[query.category, query.reference, query.target]
        columns = query_sets[query.category].corpus.positions(tuple(ids))
        return round(relevance[query.category][row, columns].double().mean().item(), 6)

    return _score_sets(judged, score)


def word_overlap(
    judged: pd.DataFrame, texts: Mapping[str, Mapping[str, str]], own: bool = False
) -> np.ndarray:
    """Score a set by what the texts of its images share with the query's relative caption.

    Args:
        judged: Q judged queries.
        texts: image id -> source -> text. The source of a caption is its reference image
            (`load_target_captions`), that of an attribute its name (`load_image_attributes`).
        own: keep the text that comes from this very query: the target's own caption gives the
            answer away.
    """
    known = {i: words(" ".join(sources.values())) for i, sources in texts.items()}
    weights = rarity(known.values())

    def describe(image: str, query: Any) -> Words:
        if own or image != query.target:
            return known.get(image, frozenset())
        others = {s: text for s, text in texts.get(image, {}).items() if s != query.reference}
        return words(" ".join(others.values()))

    def score(query: Any, ids: Sequence[str]) -> float:
        return overlap(words(query.caption), [describe(i, query) for i in ids], weights)

    return _score_sets(judged, score)


def first_decisive(*scores: np.ndarray) -> np.ndarray:
    """Choose as the first scorer that decides: 1 for its set, 0 for the other; a tie if none does.

    Args:
        scores: (Q, 2) each, the one that has the first word first; NaN does not decide.

    Example:
        >>> first_decisive(np.array([[1.0, 1.0]]), np.array([[0.2, 0.7]]))
        array([[0., 1.]])
    """
    chosen = np.zeros_like(scores[0], dtype=float)
    for pair in reversed(scores):
        first, second = (pair[:, i] > pair[:, 1 - i] for i in (0, 1))
        decided = first | second
        chosen[decided] = np.stack([first, second], axis=1)[decided]
    return chosen


def overlap(wanted: Words, images: Sequence[Words], weights: Mapping[str, float]) -> float:
    """Mean over a set's images of the share, by weight, of the wanted words that describe them.

    Args:
        wanted: words of the relative caption.
        images: the words known of each image; one of which nothing is known is left out.
        weights: of each word; a word without one does not count.

    Returns:
        In [0, 1], at 12 decimals so that equal sets tie; NaN where nothing is known of any image.

    Example:
        >>> overlap(words("is red and long"), [words("a red shirt")], {"red": 1, "long": 3})
        0.25
    """
    total = math.fsum(weights.get(word, 0) for word in wanted)
    shared = [math.fsum(weights.get(w, 0) for w in wanted & known) for known in images if known]
    if not shared:
        return math.nan
    return round(math.fsum(shared) / len(shared) / total, 12) if total else 0.0


def words(text: str) -> Words:
    """The words of a text that say something of a garment, in lower case and without a final s.

    Example:
        >>> sorted(words("Is red, and has shorter sleeves."))
        ['red', 'shorter', 'sleeve']
    """
    found = set(re.findall(r"[a-z]+", text.lower())).difference(FUNCTION_WORDS.split())
    return frozenset(word.removesuffix("s") or word for word in found)


def rarity(texts: Iterable[Words]) -> dict[str, float]:
    """Weight of each word, log(number of texts / number that hold it): a rare word says more."""
    texts = [text for text in texts if text]
    counts = Counter(word for text in texts for word in text)
    return {word: math.log(len(texts) / count) for word, count in counts.items()}


def _score_sets(judged: pd.DataFrame, score: Callable[[Any, Sequence[str]], float]) -> np.ndarray:
    """(Q, 2): `score` of each judged query, as a named tuple, with either set's image ids."""
    return np.array([[score(q, q.set_1), score(q, q.set_2)] for q in judged.itertuples()])


def load_target_captions(root: str | Path) -> dict[str, dict[str, str]]:
    """What relative captions say of each target: target -> reference -> caption.

    Over all categories and both splits; a pair with two captions has them joined.
    """
    captions: dict[str, dict[str, str]] = {}
    for split in SPLITS:
        for query_set in load_fashioniq(root, split, images=False).values():
            for t in query_set.triplets:
                known = captions.setdefault(t.target, {})
                known[t.reference] = f"{known.get(t.reference, '')} {t.caption}".strip()
    return captions


def load_image_attributes(root: str | Path) -> dict[str, dict[str, str]]:
    """What is known of each image in words: image id -> attribute -> value.

    FashionIQ's attributes/{category}.{split}.json give "title" and "tags" of a quarter of its
    images, some of them in several files; SynthFashion's synthfashion.json gives what was drawn.
    Empty where `root` has neither.

    Raises:
        ValueError: a file is broken, an entry lacks its title or tags, or two files contradict
            each other on an image; the message names file and image.
    """
    drawn = Path(root, "synthfashion.json")
    if drawn.is_file():
        return read_json(drawn, dict)["images"]
    known: dict[str, dict[str, str]] = {}
    for path in sorted(Path(root, "attributes").glob("*.json")):
        for image_id, entry in read_json(path, dict).items():
            try:
                tags = " ".join(tag for group in entry["tags"] for tag in group)
                found = {"title": entry["title"] or "", "tags": tags}
            except (TypeError, KeyError) as error:
                raise ValueError(f"{path}, image {image_id!r}: no title or tags") from error
            if known.setdefault(image_id, found) != found:
                raise ValueError(f"{path}, image {image_id!r}: another file describes it otherwise")
    return known
