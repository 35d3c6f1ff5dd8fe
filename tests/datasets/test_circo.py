"""CIRCO's loader: ground truths, prompts, ids that come once, and what each refusal says."""

import json
from dataclasses import replace

import pytest

from qure_lib.datasets.circo import list_images, load_circo
from qure_lib.datasets.loading import real_annotations

CAPTIONS = "annotations/val.json"
COCO = "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json"


def test_a_query_has_its_ground_truths_and_ranks_all_of_coco(circo):
    queries = load_circo(circo)
    (triplet,) = queries.triplets
    assert (triplet.query_id, triplet.reference, triplet.target) == ("0", "3", "1")
    assert triplet.ground_truths == ("1", "5") and triplet.aspects == ("cardinality",)
    assert triplet.caption == "has two dogs" and triplet.concept == "a dog"
    assert queries.corpus.image_ids == tuple("0123456")
    assert queries.corpus.paths[3].name == "000000000003.jpg" and queries.corpus.paths[3].is_file()
    assert list_images(circo) == queries.images


@pytest.mark.parametrize(
    ("prompt", "caption"),
    [
        ("caption", "has two dogs"),
        ("released", "a photo of $ that has two dogs"),
        ("repaired", "a photo of a dog that has two dogs"),
    ],
)
def test_the_prompt_as_released_and_repaired(circo, prompt, caption):
    (triplet,) = load_circo(circo, prompt=prompt).triplets
    assert triplet.caption == caption and triplet.phrases == ("has two dogs",)
    assert replace(triplet, caption="has two dogs") == load_circo(circo).triplets[0]
    with pytest.raises(ValueError, match="prompt must be one of .*'released'.*, not 'paper'"):
        load_circo(circo, prompt="paper")


def test_a_prompt_takes_captions_as_they_are(circo, edit):
    edit(circo / CAPTIONS, relative_caption="has {concept} $", shared_concept="{}")
    caption = load_circo(circo, prompt="repaired").triplets[0].caption
    assert caption == "a photo of {} that has {concept} $"


def test_without_cocos_list_the_annotations_alone_name_the_corpus(circo):
    assert len(load_circo(circo, images=False).corpus) == 7
    (circo / COCO).unlink()
    assert load_circo(circo, images=False).corpus.image_ids == ("3", "1", "5")
    with pytest.raises(ValueError, match=r"image_info_unlabeled2017\.json is missing"):
        load_circo(circo)


def test_a_test_split_has_no_targets(circo):
    (circo / CAPTIONS).rename(circo / "annotations" / "test.json")
    queries = load_circo(circo, "test")
    assert queries.triplets[0].target == "" and queries.triplets[0].ground_truths == ()
    assert len(queries.corpus) == 7
    with pytest.raises(ValueError, match="image '' is not in this corpus"):
        _ = queries.target_positions


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shared_concept": 3}, r"needs \{'shared_concept': 'str'\}"),
        ({"gt_img_ids": None}, r"needs \{'gt_img_ids': 'list'\}"),
        ({"gt_img_ids": [5]}, "must hold the target, 1, and not the reference, 3"),
        ({"gt_img_ids": [1, 3]}, "must hold the target, 1, and not the reference, 3"),
        ({"target_img_id": 3, "gt_img_ids": [3]}, "and not the reference, 3"),
        ({"gt_img_ids": [1, "5"]}, "'gt_img_ids' must list ints"),
        ({"gt_img_ids": [1, 99]}, r"'99' is not in image_info_unlabeled2017\.json"),
        ({"semantic_aspects": ["cardinality", 3]}, "'semantic_aspects' must list strs"),
        ({"gt_img_ids": [1, 5, 1]}, "item 2: 'gt_img_ids' 1 is already at .*entry 0, item 0"),
        ({"gt_img_ids": [5, 5, 1]}, "item 1: 'gt_img_ids' 5 is already at .*entry 0, item 0"),
        (
            {"semantic_aspects": ["negation", "cardinality", "negation"]},
            "item 2: 'semantic_aspects' 'negation' is already at .*entry 0, item 0",
        ),
    ],
)
def test_a_broken_entry_is_named(circo, edit, changes, message):
    edit(circo / CAPTIONS, **changes)
    with pytest.raises(ValueError, match=rf"val\.json, entry 0[:,] .*{message}"):
        load_circo(circo)


def test_a_query_id_that_comes_twice_is_refused(circo, edit):
    edit(circo / CAPTIONS, add=True, relative_caption="has a cat")
    with pytest.raises(ValueError, match=r"val\.json, entry 1: 'id' 0 is already at .*entry 0"):
        load_circo(circo)
    (circo / CAPTIONS).rename(circo / "annotations" / "test.json")
    with pytest.raises(ValueError, match=r"test\.json, entry 1: 'id' 0 is already at .*entry 0"):
        load_circo(circo, "test", images=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: {"images": [*rows, rows[2] | {"file_name": "x"}]},
            "entry 7: 'id' 2 is al.*2",
        ),
        (lambda rows: {"images": [*rows, rows[2] | {"id": 7}]}, "entry 7: 'file_name' .* entry 2"),
        (lambda rows: {"images": [{"id": 0}]}, r"entry 0: needs \{'file_name': 'str'\}"),
        (lambda rows: {"images": [{"file_name": "x"}]}, r"entry 0: needs \{'id': 'int'\}"),
        (lambda rows: {"images": [None]}, r"entry 0: needs"),
        (lambda rows: {"images": []}, "holds an empty list"),
        (lambda rows: {"images": [rows[0] | {"id": [1]}]}, r"entry 0: needs \{'id': 'int'\}"),
        (lambda rows: {"images": [rows[0] | {"file_name": "/etc/hostname"}]}, ".*'/etc/hostname'"),
        (lambda rows: {"images": [rows[0] | {"file_name": "../../../../x"}]}, ".* is outside"),
        (lambda rows: {"images": None}, "needs a list of entries, not a NoneType"),
        (lambda rows: {}, "needs a list of entries, not a NoneType"),
        (lambda rows: rows, "expected a dict, found list"),
    ],
)
@pytest.mark.parametrize("images", [True, False])
def test_a_broken_list_of_images_is_named(circo, write, change, message, images):
    rows = json.loads((circo / COCO).read_text())["images"]
    write(circo / COCO, change(rows))
    with pytest.raises(ValueError, match=rf"image_info_unlabeled2017\.json[:,]? {message}"):
        load_circo(circo, images=images)


def test_an_unknown_split_is_refused(circo):
    with pytest.raises(ValueError, match="split must be one of .*, not 'train'"):
        load_circo(circo, "train")


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_file_without_queries_is_named(circo, write, split):
    write(circo / "annotations" / f"{split}.json", [])
    with pytest.raises(ValueError, match=rf"{split}\.json holds an empty list: no query"):
        load_circo(circo, split, images=False)


@pytest.mark.parametrize(("split", "queries"), [("val", 220), ("test", 800)])
def test_the_real_annotations_have_the_published_counts(split, queries):
    root = real_annotations("circo")
    if root is None:
        pytest.skip("QURE_DATA holds no CIRCO annotations")
    loaded = load_circo(root, split, images=False)
    assert len(loaded) == queries == len({t.query_id for t in loaded.triplets})
    assert all(bool(t.target) == (split == "val") for t in loaded.triplets)
    if split == "val":
        counts = [len(t.ground_truths) for t in loaded.triplets]
        assert (min(counts), max(counts), round(sum(counts) / len(counts), 2)) == (1, 14, 4.16)
