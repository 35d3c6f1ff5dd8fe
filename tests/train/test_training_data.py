"""tests/train/test_training_data.py: what training loads, with files that are missing."""

import json
from pathlib import Path

import pytest
from PIL import Image

from qure_lib.datasets.loading import SPLITS
from qure_lib.train.training_data import load_training_data

IDS = {"dress": "abc", "shirt": "def", "toptee": "fgh"}  # f is in two categories


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def fashioniq(tmp_path: Path) -> Path:
    """Two triplets a category, with their relevance; the first reference, a, has no file."""
    for category, ids in IDS.items():
        for split in SPLITS:
            pairs = [(ids[0], ids[1]), (ids[1], ids[2])]
            entries = [{"candidate": a, "target": b, "captions": ["x", "y"]} for a, b in pairs]
            write(tmp_path / f"captions/cap.{category}.{split}.json", entries)
            write(tmp_path / f"image_splits/split.{category}.{split}.json", list(ids))
            wanted = [{"wanted": {"kind": target}} for _, target in pairs]
            write(tmp_path / f"relevance/rel.{category}.{split}.json", wanted)
    write(tmp_path / "synthfashion.json", {"images": {i: {"kind": i} for i in "abcdefgh"}})
    (tmp_path / "images").mkdir()
    for image_id in "bcdefgh":
        Image.new("RGB", (4, 4)).save(tmp_path / f"images/{image_id}.png")
    return tmp_path


def test_missing_files_are_refused_unless_allowed_and_relevance_stays_in_step(fashioniq):
    with pytest.raises(ValueError, match="missing"):
        load_training_data(fashioniq)
    with pytest.warns(UserWarning, match="results on them are not the protocol's"):
        known = load_training_data(fashioniq, allow_missing=True)
    assert known.val["dress"].corpus.image_ids == ("b", "c")
    assert known.val_relevance["dress"].tolist() == [[0.0, 1.0]]
    assert known.train["dress"].corpus.image_ids == ("b", "c")
    assert known.train["dress"].dropped_triplets == 1
