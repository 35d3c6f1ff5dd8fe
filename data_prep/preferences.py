"""Simulated judgements of pairs of image sets, in the structure of HP-FashionIQ's hpfiq.json."""

import numpy as np

from data_prep.catalogue import category_of, differences
from data_prep.garments import Garment

LIKING = 7  # of a set, on the scale of 1 to 5, by its mean graded relevance
NOISE = 0.85  # standard deviation of a liking


def simulate_preferences(
    queries: dict[str, list[dict]],
    corpora: dict[str, dict[str, Garment]],
    annotators: int,
    seed: int,
) -> dict:
    """Simulate judgements of pairs of top-5 sets; no human took part.

    Two scorers see the graded relevance with Gaussian noise of standard deviation 0.10 and 0.17;
    each retrieves its five best images without the reference. An annotator's liking of a set is its
    mean graded relevance plus noise and the annotator's own bias. It is rounded to the score of 1
    to 5; the set with the higher liking is preferred, with a slight bias to the first set.

    Args:
        queries: category -> triplets, each with its "wanted" attributes.
        corpora: category -> image id -> garment.
        annotators: how many; each answers two sets of 25 questions on one category, shirt or
            toptee, in HP-FashionIQ's proportion of 36 to 25.
        seed: of all noise.

    Returns:
        Annotator -> question set -> parallel lists.
    """
    rng = np.random.default_rng(seed)
    ids = {c: list(corpora[c]) for c in corpora}
    relevance = {
        c: 1 - differences([q["wanted"] for q in queries[c]], list(corpora[c].values())).mean(2)
        for c in corpora
    }
    study: dict[str, dict] = {}
    for user in range(annotators):
        c = "shirt" if user < round(annotators * 36 / 61) else "toptee"
        bias = 0.3 * rng.normal()
        study[f"user_{user + 1}"] = {
            f"question_set_{n}": _question_set(queries[c], ids[c], relevance[c], bias, rng)
            for n in (1, 2)
        }
    return study


def _question_set(
    queries: list[dict],
    ids: list[str],
    relevance: np.ndarray,
    bias: float,
    rng: np.random.Generator,
) -> dict:
    """25 questions to one annotator and the answers, as parallel lists."""
    rows = rng.choice(len(queries), 25, replace=False)
    chosen = [queries[row] for row in rows]
    judged = [_judge(queries[r]["candidate"], ids, relevance[r], bias, rng) for r in rows]
    return {
        "ref_img_paths": [_path(query["candidate"]) for query in chosen],
        "targ_img_paths": [_path(query["target"]) for query in chosen],
        "sentences": ["  and ".join(query["captions"]) for query in chosen],
        "retrieved_set1": [sets[0] for sets, _ in judged],
        "retrieved_set2": [sets[1] for sets, _ in judged],
        "preferred set": [preferred for _, preferred in judged],
    }


def _judge(
    reference: str, ids: list[str], relevance: np.ndarray, bias: float, rng: np.random.Generator
) -> tuple[list[dict], str]:
    """The two retrieved sets of a question, in random order, and which is preferred ("1", "2")."""
    sets, likings = [], []
    for noise in rng.permutation((0.10, 0.17)):
        order = np.argsort(-(relevance + noise * rng.normal(size=len(ids))), kind="stable")
        top = [i for i in order[:6] if ids[i] != reference][:5]
        liking = 3.6 + bias + LIKING * (relevance[top].mean() - 0.73) + NOISE * rng.normal()
        score = int(np.clip(np.rint(liking), 1, 5))
        sets.append({"img_path": [_path(ids[i]) for i in top], "user_score": str(score)})
        likings.append(liking)
    return sets, "2" if likings[1] - likings[0] > 0.1 + 0.1 * rng.normal() else "1"


def _path(image_id: str) -> str:
    return f"/-/image_data/{category_of(image_id)}/{image_id}.jpg"  # as hpfiq.json spells it
