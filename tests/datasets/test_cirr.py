"""CIRR's loader: groups of six, ids that come once, and what each refusal says."""

import json
import shutil

import pytest

from qure_lib.datasets.cirr import list_images, load_cirr, load_training_splits
from qure_lib.datasets.loading import real_annotations

NAMES = [f"dev-{number}" for number in range(7)]
CAPTIONS, IMAGES = "captions/cap.rc2.val.json", "image_splits/split.rc2.val.json"


def test_a_query_has_its_group_and_ranks_the_whole_split(cirr):
    queries = load_cirr(cirr)
    (triplet,) = queries.triplets
    assert (triplet.query_id, triplet.reference, triplet.target) == ("12060", "dev-3", "dev-1")
    assert triplet.caption == "Two dogs" and triplet.group == tuple(NAMES[:6])
    assert queries.corpus.image_ids == tuple(NAMES)
    assert queries.corpus.paths[0] == cirr / "dev" / "dev-0.png"
    assert queries.target_positions.tolist() == [1]


def test_a_test_split_has_no_targets(cirr, edit, write):
    for name in (CAPTIONS, IMAGES):
        (cirr / name).rename(cirr / name.replace("val", "test1"))
    queries = load_cirr(cirr, "test1")
    assert queries.triplets[0].target == "" and len(queries.corpus) == 7
    with pytest.raises(ValueError, match="image '' is not in this corpus"):
        _ = queries.target_positions
    edit(cirr / CAPTIONS.replace("val", "test1"), reference="dev-6")
    with pytest.raises(ValueError, match="six images"):
        load_cirr(cirr, "test1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairid": "12060"}, r"needs \{'pairid': 'int'\}"),
        ({"target_hard": None}, r"needs \{'target_hard': 'str'\}"),
        ({"target_hard": ""}, "six images, the reference and another one as the target"),
        ({"target_hard": "dev-6"}, "six images, the reference and another one as the target"),
        ({"target_hard": "dev-3"}, "six images, the reference and another one as the target"),
        ({"reference": "dev-6"}, "six images, the reference and another one as the target"),
        ({"img_set": {"id": 36}}, "'members' must list strs"),
        ({"img_set": {"members": NAMES[:5]}}, "six images"),
        ({"img_set": {"members": NAMES}}, "six images"),
        ({"img_set": {"members": [*NAMES[:5], ["dev-5"]]}}, "'members' must list strs"),
        ({"img_set": {"members": [*NAMES[:5], "nowhere"]}}, r"'nowhere' is not in split\.rc2"),
        ({"img_set": {"members": [*NAMES[:4], "", "dev-4"]}}, r"'' is not in split\.rc2"),
    ],
)
def test_a_broken_entry_is_named(cirr, edit, changes, message):
    edit(cirr / CAPTIONS, **changes)
    with pytest.raises(ValueError, match=rf"cap\.rc2\.val\.json, entry 0[:,] .*{message}"):
        load_cirr(cirr)


@pytest.mark.parametrize("members", [[*NAMES[:5], "dev-0"], [*NAMES[:6], "dev-0"]])
def test_a_group_has_six_distinct_images(cirr, edit, members):
    edit(cirr / CAPTIONS, img_set={"members": members})
    place = r"cap\.rc2\.val\.json, entry 0, 'img_set', item"
    with pytest.raises(
        ValueError, match=f"{place} [56]: 'members' 'dev-0' is already at .* item 0"
    ):
        load_cirr(cirr)


def test_a_query_id_that_comes_twice_is_refused(cirr, edit):
    path = cirr / CAPTIONS
    edit(path, add=True, pairid=7)
    edit(path, add=True, caption="Three dogs")
    message = r"rc2\.val\.json, entry 2: 'pairid' 12060 is already at .*\.json, entry 0; keep one"
    with pytest.raises(ValueError, match=message):
        load_cirr(cirr)
    edit(path, pairid=8)
    assert [t.query_id for t in load_cirr(cirr).triplets] == ["8", "7", "12060"]


def test_the_split_list_names_every_file_once(cirr, write):
    write(cirr / IMAGES, {i: f"./dev/{i}.png" for i in NAMES} | {"dev-6": "./dev/dev-2.png"})
    message = r"'dev-6': file './dev/dev-2.png' is already at .*split\.rc2\.val\.json, 'dev-2'"
    with pytest.raises(ValueError, match=message):
        load_cirr(cirr)
    (cirr / IMAGES).write_text('{"dev-0": "./dev/dev-0.png", "dev-0": "./dev/dev-1.png"}')
    with pytest.raises(ValueError, match=r"split\.rc2\.val\.json .*the key 'dev-0' is there twice"):
        load_cirr(cirr)


def test_other_faults_are_named(cirr, write):
    with pytest.raises(ValueError, match="split must be one of .*'test1'.*, not 'test'"):
        load_cirr(cirr, "test")
    (cirr / "dev" / "dev-6.png").unlink()
    with pytest.raises(ValueError, match=r"1 image files are missing, .*dev-6\.png"):
        load_cirr(cirr)
    assert len(load_cirr(cirr, images=False)) == 1
    write(cirr / IMAGES, {"dev-0": 7})
    with pytest.raises(ValueError, match=r"split\.rc2\.val\.json, 'dev-0': 7 is no path"):
        load_cirr(cirr)


@pytest.mark.parametrize(
    "name",
    ["/etc/hostname", "../..", "../../x.png", "../../imagesx/a.png", "a/../../../b", "\0.png"],
)
@pytest.mark.parametrize("images", [True, False])
def test_the_split_list_names_no_file_outside_the_folder(cirr, write, name, images):
    write(cirr / IMAGES, {i: f"./dev/{i}.png" for i in NAMES} | {"dev-2": name})
    with pytest.raises(ValueError, match=r"split\.rc2\.val\.json, 'dev-2': .* is outside") as error:
        load_cirr(cirr, images=images)
    assert repr(name) in str(error.value)


def test_names_may_point_anywhere_below_and_to_images_beside_the_folder(cirr, write, draw):
    names = {i: f"./dev/{i}.png" for i in NAMES}
    names |= {"dev-0": "../images/0.png", "dev-1": "dev/../dev/dev-1.png", "dev-2": "..2/a.png"}
    draw(cirr.parent / "images/0.png")
    draw(cirr / "..2/a.png")
    write(cirr / IMAGES, names)
    paths = load_cirr(cirr).corpus.paths[:3]
    assert [p.resolve().relative_to(cirr.parent).as_posix() for p in paths] == [
        "images/0.png", "cirr/dev/dev-1.png", "cirr/..2/a.png"
    ]  # fmt: skip


@pytest.mark.parametrize("split", ["train", "val", "test1"])
def test_a_file_without_queries_is_named(cirr, write, split):
    for name in (CAPTIONS, IMAGES):
        target = cirr / name.replace("val", split)
        if not target.is_file():
            shutil.copy(cirr / name, target)
    write(cirr / CAPTIONS.replace("val", split), [])
    with pytest.raises(ValueError, match=rf"cap\.rc2\.{split}\.json holds an empty list: no query"):
        load_cirr(cirr, split, images=False)


@pytest.mark.parametrize(
    ("pool", "ids"), [("released", NAMES), ("original", NAMES), ("targets", ["dev-1"])]
)
def test_training_ranks_the_pool_and_validation_the_whole_split(cirr, pool, ids):
    for name in (CAPTIONS, IMAGES):
        shutil.copy(cirr / name, cirr / name.replace("val", "train"))
    train, val = load_training_splits(cirr, pool)
    assert train["cirr"].corpus.image_ids == tuple(ids)
    assert val["cirr"] == load_cirr(cirr)
    assert list_images(cirr) == load_cirr(cirr).images


@pytest.mark.parametrize(
    ("split", "queries", "images"), [("val", 4181, 2297), ("test1", 4148, 2315)]
)
def test_the_real_annotations_have_the_published_counts(split, queries, images):
    root = real_annotations("cirr")
    if root is None:
        pytest.skip("QURE_DATA holds no CIRR annotations")
    loaded = load_cirr(root, split, images=False)
    assert len(loaded) == queries == len({t.query_id for t in loaded.triplets})
    assert len(loaded.corpus) == images
    assert all(bool(t.target) == (split == "val") for t in loaded.triplets)
    entries = json.loads((root / "captions" / f"cap.rc2.{split}.json").read_text())
    assert [t.query_id for t in loaded.triplets] == [str(entry["pairid"]) for entry in entries]
