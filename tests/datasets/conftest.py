"""Small data sets in three layouts, with drawn images, and how to write and change their files."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from qure_lib.datasets.fashioniq import CATEGORIES
from qure_lib.datasets.loading import SPLITS

NAMES = [f"dev-{number}" for number in range(7)]


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def draw_image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)
    return path


@pytest.fixture
def write() -> Callable[[Path, object], None]:
    """Write JSON, its folder made."""
    return write_json


@pytest.fixture
def draw() -> Callable[[Path], Path]:
    """Write a small image, its folder made."""
    return draw_image


@pytest.fixture
def edit() -> Callable[..., None]:
    """Change keys of the first entry of a file, or of a copy of it that is added."""

    def edit(path: Path, add: bool = False, **changes: object) -> None:
        entries = json.loads(path.read_text())
        changed = entries[0] | changes
        write_json(path, [*entries, changed] if add else [changed, *entries[1:]])

    return edit


@pytest.fixture
def fashioniq(tmp_path: Path) -> Path:
    """Three images a category and split: a (reference) -> b (target), and c."""
    for category in CATEGORIES:
        for split in SPLITS:
            ids = [f"{category}-{split}-{name}" for name in "abc"]
            entry = {
                "candidate": ids[0],
                "target": ids[1],
                "captions": ["is red.", "has a v neck?"],
            }
            write_json(tmp_path / "image_splits" / f"split.{category}.{split}.json", ids)
            write_json(tmp_path / "captions" / f"cap.{category}.{split}.json", [entry])
            for image_id in ids:
                draw_image(tmp_path / "images" / f"{image_id}.png")
    return tmp_path


@pytest.fixture
def cirr(tmp_path: Path) -> Path:
    """Seven images, six of them a group, and one query."""
    root = tmp_path / "cirr"
    entry = {"pairid": 12060, "reference": "dev-3", "target_hard": "dev-1", "caption": "Two dogs"}
    entry |= {"target_soft": {"dev-1": 1.0}, "img_set": {"id": 36, "members": NAMES[:6]}}
    write_json(root / "captions" / "cap.rc2.val.json", [entry])
    write_json(root / "image_splits" / "split.rc2.val.json", {i: f"./dev/{i}.png" for i in NAMES})
    for name in NAMES:
        draw_image(root / "dev" / f"{name}.png")
    return root


@pytest.fixture
def circo(tmp_path: Path) -> Path:
    """Seven images of COCO's, the last of them named by no query, and one query."""
    root = tmp_path / "circo"
    entry = {"reference_img_id": 3, "target_img_id": 1, "relative_caption": "has two dogs", "id": 0}
    entry |= {"shared_concept": "a dog", "gt_img_ids": [1, 5], "semantic_aspects": ["cardinality"]}
    write_json(root / "annotations" / "val.json", [entry])
    coco = root / "COCO2017_unlabeled"
    rows = [{"id": i, "file_name": f"{i:012d}.jpg"} for i in range(7)]
    write_json(coco / "annotations" / "image_info_unlabeled2017.json", {"images": rows})
    for row in rows:
        draw_image(coco / "unlabeled2017" / row["file_name"])
    return root
