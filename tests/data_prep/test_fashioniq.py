"""The counts of FashionIQ's annotations, and every fault that they name."""

import json
from pathlib import Path

import pytest
from report.tables import read_published

from data_prep import fashioniq as script
from data_prep.fashioniq import annotation_counts, count_shared_images, integrity_report
from data_prep.real_data import check
from qure_lib.datasets.fashioniq import CATEGORIES, load_fashioniq
from qure_lib.datasets.loading import SPLITS, real_annotations

FAULTS = [
    *("repeated_ids", "dangling_ids", "duplicate_pairs", "target_is_reference"),
    *("empty_phrases", "train_val_overlap"),
]


def write(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def captions(root: Path, category: str, split: str) -> Path:
    return root / "captions" / f"cap.{category}.{split}.json"


def listed(root: Path, category: str, split: str) -> Path:
    return root / "image_splits" / f"split.{category}.{split}.json"


def entry(candidate: str, target: str, *phrases: str) -> dict[str, object]:
    said = phrases or ("is red.", "has a v neck?")
    return {"candidate": candidate, "target": target, "captions": list(said)}


@pytest.fixture
def fashioniq(tmp_path: Path) -> Path:
    """Annotations of three images a category and split: a (reference) -> b (target), and c."""
    for category in CATEGORIES:
        for split in SPLITS:
            ids = [f"{category}-{split}-{name}" for name in "abc"]
            write(listed(tmp_path, category, split), ids)
            write(captions(tmp_path, category, split), [entry(*ids[:2])])
    return tmp_path


def test_whole_annotations_have_no_faults(fashioniq):
    report = integrity_report(fashioniq)
    assert list(report) == ["category", "split", "images", "triplets", *FAULTS]
    assert list(zip(report["category"], report["split"], strict=True)) == [
        (category, split) for category in CATEGORIES for split in SPLITS
    ]
    assert (report["images"] == 3).all() and (report["triplets"] == 1).all()
    assert (report[FAULTS] == 0).all(axis=None)


def test_every_planted_fault_is_counted(fashioniq):
    a, b, c = (f"dress-val-{name}" for name in "abc")
    entries = [entry(a, b), entry(a, b), entry(a, c, " .", "has a v neck")]
    write(captions(fashioniq, "dress", "val"), [*entries, entry(c, c), entry(c, "nowhere")])
    write(listed(fashioniq, "dress", "val"), [a, b, c, a, "dress-train-a"])
    report = integrity_report(fashioniq)
    row = report.query("category == 'dress' and split == 'val'").iloc[0]
    assert row[["images", "triplets"]].tolist() == [4, 5]
    assert row[FAULTS].tolist() == [1] * len(FAULTS)
    assert report[FAULTS].to_numpy().sum() == len(FAULTS) + 1  # an overlap is there in both splits


def test_a_query_for_its_own_reference_is_loaded_counted_and_named(fashioniq):
    write(captions(fashioniq, "shirt", "train"), [entry("shirt-train-c", "shirt-train-c")])
    shirts = load_fashioniq(fashioniq, "train", images=False)["shirt"]
    assert shirts.target_positions.tolist() == shirts.reference_positions.tolist() == [2]
    report = integrity_report(fashioniq).set_index(["category", "split"])["target_is_reference"]
    assert report["shirt", "train"] == report.sum() == 1
    assert annotation_counts(fashioniq)["target_is_reference"] == 1
    texts = [problem.problem for problem in check(script.DATA, fashioniq)]
    assert "target_is_reference is 1, known as 0" in texts
    assert "duplicate_pairs is 0, known as 0" not in texts


@pytest.mark.parametrize("image_id", [{}, ["a"], None, 7, "../a"])
def test_an_id_that_is_no_plain_name_is_named(fashioniq, image_id):
    path = fashioniq / "image_splits" / "split.dress.val.json"
    path.write_text(json.dumps([image_id]))
    for count in (integrity_report, count_shared_images):
        with pytest.raises(ValueError, match=r"split\.dress\.val\.json, entry 0: .* no image id"):
            count(fashioniq)


def test_ids_in_two_categories_are_counted(fashioniq):
    write(listed(fashioniq, "toptee", "val"), ["shirt-val-a", "shirt-val-b", "x"])
    shared = count_shared_images(fashioniq).set_index(["split", "first", "second"])["shared"]
    assert shared["val", "shirt", "toptee"] == shared.sum() == 2
    assert annotation_counts(fashioniq)["shirt_toptee_val_shared"] == 2


def test_other_categories_are_counted_too(fashioniq):
    for path in list(fashioniq.glob("*/*.dress.*.json")):
        path.rename(path.with_name(path.name.replace("dress", "hat")))
    for path in list(fashioniq.glob("*/*.shirt.*.json")):
        path.unlink()
    assert count_shared_images(fashioniq)["shared"].tolist() == [0, 0]
    assert integrity_report(fashioniq)["category"].unique().tolist() == ["hat", "toptee"]


def test_every_count_has_one_name(fashioniq):
    counts = annotation_counts(fashioniq)
    assert counts["dress_train_images"] == 3 and counts["toptee_val_triplets"] == 1
    assert counts[[*FAULTS, "shirt_toptee_val_shared"]].sum() == 0
    assert counts.index.is_unique


def test_an_overlap_counts_each_image_once(fashioniq):
    write(listed(fashioniq, "shirt", "val"), ["shirt-val-a", "shirt-val-b", "shirt-train-b"])
    assert annotation_counts(fashioniq)["train_val_overlap"] == 1


def test_the_real_annotations_hold_the_published_counts():
    root = real_annotations("fashioniq")
    if root is None:
        pytest.skip("QURE_DATA holds no FashionIQ annotations")
    published = read_published(script.PUBLISHED).to_dict()
    counts = annotation_counts(root)
    assert {name: counts[name] for name in published} == published
    assert counts["target_is_reference"] == 0
