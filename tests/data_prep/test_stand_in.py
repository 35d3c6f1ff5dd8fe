"""data_prep.stand_in: the real annotations, cut down, with drawn images that every loader reads."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from data_prep import circo, cirr, fashioniq, hp_fashioniq
from data_prep.image_check import look_at
from data_prep.real_data import check
from data_prep.stand_in import PLANS, SHAPES, compose_cirr, draw, stand_in
from qure_lib.datasets.circo import load_circo
from qure_lib.datasets.cirr import load_cirr
from qure_lib.datasets.fashioniq import load_fashioniq
from qure_lib.datasets.hp_fashioniq import find_hp_fashioniq_images, load_hp_fashioniq
from qure_lib.datasets.loading import SPLITS, real_annotations

N = 3


def real(name: str) -> Path:
    root = real_annotations(name)
    if root is None:
        pytest.skip(f"QURE_DATA holds no {name}")
    return root


def contents(root: Path) -> dict[str, str]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(files)
    }


def test_fashioniqs_is_read_by_its_loader(tmp_path):
    source = real("fashioniq")
    root = stand_in("fashioniq", source, tmp_path / "made", N)
    for split in SPLITS:
        whole = load_fashioniq(source, split, images=False)
        for category, queries in load_fashioniq(root, split).items():
            assert queries.triplets == whole[category].triplets[:N]
            ids = [i for i in whole[category].corpus.image_ids if i in queries.corpus.image_ids]
            assert queries.corpus.image_ids == tuple(ids) and N < len(ids) <= 3 * N


def test_cirrs_is_read_by_its_loader_and_its_train_captions_are_composed(tmp_path):
    source = real("cirr")
    root = stand_in("cirr", source, tmp_path / "made", N)
    for split in ("val", "test1"):
        queries = load_cirr(root, split)
        assert queries.triplets == load_cirr(source, split, images=False).triplets[:N]
        assert len(queries.corpus) <= 7 * N
    train = load_cirr(root, "train")
    assert len(train) == N and all(t.caption.startswith("composed") for t in train.triplets)


def test_circos_is_read_by_its_loader(tmp_path):
    source = real("circo")
    root = stand_in("circo", source, tmp_path / "made", N)
    for split in ("val", "test"):
        queries = load_circo(root, split)
        assert queries.triplets == load_circo(source, split, images=False).triplets[:N]
        assert all(path.suffix == ".jpg" for path in queries.corpus.paths)


@pytest.mark.parametrize("queries", [N, 60])
def test_hp_fashioniqs_is_read_by_its_loader(tmp_path, queries):
    source = real("hpfiq")
    root = stand_in("hpfiq", source, tmp_path / "made", queries)
    judged = load_hp_fashioniq(root / "hpfiq.json")
    whole = load_hp_fashioniq(source / "hpfiq.json")
    assert judged.equals(whole[:queries])
    images = find_hp_fashioniq_images(judged, root)
    assert all(look_at(str(path)) == "" for path in images.values())


@pytest.mark.parametrize("module", [fashioniq, cirr, circo, hp_fashioniq])
def test_every_image_of_a_stand_in_is_whole(tmp_path, module):
    root = stand_in(module.DATA.key, real(module.DATA.key), tmp_path / "made", 1)
    problems = check(module.DATA, root, images=True)
    assert problems and {p.part for p in problems} == {"annotations"}  # it is not the real one


def test_the_same_is_not_made_twice_and_is_always_the_same(smoke_world, tmp_path):
    root = stand_in("fashioniq", smoke_world, tmp_path / "a", 2)
    before = (root / "STAND_IN.json").stat().st_mtime_ns
    stand_in("fashioniq", smoke_world, root, 2)
    assert (root / "STAND_IN.json").stat().st_mtime_ns == before
    assert contents(stand_in("fashioniq", smoke_world, tmp_path / "b", 2)) == contents(root)
    more = stand_in("fashioniq", smoke_world, root, 4)
    assert len(load_fashioniq(more, "val")["dress"]) == 4
    images = [d for name, d in contents(more).items() if name.startswith("images/")]
    assert len(set(images)) == len(images)


def test_all_queries_keep_the_whole_corpus(smoke_world, tmp_path):
    root = stand_in("fashioniq", smoke_world, tmp_path / "all", None)
    for split in SPLITS:
        whole = load_fashioniq(smoke_world, split)
        for category, queries in load_fashioniq(root, split).items():
            assert queries.triplets == whole[category].triplets
            assert queries.corpus.image_ids == whole[category].corpus.image_ids


@pytest.mark.parametrize("name", PLANS)
def test_an_image_is_drawn_from_its_id_alone(name):
    images = [draw(str(number), SHAPES[name]) for number in range(200)]
    assert {image.size for image in images} == set(SHAPES[name])
    assert {image.mode for image in images} == {"RGB", "L"}
    assert len({image.tobytes() for image in images}) == 200
    assert images[7].tobytes() == draw("7", SHAPES[name]).tobytes()


def test_composed_queries_lead_through_each_group_of_six():
    ids = [f"train-{n}" for n in range(14)]  # two groups, two images left over
    entries = compose_cirr(ids, None)
    assert [(e["reference"], e["target_hard"]) for e in entries] == [
        (ids[n], ids[n + 1]) for n in range(12) if n != 5 and n < 11
    ]
    assert all(entry["composed"] for entry in entries)
    assert compose_cirr(ids, 4) == entries[:4]


def test_no_annotation_makes_a_file_elsewhere(tmp_path):
    names = {f"i{n}": f"../out/i{n}.png" for n in range(6)}
    entry = {"pairid": 1, "reference": "i0", "target_hard": "i1", "caption": "x"}
    entry |= {"img_set": {"members": [*names]}}
    for split in ("train", "val", "test1"):
        (tmp_path / "source/image_splits").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"source/image_splits/split.rc2.{split}.json").write_text(json.dumps(names))
        (tmp_path / "source/captions").mkdir(exist_ok=True)
        (tmp_path / f"source/captions/cap.rc2.{split}.json").write_text(json.dumps([entry]))
    with pytest.raises(ValueError, match=r"outside their folder, '\.\./out/i0\.png'"):
        stand_in("cirr", tmp_path / "source", tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_nothing_else_is_overwritten(smoke_world, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds something else \(no STAND_IN\.json\)"):
        stand_in("fashioniq", smoke_world, tmp_path)
    with pytest.raises(ValueError, match="name must be one of fashioniq, cirr"):
        stand_in("coco", smoke_world, tmp_path / "x")
    with pytest.raises(ValueError, match="queries must be 1 or more"):
        stand_in("fashioniq", smoke_world, tmp_path / "x", -1)


def test_the_command_makes_one(smoke_world, tmp_path, root):
    command = [sys.executable, "-m", "data_prep.stand_in", "fashioniq", str(tmp_path / "made")]
    command += ["--annotations", str(smoke_world), "--queries", "1"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0 and "its images are drawn" in done.stdout
    with Image.open(next((tmp_path / "made/images").iterdir())) as image:
        assert image.format == "PNG" and image.size in SHAPES["fashioniq"]
