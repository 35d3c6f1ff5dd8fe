"""HP-FashionIQ's loader, its facts, and scores of its sets by any model."""

import copy
import json

import numpy as np
import pandas as pd
import pytest

from qure_lib.datasets.fashioniq import load_fashioniq
from qure_lib.datasets.hp_fashioniq import (
    load_hp_fashioniq,
    load_set_scores,
    restore_punctuation,
    save_set_scores,
)
from qure_lib.datasets.loading import real_annotations

REAL = real_annotations("hpfiq")
needs_real = pytest.mark.skipif(
    REAL is None, reason="QURE_DATA does not hold hpfiq/hpfiq.json, the real HP-FashionIQ file"
)


def image(name, category="shirt"):
    return f"/-/image_data/{category}/{name}.jpg"


def shown(first, score):
    return {"img_path": [image(f"{first}{i}") for i in range(5)], "user_score": score}


DRAWN = {
    "user_1": {
        "question_set_1": {
            "ref_img_paths": [image("R1"), image("R2")],
            "targ_img_paths": [image("T1"), image("T2")],
            "sentences": ["is whitedotmark  and has a v-neck", "black andmark blue  and longer"],
            "retrieved_set1": [shown("A", "4"), shown("C", "2")],
            "retrieved_set2": [shown("B", "5"), shown("D", "1")],
            "preferred set": ["2", "1"],
        }
    }
}


@pytest.fixture
def drawn():
    return copy.deepcopy(DRAWN)


@pytest.fixture
def write(tmp_path):
    def to_file(content):
        path = tmp_path / "hpfiq.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return to_file


def test_each_row_is_a_judged_query(write, drawn):
    frame = load_hp_fashioniq(write(drawn))
    assert frame.loc[0].to_dict() == {
        "participant": "user_1",
        "question_set": "question_set_1",
        "category": "shirt",
        "reference": "R1",
        "caption": "is white. and has a v-neck",
        "target": "T1",
        "set_1": ("A0", "A1", "A2", "A3", "A4"),
        "set_2": ("B0", "B1", "B2", "B3", "B4"),
        "preferred": 2,
        "score_1": 4,
        "score_2": 5,
    }
    assert frame["preferred"].tolist() == [2, 1]


@pytest.mark.parametrize(
    ("written", "restored"),
    [
        ("is a t-shirt-styledotmark", "is a t-shirt-style."),
        ("got hondaquestionmark  and is pale blue/green", "got honda? and is pale blue/green"),
        ("fitted andmark blue", "fitted & blue"),
        ("has landmarks and a landmark print", "has landmarks and a landmark print"),
        ("", ""),
    ],
)
def test_punctuation_is_restored_and_hyphens_stay(written, restored):
    assert restore_punctuation(written) == restored
    assert restore_punctuation(restored) == restored


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("sentences", None, "needs lists .*'sentences'.* of one length; these are"),
        ("sentences", ["only one"], "of one length; these are .*'sentences': 1"),
        ("sentences", "a string", "needs lists .*'sentences'"),
        ("sentences", [None, "x"], "row 0, 'sentences': expected a caption, not None"),
        ("preferred set", ["2", "3"], "row 1, 'preferred set': expected 1 or 2, not '3'"),
        ("ref_img_paths", ["R1.jpg", image("R2")], "row 0, 'ref_img_paths'.*not 'R1.jpg'"),
        ("targ_img_paths", [image("T1"), 7], "row 1, 'targ_img_paths'.*not 7"),
        ("targ_img_paths", [image("R1"), image("T2")], "row 0: the target is the reference, 'R1'"),
        ("retrieved_set1", [shown("A", "0"), shown("C", "2")], "row 0, .*'user_score' from 1 to 5"),
        ("retrieved_set2", [shown("B", "5"), {}], "row 1, 'retrieved_set2'.*'img_path'"),
        (
            "retrieved_set2",
            [shown("B", "5"), {"img_path": [image("D0")], "user_score": "1"}],
            "row 1, 'retrieved_set2'.*5 distinct images",
        ),
    ],
)
def test_a_broken_entry_is_named(write, drawn, key, value, message):
    questions = drawn["user_1"]["question_set_1"]
    if value is None:
        del questions[key]
    else:
        questions[key] = value
    with pytest.raises(ValueError, match=f"hpfiq.json, participant 'user_1', .*{message}"):
        load_hp_fashioniq(write(drawn))


@pytest.mark.parametrize("again", [image("A1"), "/elsewhere/shirt/A1.png"])
def test_a_set_shows_five_distinct_images(write, drawn, again):
    drawn["user_1"]["question_set_1"]["retrieved_set1"][0]["img_path"][4] = again
    with pytest.raises(ValueError, match="row 0, 'retrieved_set1': expected .*5 distinct images"):
        load_hp_fashioniq(write(drawn))


def test_both_sets_may_show_the_same_images_and_the_reference(write, drawn):
    questions = drawn["user_1"]["question_set_1"]
    questions["retrieved_set1"][0]["img_path"][4] = image("R1")
    questions["retrieved_set2"][0] = questions["retrieved_set1"][0]
    first = load_hp_fashioniq(write(drawn)).loc[0]
    assert first["set_1"] == first["set_2"] and first["reference"] in first["set_1"]


def test_a_participant_is_asked_a_question_once(write, drawn):
    drawn["user_1"]["question_set_2"] = copy.deepcopy(drawn["user_1"]["question_set_1"])
    place = "participant 'user_1', 'question_set_"
    with pytest.raises(ValueError, match=f"{place}2', row 0: .* is already at .*{place}1', row 0;"):
        load_hp_fashioniq(write(drawn))
    other = drawn["user_1"]["question_set_2"]
    other["retrieved_set1"] = other["retrieved_set1"][::-1]  # the same query with other sets
    drawn["user_2"] = {"question_set_1": drawn["user_1"]["question_set_1"]}
    assert len(load_hp_fashioniq(write(drawn))) == 6


def test_a_participant_or_question_set_named_twice_is_refused(write):
    inner = json.dumps(DRAWN["user_1"]["question_set_1"])
    for text in (
        f'{{"user_1": {{"q": {inner}}}, "user_1": {{"q": {inner}}}}}',
        f'{{"user_1": {{"q": {inner}, "q": {inner}}}}}',
    ):
        with pytest.raises(ValueError, match="hpfiq.json .*the key '(user_1|q)' is there twice"):
            load_hp_fashioniq(write(text))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(DRAWN)[:100], "not valid JSON"),
        ("[]", "expected a dict"),
        ("{}", "holds no judged query"),
        ('{"user_1": []}', "participant 'user_1': expected question sets"),
    ],
)
def test_a_broken_file_is_named(write, content, message):
    with pytest.raises(ValueError, match=message):
        load_hp_fashioniq(write(content))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="hpfiq.json is missing"):
        load_hp_fashioniq(tmp_path / "hpfiq.json")


# --- the real file ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged():
    return load_hp_fashioniq(REAL / "hpfiq.json")


@needs_real
def test_the_published_counts_hold(judged):
    assert len(judged) == 3050
    assert judged["participant"].nunique() == 61
    assert judged["category"].value_counts().to_dict() == {"shirt": 1800, "toptee": 1250}


@needs_real
def test_the_known_facts_of_the_real_file_hold(judged):
    chose_first = judged["preferred"] == 1
    difference = judged["score_1"] - judged["score_2"]
    ties = difference == 0
    same = [set(a) == set(b) for a, b in zip(judged["set_1"], judged["set_2"], strict=True)]
    assert chose_first.sum() == 1641
    assert round(100 * chose_first.mean(), 1) == 53.8
    assert (ties.sum(), chose_first[ties].sum(), chose_first[~ties].sum()) == (774, 490, 1151)
    assert ((difference > 0) & ~chose_first | (difference < 0) & chose_first).sum() == 32
    assert sum(same) == 11
    pairs = judged.groupby(["category", "reference", "target"]).size()
    assert (len(pairs), (pairs == 2).sum(), pairs.max()) == (2435, 615, 2)
    assert judged["caption"].str.contains("-").sum() == 147
    assert not judged["caption"].str.contains("dotmark|questionmark|andmark").any()


@needs_real
@pytest.mark.skipif(
    real_annotations("fashioniq") is None, reason="QURE_DATA does not hold fashioniq/"
)
def test_captions_and_pairs_are_those_of_fashioniq_val(judged):
    known = {
        (t.category, t.reference, t.target): t.phrases
        for queries in load_fashioniq(real_annotations("fashioniq"), "val", images=False).values()
        for t in queries.triplets
    }
    matches = 0
    for row in judged.itertuples():
        first, second = known[row.category, row.reference, row.target]
        orders = f"{first} and {second}", f"{second} and {first}"
        matches += row.caption in {" ".join(o.split()) for o in orders}
    assert matches == 3046


# --- scores of any model ----------------------------------------------------------------------


@pytest.fixture
def scores():
    return pd.DataFrame({"row": [0, 0, 1, 1], "set": [1, 2, 1, 2], "score": [0.9, 0.1, 0.3, 0.4]})


def test_set_scores_are_read_in_any_order(tmp_path, scores):
    path = tmp_path / "scores.csv"
    scores.iloc[::-1].to_csv(path, index=False)
    np.testing.assert_array_equal(load_set_scores(path, 2), [[0.9, 0.1], [0.3, 0.4]])


def test_five_image_scores_become_their_mean(tmp_path):
    images = np.random.default_rng(0).random((4, 5))
    frame = pd.DataFrame(images, columns=[f"score_{i}" for i in range(1, 6)])
    frame.assign(row=[0, 0, 1, 1], set=[1, 2, 1, 2]).to_csv(tmp_path / "s.csv", index=False)
    expected = images.mean(axis=1).reshape(2, 2)
    np.testing.assert_allclose(load_set_scores(tmp_path / "s.csv", 2), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="score"), "columns .*write row,set,score"),
        (lambda f: f.drop(columns="set"), "columns .*write row,set,score"),
        (
            lambda f: f.assign(score=[0.9, "high", 0.3, 0.4]),
            "line 3: .*finite.*'score': nan",
        ),
        (
            lambda f: f.assign(score=[0.9, 0.1, np.inf, 0.4]),
            "line 4: .*finite.*'score': inf",
        ),
        (lambda f: f.assign(row=[0, 0, 1, 2]), "line 5: needs row 0 to 1.*'row': 2"),
        (lambda f: f.assign(row=[0, 0, 1, 0.5]), "line 5: needs row 0 to 1.*'row': 0.5"),
        (lambda f: f.assign(set=[1, 2, 0, 2]), "line 4: .* set 1 or 2.*'set': 0"),
        (lambda f: f.assign(set=[1, 1, 1, 2]), r"line 3: \(row, set\) \(0, 1\) is al.* line 2;"),
        (lambda f: f.iloc[[0, 1, 2, 3, 0]], r"line 6: \(row, set\) \(0, 1\) is al.* line 2;"),
        (lambda f: f.iloc[:3], "3 sets; 2 queries have two each"),
        (lambda f: f.iloc[:0], "0 sets; 2 queries have two each"),
    ],
)
def test_broken_set_scores_are_named(tmp_path, scores, change, message):
    path = tmp_path / "scores.csv"
    change(scores).to_csv(path, index=False)
    with pytest.raises(ValueError, match=f"scores.csv.*{message}"):
        load_set_scores(path, 2)


IMAGE_SCORES = "score_1,score_2,score_3,score_4,score_5"


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (f"row,set,score,{IMAGE_SCORES}", "columns .*write row,set,score or row,set,.*score_1"),
        ("row,set,score,score_1", "columns .*write row,set,score or"),
        ("row,set,score_1,score_2", "columns .*write row,set,score or"),
        (f"row,set,{IMAGE_SCORES},score_6", "columns .*write row,set,score or"),
        ("row,set,score,score", "column 4: the name 'score' is already at .*column 3;"),
        ("row,row,set,score", "column 2: the name 'row' is already at .*column 1;"),
        ("row,set,score_1,score_1,score_2,score_3,score_4,score_5", "column 4: the name 'score_1'"),
    ],
)
def test_a_header_that_says_two_things_is_refused(tmp_path, header, message):
    ones = ",1" * (header.count(",") - 1)
    lines = [header, *(f"{row},{number}{ones}" for row in (0, 1) for number in (1, 2))]
    path = tmp_path / "scores.csv"
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=f"scores.csv[:,] {message}"):
        load_set_scores(path, 2)


def test_other_columns_a_byte_order_mark_and_empty_lines_do_no_harm(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("\ufeffnote,set,score,row\nx,1,.9,0\n\ny,2,.1,0\n")
    np.testing.assert_array_equal(load_set_scores(path, 1), [[0.9, 0.1]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"", r"columns \[\]; write row,set,score"),
        (b"row,set,score\n0,1,0.9,7\n0,2,0.1,7\n", "3 columns passed, .* had 4 columns"),
        (b"row,set,score\n0,1,\xff\n", "can't decode"),
    ],
)
def test_a_file_that_is_no_table_is_named(tmp_path, content, message):
    path = tmp_path / "scores.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"scores.csv.*{message}"):
        load_set_scores(path, 1)


def test_saved_scores_are_read_back_to_the_bit(tmp_path):
    scores = np.random.default_rng(0).normal(size=(200, 2)) * 10.0 ** np.arange(-100, 100)[:, None]
    save_set_scores(tmp_path / "scores.csv", scores)
    np.testing.assert_array_equal(load_set_scores(tmp_path / "scores.csv", 200), scores)
