"""The scripts of the real data sets: pins, fetch, check, commands, and the real files."""

import csv
import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from data_prep import circo, cirr, download, fashioniq, hp_fashioniq, real_data
from qure_lib.datasets.circo import find_circo_images
from qure_lib.datasets.cirr import load_cirr
from qure_lib.datasets.loading import real_annotations

ALL = [fashioniq.DATA, cirr.DATA, circo.DATA, hp_fashioniq.DATA]
each = pytest.mark.parametrize("data", ALL, ids=lambda data: data.key)


def real(data: real_data.RealData) -> Path:
    root = real_annotations(data.key)
    if root is None:
        pytest.skip(f"QURE_DATA holds no {data.key}")
    return root


def rows(report: Path) -> list[dict[str, str]]:
    with open(report, newline="") as stream:
        return list(csv.DictReader(stream))


# ---------------------------------------------------------------- pins


@each
def test_every_file_is_pinned_to_a_commit(data):
    pins = real_data.read_pins(data.key)
    assert pins and len({pin.path for pin in pins}) == len(pins)
    for path, source, about in pins:
        assert source.url.endswith(f"/{path}") and not Path(path).is_absolute()
        assert f"commit {source.url.removesuffix(path).strip('/').split('/')[-1]}" in about
        if source.sha256 is None:
            assert path == "captions/cap.rc2.train.json" and data.validate
        else:
            assert len(source.sha256) == 64 and source.size > 0


@pytest.mark.parametrize(
    ("name", "row", "read"),
    [
        ("annotations.csv", "x,a.json,1,0,http://h,about", real_data.read_pins),
        ("known_counts.csv", "x,rows,3,source", real_data.read_known),
    ],
)
def test_a_file_or_a_count_listed_twice_is_refused(tmp_path, monkeypatch, name, row, read):
    header = (real_data.HERE / name).read_text().splitlines()[0]
    monkeypatch.setattr(real_data, "HERE", tmp_path)
    (tmp_path / name).write_text("\n".join([header, row, row.replace("x,", "y,"), ""]))
    assert len(read("x")) == 1
    (tmp_path / name).write_text("\n".join([header, row, row.replace("y,", "x,"), ""]))
    with pytest.raises(ValueError, match=rf"{name}, row 1 of x: .*row 0 of x"):
        read("x")


@each
def test_every_known_count_is_counted_or_needs_what_is_not_here(data):
    root = real(data)
    counts = {}
    for counter in data.counters:
        try:
            counts |= counter(root)
        except ValueError as error:
            assert "cap.rc2.train.json is missing" in str(error)
    missing = data.known.keys() - counts.keys()
    assert missing <= {"train_queries", "corpus_images"}
    assert {name: counts[name] for name in data.known.keys() - missing} == {
        name: count for name, count in data.known.items() if name not in missing
    }


# ---------------------------------------------------------------- a small data set

CAPTIONS = [
    {"pairid": n, "reference": f"i{n}", "target_hard": f"i{n + 1}", "caption": "x"}
    | {"target_soft": {f"i{n + 1}": 1.0}, "img_set": {"members": [f"i{m}" for m in range(6)]}}
    for n in range(3)
]


def make_cirr(root: Path) -> Path:
    """Six images in each split, three queries."""
    for split in cirr.SPLITS:
        names = {f"i{n}": f"./{split}/i{n}.png" for n in range(6)}
        for folder, name, content in (
            ("captions", f"cap.rc2.{split}.json", CAPTIONS),
            ("image_splits", f"split.rc2.{split}.json", names),
        ):
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / name).write_text(json.dumps(content))
        for name in names.values():
            (root / name).parent.mkdir(exist_ok=True)
            Image.new("RGB", (8, 8), "red").save(root / name)
    return root


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The small data set, served: its RealData, source, address, and the list of requests."""
    source, requested = make_cirr(tmp_path / "source"), []
    pins = []
    for path in sorted(source.glob("*/*.json")):
        name = str(path.relative_to(source))
        pin = {"set": "cirr", "path": name, "home": "http://127.0.0.1:9", "about": "here"}
        content = {"bytes": path.stat().st_size, "sha256": download.file_sha256(path)}
        pins.append(pin | ({"bytes": "", "sha256": ""} if "cap.rc2.train" in name else content))
    (tmp_path / "pins").mkdir()
    with open(tmp_path / "pins/annotations.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, pins[0])
        writer.writeheader()
        writer.writerows(pins)
    monkeypatch.setattr(real_data, "HERE", tmp_path / "pins")
    monkeypatch.setattr(download, "PAUSE", 0)
    monkeypatch.setitem(cirr.KNOWN, "train_queries", 3)
    known = {f"{split}_queries": 3 for split in cirr.SPLITS}
    known |= {f"{split}_images": 6 for split in cirr.SPLITS}
    known |= {"val_targets_not_in_target_soft": 0}

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            requested.append(self.path)
            super().do_GET()

        def log_message(self, *words):
            pass

    handler = functools.partial(Handler, directory=source)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    yield dataclasses.replace(cirr.DATA, known=known), source, address, requested
    server.shutdown()
    server.server_close()


def test_fetch_gets_all_annotations_and_only_what_is_not_right_already(small, tmp_path):
    data, source, home, requested = small
    root = tmp_path / "got"
    assert real_data.fetch(data, root, home) == ["captions/cap.rc2.train.json"]
    got = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    assert got == {str(p.relative_to(source)): p.read_bytes() for p in source.glob("*/*.json")}
    assert len(requested) == 6
    requested.clear()
    real_data.fetch(data, root, home)
    assert requested == []
    (root / "captions/cap.rc2.val.json").write_text("[]")
    (root / "captions/cap.rc2.train.json").write_text("[]")
    real_data.fetch(data, root, home)
    assert requested == ["/captions/cap.rc2.val.json", "/captions/cap.rc2.train.json"]
    assert len(load_cirr(root, "train", images=False)) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(CAPTIONS[:2]), "holds 2 queries, CIRR 3"),
        ("[]", "holds an empty list"),
        ("[{}]", "entry 0: needs"),
        ("[", "not valid JSON"),
    ],
)
def test_without_a_checksum_a_file_is_loaded_and_counted(small, tmp_path, content, message):
    data, source, home, _ = small
    (source / "captions/cap.rc2.train.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        real_data.fetch(data, tmp_path / "got", home)
    assert not (tmp_path / "got/captions/cap.rc2.train.json").exists()
    assert sorted(p.name for p in (tmp_path / "got").iterdir()) == ["captions", "image_splits"]


def test_another_edition_is_refused(small, tmp_path):
    data, source, home, _ = small
    path = source / "captions/cap.rc2.val.json"
    path.write_text(path.read_text().replace('"x"', '"y"'))
    with pytest.raises(ValueError, match=r"cap\.rc2\.val\.json: SHA-256"):
        real_data.fetch(data, tmp_path / "got", home)
    assert not list((tmp_path / "got").rglob("cap.rc2.val.json*"))


def test_a_whole_data_set_has_no_problems(small):
    data, source, *_ = small
    assert real_data.check(data, source, images=True) == []
    assert (source / "check.csv").read_text() == "image,part,file,problem\n"
    assert real_data.summarise(data, source, []).endswith("no problems")


def test_every_fault_is_a_row_and_the_causes_are_named(small):
    data, source, *_ = small
    (source / "val/i0.png").unlink()
    (source / "val/i1.png").write_text("<html>not found</html>")
    (source / "val/i2.png").write_bytes((source / "val/i3.png").read_bytes()[:50])
    (source / "test1/i4.png").write_bytes(b"")
    Image.new("RGB", (8, 8)).save(source / "test1/i5.png", "JPEG")
    (source / "captions/cap.rc2.test1.json").write_text(json.dumps(CAPTIONS[:2]))
    problems = real_data.check(data, source, images=True)
    found = {(r["image"], r["part"]): r["problem"] for r in rows(source / "check.csv")}
    truncated = found.pop(("i2", "val"))
    assert truncated.startswith("truncated or damaged (")
    assert found.pop(("", "annotations")) == "test1_queries is 2, known as 3"
    assert found == {
        ("i0", "val"): "missing",
        ("i1", "val"): "a web page, not an image",
        ("i4", "test1"): "empty (0 bytes)",
        ("i5", "test1"): "is a JPEG by its content",
    }
    assert len(problems) == 7  # with the file that has another checksum
    text = real_data.summarise(data, source, problems)
    assert "6 problems, 1 note" in text and "1 val: missing (first: i0)" in text
    for cause in ("no longer answer", "images/{id}.png", "allow_missing=True", "NLVR2"):
        assert cause in text


def test_another_format_alone_is_a_note(small, capsys):
    data, source, *_ = small
    Image.new("RGB", (8, 8)).save(source / "val/i5.png", "JPEG")
    real_data.main(data, "about", ["check", str(source), "--images"])
    assert "no problems, 1 note" in capsys.readouterr().out


def test_a_folder_that_is_not_there_is_not_made(small, tmp_path):
    with pytest.raises(ValueError, match="nowhere is not a folder; `fetch` makes it"):
        real_data.check(small[0], tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_missing_annotation_file_is_one_problem(small):
    data, source, *_ = small
    (source / "captions/cap.rc2.val.json").unlink()
    (problem,) = real_data.check(data, source)
    assert problem.file.endswith("cap.rc2.val.json") and problem.problem == "missing"


# ---------------------------------------------------------------- the commands


def test_the_commands_say_what_was_done_and_what_is_left_to_do(small, tmp_path, capsys):
    data, source, home, _ = small
    root = tmp_path / "got"
    real_data.main(data, "about", ["fetch", str(root), "--home", home])
    out = capsys.readouterr().out
    assert (
        "checked by count (no checksum is pinned): captions/cap.rc2.train.json" in out
        and "NLVR2" in out
    )
    archive = shutil.make_archive(str(tmp_path / "dev"), "zip", source, "val")
    real_data.main(data, "about", ["unpack", archive, str(root)])
    assert (root / "val/i0.png").is_file()
    with pytest.raises(SystemExit) as stopped:
        report = tmp_path / "elsewhere.csv"
        real_data.main(data, "about", ["check", str(root), "--images", "--report", str(report)])
    assert stopped.value.code == 1 and len(rows(report)) == 12
    with pytest.raises(SystemExit, match="not a web address"):
        real_data.main(data, "about", ["fetch", str(tmp_path / "new"), "--home", "here"])


@pytest.mark.parametrize(
    ("settings", "folder"),
    [
        ({"PYTHONIOENCODING": "cp1252"}, "zdjęcia"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, r"zdj\udcc4\udc99cia"),
    ],
)
def test_a_folder_that_the_console_cannot_print_is_checked(root, tmp_path, settings, folder):
    (tmp_path / "zdjęcia").mkdir()
    command = [sys.executable, "-m", "data_prep.cirr", "check", tmp_path / "zdjęcia"]
    done = subprocess.run(command, cwd=root, env=os.environ | settings, capture_output=True)
    assert done.returncode == 1 and b"Traceback" not in done.stderr
    assert b"CIRR at" in done.stdout and b"Every row" in done.stdout
    with open(tmp_path / "zdjęcia/check.csv", encoding="utf-8", newline="") as stream:
        assert f"/{folder}/captions/cap.rc2.val.json" in stream.read()


@each
def test_help_says_where_images_come_from(data, capsys):
    with pytest.raises(SystemExit) as stopped:
        real_data.main(data, "about", ["--help"])
    out = capsys.readouterr().out
    assert stopped.value.code == 0 and f"python -m data_prep.{data.script}" in out
    assert data.about_images.splitlines()[0] in out


def test_cocos_archives_go_where_they_are_read(tmp_path):
    info = {"images": [{"id": 1, "file_name": "000000000001.jpg"}]}
    (tmp_path / "zip/annotations").mkdir(parents=True)
    (tmp_path / "zip/annotations/image_info_unlabeled2017.json").write_text(json.dumps(info))
    (tmp_path / "zip/unlabeled2017").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "zip/unlabeled2017/000000000001.jpg")
    for folder in ("annotations", "unlabeled2017"):
        archive = shutil.make_archive(str(tmp_path / folder), "zip", tmp_path / "zip", folder)
        real_data.main(circo.DATA, "about", ["unpack", archive, str(tmp_path / "circo")])
    found = find_circo_images(tmp_path / "circo")
    assert list(found.paths) == ["1"] and found.paths["1"].is_file()
    assert circo.count_corpus(tmp_path / "circo") == {"corpus_images": 1}


# ---------------------------------------------------------------- the real files


@each
def test_the_real_annotations_are_the_pinned_ones_and_as_known(data, tmp_path):
    problems = real_data.check(data, real(data), report=tmp_path / "check.csv")
    train = [p for p in problems if p.file.endswith("cap.rc2.train.json")]
    assert problems == train and all(p.problem == "missing" for p in train)


def test_a_change_in_the_real_annotations_is_noticed(tmp_path):
    source = real(hp_fashioniq.DATA)
    judged = json.loads((source / "hpfiq.json").read_text())
    del judged["user_1"]
    (tmp_path / "hpfiq").mkdir()
    (tmp_path / "hpfiq/hpfiq.json").write_text(json.dumps(judged))
    problems = real_data.check(hp_fashioniq.DATA, tmp_path / "hpfiq")
    texts = [p.problem for p in problems]
    assert "participants is 60, known as 61" in texts and "rows is 3000, known as 3050" in texts
    assert texts[0].startswith("differs from the file of jackwaky/QuRe, commit 5a5f253")


@pytest.mark.parametrize(
    ("data", "counts"),
    [
        (fashioniq.DATA, {"train": 46_609, "val": 15_536}),
        (cirr.DATA, {"train": 16_939, "val": 2_297, "test1": 2_315}),
        (hp_fashioniq.DATA, {"judged": 5_473}),
    ],
    ids=lambda value: getattr(value, "key", ""),
)
def test_every_image_of_the_real_lists_is_looked_for(data, counts):
    root = real(data)
    for split, count in counts.items():
        assert sum(len(paths) for paths in data.images(root, split).values()) == count
