"""Notebook 06: sets of images scored by words and by the answer, never by an image."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from analysis.scorers import (
    first_decisive,
    holds_target,
    known_images,
    load_image_attributes,
    load_target_captions,
    mean_relevance,
    overlap,
    rarity,
    score_by_file,
    score_without_images,
    what_it_sees,
    word_overlap,
    words,
)

from qure_lib.datasets.fashioniq import CATEGORIES, load_fashioniq
from qure_lib.datasets.graded_relevance import load_graded_relevance
from qure_lib.datasets.hp_fashioniq import load_hp_fashioniq
from qure_lib.datasets.loading import SPLITS, real_annotations
from qure_lib.evaluation.metrics import preference_rate

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
    assert words("Is a V-neck, has MORE stripes and the same belt.") == {
        "v",
        "neck",
        "stripe",
        "belt",
    }
    assert words("is it s") == {"s"}
    assert words("") == frozenset()


def test_a_rare_word_says_more_and_one_in_every_text_nothing():
    weights = rarity(map(frozenset, (["red", "neck"], ["neck"], ["neck", "bow"], [])))
    assert weights == {"neck": 0, "red": math.log(3), "bow": math.log(3)}


def test_overlap_of_a_drawn_case():
    wanted, weights = words("red, long"), {"red": 1.0, "long": 3.0}
    images = [frozenset({"red", "bow"}), frozenset({"red", "long"}), frozenset()]
    #         1 of 4                     4 of 4                       unknown: left out
    assert overlap(wanted, images, weights) == 0.625


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
        assert overlap(wanted, images, weights) == pytest.approx(expected, nan_ok=True)


def test_overlap_is_blind_to_order_and_to_the_scale_of_the_weights():
    wanted, weights = words("red long bow"), {"red": 0.1, "long": 0.2, "bow": 0.7}
    images = [frozenset({"red"}), frozenset({"long", "bow"}), frozenset({"bow"})]
    scaled = {word: 3 * weight for word, weight in weights.items()}
    plain = overlap(wanted, images, weights)
    assert overlap(wanted, images[::-1], weights) == plain  # exactly: equal sets tie
    assert overlap(wanted, images * 3, weights) == plain
    assert overlap(wanted, images, scaled) == plain


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
    images = [words(image) for image in images]
    found = overlap(words(wanted), images, {"red": 1.0})
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
    np.testing.assert_allclose(word_overlap(judge(), texts), [[0.25, 1.0]])
    unknown = word_overlap(judge(set_2="vwyz_"), texts)
    assert np.isnan(unknown).tolist() == [[False, True]]


def test_the_querys_own_caption_is_left_out_of_its_target_alone():
    texts = {
        "T": {"R": "is red and long", "Q": "has a bow"},
        "a": {"R": "is red and long"},
        "b": {"Q": "is blue"},
    }
    query = judge(set_1="T....", set_2="a....")
    assert word_overlap(query, texts, own=True).tolist() == [[1, 1]]
    assert word_overlap(query, texts).tolist() == [[0, 1]]  # "bow" alone is left of T
    only_own = {name: sources for name, sources in texts.items() if name != "T"}
    only_own["T"] = {"R": "is red and long"}
    assert np.isnan(word_overlap(query, only_own)[0, 0])


def test_a_set_holds_its_target_or_does_not():
    assert holds_target(judge(target="c")).tolist() == [[1, 0]]
    assert holds_target(judge(target="T")).tolist() == [[0, 0]]


def test_the_first_scorer_that_decides_has_the_word():
    first = np.array([[1, 0], [2, 2], [np.nan, 5], [3, 3]])
    second = np.array([[0, 1], [0, 1], [9, 4], [np.nan, np.nan]])
    chosen = first_decisive(first, second)
    assert chosen.tolist() == [[1, 0], [0, 1], [1, 0], [0, 0]]
    assert first_decisive(chosen).tolist() == chosen.tolist()
    swapped = first_decisive(first[:, ::-1], second[:, ::-1])
    np.testing.assert_array_equal(swapped, chosen[:, ::-1])


def test_mean_relevance_is_that_of_the_sets_images(smoke_world):
    worlds = load_fashioniq(smoke_world, "val", images=False)
    relevance = {n: load_graded_relevance(smoke_world, w, "val") for n, w in worlds.items()}
    judged = load_hp_fashioniq(smoke_world / "hp_like" / "hpfiq_simulated.json")
    scores = mean_relevance(judged, worlds, relevance)
    query = judged.iloc[7]
    world = worlds[query.category]
    pairs = [(t.reference, t.target) for t in world.triplets]
    row = relevance[query.category][pairs.index((query.reference, query.target))]
    slow = [row[world.corpus.image_ids.index(image)].item() for image in query.set_2]
    assert scores[7, 1] == pytest.approx(np.mean(slow))
    assert preference_rate(*scores.T, judged["preferred"]).agreement > 0.6  # made from it


def test_two_queries_of_one_reference_and_target_are_refused(smoke_world):
    worlds = load_fashioniq(smoke_world, "val", images=False)
    relevance = {n: load_graded_relevance(smoke_world, w, "val") for n, w in worlds.items()}
    judged = load_hp_fashioniq(smoke_world / "hp_like" / "hpfiq_simulated.json")
    dress = worlds["dress"]
    twice = replace(dress, triplets=(*dress.triplets, replace(dress.triplets[0], query_id="more")))
    with pytest.raises(ValueError, match="same reference and target"):
        mean_relevance(judged, worlds | {"dress": twice}, relevance)


def test_the_scorers_without_images_are_named_and_sorted_by_what_they_see():
    captions = {"T": {"R": "is red and long", "Q": "has a bow"}, "f": {"Q": "is red"}}
    scored = score_without_images(judge(set_1="Tabcd"), captions, {}, seed=0)
    sees = [what_it_sees(name) for name in scored]
    assert sees == ["sees the query"] * 3 + ["sees the answer"] * 3
    assert what_it_sees("my model") == "given as set_scores"
    assert scored["holds the target"].tolist() == [[1, 0]]
    assert scored["target, attributes, captions"].tolist() == [[1, 0]]
    assert np.isnan(scored["attribute overlap"]).all()
    again = score_without_images(judge(set_1="Tabcd"), captions, {}, seed=0)
    np.testing.assert_array_equal(scored["random"], again["random"])


def test_a_file_of_scores_has_its_own_name(tmp_path):
    rows = "row,set,score\n0,1,0.5\n0,2,0.25\n"
    (tmp_path / "mine.csv").write_text(rows)
    assert score_by_file(tmp_path / "mine.csv", 1)["mine"].tolist() == [[0.5, 0.25]]
    for name in ("random", "exact relevance", "participants' own"):
        (tmp_path / f"{name}.csv").write_text(rows)
        with pytest.raises(ValueError, match="rename the file"):
            score_by_file(tmp_path / f"{name}.csv", 1)


def test_known_images_are_counted_as_often_as_they_are_shown():
    judged = pd.concat([judge(), judge(set_2="abcde")])
    assert known_images(judged, {"a": {}, "j": {}}) == 100 * 4 / 20


def test_attributes_of_an_image_in_two_files_must_be_the_same(tmp_path):
    (tmp_path / "attributes").mkdir()
    entry = {"title": "A bow", "tags": [["red"], ["long", "loose"]]}
    for name in ("dress.train", "shirt.val"):
        (tmp_path / "attributes" / f"{name}.json").write_text(json.dumps({"B1": entry}))
    assert load_image_attributes(tmp_path) == {"B1": {"title": "A bow", "tags": "red long loose"}}
    other = json.dumps({"B1": entry | {"title": "No bow"}})
    (tmp_path / "attributes" / "shirt.val.json").write_text(other)
    with pytest.raises(ValueError, match=r"shirt\.val\.json, image 'B1': another file"):
        load_image_attributes(tmp_path)


# --- the real file ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ladder():
    hp, fashioniq = NEEDED
    judged = load_hp_fashioniq(hp / "hpfiq.json")
    captions = load_target_captions(fashioniq)
    attributes = load_image_attributes(fashioniq)
    holds = holds_target(judged)
    return judged, {
        "captions": word_overlap(judged, captions),
        "own captions": word_overlap(judged, captions, own=True),
        "attributes": word_overlap(judged, attributes),
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
    scores = word_overlap(shuffled, load_target_captions(NEEDED[1]))
    known = ~np.isnan(scores).any(axis=1)
    preference = preference_rate(*scores[known].T, judged["preferred"][known])
    assert preference.agreement == pytest.approx(0.5, abs=0.03)


TRIPLET = {"candidate": "a", "target": "b", "captions": ["is red.", "has a v neck?"]}


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def fashioniq(tmp_path: Path) -> Path:
    """Annotations of three images a category and split: a (reference) -> b (target), and c."""
    for category in CATEGORIES:
        for split in SPLITS:
            ids = [f"{category}-{split}-{name}" for name in "abc"]
            entry = TRIPLET | {"candidate": ids[0], "target": ids[1]}
            write(tmp_path / "image_splits" / f"split.{category}.{split}.json", ids)
            write(tmp_path / "captions" / f"cap.{category}.{split}.json", [entry])
    return tmp_path


def test_a_target_is_known_by_every_caption_that_asks_for_it(fashioniq):
    again = TRIPLET | {"candidate": "dress-val-c", "target": "dress-val-b"}
    path = fashioniq / "captions" / "cap.dress.val.json"
    write(path, [*json.loads(path.read_text()), again | {"captions": ["is blue", "is long"]}])
    captions = load_target_captions(fashioniq)
    assert len(captions) == 6  # a category and split each has one target
    assert captions["dress-val-b"] == {
        "dress-val-a": "Is red and has a v neck",
        "dress-val-c": "Is blue and is long",
    }


def test_attributes_are_the_title_and_tags_or_what_was_drawn(fashioniq):
    assert load_image_attributes(fashioniq) == {}
    entry = {"title": "Red tee", "tags": [["jersey", "tee"], [], ["red"]], "imUrl": "-"}
    write(fashioniq / "attributes" / "shirt.val.json", {"a": entry, "b": entry | {"title": None}})
    attributes = load_image_attributes(fashioniq)
    assert attributes["a"] == {"title": "Red tee", "tags": "jersey tee red"}
    assert attributes["b"]["title"] == ""
    write(fashioniq / "synthfashion.json", {"images": {"a": {"colour": "pink"}}})
    assert load_image_attributes(fashioniq) == {"a": {"colour": "pink"}}


@pytest.mark.parametrize("entry", [{"title": "Red tee"}, [], {"title": "x", "tags": None}])
def test_broken_attributes_are_named(fashioniq, entry):
    write(fashioniq / "attributes" / "shirt.val.json", {"a": entry})
    with pytest.raises(ValueError, match=r"shirt.val.json, image 'a': no title or tags"):
        load_image_attributes(fashioniq)
