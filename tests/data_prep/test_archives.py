"""data_prep.archives: hostile archives made here; whole or not at all."""

import io
import random
import struct
import tarfile
import zipfile

import pytest

from data_prep.archives import Bounds, unpack

FILES = {"images/a.png": b"first", "images/deep/b.png": b"second", "list.json": b"[]"}


def make_zip(path, files, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def make_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def make(kind, path, files):
    modes = {"tar": "w", "gz": "w:gz", "bz2": "w:bz2", "xz": "w:xz"}
    return make_zip(path, files) if kind == "zip" else make_tar(path, files, modes[kind])


def below(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def refused(archive, folder, message, bounds=None):
    with pytest.raises(ValueError, match=message) as caught:
        unpack(archive, folder, bounds)
    assert str(archive) in str(caught.value)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("kind", ["zip", "tar", "gz", "bz2", "xz"])
def test_every_kind_is_unpacked(tmp_path, kind):
    archive = make(kind, tmp_path / "no-suffix-needed", FILES)
    made = unpack(archive, tmp_path / "out")
    assert made == [tmp_path / "out/images", tmp_path / "out/list.json"]
    assert below(tmp_path / "out") == FILES


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize(
    "name",
    [
        "../out.png",
        "images/../../out.png",
        "/var/out.png",
        "..",
        "a\\..\\..\\out.png",
        "C:/out.png",
    ],
)
def test_no_path_leaves_the_folder(tmp_path, kind, name):
    archive = make(kind, tmp_path / "archive", {"fine.png": b"x", name: b"out"})
    refused(archive, tmp_path / "folder", "could leave the folder")
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_a_tar_holds_no_links_and_no_devices(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("link")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    refused(tmp_path / "a.tar", tmp_path / "folder", "'link' is a link or a device")


@pytest.mark.parametrize("kind", [0o120777, 0o020666, 0o010666, 0o140777])
def test_a_zip_holds_no_links_and_no_devices(tmp_path, kind):
    info = zipfile.ZipInfo("link")
    info.external_attr = kind << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    refused(tmp_path / "a.zip", tmp_path / "folder", "'link' is a link or a device")


@pytest.mark.parametrize("kind", ["zip", "gz", "xz"])
def test_a_bomb_is_refused_while_it_is_unpacked(tmp_path, kind):
    archive = make(kind, tmp_path / "archive", {"zeros": bytes(30 * 2**20)})
    assert archive.stat().st_size < 2**17
    refused(archive, tmp_path / "folder", r"100 times its size\); refused")


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize(
    ("bounds", "message"),
    [(Bounds(files=2), "more than 2 files"), (Bounds(file_bytes=5), "exceeds 5 bytes a file"),
     (Bounds(all_bytes=12), "12 bytes in all")],
)  # fmt: skip
def test_every_bound_holds(tmp_path, kind, bounds, message):
    refused(make(kind, tmp_path / "archive", FILES), tmp_path / "folder", message, bounds)


def test_an_announced_size_is_not_believed(tmp_path):
    content = b"0123456789" * 1000
    archive = make_zip(tmp_path / "a.zip", {"a": content}, zipfile.ZIP_STORED)
    raw = archive.read_bytes().replace(struct.pack("<I", len(content)), struct.pack("<I", 7))
    archive.write_bytes(raw)
    refused(archive, tmp_path / "folder", "cannot be unpacked")


def test_a_long_header_is_not_read(tmp_path):
    member = tarfile.TarInfo("long")
    member.type, member.size = tarfile.XHDTYPE, 2**31  # an extended header of 2 GiB
    (tmp_path / "a.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    refused(tmp_path / "a.tar", tmp_path / "folder", "a header of 21474836.. bytes")


@pytest.mark.parametrize("kind", ["zip", "tar", "gz", "xz"])
def test_a_truncated_archive_leaves_nothing(tmp_path, kind):
    noise = random.Random(0).randbytes(50_000)
    archive = make(kind, tmp_path / "archive", {"a.png": noise, "b.png": noise[::-1]})
    archive.write_bytes(archive.read_bytes()[:60_000])
    message = "zip file without its end" if kind == "zip" else "cannot be unpacked .*get it again"
    refused(archive, tmp_path / "folder", message)


def test_a_tar_cut_between_two_files_is_refused(tmp_path):
    archive = make_tar(tmp_path / "a.tar", FILES)
    archive.write_bytes(archive.read_bytes()[:1024])  # one header, one file
    refused(archive, tmp_path / "folder", "cut short between two files")


@pytest.mark.parametrize("kind", ["zip", "gz", "xz"])
def test_a_changed_byte_is_noticed(tmp_path, kind):
    archive = make(kind, tmp_path / "archive", {"a.png": random.Random(1).randbytes(50_000)})
    raw = bytearray(archive.read_bytes())
    raw[25_000] ^= 1
    archive.write_bytes(raw)
    refused(archive, tmp_path / "folder", "cannot be unpacked")


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "noise.zip").write_bytes(random.Random(2).randbytes(1000))
    refused(tmp_path / "noise.zip", tmp_path / "folder", "cannot be unpacked .*get it again")
    with pytest.raises(ValueError, match=r"gone\.zip is missing"):
        unpack(tmp_path / "gone.zip", tmp_path / "folder")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<html>not here</html>", "is a web page, not an archive"),
        (b'\xef\xbb\xbf\r\n<!DOCTYPE html PUBLIC "">', "is a web page"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer"),
        (b"7z\xbc\xaf\x27\x1c\0\4" + bytes(40), "is a 7z archive"),
        (b"Rar!\x1a\x07\x01\0" + bytes(40), "is a RAR archive"),
        (b"\x28\xb5\x2f\xfd" + bytes(40), "is a Zstandard file"),
    ],
)
@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_another_kind_of_file_is_named(tmp_path, content, message, name):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, tmp_path / "folder", message)


def in_parts(path, raw, names):
    """Cut a file into as many parts as there are names; the paths of the parts."""
    size = len(raw) // len(names) + 1
    for number, name in enumerate(names):
        (path / name).write_bytes(raw[number * size : (number + 1) * size])
    return [path / name for name in names]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("zip", ["a.zip.001", "a.zip.002", "a.zip.003"]),
        ("gz", ["a.tar.gz.aa", "a.tar.gz.ab"]),
        ("tar", ["a.tar.part1", "a.tar.part2"]),
    ],
)
def test_a_part_of_a_split_archive_is_named_and_the_parts_joined_are_unpacked(
    tmp_path, kind, names
):
    files = {f"{i}.png": random.Random(i).randbytes(9_000) for i in range(5)}
    raw = make(kind, tmp_path / "whole", files).read_bytes()
    parts = in_parts(tmp_path, raw, names)
    for part in parts:
        refused(part, tmp_path / "folder", "one part of a split archive; join all parts")
    (tmp_path / "joined").write_bytes(b"".join(part.read_bytes() for part in parts))
    unpack(tmp_path / "joined", tmp_path / "out")
    assert below(tmp_path / "out") == files


def test_the_first_and_the_last_zip_file_of_several_are_named(tmp_path):
    raw = make_zip(
        tmp_path / "whole.zip", {"a.png": random.Random(3).randbytes(9_000)}
    ).read_bytes()
    (tmp_path / "first.zip").write_bytes(b"PK\7\x08" + raw[:5_000])
    at = raw.rindex(b"PK\5\6") + 4  # the number of this file, and of that with the directory
    (tmp_path / "last.zip").write_bytes(raw[5_000:at] + b"\1\0\1\0" + raw[at + 4 :])
    for name in ("first.zip", "last.zip"):
        refused(tmp_path / name, tmp_path / "folder", "one part of a split archive")


def test_a_name_twice_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", "1")
        with pytest.warns(UserWarning):
            archive.writestr("a", "2")
    refused(tmp_path / "a.zip", tmp_path / "folder", "cannot be unpacked .*exists")


def test_what_is_there_already_stays(tmp_path):
    (tmp_path / "out/images").mkdir(parents=True)
    (tmp_path / "out/images/mine.png").write_bytes(b"mine")
    with pytest.raises(ValueError, match="already has images; move it away"):
        unpack(make_zip(tmp_path / "a.zip", FILES), tmp_path / "out")
    assert below(tmp_path / "out") == {"images/mine.png": b"mine"}
    unpack(make_zip(tmp_path / "b.zip", {"other/a.png": b"x"}), tmp_path / "out")
    assert set(below(tmp_path / "out")) == {"images/mine.png", "other/a.png"}


def test_permissions_of_the_archive_do_not_count(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("a")
        member.mode = 0o6777
        archive.addfile(member)
    (made,) = unpack(tmp_path / "a.tar", tmp_path / "out")
    assert made.stat().st_mode & 0o7111 == 0
