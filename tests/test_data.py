"""qure_lib.data: what is read, how captions are joined, and what each refusal says."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from qure_lib import data
from qure_lib.tables import read_published

TRIPLET = {"candidate": "a", "target": "b", "captions": ["is red.", "has a v neck?"]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three images a category and split: a (reference) -> b (target), and c."""
    for category in data.CATEGORIES:
        for split in data.SPLITS:
            ids = [f"{category}-{split}-{name}" for name in "abc"]
            entry = TRIPLET | {"candidate": ids[0], "target": ids[1]}
            write(tmp_path / "image_splits" / f"split.{category}.{split}.json", ids)
            write(tmp_path / "captions" / f"cap.{category}.{split}.json", [entry])
            for image_id in ids:
                draw(tmp_path / "images" / f"{image_id}.png")
    return tmp_path


def write(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def draw(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)


def edit(path: Path, **changes: object) -> None:
    """Change the first triplet of a captions file."""
    entries = json.loads(path.read_text())
    write(path, [entries[0] | changes, *entries[1:]])


def test_a_query_ranks_its_own_category_and_split(root):
    shirts = data.load_fashioniq(root, "val")["shirt"]
    assert shirts.corpus.image_ids == ("shirt-val-a", "shirt-val-b", "shirt-val-c")
    assert shirts.target_positions.tolist() == [1]
    assert shirts.triplets[0].caption == "Is red and has a v neck"
    assert shirts.triplets[0].phrases == ("is red.", "has a v neck?")
    assert len(shirts) == 1 and len(shirts.corpus) == 3


@pytest.mark.parametrize(
    ("corpus", "names"), [("original", "abc"), ("union", "ab"), ("targets", "b")]
)
def test_the_three_corpora_differ_by_name(root, corpus, names):
    dresses = data.load_fashioniq(root, "train", corpus=corpus)["dress"]
    assert dresses.corpus.image_ids == tuple(f"dress-train-{name}" for name in names)
    assert set(dresses.images) >= {"dress-train-a", "dress-train-b"}


@pytest.mark.parametrize(
    ("first", "second", "joined"),
    [
        ("is RED.", "Has a V-neck, ", "Is red and Has a V-neck"),
        ("", "has sleeves", " and has sleeves"),
        ("darker and not as shiny", ".", "Darker and not as shiny and "),
        ("? is blue", "no.1 logo", "Is blue and no.1 logo"),
    ],
)
def test_phrases_join_as_in_the_release(first, second, joined):
    rule = first.strip(".?, ").capitalize() + " and " + second.strip(".?, ")
    assert data.join_phrases(first, second) == joined == rule


def test_other_categories_are_found_and_images_may_be_jpeg(root):
    for folder in ("image_splits", "captions", "images"):
        for path in (root / folder).iterdir():
            if "shirt" in path.name:
                path.unlink()
            else:
                path.rename(path.with_name(path.name.replace("dress", "hat").replace("png", "jpg")))
    for split in data.SPLITS:
        path = root / "captions" / f"cap.hat.{split}.json"
        path.write_text(path.read_text().replace("dress", "hat"))
        path = root / "image_splits" / f"split.hat.{split}.json"
        path.write_text(path.read_text().replace("dress", "hat"))
    sets = data.load_fashioniq(root, "train")
    assert list(sets) == ["hat", "toptee"] == list(data.find_categories(root))
    assert sets["hat"].corpus.paths[0] == root / "images" / "hat-train-a.jpg"
    assert data.count_shared_images(root)["shared"].tolist() == [0, 0]


def test_fashioniq_without_one_of_its_categories_is_broken(root):
    for folder in ("image_splits", "captions"):
        [path.unlink() for path in (root / folder).iterdir() if "shirt" in path.name]
    assert data.find_categories(root) == data.CATEGORIES
    with pytest.raises(ValueError, match=r"split\.shirt\.val\.json is missing"):
        data.load_fashioniq(root, "val")


def test_annotations_alone_need_no_image_files(root):
    (root / "images" / "dress-val-c.png").unlink()
    assert len(data.load_fashioniq(root, "val", images=False)["dress"].corpus) == 3
    with pytest.raises(ValueError, match=r"1 image files? .*missing.*dress-val-c\.png.*make data"):
        data.load_fashioniq(root, "val")


def test_a_truncated_file_is_named(root):
    path = root / "captions" / "cap.toptee.val.json"
    path.write_text(path.read_text()[:-5])
    with pytest.raises(ValueError, match=r"cap\.toptee\.val\.json.*truncated"):
        data.load_fashioniq(root, "val")


def test_a_missing_file_names_the_remedy(root):
    (root / "image_splits" / "split.dress.train.json").unlink()
    with pytest.raises(ValueError, match=r"split\.dress\.train\.json is missing.*make data"):
        data.load_fashioniq(root, "train")


def test_an_object_where_a_list_belongs_is_refused(root):
    write(root / "image_splits" / "split.dress.val.json", {"images": []})
    with pytest.raises(ValueError, match="expected a list, found dict"):
        data.load_fashioniq(root, "val")


def test_a_triplet_without_target_is_named_by_its_row(root):
    entry = {key: value for key, value in TRIPLET.items() if key != "target"}
    write(root / "captions" / "cap.dress.val.json", [entry])
    with pytest.raises(ValueError, match=r"cap\.dress\.val\.json, entry 0: no \['target'\]"):
        data.load_fashioniq(root, "val")


@pytest.mark.parametrize("image_id", ["../../etc/passwd", "", 7, "a/b", "..", None])
def test_an_id_that_is_no_plain_name_never_becomes_a_path(root, image_id):
    write(root / "image_splits" / "split.dress.val.json", ["dress-val-a", image_id])
    with pytest.raises(ValueError, match=r"split\.dress\.val\.json, entry 1: .* no image id"):
        data.load_fashioniq(root, "val")


@pytest.mark.parametrize("captions", [["one"], ["a", "b", "c"], [None, "b"], None, "ab"])
def test_a_triplet_needs_two_phrases(root, captions):
    edit(root / "captions" / "cap.dress.val.json", captions=captions)
    with pytest.raises(ValueError, match="entry 0: 'captions' must hold two strings"):
        data.load_fashioniq(root, "val")


def test_a_dangling_id_is_refused_by_the_loader_and_counted_by_the_report(root):
    edit(root / "captions" / "cap.shirt.val.json", target="nowhere")
    with pytest.raises(ValueError, match=r"entry 0: image 'nowhere' is not in split\.shirt\.val"):
        data.load_fashioniq(root, "val")
    report = data.integrity_report(root).set_index(["category", "split"])
    assert report["dangling_ids"].to_dict()["shirt", "val"] == 1
    assert report["dangling_ids"].sum() == 1


def test_the_report_counts_every_planted_fault(root):
    good = TRIPLET | {"candidate": "dress-val-a", "target": "dress-val-b"}
    silent = good | {"target": "dress-val-c", "captions": [" .", "has a v neck"]}
    write(root / "captions" / "cap.dress.val.json", [good, good, silent])
    ids = ["dress-val-a", "dress-val-b", "dress-val-c", "dress-val-a", "dress-train-a"]
    write(root / "image_splits" / "split.dress.val.json", ids)
    row = data.integrity_report(root).query("category == 'dress' and split == 'val'").iloc[0]
    assert row.to_dict() == {
        "category": "dress",
        "split": "val",
        "images": 4,
        "triplets": 3,
        "repeated_ids": 1,
        "dangling_ids": 0,
        "duplicate_pairs": 1,
        "empty_phrases": 1,
        "train_val_overlap": 1,
    }


def test_ids_in_two_categories_are_counted(root):
    write(root / "image_splits" / "split.toptee.val.json", ["shirt-val-a", "shirt-val-b", "x"])
    shared = data.count_shared_images(root).set_index(["split", "first", "second"])["shared"]
    assert shared["val", "shirt", "toptee"] == 2
    assert shared.sum() == 2


def test_every_count_has_one_name(root):
    counts = data.annotation_counts(root)
    assert counts["dress_train_images"] == 3 and counts["toptee_val_triplets"] == 1
    faults = ["repeated_ids", "dangling_ids", "duplicate_pairs", "empty_phrases"]
    assert counts[[*faults, "train_val_overlap", "shirt_toptee_val_shared"]].sum() == 0
    assert counts.index.is_unique


def test_an_unknown_id_or_choice_is_refused(root):
    with pytest.raises(ValueError, match="'elsewhere' is not in this corpus of 3"):
        data.load_fashioniq(root, "val")["dress"].corpus.positions(["elsewhere"])
    with pytest.raises(ValueError, match="split must be"):
        data.load_fashioniq(root, "test")
    with pytest.raises(ValueError, match="corpus must be"):
        data.load_fashioniq(root, "val", corpus="gallery")


def test_graded_relevance_is_the_share_of_wanted_attributes(root):
    colours = {"a": "red", "b": "blue", "c": "blue"}
    images = {
        f"dress-val-{name}": {"colour": colour, "neck": "v" if name == "b" else "round"}
        for name, colour in colours.items()
    }
    write(root / "synthfashion.json", {"images": images})
    wanted = [{"wanted": {"colour": "blue", "neck": "v"}}]
    write(root / "relevance" / "rel.dress.val.json", wanted)
    dresses = data.load_fashioniq(root, "val")["dress"]
    relevance = data.load_graded_relevance(root, dresses, "val")
    assert relevance.tolist() == [[0.0, 1.0, 0.5]]
    for damaged in (wanted * 2, [], [{}], [{"wanted": {"colour": "blue"}}], [{"wanted": {}}]):
        write(root / "relevance" / "rel.dress.val.json", damaged)
        with pytest.raises(ValueError, match=r"rel\.dress\.val\.json .* make them again"):
            data.load_graded_relevance(root, dresses, "val")


def test_a_data_set_without_relevance_says_none(root):
    dresses = data.load_fashioniq(root, "val")["dress"]
    assert data.load_graded_relevance(root, dresses, "val") is None


def test_false_negatives_are_the_others_at_least_as_relevant_as_the_target():
    # image             0    1    2    3      target: 1, then 0
    relevance = torch.tensor([[1.0, 0.8, 0.8, 0.2], [1.0, 0.8, 0.8, 0.2]])
    assert data.count_false_negatives(relevance, torch.tensor([1, 0])).tolist() == [2, 0]


def test_the_folder_of_real_annotations_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("QURE_DATA", raising=False)
    assert data.real_annotations("fashioniq") is None
    monkeypatch.setenv("QURE_DATA", str(tmp_path))
    assert data.real_annotations("fashioniq") is None
    (tmp_path / "fashioniq").mkdir()
    assert data.real_annotations("fashioniq") == tmp_path / "fashioniq"


def test_the_real_annotations_hold_the_published_counts():
    root = data.real_annotations("fashioniq")
    if root is None:
        pytest.skip("QURE_DATA holds no FashionIQ annotations")
    file = Path(__file__).parents[1] / "reports" / "published" / "fashioniq_counts.csv"
    published = read_published(file).to_dict()
    counts = data.annotation_counts(root)
    assert {name: counts[name] for name in published} == published


def test_a_target_is_known_by_every_caption_that_asks_for_it(root):
    again = TRIPLET | {"candidate": "dress-val-c", "target": "dress-val-b"}
    path = root / "captions" / "cap.dress.val.json"
    write(path, [*json.loads(path.read_text()), again | {"captions": ["is blue", "is long"]}])
    captions = data.load_target_captions(root)
    assert len(captions) == 6  # a category and split each has one target
    assert captions["dress-val-b"] == {
        "dress-val-a": "Is red and has a v neck",
        "dress-val-c": "Is blue and is long",
    }


def test_attributes_are_the_title_and_tags_or_what_was_drawn(root):
    assert data.load_image_attributes(root) == {}
    entry = {"title": "Red tee", "tags": [["jersey", "tee"], [], ["red"]], "imUrl": "-"}
    write(root / "attributes" / "shirt.val.json", {"a": entry, "b": entry | {"title": None}})
    attributes = data.load_image_attributes(root)
    assert attributes["a"] == {"title": "Red tee", "tags": "jersey tee red"}
    assert attributes["b"]["title"] == ""
    write(root / "synthfashion.json", {"images": {"a": {"colour": "pink"}}})
    assert data.load_image_attributes(root) == {"a": {"colour": "pink"}}


# ---------------------------------------------------------------- CIRR and CIRCO

NAMES = ["dev-0", "dev-1", "dev-2", "dev-3", "dev-4", "dev-5", "dev-6"]


@pytest.fixture
def cirr(tmp_path: Path) -> Path:
    """Seven images, six of them a group, and one query."""
    entry = {"pairid": 12060, "reference": "dev-3", "target_hard": "dev-1", "caption": "Two dogs"}
    entry |= {"target_soft": {"dev-1": 1.0}, "img_set": {"id": 36, "members": NAMES[:6]}}
    write(tmp_path / "captions" / "cap.rc2.val.json", [entry])
    write(tmp_path / "image_splits" / "split.rc2.val.json", {i: f"./dev/{i}.png" for i in NAMES})
    for name in NAMES:
        draw(tmp_path / "dev" / f"{name}.png")
    return tmp_path


@pytest.fixture
def circo(tmp_path: Path) -> Path:
    """Seven images of COCO's, the last of them named by no query, and one query."""
    entry = {"reference_img_id": 3, "target_img_id": 1, "relative_caption": "has two dogs", "id": 0}
    entry |= {"shared_concept": "a dog", "gt_img_ids": [1, 5], "semantic_aspects": ["cardinality"]}
    write(tmp_path / "annotations" / "val.json", [entry])
    coco = tmp_path / "COCO2017_unlabeled"
    coco.mkdir()
    rows = [{"id": i, "file_name": f"{i:012d}.jpg"} for i in range(7)]
    write(coco / "annotations" / "image_info_unlabeled2017.json", {"images": rows})
    for row in rows:
        draw(coco / "unlabeled2017" / row["file_name"])
    return tmp_path


def test_a_cirr_query_has_its_group_and_ranks_the_whole_split(cirr):
    queries = data.load_cirr(cirr)
    (triplet,) = queries.triplets
    assert (triplet.query_id, triplet.reference, triplet.target) == ("12060", "dev-3", "dev-1")
    assert triplet.caption == "Two dogs" and triplet.group == tuple(NAMES[:6])
    assert queries.corpus.image_ids == tuple(NAMES)
    assert queries.corpus.paths[0] == cirr / "dev" / "dev-0.png"
    assert queries.target_positions.tolist() == [1]


def test_a_circo_query_has_its_ground_truths_and_ranks_all_of_coco(circo):
    queries = data.load_circo(circo)
    (triplet,) = queries.triplets
    assert (triplet.query_id, triplet.reference, triplet.target) == ("0", "3", "1")
    assert triplet.ground_truths == ("1", "5") and triplet.aspects == ("cardinality",)
    assert triplet.caption == "has two dogs" and triplet.concept == "a dog"
    assert queries.corpus.image_ids == tuple("0123456")
    assert queries.corpus.paths[3].name == "000000000003.jpg" and queries.corpus.paths[3].is_file()


@pytest.mark.parametrize(
    ("prompt", "caption"),
    [
        ("caption", "has two dogs"),
        ("released", "a photo of $ that has two dogs"),
        ("repaired", "a photo of a dog that has two dogs"),
    ],
)
def test_circos_prompt_as_released_and_repaired(circo, prompt, caption):
    (triplet,) = data.load_circo(circo, prompt=prompt).triplets
    assert triplet.caption == caption and triplet.phrases == ("has two dogs",)
    assert replace(triplet, caption="has two dogs") == data.load_circo(circo).triplets[0]
    with pytest.raises(ValueError, match="prompt must be one of .*'released'.*, not 'paper'"):
        data.load_circo(circo, prompt="paper")


def test_a_prompt_takes_captions_as_they_are(circo):
    edit(
        circo / "annotations" / "val.json", relative_caption="has {concept} $", shared_concept="{}"
    )
    caption = data.load_circo(circo, prompt="repaired").triplets[0].caption
    assert caption == "a photo of {} that has {concept} $"


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', "[" * 100_000, "[" + "9" * 5000 + "]", "[1", "\udcff"]
)
def test_json_that_cannot_be_meant_is_refused(tmp_path, text):
    path = tmp_path / "file.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"file\.json is not valid JSON"):
        data.read_json(path)


def test_without_cocos_list_the_annotations_alone_name_the_corpus(circo):
    info = circo / "COCO2017_unlabeled" / "annotations" / "image_info_unlabeled2017.json"
    assert len(data.load_circo(circo, images=False).corpus) == 7
    info.unlink()
    assert data.load_circo(circo, images=False).corpus.image_ids == ("3", "1", "5")
    with pytest.raises(ValueError, match=r"image_info_unlabeled2017\.json is missing"):
        data.load_circo(circo)


def test_a_test_split_has_no_targets(cirr, circo):
    (cirr / "captions" / "cap.rc2.val.json").rename(cirr / "captions" / "cap.rc2.test1.json")
    (cirr / "image_splits" / "split.rc2.val.json").rename(
        cirr / "image_splits" / "split.rc2.test1.json"
    )
    (circo / "annotations" / "val.json").rename(circo / "annotations" / "test.json")
    for queries in (data.load_cirr(cirr, "test1"), data.load_circo(circo, "test")):
        assert queries.triplets[0].target == "" and queries.triplets[0].ground_truths == ()
        assert len(queries.corpus) == 7
        with pytest.raises(ValueError, match="image '' is not in this corpus"):
            _ = queries.target_positions


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairid": "12060"}, r"needs \{'pairid': 'int'\}; is this CIRR's file"),
        ({"target_hard": None}, r"needs \{'target_hard': 'str'\}"),
        ({"target_hard": "dev-6"}, "six images, reference and target among them"),
        ({"reference": "dev-6"}, "six images, reference and target among them"),
        ({"img_set": {"id": 36}}, "six images, reference and target among them"),
        ({"img_set": {"members": [*NAMES[:5], "dev-0"]}}, "six images"),
        ({"img_set": {"members": [*NAMES[:5], ["dev-5"]]}}, "six images"),
        ({"img_set": {"members": [*NAMES[:5], "nowhere"]}}, r"'nowhere' is not in split\.rc2"),
    ],
)
def test_a_broken_cirr_entry_is_named(cirr, changes, message):
    edit(cirr / "captions" / "cap.rc2.val.json", **changes)
    with pytest.raises(ValueError, match=rf"cap\.rc2\.val\.json, entry 0: .*{message}"):
        data.load_cirr(cirr)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shared_concept": 3}, r"needs \{'shared_concept': 'str'\}; is this CIRCO's file"),
        ({"gt_img_ids": None}, r"needs \{'gt_img_ids': 'list'\}"),
        ({"gt_img_ids": [5]}, "with the target and without the reference"),
        ({"gt_img_ids": [1, 3]}, "with the target and without the reference"),
        ({"gt_img_ids": [1, "5"]}, "with the target and without the reference"),
        ({"gt_img_ids": [1, 99]}, r"'99' is not in image_info_unlabeled2017\.json"),
    ],
)
def test_a_broken_circo_entry_is_named(circo, changes, message):
    edit(circo / "annotations" / "val.json", **changes)
    with pytest.raises(ValueError, match=rf"val\.json, entry 0: .*{message}"):
        data.load_circo(circo)


def test_other_faults_of_cirr_and_circo_are_named(cirr, circo):
    with pytest.raises(ValueError, match="split must be one of .*'test1'.*, not 'test'"):
        data.load_cirr(cirr, "test")
    with pytest.raises(ValueError, match="split must be one of .*, not 'train'"):
        data.load_circo(circo, "train")
    (cirr / "dev" / "dev-6.png").unlink()
    with pytest.raises(ValueError, match=r"1 image files are missing, .*dev-6\.png"):
        data.load_cirr(cirr)
    assert len(data.load_cirr(cirr, images=False)) == 1
    write(cirr / "image_splits" / "split.rc2.val.json", {"dev-0": 7})
    with pytest.raises(ValueError, match=r"split\.rc2\.val\.json, 'dev-0': 7 is no path"):
        data.load_cirr(cirr)
    info = circo / "COCO2017_unlabeled" / "annotations" / "image_info_unlabeled2017.json"
    write(info, {"images": [{"id": 0}]})
    with pytest.raises(ValueError, match=r"unlabeled2017\.json, image 0: no 'file_name'"):
        data.load_circo(circo)


@pytest.mark.parametrize(
    ("name", "split", "queries", "images"),
    [("cirr", "val", 4181, 2297), ("cirr", "test1", 4148, 2315),
     ("circo", "val", 220, None), ("circo", "test", 800, None)],
)  # fmt: skip
def test_the_real_cirr_and_circo_have_the_published_counts(name, split, queries, images):
    root = data.real_annotations(name)
    if root is None:
        pytest.skip(f"QURE_DATA holds no {name} annotations")
    loaded = {"cirr": data.load_cirr, "circo": data.load_circo}[name](root, split, images=False)
    assert len(loaded) == queries == len({t.query_id for t in loaded.triplets})
    assert images is None or len(loaded.corpus) == images
    if (name, split) == ("circo", "val"):
        counts = [len(t.ground_truths) for t in loaded.triplets]
        assert (min(counts), max(counts), round(sum(counts) / len(counts), 2)) == (1, 14, 4.16)
    assert all(bool(t.target) == (split == "val") for t in loaded.triplets)


@pytest.mark.parametrize("entry", [{"title": "Red tee"}, [], {"title": "x", "tags": None}])
def test_broken_attributes_are_named(root, entry):
    write(root / "attributes" / "shirt.val.json", {"a": entry})
    with pytest.raises(ValueError, match=r"shirt.val.json, image 'a': no title or tags"):
        data.load_image_attributes(root)
