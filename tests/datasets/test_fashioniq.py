"""FashionIQ's loader: three corpora, categories, and what each refusal says."""

import json
import re

import pytest

from qure_lib.datasets.fashioniq import (
    CATEGORIES,
    find_categories,
    list_images,
    load_fashioniq,
    load_training_splits,
)


def test_a_query_ranks_its_own_category_and_split(fashioniq):
    shirts = load_fashioniq(fashioniq, "val")["shirt"]
    assert shirts.corpus.image_ids == ("shirt-val-a", "shirt-val-b", "shirt-val-c")
    assert shirts.target_positions.tolist() == [1]
    assert shirts.triplets[0].caption == "Is red and has a v neck"
    assert shirts.triplets[0].phrases == ("is red.", "has a v neck?")
    assert len(shirts) == 1 and len(shirts.corpus) == 3


@pytest.mark.parametrize(
    ("corpus", "names"), [("original", "abc"), ("union", "ab"), ("targets", "b")]
)
def test_the_three_corpora_differ_by_name(fashioniq, corpus, names):
    dresses = load_fashioniq(fashioniq, "train", corpus=corpus)["dress"]
    assert dresses.corpus.image_ids == tuple(f"dress-train-{name}" for name in names)
    assert set(dresses.images) >= {"dress-train-a", "dress-train-b"}


@pytest.mark.parametrize(
    ("pool", "names"), [("released", "b"), ("targets", "b"), ("original", "abc")]
)
def test_training_ranks_the_pool_and_validation_the_whole_split(fashioniq, pool, names):
    train, val = load_training_splits(fashioniq, pool)
    assert train["dress"].corpus.image_ids == tuple(f"dress-train-{name}" for name in names)
    assert val["dress"].corpus.image_ids == tuple(f"dress-val-{name}" for name in "abc")


def test_the_published_recipe_reads_train_pairs_and_all_of_val(fashioniq):
    names = ("train-a", "train-b", "val-a", "val-b", "val-c")
    expected = {f"{category}-{name}" for category in CATEGORIES for name in names}
    (fashioniq / "images" / "dress-val-c.png").unlink()
    images = list_images(fashioniq)
    assert set(images) == expected
    assert [i for i, path in images.items() if not path.is_file()] == ["dress-val-c"]


def test_other_categories_are_found_and_images_may_be_jpeg(fashioniq):
    for folder in ("image_splits", "captions", "images"):
        for path in (fashioniq / folder).iterdir():
            if "shirt" in path.name:
                path.unlink()
            else:
                path.rename(path.with_name(path.name.replace("dress", "hat").replace("png", "jpg")))
    for path in fashioniq.glob("*/*.hat.*.json"):
        path.write_text(path.read_text().replace("dress", "hat"))
    sets = load_fashioniq(fashioniq, "train")
    assert list(sets) == ["hat", "toptee"] == list(find_categories(fashioniq))
    assert sets["hat"].corpus.paths[0] == fashioniq / "images" / "hat-train-a.jpg"


def test_fashioniq_without_one_of_its_categories_is_broken(fashioniq):
    for folder in ("image_splits", "captions"):
        [path.unlink() for path in (fashioniq / folder).iterdir() if "shirt" in path.name]
    assert find_categories(fashioniq) == CATEGORIES
    with pytest.raises(ValueError, match=r"split\.shirt\.val\.json is missing"):
        load_fashioniq(fashioniq, "val")


def test_annotations_alone_need_no_image_files(fashioniq):
    (fashioniq / "images" / "dress-val-c.png").unlink()
    assert len(load_fashioniq(fashioniq, "val", images=False)["dress"].corpus) == 3
    with pytest.raises(ValueError, match=r"1 image files? .*missing.*dress-val-c\.png.*make data"):
        load_fashioniq(fashioniq, "val")


def test_a_truncated_file_is_named(fashioniq):
    path = fashioniq / "captions" / "cap.toptee.val.json"
    path.write_text(path.read_text()[:-5])
    with pytest.raises(ValueError, match=r"cap\.toptee\.val\.json.*truncated"):
        load_fashioniq(fashioniq, "val")


def test_a_missing_file_names_the_remedy(fashioniq):
    (fashioniq / "image_splits" / "split.dress.train.json").unlink()
    with pytest.raises(ValueError, match=r"split\.dress\.train\.json is missing.*make data"):
        load_fashioniq(fashioniq, "train")


def test_an_object_where_a_list_belongs_is_refused(fashioniq, write):
    write(fashioniq / "image_splits" / "split.dress.val.json", {"images": []})
    with pytest.raises(ValueError, match="expected a list, found dict"):
        load_fashioniq(fashioniq, "val")


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_file_without_queries_is_named(fashioniq, write, split):
    write(fashioniq / "captions" / f"cap.shirt.{split}.json", [])
    for corpus in ("original", "union", "targets"):
        with pytest.raises(ValueError, match=rf"cap\.shirt\.{split}\.json holds an empty list"):
            load_fashioniq(fashioniq, split, corpus)
    with pytest.raises(ValueError, match=rf"cap\.shirt\.{split}\.json holds an empty list"):
        load_training_splits(fashioniq)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": None}, "entry 0: needs {'target': 'str'}"),
        ({"candidate": 7}, "entry 0: needs {'candidate': 'str'}"),
        ({"target": None, "captions": {}}, "entry 0: needs {'target': 'str', 'captions': 'list'}"),
        ({"target": ""}, "entry 0: 'candidate' and 'target' must be image ids, not empty"),
        ({"captions": ["one"]}, "entry 0: 'captions' must hold two strings"),
        ({"captions": ["a", "b", "c"]}, "entry 0: 'captions' must hold two strings"),
        ({"captions": [None, "b"]}, "entry 0: 'captions' must hold two strings"),
        ({"captions": "ab"}, "entry 0: needs {'captions': 'list'}"),
        ({"target": "nowhere"}, "entry 0: image 'nowhere' is not in split.dress.val.json"),
    ],
)
def test_a_broken_triplet_is_named_by_its_row(fashioniq, edit, changes, message):
    edit(fashioniq / "captions" / "cap.dress.val.json", **changes)
    with pytest.raises(ValueError, match=re.escape(f"cap.dress.val.json, {message}")):
        load_fashioniq(fashioniq, "val")


def test_a_triplet_without_a_key_is_named_by_its_row(fashioniq, write):
    path = fashioniq / "captions" / "cap.dress.val.json"
    entry = json.loads(path.read_text())[0]
    del entry["target"]
    write(path, [entry])
    with pytest.raises(ValueError, match=r"entry 0: needs \{'target': 'str'\}"):
        load_fashioniq(fashioniq, "val")


@pytest.mark.parametrize("image_id", ["../../etc/passwd", "", 7, "a/b", "..", None, {}, []])
def test_an_id_that_is_no_plain_name_never_becomes_a_path(fashioniq, write, image_id):
    write(fashioniq / "image_splits" / "split.dress.val.json", ["dress-val-a", image_id])
    with pytest.raises(ValueError, match=r"split\.dress\.val\.json, entry 1: .* no image id"):
        load_fashioniq(fashioniq, "val")


def test_an_image_listed_twice_is_ranked_once(fashioniq, write):
    ids = [f"dress-val-{name}" for name in "abcab"]
    whole = load_fashioniq(fashioniq, "val")["dress"]
    write(fashioniq / "image_splits" / "split.dress.val.json", ids)
    assert load_fashioniq(fashioniq, "val")["dress"] == whole


def test_the_same_pair_may_be_asked_for_twice_and_from_itself(fashioniq, edit):
    path = fashioniq / "captions" / "cap.dress.val.json"
    edit(path, add=True)
    edit(path, add=True, target="dress-val-a")
    dresses = load_fashioniq(fashioniq, "val")["dress"]
    assert [t.query_id for t in dresses.triplets] == [f"dress/val/{row}" for row in range(3)]
    assert dresses.target_positions.tolist() == [1, 1, 0]


def test_an_unknown_choice_is_refused(fashioniq):
    with pytest.raises(ValueError, match=r"split must be one of \('train', 'val'\), not 'test'"):
        load_fashioniq(fashioniq, "test")
    with pytest.raises(ValueError, match="corpus must be one of .*'union'.*, not 'gallery'"):
        load_fashioniq(fashioniq, "val", corpus="gallery")
