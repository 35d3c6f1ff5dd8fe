import copy
import json

import numpy as np
import pandas as pd
import pytest

from qure_lib.data import (
    load_fashioniq,
    load_hp_fashioniq,
    load_set_scores,
    real_annotations,
    restore_punctuation,
)

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
        ("sentences", None, r"no \['sentences'\]"),
        ("sentences", ["only one"], "unequal length.*'sentences': 1"),
        ("sentences", "a string", "'sentences'.*expected a list"),
        ("sentences", [None, "x"], "row 0, 'sentences'.*expected a caption"),
        ("preferred set", ["2", "3"], "row 1, 'preferred set'.*expected 1 to 2, not '3'"),
        ("ref_img_paths", ["R1.jpg", image("R2")], "row 0, 'ref_img_paths'.*not 'R1.jpg'"),
        ("targ_img_paths", [image("T1"), 7], "row 1, 'targ_img_paths'.*not 7"),
        ("retrieved_set1", [shown("A", "0"), shown("C", "2")], "row 0.*'user_score'.*1 to 5"),
        ("retrieved_set2", [shown("B", "5"), {}], "row 1, 'retrieved_set2'.*'img_path'"),
        (
            "retrieved_set2",
            [shown("B", "5"), {"img_path": [image("D0")], "user_score": "1"}],
            "row 1, 'retrieved_set2'.*must list 5 images",
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(DRAWN)[:100], "not valid JSON"),
        ("[]", "expected a dict"),
        ("{}", "no participant"),
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
        (lambda f: f.drop(columns="score"), "no column.*score"),
        (lambda f: f.assign(score=[0.9, "high", 0.3, 0.4]), "line 3: a score is missing"),
        (lambda f: f.assign(score=[0.9, 0.1, np.inf, 0.4]), "line 4: a score"),
        (lambda f: f.assign(row=[0, 0, 1, 2]), "line 5: row must be 0 to 1"),
        (lambda f: f.assign(set=[1, 2, 0, 2]), "line 4: row must be .* set 1 or 2"),
        (lambda f: f.assign(set=[1, 1, 1, 2]), "line 3: this set was already given"),
        (lambda f: f.iloc[:3], "3 sets, but 2 queries have two each"),
    ],
)
def test_broken_set_scores_are_named(tmp_path, scores, change, message):
    path = tmp_path / "scores.csv"
    change(scores).to_csv(path, index=False)
    with pytest.raises(ValueError, match=message):
        load_set_scores(path, 2)


def test_set_scores_that_are_missing_or_empty_are_named(tmp_path):
    with pytest.raises(ValueError, match="scores.csv is missing"):
        load_set_scores(tmp_path / "scores.csv", 2)
    (tmp_path / "empty.csv").touch()
    with pytest.raises(ValueError, match="not a CSV"):
        load_set_scores(tmp_path / "empty.csv", 2)
