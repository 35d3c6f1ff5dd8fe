"""SynthFashion: what is on disk, that it repeats, and that its captions tell the truth."""

import hashlib
import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import catalogue, synthfashion, wordings
from data_prep.catalogue import CATEGORIES, WORLDS
from data_prep.garments import draw_garment
from data_prep.synthfashion import contact_sheet, make_annotations, prepare
from data_prep.wordings import describe

SPLITS = ("train", "val")


def read(root: Path, name: str):
    return json.loads((root / name).read_text())


def worlds(root: Path):
    """(ids, triplets, wanted, garments) of each category and split."""
    garments = read(root, "synthfashion.json")["images"]
    for category in CATEGORIES:
        for split in SPLITS:
            ids = read(root, f"image_splits/split.{category}.{split}.json")
            triplets = read(root, f"captions/cap.{category}.{split}.json")
            rows = read(root, f"relevance/rel.{category}.{split}.json")
            yield ids, triplets, [row["wanted"] for row in rows], garments


def matches(wanted: dict, garment: dict) -> int:
    return sum(garment[attribute] == value for attribute, value in wanted.items())


@pytest.fixture(scope="module")
def tiny(monkeypatch_module):
    """Sizes small enough to draw several times."""
    monkeypatch_module.setitem(synthfashion.SIZES, "smoke", {"train": 6, "val": 40})
    monkeypatch_module.setitem(synthfashion.ANNOTATORS, "smoke", 2)


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_layout_is_fashioniqs(smoke_world):
    drawn = {path.stem for path in (smoke_world / "images").iterdir()}
    listed = [ids for ids, *_ in worlds(smoke_world)]
    assert [len(ids) for ids in listed] == [160, 80] * 3
    assert drawn == set().union(*listed) and len(drawn) == 3 * 240
    for ids, triplets, wanted, _ in worlds(smoke_world):
        assert len(triplets) == len(wanted) == round(0.8 * len(ids))
        assert len({t["target"] for t in triplets}) == len(triplets)
        assert {t["target"] for t in triplets} | {t["candidate"] for t in triplets} <= set(ids)
        for triplet in triplets:
            assert list(triplet) == ["target", "candidate", "captions"]
            assert len(triplet["captions"]) == 2 and all(triplet["captions"])
    with Image.open(smoke_world / "images" / f"{ids[0]}.png") as image:
        assert (image.size, image.mode) == ((128, 128), "RGB")


def test_pixels_and_annotations_are_pinned(smoke_world):
    manifest = read(smoke_world, "MANIFEST.json")
    for name, digest in manifest["annotations_sha256"].items():
        assert hashlib.sha256((smoke_world / name).read_bytes()).hexdigest() == digest
    hashes = [
        hashlib.sha256(np.asarray(Image.open(smoke_world / "images" / f"{i}.png")).tobytes())
        for i in read(smoke_world, "synthfashion.json")["images"]
    ]
    pixels = hashlib.sha256("".join(h.hexdigest() for h in hashes).encode()).hexdigest()
    assert pixels == manifest["pixels_sha256"]
    assert pixels[:16] == "7de76e8f719521ec"
    sums = manifest["annotations_sha256"]
    for views, pinned in ((False, "a400b099fcabf10a"), (True, "bc664f4286814a15")):
        of_these = {n: s for n, s in sums.items() if n.startswith(("cirr", "circo")) == views}
        text = json.dumps(of_these, sort_keys=True).encode()
        assert hashlib.sha256(text).hexdigest()[:16] == pinned


@pytest.mark.parametrize("world", WORLDS)
def test_every_image_has_an_id_of_its_own(world):
    files = make_annotations("smoke", 0, WORLDS[world])
    listed = [i for name, ids in files.items() if name.startswith("image_splits/") for i in ids]
    assert len(listed) == len(set(listed)) == len(files["synthfashion.json"]["images"])


def test_two_images_of_one_id_are_refused(monkeypatch):
    monkeypatch.setattr(synthfashion, "CATEGORIES", ("dress", "shirt", "dress"))
    with pytest.raises(ValueError, match="dress train: image dress-train-0000 is there twice"):
        make_annotations("smoke", 0)


def test_target_differs_in_one_to_three_attributes_and_answers_the_caption(smoke_world):
    for ids, triplets, wanted, garments in worlds(smoke_world):
        complete = 0
        for triplet, wish in zip(triplets, wanted, strict=True):
            reference, target = garments[triplet["candidate"]], garments[triplet["target"]]
            changed = {a for a in target if target[a] != reference[a]}
            mentioned = {a for a in target if wish[a] != reference[a]}
            assert 1 <= len(changed) <= 3
            assert (
                mentioned and mentioned <= changed and all(wish[a] == target[a] for a in mentioned)
            )
            # only an unmentioned difference can cost the target relevance
            assert matches(wish, target) == 8 - len(changed - mentioned)
            assert matches(wish, target) >= 6 > np.mean([matches(wish, garments[i]) for i in ids])
            complete += mentioned == changed
        assert 0.5 < complete / len(triplets) < 0.85  # 0.3 x 0.8 + 0.4 x 0.64 + 0.3 x 0.51 = 0.65


def test_captions_mention_what_is_wanted_and_nothing_else(smoke_world):
    """Read each caption back with the phrase table alone."""
    for ids, triplets, wanted, garments in worlds(smoke_world):
        category = ids[0].split("-")[0]
        for triplet, wish in zip(triplets, wanted, strict=True):
            reference = garments[triplet["candidate"]]
            understood = dict(reference)
            for phrase in " and ".join(triplet["captions"]).split(" and "):
                readings = [
                    (a, new)
                    for a, values in catalogue.popularity(category).items()
                    for new in values
                    if new != reference[a]
                    and phrase in wordings.phrase_options(category, a, reference[a], new)
                ]
                assert len(readings) == 1, f"{phrase!r} after {reference} means {readings}"
                understood |= dict(readings)
            assert understood == wish


def test_every_attribute_shows_at_64_pixels():
    """Each change of one attribute moves the half-size picture by more than the eye's threshold."""
    for category in CATEGORIES:
        weights = catalogue.popularity(category)
        plain = {a: next(iter(values)) for a, values in weights.items()}
        for attribute, values in weights.items():
            pictures = []
            for value in values:
                picture = draw_garment(
                    category, plain | {attribute: value}, np.random.default_rng(3)
                )
                pictures.append(np.asarray(Image.fromarray(picture).reduce(2), float))
            for i, one in enumerate(pictures):
                for other in pictures[:i]:
                    moved = abs(one - other).max(axis=2) > 24
                    assert moved.mean() > 0.004, f"{category}: {attribute} is hard to see"


@pytest.mark.usefixtures("tiny")
def test_same_seed_same_bytes_whatever_the_processes(tmp_path):
    one = prepare(tmp_path / "one", "smoke", workers=1)
    two = prepare(tmp_path / "two", "smoke", workers=2)
    other = prepare(tmp_path / "other", "smoke", seed=1, workers=1)
    files = sorted(p.relative_to(one) for p in one.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(two) for p in two.rglob("*") if p.is_file())
    assert all((one / f).read_bytes() == (two / f).read_bytes() for f in files)
    manifests = [read(root, "MANIFEST.json") for root in (one, other)]
    assert manifests[0]["pixels_sha256"] != manifests[1]["pixels_sha256"]
    assert manifests[0]["annotations_sha256"] != manifests[1]["annotations_sha256"]


@pytest.mark.usefixtures("tiny")
def test_made_once_and_replaced_by_another_seed(tmp_path):
    root = prepare(tmp_path / "world", "smoke", workers=1)
    stamp = (root / "MANIFEST.json").stat().st_mtime_ns
    assert prepare(root, "smoke") == root
    assert (root / "MANIFEST.json").stat().st_mtime_ns == stamp
    prepare(root, "smoke", seed=5, workers=1)
    assert read(root, "MANIFEST.json")["seed"] == 5
    assert [p.name for p in tmp_path.iterdir()] == ["world"]


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("damage", ["deleted", "overwritten", "emptied"])
def test_a_damaged_world_is_made_again(tmp_path, damage):
    root = prepare(tmp_path / "world", "smoke", workers=1)
    image, captions = next(root.glob("images/*.png")), root / "captions" / "cap.dress.train.json"
    whole = {path: path.read_bytes() for path in (image, captions)}
    if damage == "deleted":
        image.unlink()
    elif damage == "overwritten":
        image.write_bytes(b"bad")
    else:
        captions.write_text("[]")
    prepare(root, "smoke", workers=1)
    assert {path: path.read_bytes() for path in whole} == whole


@pytest.mark.parametrize("content", [{}, {"MANIFEST.json": "{"}, {"MANIFEST.json": '{"name": 1}'}])
def test_foreign_folder_is_refused_and_untouched(tmp_path, content):
    for name, text in ({"thesis.tex": "mine"} | content).items():
        (tmp_path / name).write_text(text)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match="holds other files"):
        prepare(tmp_path, "smoke")
    assert sorted(tmp_path.iterdir()) == before


def test_file_as_root_and_unknown_size_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="holds other files"):
        prepare(tmp_path / "file", "smoke")
    with pytest.raises(ValueError, match="choose one of smoke, mini"):
        prepare(tmp_path / "new", "huge")


@pytest.mark.parametrize("number", [{"seed": -1}, {"workers": 0}])
def test_a_number_too_low_is_refused_by_name(tmp_path, number, monkeypatch, capsys):
    ((name, value),) = number.items()
    with pytest.raises(ValueError, match=f"{name} must be at least {value + 1}, not {value}"):
        prepare(tmp_path / "new", "smoke", **number)
    monkeypatch.setattr(sys, "argv", ["synthfashion", str(tmp_path / "new"), "--seed=-1"])
    with pytest.raises(SystemExit, match="1"):
        synthfashion.main()
    assert capsys.readouterr().err == "seed must be at least 0, not -1\n"
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("tiny")
def test_interrupted_making_leaves_nothing(tmp_path, monkeypatch):
    calls = []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return draw_garment(*arguments)

    monkeypatch.setattr(synthfashion, "draw_garment", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "world", "smoke", workers=1)
    assert list(tmp_path.iterdir()) == []


def test_simulated_preferences_follow_graded_relevance_and_resemble_the_real_file():
    files = make_annotations("mini", 0)
    garments = files["synthfashion.json"]["images"]
    study = files["hp_like/hpfiq_simulated.json"]
    wanted = {
        (t["candidate"], t["target"]): w["wanted"]
        for c in ("shirt", "toptee")
        for t, w in zip(
            files[f"captions/cap.{c}.val.json"], files[f"relevance/rel.{c}.val.json"], strict=True
        )
    }
    rows = []
    for question_sets in study.values():
        for s in question_sets.values():
            for i, preferred in enumerate(s["preferred set"]):
                reference, target = (
                    Path(s[key][i]).stem for key in ("ref_img_paths", "targ_img_paths")
                )
                sets = [s["retrieved_set1"][i], s["retrieved_set2"][i]]
                ids = [[Path(p).stem for p in one["img_path"]] for one in sets]
                assert all(len(set(five)) == 5 and reference not in five for five in ids)
                wish = wanted[reference, target]
                relevance = [np.mean([matches(wish, garments[j]) for j in five]) for five in ids]
                rows.append((*relevance, *(int(one["user_score"]) for one in sets), int(preferred)))
    first, second, score_1, score_2, preferred = np.array(rows).T
    assert len(study) == 61 and len(rows) == 3050
    assert set(score_1) | set(score_2) == {1, 2, 3, 4, 5}
    assert 0.20 < np.mean(score_1 == score_2) < 0.35  # 774 of 3,050 in the real file
    assert np.mean((score_1 > score_2) & (preferred == 2)) < 0.02
    agree = (np.sign(second - first) == np.sign(preferred - 1.5))[first != second]
    assert 0.65 < agree.mean() < 0.95


def test_description_names_the_attributes():
    garment = {
        "colour": "red", "pattern": "striped", "sleeve": "short", "neck": "v",
        "length": "long", "fit": "loose", "detail": "belt", "trim": "contrast",
    }  # fmt: skip
    for seed in range(20):
        text = describe(garment, "dress", random.Random(seed))
        for word in ("red", "striped", "short sleeves", "a v neck", "long", "dress", "a belt"):
            assert word in text
    assert describe(garment, "dress", random.Random(1)) == describe(
        garment, "dress", random.Random(1)
    )
    assert " top " in describe(garment, "toptee", random.Random(0))


def test_contact_sheet_has_a_strip_a_row(smoke_world, tmp_path):
    with Image.open(contact_sheet(smoke_world, tmp_path / "sheet.png", rows=3)) as sheet:
        assert sheet.height == 3 * (128 + 6)
