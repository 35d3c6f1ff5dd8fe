"""qure_lib.layouts: image files are found in any layout, each folder listed once."""

import io
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qure_lib.datasets.circo import CIRCO_FOLDERS, load_circo
from qure_lib.datasets.cirr import load_cirr
from qure_lib.datasets.fashioniq import (
    list_fashioniq_images,
    load_fashioniq,
    load_training_splits,
)
from qure_lib.datasets.hp_fashioniq import find_hp_fashioniq_images, load_hp_fashioniq
from qure_lib.datasets.image_files import FASHIONIQ_FOLDERS, FORMATS, find_by_name, read_image
from qure_lib.datasets.loading import SPLITS

IDS = {"dress": "abc", "shirt": "def", "toptee": "fgh"}  # f is in two categories


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)
    return path


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def fashioniq(tmp_path: Path) -> Path:
    """Annotations without images: first -> second and second -> third image of each category."""
    for split in SPLITS:
        for category, ids in IDS.items():
            pairs = [(ids[0], ids[1]), (ids[1], ids[2])]
            entries = [{"candidate": a, "target": b, "captions": ["x", "y"]} for a, b in pairs]
            write(tmp_path / f"captions/cap.{category}.{split}.json", entries)
            write(tmp_path / f"image_splits/split.{category}.{split}.json", list(ids))
    return tmp_path


@pytest.mark.parametrize(
    "layout",
    ["images/{id}.png", "images/{id}.jpg", "image_data/{category}/{id}.jpg",
     "resized_image/{id}.jpg", "resized_image/{category}/{id}.JPEG", "images/{category}/{id}.png"],
)  # fmt: skip
def test_every_layout_of_fashioniq_is_found(fashioniq, layout):
    for category, ids in IDS.items():
        for image_id in ids:
            put(fashioniq / layout.format(id=image_id, category=category))
    for category, queries in load_fashioniq(fashioniq, "val").items():
        assert queries.corpus.image_ids == tuple(IDS[category])
        assert all(path.is_file() for path in queries.images.values())
        assert (queries.dropped_triplets, queries.dropped_images) == (0, 0)


def test_layouts_and_suffixes_may_be_mixed_and_an_image_has_one_path(fashioniq):
    for image_id, path in zip(
        "abcdegh",
        ["images/a.png", "images/b.jpg", "image_data/dress/c.jpeg", "resized_image/d.jpg",
         "images/e.PNG", "images/g.jpg", "resized_image/toptee/h.png"],
        strict=True,
    ):  # fmt: skip
        assert put(fashioniq / path).stem == image_id
    for path in ("image_data/toptee/f.jpg", "image_data/shirt/f.jpg", "images/a.jpg"):
        put(fashioniq / path)
    sets = load_fashioniq(fashioniq, "val")
    assert sets["shirt"].images["f"] == sets["toptee"].images["f"]
    assert sets["shirt"].images["f"] == fashioniq / "image_data/shirt/f.jpg"
    assert sets["dress"].images["a"] == fashioniq / "images/a.png"


def test_a_folder_is_listed_once_and_no_file_is_asked_for(fashioniq, monkeypatch):
    for image_id in "abcdefgh":
        put(fashioniq / f"images/{image_id}.png")
    listed, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    assert len(list_fashioniq_images(fashioniq)) == 8
    assert len(listed) == len(set(listed)) == len(FASHIONIQ_FOLDERS)
    listed.clear()
    names = {f"{i}": f"./dev/{i}.png" for i in range(1000)}
    find_by_name(names, fashioniq, ["", "img_raw"], fashioniq / "list.json")
    assert len(listed) == 2


def test_folders_and_broken_links_are_no_images(tmp_path):
    (tmp_path / "images/folder.png").mkdir(parents=True)
    (tmp_path / "images/nowhere.png").symlink_to(tmp_path / "gone.png")
    put(tmp_path / "elsewhere/real.png")
    (tmp_path / "images/linked.png").symlink_to(tmp_path / "elsewhere/real.png")
    assert list(list_fashioniq_images(tmp_path)) == ["linked"]


def test_missing_files_say_where_they_were_looked_for(fashioniq):
    put(fashioniq / "resized_image/a.jpg")
    with pytest.raises(ValueError, match=r"2 image files are missing.*image_data, resized_image"):
        load_fashioniq(fashioniq, "val")


def test_what_needs_a_missing_file_may_be_dropped_and_is_counted(fashioniq):
    for image_id in "abdefgh":  # c, a target only, is missing
        put(fashioniq / f"images/{image_id}.png")
    with pytest.warns(UserWarning, match="dress val: 1 of 2 triplets and 2 of 3 corpus images"):
        sets = load_fashioniq(fashioniq, "val", allow_missing=True)
    dresses = sets["dress"]
    assert [t.query_id for t in dresses.triplets] == ["dress/val/0"]
    assert dresses.corpus.image_ids == ("a", "b") and set(dresses.images) == {"a", "b"}
    assert (dresses.dropped_triplets, dresses.dropped_images) == (1, 1)
    assert (sets["shirt"].dropped_triplets, sets["shirt"].dropped_images) == (0, 0)
    whole = load_fashioniq(fashioniq, "val", images=False)["shirt"]
    assert sets["shirt"].triplets == whole.triplets and sets["shirt"].corpus == whole.corpus


def test_training_splits_pass_it_on(fashioniq):
    for image_id in "bcdefgh":  # a, the first reference, is missing
        put(fashioniq / f"images/{image_id}.png")
    with pytest.raises(ValueError, match="missing"):
        load_training_splits(fashioniq)
    with pytest.warns(UserWarning, match="results on them are not the protocol's"):
        train, val = load_training_splits(fashioniq, allow_missing=True)
    assert val["dress"].corpus.image_ids == train["dress"].corpus.image_ids == ("b", "c")
    assert train["dress"].dropped_triplets == val["dress"].dropped_triplets == 1


def test_nothing_left_is_an_error(fashioniq):
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="no triplet is left"):
        load_fashioniq(fashioniq, "val", allow_missing=True)


NAMES = [f"dev-{number}" for number in range(8)]


@pytest.fixture
def cirr(tmp_path: Path) -> Path:
    """Two queries: the first's group has dev-0 to 5, the second's dev-2 to 7."""
    write(tmp_path / "image_splits/split.rc2.val.json", {i: f"./dev/{i}.png" for i in NAMES})
    entries = [
        {"pairid": n, "reference": members[0], "target_hard": members[1], "caption": "x"}
        | {"img_set": {"members": members}}
        for n, members in enumerate([NAMES[:6], NAMES[2:]])
    ]
    write(tmp_path / "captions/cap.rc2.val.json", entries)
    return tmp_path


@pytest.mark.parametrize("folder", ["", "img_raw", "images"])
def test_every_layout_of_cirr_is_found(cirr, folder):
    for name in NAMES:
        put(cirr / folder / f"dev/{name}.png")
    assert all(path.is_file() for path in load_cirr(cirr).corpus.paths)


def test_a_cirr_query_goes_with_any_of_its_group(cirr):
    for name in NAMES[:7]:
        put(cirr / f"images/dev/{name}.png")
    with pytest.raises(ValueError, match=r"1 image files are missing.*dev-7\.png.*img_raw"):
        load_cirr(cirr)
    with pytest.warns(UserWarning, match="val: 1 of 2 triplets and 7 of 8 corpus images"):
        queries = load_cirr(cirr, allow_missing=True)
    assert [t.query_id for t in queries.triplets] == ["0"]
    assert len(queries.corpus) == 7 and queries.dropped_images == 1


@pytest.fixture
def circo(tmp_path: Path) -> Path:
    """Nine images of COCO's and two queries: 1 -> 2 (and 3), 4 -> 5. Named without their files."""
    rows = [(0, 1, [2, 3]), (1, 4, [5])]
    entries = [
        {"id": i, "reference_img_id": reference, "target_img_id": truths[0], "gt_img_ids": truths}
        | {"relative_caption": "x", "shared_concept": "y", "semantic_aspects": []}
        for i, reference, truths in rows
    ]
    write(tmp_path / "annotations/val.json", entries)
    return tmp_path


@pytest.mark.parametrize("folder", CIRCO_FOLDERS)
def test_every_layout_of_circo_is_found(circo, folder):
    rows = [{"id": i, "file_name": f"{i:012d}.jpg"} for i in range(1, 10)]
    write(circo / folder / "annotations/image_info_unlabeled2017.json", {"images": rows})
    for row in rows:
        put(circo / folder / "unlabeled2017" / row["file_name"])
    assert all(path.is_file() for path in load_circo(circo).corpus.paths)
    for number in (3, 9):  # a ground truth that is not the target, and an image of no query
        (circo / folder / f"unlabeled2017/{number:012d}.jpg").unlink()
    with pytest.warns(UserWarning, match="val: 1 of 2 triplets and 7 of 9 corpus images"):
        queries = load_circo(circo, allow_missing=True)
    assert [t.query_id for t in queries.triplets] == ["1"]
    assert queries.target_positions.tolist() == [queries.corpus.image_ids.index("5")]


def test_hp_fashioniqs_images_are_fashioniqs(tmp_path):
    def path(name: str) -> str:
        return f"/-/image_data/shirt/{name}.jpg"

    shown = {"img_path": [path(f"s{i}") for i in range(5)], "user_score": "3"}
    questions = {"ref_img_paths": [path("r")], "targ_img_paths": [path("t")], "sentences": ["x"]}
    questions |= {"retrieved_set1": [shown], "retrieved_set2": [shown], "preferred set": ["1"]}
    write(tmp_path / "hpfiq.json", {"user_1": {"set_1": questions}})
    judged = load_hp_fashioniq(tmp_path / "hpfiq.json")
    with pytest.raises(ValueError, match="HP-FashionIQ: 6 image files are missing"):
        find_hp_fashioniq_images(judged, tmp_path)
    for name in ("r", "s0", "s1", "s2", "s3", "s4"):  # targets are never scored
        put(tmp_path / f"images/{name}.png")
    assert len(find_hp_fashioniq_images(judged, tmp_path)) == 6


# ---------------------------------------------------------------- decoding


def encoded(kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((40, 40), 50).convert("RGB").save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", sorted(set(FORMATS.values())))
def test_content_decides_and_the_suffix_does_not(tmp_path, kind):
    content = encoded(kind)
    (tmp_path / "a.jpg").write_bytes(content)
    image = read_image(tmp_path / "a.jpg")
    assert (image.format, image.size) == (kind, (40, 40))
    np.testing.assert_array_equal(image, Image.open(io.BytesIO(content)))


@pytest.mark.parametrize("kind", ["PPM", "ICO", "TGA", "JPEG2000", "EPS", "PDF"])
def test_other_formats_are_not_read(tmp_path, kind):
    (tmp_path / "a.png").write_bytes(encoded(kind))
    with pytest.raises(ValueError, match=r"a\.png cannot be decoded"):
        read_image(tmp_path / "a.png")


def test_a_file_that_a_decoder_chokes_on_is_named(tmp_path):
    paths = {name: tmp_path / name for name in ("cut.png", "page.png", "icc.png", "tag.tif")}
    paths["cut.png"].write_bytes(encoded("PNG")[:1000])
    paths["page.png"].write_text("<html>404</html>")
    paths["icc.png"].write_bytes(encoded("PNG", icc_profile=bytes(3 * 2**20)))
    offsets = struct.pack("<HHI", 273, 4, 1)  # where the pixels are: a whole number ...
    text = struct.pack("<HHI", 273, 2, 1)  # ... and a text
    content = encoded("TIFF")
    assert content.count(offsets) == 1
    paths["tag.tif"].write_bytes(content.replace(offsets, text))
    for path in (*paths.values(), tmp_path / "absent.png", tmp_path):
        with pytest.raises(ValueError, match=f"{path} cannot be decoded"):
            read_image(path)


def test_an_absurdly_large_image_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    (tmp_path / "a.png").write_bytes(encoded("PNG"))
    with pytest.raises(ValueError, match=r"a\.png cannot be decoded .*exceeds limit"):
        read_image(tmp_path / "a.png")
