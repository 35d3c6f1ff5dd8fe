"""Files and folders replaced whole or not at all, and JSON that is read with care."""

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from shared import ROOT

from qure_lib.files import check_name, file_sha256, read_json, replacing, restore, write_json


@dataclass
class Settings:
    epochs: int
    sizes: tuple[int, ...]


def contents(folder: Path) -> dict[str, str]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in paths}


def test_a_file_is_replaced_and_its_folder_is_made(tmp_path):
    path = tmp_path / "new" / "file.txt"
    for text in ("first", "second"):
        with replacing(path) as scratch:
            scratch.write_text(text)
            assert scratch.parent.parent == path.parent  # the same file system: a rename suffices
        assert contents(tmp_path) == {"new/file.txt": text}


def test_a_folder_is_replaced_whole(tmp_path):
    for name in ("first", "second"):
        with replacing(tmp_path / "folder") as scratch:
            scratch.mkdir()
            (scratch / name).write_text(name)
        assert contents(tmp_path) == {f"folder/{name}": name}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path, error):
    (tmp_path / "file.txt").write_text("before")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inner.txt").write_text("before")
    before = contents(tmp_path)
    for name in ("file.txt", "folder", "new"):
        with pytest.raises(error), replacing(tmp_path / name) as scratch:
            scratch.write_text("half")
            raise error
    assert contents(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} == {"file.txt", "folder"}


@pytest.mark.parametrize("name", ["file.txt", "folder", "new"])
def test_a_block_that_writes_nothing_fails_and_leaves_what_was_there(tmp_path, name):
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file.txt", tmp_path / "folder" / "inner.txt"):
        path.write_text("before")
    before = contents(tmp_path)
    with pytest.raises(FileNotFoundError), replacing(tmp_path / name):
        pass
    assert contents(tmp_path) == before


KILLED = """
import os, sys
from pathlib import Path
from qure_lib.files import replacing

real, renames = os.replace, []

def replace(source, target):
    renames.append(target)
    if len(renames) > int(sys.argv[2]):
        os._exit(9)  # nothing is cleaned up, as after a kill
    real(source, target)

os.replace = replace
with replacing(sys.argv[1]) as scratch:
    scratch.mkdir()
    (scratch / "new.txt").write_text("new")
"""


def replace_and_die(path, after):
    """Replace a folder in a process that is killed after so many renames."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(after)])
    assert done.returncode == 9


class TestKilled:
    """A process that puts a folder in place is killed before its first or its second rename."""

    @pytest.fixture(params=["best", "a[b]*"])
    def path(self, request, tmp_path):
        path = tmp_path / request.param
        path.mkdir()
        (path / "old.txt").write_text("old")
        return path

    def test_before_the_first_the_old_folder_is_there(self, path):
        replace_and_die(path, 0)
        restore(path)
        assert contents(path) == {"old.txt": "old"}

    def test_between_the_two_the_next_opening_has_the_new_folder(self, path):
        replace_and_die(path, 1)
        assert not path.exists()
        restore(path)
        assert [p.name for p in path.parent.iterdir()] == [path.name]
        assert contents(path) == {"new.txt": "new"}
        restore(path)
        assert contents(path) == {"new.txt": "new"}

    def test_a_writer_restores_first_and_a_failure_keeps_what_it_found(self, path):
        replace_and_die(path, 1)
        with pytest.raises(ZeroDivisionError), replacing(path):
            1 / 0  # noqa: B018
        assert contents(path) == {"new.txt": "new"}
        replace_and_die(path, 1)
        with replacing(path) as scratch:
            scratch.mkdir()
            (scratch / "newest.txt").write_text("")
        assert contents(path.parent) == {f"{path.name}/newest.txt": ""}

    def test_another_folder_is_left_alone(self, path):
        replace_and_die(path, 1)
        for other in (path.parent / f"{path.name}2", path.parent / "b"):
            restore(other)
            assert not other.exists()

    def test_what_somebody_deleted_does_not_come_back(self, path):
        with replacing(path) as scratch:
            scratch.mkdir()
        path.rmdir()
        restore(path)
        assert not path.exists()


def test_an_interruption_between_the_two_renames_loses_nothing(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    real, calls = os.replace, []

    def interrupted(source, target):
        real(source, target)
        calls.append(target)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "folder") as scratch:
        scratch.mkdir()
        (scratch / "new.txt").write_text("new")
    assert contents(tmp_path) == {"folder/new.txt": "new"}


def test_all_is_on_the_disk_before_it_is_renamed(tmp_path, monkeypatch):
    done, real_sync, real_replace = [], os.fsync, os.replace

    def sync(descriptor):
        there = {p.lstat().st_ino: p.name for p in [tmp_path, *tmp_path.rglob("*")]}
        done.append(there[os.fstat(descriptor).st_ino])
        real_sync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", lambda *a: (done.append("rename"), real_replace(*a)))
    with replacing(tmp_path / "folder") as scratch:
        (scratch / "inner").mkdir(parents=True)
        (scratch / "inner" / "file").write_text("text")
        (scratch / "link").symlink_to("nowhere")
    first = done[: done.index("rename")]
    assert sorted(first) == ["file", "folder", "inner"]
    assert done[len(first) :] == ["rename", tmp_path.name]


def test_a_disk_that_cannot_keep_a_file_is_said_and_the_old_one_stays(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    (tmp_path / "file.txt").write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"), replacing(tmp_path / "file.txt") as scratch:
        scratch.write_text("new")
    assert contents(tmp_path) == {"file.txt": "old"}


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "../x", "a/b", "/etc", "a\\b", "a\0"])
def test_a_name_that_leads_elsewhere_is_refused(name):
    with pytest.raises(ValueError, match="run name .* leave out '/'"):
        check_name(name, "run name")


@pytest.mark.parametrize("name", ["between_drops", "lr=1e-3, seed 2", "v1.2", "größer", "a..b"])
def test_a_plain_name_is_taken(name):
    assert check_name(name, "run name") == name


def test_the_hash_is_of_the_content(tmp_path):
    (tmp_path / "file").write_bytes(bytes(range(256)) * 1000)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(bytes(range(256)) * 1000).hexdigest()


def test_json_holds_dataclasses_numpy_scalars_and_paths(tmp_path):
    content = {"settings": Settings(3, (1, 2)), "n": np.int64(5), "mean": np.float32(0.5)}
    write_json(tmp_path / "file.json", content | {"folder": Path("a/b"), "name": "Größe"})
    expected = {"settings": {"epochs": 3, "sizes": [1, 2]}, "n": 5, "mean": 0.5}
    expected |= {"folder": "a/b", "name": "Größe"}
    assert read_json(tmp_path / "file.json", dict) == expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_json_of_windows_tools_is_read(tmp_path, encoding):
    (tmp_path / "file.json").write_bytes('["größe", "żółw"]'.encode(encoding))
    assert read_json(tmp_path / "file.json") == ["größe", "żółw"]


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (None, list, "file.json is missing"),
        (b"", list, "not valid JSON .*truncated"),
        (b"[1, 2", list, "not valid JSON .*truncated"),
        (b'["\xff"]', list, "not valid JSON"),
        (b"\xef\xbb\xbf", list, "not valid JSON"),
        ('["gr\u00f6\u00dfe"]'.encode("cp1252"), list, "not valid JSON"),
        (b"[" * 100_000, list, "not valid JSON"),
        (b"[" + b"9" * 5000 + b"]", list, "not valid JSON"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', dict, "the key 'c' is there twice"),
        (b'{"a": 1}', list, "expected a list, found dict"),
        (b"[]", dict, "expected a dict, found list"),
    ],
)
def test_json_that_cannot_be_used_is_refused_by_name(tmp_path, content, kind, message):
    path = tmp_path / "file.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_json(path, kind)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [
        ("ascii", rb"gr\xf6\xdfe \u017c\U0001f600 \udcff"),
        ("cp1252", b"gr\xf6\xdfe " + rb"\u017c\U0001f600 \udcff"),
        ("utf-8", "größe ż😀 ".encode() + rb"\udcff"),  # of a file name that is not UTF-8
    ],
)
def test_a_command_prints_what_the_console_lacks_as_escapes(encoding, printed):
    code = "from qure_lib.files import run_command\n"
    code += r"run_command(lambda word: print(word) or 3, 'gr\xf6\xdfe \u017c\U0001f600 \udcff')"
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (3, printed, b"")


def test_every_command_is_run_so():
    folders = ("qure_lib", "data_prep", "notebooks")
    texts = {p: p.read_text() for name in folders for p in sorted((ROOT / name).rglob("*.py"))}
    found = {p: text.partition('if __name__ == "__main__":')[2] for p, text in texts.items()}
    commands = {p.name: block for p, block in found.items() if block}
    assert len(commands) > 10 and {"run.py", "plan.py", "diagnose.py", "cirr.py"} <= set(commands)
    assert [name for name, block in commands.items() if "run_command(main" not in block] == []


def test_half_a_character_is_refused_and_a_whole_one_is_read(tmp_path):
    path = tmp_path / "captions.json"
    path.write_text(r'["\ud83d\ude00"]')
    assert read_json(path) == ["\U0001f600"]
    for content in (rb'["\ud83d"]', b'["\xed\xa0\xbd"]'):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"captions\.json is not valid JSON"):
            read_json(path)
