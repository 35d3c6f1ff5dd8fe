"""data_prep.views: CIRR's and CIRCO's layouts of the embedded data set, against its attributes."""

import json
from pathlib import Path

import pytest

from data_prep.catalogue import CATEGORIES, NOTICE, WORLDS, differences
from data_prep.synthfashion import make_annotations
from data_prep.views import COCO, GROUP, NOUNS
from qure_lib.datasets.circo import load_circo
from qure_lib.datasets.cirr import load_cirr
from qure_lib.datasets.fashioniq import load_fashioniq


@pytest.fixture(scope="module", params=["default", "scales"])
def files(request):
    """Every annotation file of a small world, by its path."""
    return make_annotations("smoke", 0, WORLDS[request.param])


def changed(old: dict, new: dict) -> set[str]:
    """The attributes in which two garments visibly differ."""
    apart = differences([old], [new])[0, 0] > NOTICE
    return {a for a, seen in zip(old, apart, strict=True) if seen}


def test_groups_hold_six_images_that_all_differ_and_the_nearest_ones(files):
    garments = files["synthfashion.json"]["images"]
    paths = files["cirr_like/image_splits/split.rc2.val.json"]
    listed = [i for c in CATEGORIES for i in files[f"image_splits/split.{c}.val.json"]]
    assert list(paths) == listed
    assert paths[listed[0]] == f"../images/{listed[0]}.png"
    groups = {}
    for entry in files["cirr_like/captions/cap.rc2.val.json"]:
        groups.setdefault(entry["img_set"]["id"], entry["img_set"]["members"])
        assert groups[entry["img_set"]["id"]] == entry["img_set"]["members"]
    assert len(groups) == 3 * (80 // GROUP)
    for members in groups.values():
        assert len(members) == GROUP and set(members) <= paths.keys()
        first, category = members[0], members[0].split("-")[0]
        pairs = [(a, b) for a in members for b in members if a != b]
        assert all(changed(garments[a], garments[b]) for a, b in pairs)
        # whatever is nearer than the last member and left out shows the same as an earlier member
        ids = [i for i in paths if i.startswith(f"{category}-")]
        apart = dict(zip(ids, near(garments[first], [garments[i] for i in ids]), strict=True))
        assert [apart[i] for i in members] == sorted(apart[i] for i in members)
        left_out = [i for i in ids if apart[i] < apart[members[-1]] and i not in members]
        for i in left_out:
            assert any(not changed(garments[i], garments[m]) for m in members)


def near(garment: dict, others: list[dict]) -> list[float]:
    return differences([garment], others)[0].sum(axis=1).round(9).tolist()


def test_cirr_queries_lead_from_one_of_a_group_to_another(files):
    garments = files["synthfashion.json"]["images"]
    entries = files["cirr_like/captions/cap.rc2.val.json"]
    assert [entry["pairid"] for entry in entries] == list(range(len(entries)))
    targets = {}
    for entry in entries:
        reference, target, group = entry["reference"], entry["target_hard"], entry["img_set"]
        assert group["members"][group["reference_rank"]] == reference
        assert group["members"][group["target_rank"]] == target != reference
        assert entry["target_soft"] == {target: 1.0} and entry["caption"]
        assert 1 <= len(changed(garments[reference], garments[target])) <= 3
        targets.setdefault(group["id"], []).append(target)
    assert all(len(set(found)) == len(found) <= 5 for found in targets.values())
    assert len(entries) > 4 * len(targets)


def test_ground_truths_are_all_that_answer(files):
    """CIRCO's rule, slowly, from the data set's own queries."""
    garments = files["synthfashion.json"]["images"]
    known = {im["id"]: Path(im["file_name"]).stem for im in files[f"circo_like/{COCO}"]["images"]}
    assert len(known) == len(set(known.values())) == 3 * 80
    expected = []
    for category in CATEGORIES:
        triplets = files[f"captions/cap.{category}.val.json"]
        for triplet, row in zip(triplets, files[f"relevance/rel.{category}.val.json"], strict=True):
            reference, target = triplet["candidate"], triplet["target"]
            old, wanted = garments[reference], row["wanted"]
            mentioned = [a for a in old if wanted[a] != old[a]]
            fits = set()
            for image_id in files[f"image_splits/split.{category}.val.json"]:
                new = garments[image_id]
                others = changed(old, new) - set(mentioned)
                if not changed(wanted, new) & set(mentioned) and len(others) <= 1:
                    fits.add(image_id)
            if target in fits:
                expected.append((reference, target, fits, mentioned, NOUNS[category]))
                assert reference not in fits
    found = files["circo_like/annotations/val.json"]
    assert [entry["id"] for entry in found] == list(range(len(expected)))
    for entry, (reference, target, fits, mentioned, concept) in zip(found, expected, strict=True):
        truths = [known[number] for number in entry["gt_img_ids"]]
        assert known[entry["reference_img_id"]] == reference
        assert truths[0] == known[entry["target_img_id"]] == target
        assert len(truths) == len(fits) and set(truths) == fits
        assert entry["semantic_aspects"] == mentioned and entry["shared_concept"] == concept
    assert max(len(entry["gt_img_ids"]) for entry in found) > 2


def test_the_same_seed_gives_the_same_views_and_another_one_others():
    first, again, other = (make_annotations("smoke", seed) for seed in (0, 0, 1))
    views = [name for name in first if name.startswith(("cirr_like/", "circo_like/"))]
    assert len(views) == 4
    assert all(first[name] == again[name] for name in views)
    assert [name for name in views if first[name] != other[name]] == [
        "cirr_like/captions/cap.rc2.val.json",
        "circo_like/annotations/val.json",
    ]


def test_the_loaders_find_the_images_of_the_views(smoke_world):
    known = {i: p for q in load_fashioniq(smoke_world, "val").values() for i, p in q.images.items()}
    cirr, circo = load_cirr(smoke_world / "cirr_like"), load_circo(smoke_world / "circo_like")
    assert dict(zip(cirr.corpus.image_ids, cirr.corpus.paths, strict=True)) == known
    assert list(circo.corpus.paths) == list(known.values())
    entries = json.loads((smoke_world / "cirr_like/captions/cap.rc2.val.json").read_text())
    for triplet, entry in zip(cirr.triplets, entries, strict=True):
        assert triplet.caption == entry["caption"] and triplet.target == entry["target_hard"]
        assert set(triplet.group) >= {triplet.reference, triplet.target}
    for triplet in circo.triplets:
        assert triplet.target == triplet.ground_truths[0] != triplet.reference
        assert triplet.aspects and triplet.concept in NOUNS.values()
