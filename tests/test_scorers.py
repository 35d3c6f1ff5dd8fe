"""qure_lib.scorers: sets of images scored by words and by the answer, never by an image."""

import math

import numpy as np
import pandas as pd
import pytest

from qure_lib import data, scorers
from qure_lib.data import load_hp_fashioniq, real_annotations
from qure_lib.metrics import preference_rate

NEEDED = [real_annotations(name) for name in ("hpfiq", "fashioniq")]
needs_real = pytest.mark.skipif(
    None in NEEDED, reason="QURE_DATA does not hold both hpfiq/ and fashioniq/, the real files"
)


def judge(caption="is red and long", reference="R", target="T", set_1="abcde", set_2="fghij"):
    """One judged query; a set's images are named by single letters."""
    query = {"category": "shirt", "reference": reference, "caption": caption, "target": target}
    return pd.DataFrame([query | {"set_1": tuple(set_1), "set_2": tuple(set_2)}])


# --- words and their overlap ------------------------------------------------------------------


def test_words_leave_out_what_says_nothing_of_a_garment():
    assert scorers.words("Is a V-neck, has MORE stripes and the same belt.") == {
        "v",
        "neck",
        "stripe",
        "belt",
    }
    assert scorers.words("is it s") == {"s"}
    assert scorers.words("") == frozenset()


def test_a_rare_word_says_more_and_one_in_every_text_nothing():
    weights = scorers.rarity(map(frozenset, (["red", "neck"], ["neck"], ["neck", "bow"], [])))
    assert weights == {"neck": 0, "red": math.log(3), "bow": math.log(3)}


def test_overlap_of_a_drawn_case():
    wanted, weights = scorers.words("red, long"), {"red": 1.0, "long": 3.0}
    images = [frozenset({"red", "bow"}), frozenset({"red", "long"}), frozenset()]
    #         1 of 4                     4 of 4                       unknown: left out
    assert scorers.overlap(wanted, images, weights) == 0.625


def test_overlap_agrees_with_counting_slowly():
    generator = np.random.default_rng(0)
    letters = np.array(list("abcdefgh"))
    weights = dict(zip(letters, generator.random(8), strict=True))
    for _ in range(200):
        wanted, *images = (frozenset(letters[generator.random(8) < 0.4]) for _ in range(6))
        total, shares = 0.0, []
        for letter in wanted:
            total += weights[letter]
        for image in images:
            if image:
                shares.append(sum(weights[x] for x in image if x in wanted) / (total or 1))
        expected = np.mean(shares) if shares else math.nan
        assert scorers.overlap(wanted, images, weights) == pytest.approx(expected, nan_ok=True)


def test_overlap_is_blind_to_order_and_to_the_scale_of_the_weights():
    wanted, weights = scorers.words("red long bow"), {"red": 0.1, "long": 0.2, "bow": 0.7}
    images = [frozenset({"red"}), frozenset({"long", "bow"}), frozenset({"bow"})]
    scaled = {word: 3 * weight for word, weight in weights.items()}
    plain = scorers.overlap(wanted, images, weights)
    assert scorers.overlap(wanted, images[::-1], weights) == plain  # exactly: equal sets tie
    assert scorers.overlap(wanted, images * 3, weights) == plain
    assert scorers.overlap(wanted, images, scaled) == plain


@pytest.mark.parametrize(
    ("wanted", "images", "expected"),
    [
        ("red", [], math.nan),
        ("red", [""], math.nan),
        ("", ["red"], 0),
        ("blue", ["red"], 0),  # a word without a weight does not count
    ],
)
def test_overlap_where_little_is_known(wanted, images, expected):
    images = [scorers.words(image) for image in images]
    found = scorers.overlap(scorers.words(wanted), images, {"red": 1.0})
    assert found == pytest.approx(expected, nan_ok=True)


# --- the scorers ------------------------------------------------------------------------------


def test_sets_are_scored_by_the_texts_of_their_images():
    texts = {
        "a": {"title": "red shirt"},
        "b": {"title": "bow"},
        "f": {"title": "red", "tags": "long"},
        "x": {"title": "long bow shirt"},
    }
    # rarity of red, long, bow, shirt: log(4 / 2) each; half of the wanted words are in "red shirt"
    np.testing.assert_allclose(scorers.word_overlap(judge(), texts), [[0.25, 1.0]])
    unknown = scorers.word_overlap(judge(set_2="vwyz_"), texts)
    assert np.isnan(unknown).tolist() == [[False, True]]


def test_the_querys_own_caption_is_left_out_of_its_target_alone():
    texts = {
        "T": {"R": "is red and long", "Q": "has a bow"},
        "a": {"R": "is red and long"},
        "b": {"Q": "is blue"},
    }
    query = judge(set_1="T....", set_2="a....")
    assert scorers.word_overlap(query, texts, own=True).tolist() == [[1, 1]]
    assert scorers.word_overlap(query, texts).tolist() == [[0, 1]]  # "bow" alone is left of T
    only_own = {name: sources for name, sources in texts.items() if name != "T"}
    only_own["T"] = {"R": "is red and long"}
    assert np.isnan(scorers.word_overlap(query, only_own)[0, 0])


def test_a_set_holds_its_target_or_does_not():
    assert scorers.holds_target(judge(target="c")).tolist() == [[1, 0]]
    assert scorers.holds_target(judge(target="T")).tolist() == [[0, 0]]


def test_the_first_scorer_that_decides_has_the_word():
    first = np.array([[1, 0], [2, 2], [np.nan, 5], [3, 3]])
    second = np.array([[0, 1], [0, 1], [9, 4], [np.nan, np.nan]])
    chosen = scorers.first_decisive(first, second)
    assert chosen.tolist() == [[1, 0], [0, 1], [1, 0], [0, 0]]
    assert scorers.first_decisive(chosen).tolist() == chosen.tolist()
    swapped = scorers.first_decisive(first[:, ::-1], second[:, ::-1])
    np.testing.assert_array_equal(swapped, chosen[:, ::-1])


def test_mean_relevance_is_that_of_the_sets_images(smoke_world):
    worlds = data.load_fashioniq(smoke_world, "val", images=False)
    relevance = {n: data.load_graded_relevance(smoke_world, w, "val") for n, w in worlds.items()}
    judged = load_hp_fashioniq(smoke_world / "hp_like" / "hpfiq_simulated.json")
    scores = scorers.mean_relevance(judged, worlds, relevance)
    query = judged.iloc[7]
    world = worlds[query.category]
    pairs = [(t.reference, t.target) for t in world.triplets]
    row = relevance[query.category][pairs.index((query.reference, query.target))]
    slow = [row[world.corpus.image_ids.index(image)].item() for image in query.set_2]
    assert scores[7, 1] == pytest.approx(np.mean(slow))
    assert preference_rate(*scores.T, judged["preferred"]).agreement > 0.6  # made from it


# --- the real file ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ladder():
    hp, fashioniq = NEEDED
    judged = load_hp_fashioniq(hp / "hpfiq.json")
    captions = data.load_target_captions(fashioniq)
    attributes = data.load_image_attributes(fashioniq)
    holds = scorers.holds_target(judged)
    return judged, {
        "captions": scorers.word_overlap(judged, captions),
        "own captions": scorers.word_overlap(judged, captions, own=True),
        "attributes": scorers.word_overlap(judged, attributes),
        "target": holds,
    }


def compared(ladder, name):
    judged, scores = ladder
    known = ~np.isnan(scores[name]).any(axis=1)
    pairs = np.where(known[:, None], scores[name], 0)
    return known, preference_rate(*pairs.T, judged["preferred"])


@needs_real
@pytest.mark.parametrize(
    ("name", "scored"), [("captions", 3005), ("own captions", 3032), ("attributes", 1382)]
)
def test_the_rows_that_words_can_score_are_as_counted(ladder, name, scored):
    known, preference = compared(ladder, name)
    assert known.sum() == scored
    assert not preference.decides[~known].any()


@needs_real
def test_exactly_one_set_holds_the_target_in_914_rows(ladder):
    judged, scores = ladder
    assert compared(ladder, "target")[1].decides.sum() == 914
    assert (scores["target"].sum(axis=1) == 2).sum() == 719
    slow = [t in s for t, s in zip(judged["target"], judged["set_2"], strict=True)]
    assert scores["target"][:, 1].tolist() == slow


@needs_real
def test_words_tell_something_and_the_target_more(ladder):
    agreement = {name: compared(ladder, name)[1] for name in ladder[1]}
    decided = {name: p.agrees[p.decides].mean() for name, p in agreement.items()}
    assert 0.5 < decided["attributes"] < decided["captions"] < decided["target"] < 0.9
    assert decided["captions"] < decided["own captions"]  # the answer, in words


@needs_real
def test_shuffled_captions_tell_nothing(ladder):
    judged, _ = ladder
    order = np.random.default_rng(0).permutation(len(judged))
    shuffled = judged.assign(caption=judged["caption"].to_numpy()[order])
    scores = scorers.word_overlap(shuffled, data.load_target_captions(NEEDED[1]))
    known = ~np.isnan(scores).any(axis=1)
    preference = preference_rate(*scores[known].T, judged["preferred"][known])
    assert preference.agreement == pytest.approx(0.5, abs=0.03)
