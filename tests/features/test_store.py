"""Frozen features: computed once for each content, found again, added to, rebuilt where damaged."""

import copy
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from torch import nn

from qure_lib.datasets import preprocessing
from qure_lib.datasets.image_files import read_image
from qure_lib.datasets.preprocessing import image_transform
from qure_lib.features import encoding
from qure_lib.features import store as store_module
from qure_lib.features.store import _Folder, extract_features
from qure_lib.method.config import ModelConfig

SMALL = ModelConfig(image_size=16)


class Patches(nn.Module):
    """An encoder that counts what it encodes: 4 tokens of 3 x 8 x 8 pixels."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.seen = 0

    def forward(self, pixels):
        self.seen += len(pixels)
        return self.scale * pixels.unfold(2, 8, 8).unfold(3, 8, 8).reshape(len(pixels), 4, -1)


@pytest.fixture
def images(tmp_path):
    """Five images, which take three shards."""
    rng = np.random.default_rng(0)
    paths = {}
    for name in "abcde":
        paths[name] = tmp_path / f"{name}.png"
        Image.fromarray(rng.integers(0, 255, (20, 16, 3), dtype=np.uint8)).save(paths[name])
    return paths


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(store_module, "SHARD_IMAGES", 2)
    monkeypatch.setattr(store_module, "SETTLED", 3600.0)  # no file is old enough to be remembered


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def shards_in(cache):
    return sorted(cache.rglob("*.safetensors"))


def run_all(target, *argument_lists):
    """Run processes side by side. Returns their exit codes."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["qure_lib.features"])  # seconds to import
    start = server.Barrier(len(argument_lists))
    running = [server.Process(target=target, args=(start, *a)) for a in argument_lists]
    for process in running:
        process.start()
    for process in running:
        process.join()
    return [process.exitcode for process in running]


def test_features_are_the_encoders_own(images, cache):
    encoder = Patches()
    store = extract_features(encoder, images, SMALL, cache, batch_size=1)
    pixels = torch.stack([image_transform(16)(read_image(images[i])) for i in "dabead"])
    assert torch.equal(store.get(list("dabead")), encoder(pixels).half().float())
    assert store.get([]).shape == (0, 4, 192)
    assert [len(shard) for shard in store.shards] in ([2, 2, 1], [2, 1, 2], [1, 2, 2])


def test_each_image_is_encoded_once_and_found_again(images, cache):
    encoder = Patches()
    extract_features(encoder, images, SMALL, cache)
    extract_features(encoder, dict(reversed(images.items())), SMALL, cache)
    assert encoder.seen == 5


def test_ids_of_the_same_content_share_a_row(images, cache):
    encoder = Patches()
    images["copy"] = images["a"].parent / "copy.png"
    images["copy"].write_bytes(images["a"].read_bytes())
    store = extract_features(encoder, images, SMALL, cache)
    assert encoder.seen == 5 and store.rows["copy"] == store.rows["a"]
    renamed = extract_features(encoder, {"other": images["c"]}, SMALL, cache)
    assert encoder.seen == 5
    assert torch.equal(renamed.get(["other"]), store.get(["c"]))


def test_more_images_are_added_in_shards_of_their_own(images, cache):
    encoder = Patches()
    few = extract_features(encoder, {i: images[i] for i in "bd"}, SMALL, cache)
    before = {path: path.read_bytes() for path in shards_in(cache)}
    store = extract_features(encoder, images, SMALL, cache)
    assert encoder.seen == 5 and len(before) == 1 and len(shards_in(cache)) == 3
    assert all(path.read_bytes() == content for path, content in before.items())
    assert torch.equal(store.get(["b", "d"]), few.get(["b", "d"])) and store.key != few.key


def test_shards_are_mapped_and_verified_once(images, cache, monkeypatch):
    encoder = Patches()
    extract_features(encoder, images, SMALL, cache)
    monkeypatch.setattr(_Folder, "_checksum", None)  # would fail
    store = extract_features(encoder, images, SMALL, cache)
    assert encoder.seen == 5 and len(store.shards) == 3
    if sys.platform == "linux":
        mapped = Path("/proc/self/maps").read_text()
        assert all(str(path) in mapped for path in shards_in(cache))


# --- the key: all that features depend on --------------------------------------------------------


def encoder_of(kind):
    """Encoders of one class name (but "name"), with the same weights and repr."""
    if kind == "plain":

        class Encoder(Patches):
            def forward(self, pixels):
                return super().forward(pixels)

    elif kind == "comments":

        class Encoder(Patches):
            def forward(self, pixels):
                # the same
                return super().forward(
                    pixels,
                )

    elif kind == "code":

        class Encoder(Patches):
            def forward(self, pixels):
                return super().forward(-pixels)

    else:

        class Other(Patches):
            def forward(self, pixels):
                return super().forward(pixels)

        return Other()
    return Encoder()


def set_buffer(encoder, value, persistent):
    encoder.register_buffer("shift", torch.tensor(value), persistent=persistent)
    return encoder


def with_weights(*weights):
    """Encoders with these weights beside their scale, which bytes alone may not tell apart."""
    for weight in weights:
        encoder = Patches()
        encoder.weight = nn.Parameter(weight, requires_grad=False)
        yield encoder


KEYS_DIFFER = {
    "class": lambda: map(encoder_of, ("plain", "name")),
    "code": lambda: map(encoder_of, ("plain", "code")),
    "code within": lambda: (nn.Sequential(encoder_of(k)) for k in ("plain", "code")),
    "weights": lambda: with_weights(torch.zeros(6), torch.ones(6)),
    "shape": lambda: with_weights(torch.arange(6.0).view(2, 3), torch.arange(6.0).view(3, 2)),
    "type": lambda: with_weights(torch.zeros(4).half(), torch.zeros(4).bfloat16()),
    "name": lambda: (set_buffer(Patches(), 1.0, True), *with_weights(torch.tensor(1.0))),
    "buffer": lambda: (set_buffer(Patches(), v, True) for v in (1.0, 2.0)),
    "unsaved buffer": lambda: (set_buffer(Patches(), v, False) for v in (1.0, 2.0)),
}


@pytest.mark.parametrize("change", KEYS_DIFFER)
def test_another_encoder_is_another_store(images, cache, change):
    one, other = KEYS_DIFFER[change]()
    first, second = (extract_features(e, images, SMALL, cache) for e in (one, other))
    assert first.key != second.key and len(list(cache.iterdir())) == 2
    assert extract_features(copy.deepcopy(one), images, SMALL, cache).key == first.key


def test_comments_in_an_encoder_change_no_key(images, cache):
    one, other = map(encoder_of, ("plain", "comments"))
    first, second = (extract_features(e, images, SMALL, cache) for e in (one, other))
    assert (one.seen, other.seen) == (5, 0) and first.key == second.key


def test_an_encoder_typed_into_a_console_is_told_apart_by_its_code(images, cache):
    keys = []
    for factor in (1, 2, 2):
        names = {"Patches": Patches}
        body = f"lambda self, pixels: {factor} * Patches.forward(self, pixels)"
        exec(f"class Typed(Patches):\n    forward = {body}", names)
        keys.append(extract_features(names["Typed"](), images, SMALL, cache).key)
    assert keys[0] != keys[1] == keys[2]


@pytest.mark.parametrize("name", asdict(SMALL))
def test_every_setting_of_the_vision_part_is_in_the_key_and_no_other(images, cache, name):
    changed = {"encoder": "eva", "image_size": 24}.get(name, 3)
    encoders, keys = (Patches(), Patches()), []
    for encoder, config in zip(encoders, (SMALL, replace(SMALL, **{name: changed})), strict=True):
        encoder.forward = lambda p: p.reshape(len(p), 4, -1)
        keys.append(extract_features(encoder, images, config, cache).key)
    vision = name in ("encoder", "image_size", "patch_size") or name.startswith("vision_")
    assert (keys[0] != keys[1]) == vision


@pytest.mark.parametrize("change", ["statistics", "padding", "order", "formula"])
def test_another_transform_is_another_store(images, cache, monkeypatch, change):
    first = extract_features(Patches(), images, SMALL, cache)
    if change == "statistics":
        monkeypatch.setattr(preprocessing, "CLIP_MEAN", (0.5, 0.5, 0.5))
    elif change == "padding":
        monkeypatch.setattr(preprocessing, "pad_to_ratio", lambda image: image)
    elif change == "order":  # converted first, which pixels of mode RGB do not tell
        convert_first = partial(image_transform, convert_first=True)
        monkeypatch.setattr(store_module, "image_transform", convert_first)
    else:
        monkeypatch.setattr(
            store_module, "image_transform", lambda size: lambda i: -image_transform(size)(i)
        )
    assert extract_features(Patches(), images, SMALL, cache).key != first.key


def test_other_content_or_names_are_another_key_of_the_same_store(images, cache):
    encoder = Patches()
    keys = [extract_features(encoder, images, SMALL, cache).key]
    Image.new("RGB", (16, 16), "red").save(images["c"])
    for asked in (images, {"x": images["a"]}, images | {"a": images["b"], "b": images["a"]}):
        keys.append(extract_features(encoder, asked, SMALL, cache).key)
    assert len(set(keys)) == 4 and encoder.seen == 6 and len(list(cache.iterdir())) == 1


# --- what the store refuses ----------------------------------------------------------------------


@pytest.mark.parametrize("value", [65_520.0, -1e6, float("nan"), float("inf")])
def test_features_that_float16_cannot_hold_are_refused_by_the_images_name(images, cache, value):
    """65,504 is float16's largest number; from 65,520 on a value rounds to infinity."""

    class OneTooLarge(Patches):
        def forward(self, pixels):
            features = super().forward(pixels)
            features[(pixels == pixels_of_c).flatten(1).all(1), 3, 7] = value_of_c
            return features

    value_of_c, pixels_of_c = value, image_transform(16)(read_image(images["c"]))
    with pytest.raises(ValueError, match=r"c\.png: its features are NaN or exceed .* 65,504"):
        extract_features(OneTooLarge(), images, SMALL, cache)
    assert len(shards_in(cache)) == 1  # of "a" and "b"
    value_of_c = 65_504.0
    store = extract_features(OneTooLarge(), images, SMALL, cache)
    assert store.get(["c"])[0, 3, 7] == 65_504 and store.get(list("abcde")).isfinite().all()


# --- damage --------------------------------------------------------------------------------------


def flip(path):
    """Change one byte of the features, the size and the time of writing left as they were."""
    content, status = bytearray(path.read_bytes()), path.stat()
    content[-9] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def swap(path):
    """Put a sound shard of another encoder in its place."""
    encoder = Patches()
    encoder.scale.data += 1
    other = path.parents[1] / "other"
    extract_features(encoder, {"b": path.parents[2] / "b.png"}, SMALL, other)
    path.write_bytes(shards_in(other)[0].read_bytes())


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        swap,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-9]),
        lambda path: path.write_bytes(path.read_bytes() + bytes(9)),
        lambda path: store_module.save_file({"features": torch.zeros(2, 4, 192).half()}, path),
    ],
)
def test_a_damaged_or_foreign_shard_is_named_and_made_again(images, cache, damage, capsys):
    encoder = Patches()
    kept = extract_features(encoder, images, SMALL, cache).get(list("abcde")).clone()
    damaged = shards_in(cache)[0]
    rows = len(store_module.safe_open(damaged, "pt").__enter__().get_tensor("features"))
    damage(damaged)
    store = extract_features(encoder, images, SMALL, cache)
    assert str(damaged) in capsys.readouterr().err and not damaged.exists()
    assert torch.equal(store.get(list("abcde")), kept)
    assert encoder.seen == 5 + rows


@pytest.mark.parametrize("content", ["", "[1]", "3", "{}", None])
def test_a_damaged_note_of_what_was_verified_costs_nothing(images, cache, content):
    encoder = Patches()
    store = extract_features(encoder, images, SMALL, cache)
    (note,) = cache.rglob("verified.json")
    note.write_text(content) if content is not None else note.unlink()
    again = extract_features(encoder, images, SMALL, cache)
    assert encoder.seen == 5 and again.rows == store.rows and len(note.read_text()) > 90


def extract_and_be_killed(start, images, cache):
    """As the first of two, encode "a" and "c", and die while the shard of "e" is half written."""
    store_module.SHARD_IMAGES, written = 2, []
    save = store_module.save_file

    def save_or_die(tensors, path, known):
        written.append(path)
        save(tensors, path, known)
        if len(written) == 2:
            os.truncate(path, 100)
            os.kill(os.getpid(), signal.SIGKILL)

    store_module.save_file = save_or_die
    extract_features(Patches(), images, SMALL, cache, share=(0, 2))


@pytest.mark.slow
def test_a_killed_extraction_loses_one_shard_and_resumes(images, cache):
    assert run_all(extract_and_be_killed, (images, cache)) == [-signal.SIGKILL]
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    assert len(shards_in(folder)) == 2 and len(list(folder.glob("*.safetensors"))) == 1
    encoder = Patches()
    store = extract_features(encoder, images, SMALL, cache)
    assert encoder.seen == 3 and len(store.rows) == 5
    assert len(shards_in(folder)) == len(list(folder.glob("*.safetensors"))) == 3


class Recorder(Patches):
    """Writes down what it encodes, in a file a process, slowly."""

    def __init__(self, log):
        super().__init__()
        self.log = log

    def forward(self, pixels):
        with open(self.log, "a") as log:
            log.writelines(f"{hashlib.sha256(p.numpy().tobytes()).hexdigest()}\n" for p in pixels)
        time.sleep(0.2)
        return super().forward(pixels)


def record(start, images, cache, log, share):
    store_module.SHARD_IMAGES, encoder = 2, Recorder(log)
    start.wait()
    extract_features(encoder, images, SMALL, cache, 1, share)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_processes_at_once_encode_each_image_once(images, cache, tmp_path, world):
    shares = [(0, 1), (0, 1)] if world == 1 else [(0, 2), (1, 2)]
    logs = [tmp_path / f"{number}.log" for number in range(2)]
    jobs = [(images, cache, *pair) for pair in zip(logs, shares, strict=True)]
    assert run_all(record, *jobs) == [0, 0]
    encoded = Counter("".join(log.read_text() for log in logs if log.exists()).split())
    assert len(encoded) == 5 and set(encoded.values()) == {1}
    encoder = Recorder(None)
    assert len(extract_features(encoder, images, SMALL, cache).rows) == 5 and encoder.seen == 0


def test_shares_add_up_and_wait_for_no_other(images, cache, monkeypatch):
    monkeypatch.setattr(store_module, "FileLock", partial(FileLock, timeout=2))
    whole = extract_features(Patches(), images, SMALL, cache.parent / "whole")
    seen, ids = [], []
    for rank in range(3):
        encoder = Patches()
        with ExitStack() as held:
            for lock in cache.rglob("*.lock"):
                held.enter_context(FileLock(lock))
            part = extract_features(encoder, images, SMALL, cache, share=(rank, 3))
        seen.append(encoder.seen)
        ids.append(sorted(part.rows))
    assert seen == [2, 2, 1] and ids == [["a", "d"], ["b", "e"], ["c"]]
    encoder = Patches()
    store = extract_features(encoder, images, SMALL, cache)
    assert encoder.seen == 0 and store.key == whole.key
    assert torch.equal(store.get(list("abcde")), whole.get(list("abcde")))
    with pytest.raises(ValueError, match="rank 0 to world - 1"):
        extract_features(encoder, images, SMALL, cache, share=(3, 3))


@pytest.mark.parametrize("problem", ["undecodable", "missing"])
def test_a_bad_image_is_named_and_keeps_what_is_done(images, cache, problem):
    images["c"].write_text("not an image") if problem == "undecodable" else images["c"].unlink()
    encoder = Patches()
    with pytest.raises(ValueError, match=r"c\.png"):
        extract_features(encoder, images, SMALL, cache)
    done = shards_in(cache)
    assert len(done) == (problem == "undecodable")
    assert not [p for p in cache.rglob(".*") if p.suffix != ".lock"]
    Image.new("RGB", (16, 16), "red").save(images["c"])
    extract_features(encoder, images, SMALL, cache)
    assert encoder.seen == 5


def test_unknown_images_are_refused(images, cache):
    store = extract_features(Patches(), images, SMALL, cache)
    with pytest.raises(ValueError, match="'z'"):
        store.get(["a", "z"])
    with pytest.raises(ValueError, match="no images"):
        extract_features(Patches(), {}, SMALL, cache)


# --- files are hashed once -----------------------------------------------------------------------


@pytest.fixture
def hashed(monkeypatch):
    """The names of the files that are hashed; all but just changed files count as settled."""
    names, file_sha256 = [], store_module.file_sha256
    monkeypatch.setattr(store_module, "SETTLED", -1.0)
    monkeypatch.setattr(
        store_module, "file_sha256", lambda path: names.append(Path(path).stem) or file_sha256(path)
    )
    return names


def test_a_file_is_hashed_once_and_again_when_it_changes(images, cache, hashed):
    encoder = Patches()
    first = extract_features(encoder, images, SMALL, cache)
    assert sorted(hashed) == list("abcde")
    assert extract_features(encoder, images, SMALL, cache).key == first.key and len(hashed) == 5
    status = images["c"].stat()
    Image.new("RGB", (16, 16), "red").save(images["c"])
    os.truncate(images["c"], 60)
    images["c"].write_bytes(images["d"].read_bytes())
    os.utime(images["c"], ns=(status.st_atime_ns, status.st_mtime_ns))  # as a copying tool would
    other = extract_features(encoder, images, SMALL, cache)
    assert hashed[5:] == ["c"] and other.rows["c"] == other.rows["d"]


def test_a_file_of_another_encoder_is_not_hashed_again(images, cache, hashed):
    extract_features(Patches(), images, SMALL, cache)
    extract_features(encoder_of("code"), images, SMALL, cache)
    assert len(hashed) == 5


def test_a_file_that_has_just_changed_is_not_remembered(images, cache, hashed, monkeypatch):
    """A second change in the same tick of the clock could leave its size and time as they are."""
    monkeypatch.setattr(store_module, "SETTLED", 60.0)
    for _ in range(2):
        extract_features(Patches(), images, SMALL, cache)
    assert len(hashed) == 10


@pytest.mark.parametrize("entry", [3, None, "abc", [1], [1, 2, 3], {}])
def test_a_note_with_broken_entries_costs_nothing(images, cache, hashed, entry):
    first = extract_features(Patches(), images, SMALL, cache)
    note = cache / "files.json"
    note.write_text(json.dumps(dict.fromkeys(json.loads(note.read_text()), entry)))
    assert extract_features(Patches(), images, SMALL, cache).key == first.key
    assert len(hashed) == 10


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"a": 3}', "null"])
def test_a_damaged_note_of_hashes_costs_nothing(images, cache, hashed, content):
    first = extract_features(Patches(), images, SMALL, cache)
    (cache / "files.json").write_text(content)
    assert extract_features(Patches(), images, SMALL, cache).key == first.key


def test_a_cache_that_cannot_be_written_only_costs_time(images, cache, hashed, monkeypatch):
    first = extract_features(Patches(), images, SMALL, cache)
    (cache / "files.json").unlink()
    replacing = store_module.replacing

    def full(path):
        if path.suffix == ".json":
            raise OSError(28, "No space left on device")
        return replacing(path)

    monkeypatch.setattr(store_module, "replacing", full)
    assert extract_features(Patches(), images, SMALL, cache).key == first.key


# --- on a GPU ------------------------------------------------------------------------------------


def test_processes_decode_as_threads_do(images):
    pixels = encoding._Pixels(list(images.values()), 16, torch.float32)
    chunks = [range(0, 2), range(2, 4), range(4, 5)]
    threads, workers = (list(encoding._decode(pixels, chunks, n)) for n in (0, 2))
    assert [len(chunk) for chunk in workers] == [2, 2, 1]
    assert all(torch.equal(one, other) for one, other in zip(threads, workers, strict=True))


def test_a_process_names_the_file_that_it_cannot_decode(images):
    images["c"].write_text("not an image")
    pixels = encoding._Pixels(list(images.values()), 16, torch.float32)
    for processes in (0, 2):
        with pytest.raises(ValueError, match=r"^\S*c\.png cannot be decoded"):
            list(encoding._decode(pixels, [range(0, 2), range(2, 5)], processes))


def test_who_made_the_features_is_known(images, cache):
    store = extract_features(Patches(), {"a": images["a"]}, SMALL, cache)
    assert store.made_by == ("float32 on cpu",)
    (shard,) = shards_in(cache)
    with store_module.safe_open(shard, "pt") as file:
        metadata = file.metadata() | {"made_by": "float16 on a GPU"}
        store_module.save_file({"features": file.get_tensor("features")}, shard, metadata)
    store = extract_features(Patches(), images, SMALL, cache)
    assert store.made_by == ("float16 on a GPU", "float32 on cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpus_features_are_close_and_an_overflow_is_encoded_again(images, cache):
    class Large(Patches):
        def forward(self, pixels):
            return super().forward(pixels) * (1e9 if torch.is_autocast_enabled("cuda") else 1.0)

    plain = extract_features(Patches(), images, SMALL, cache)
    on_gpu = extract_features(Patches().cuda(), images, SMALL, cache / "gpu")
    torch.testing.assert_close(on_gpu.get("abcde"), plain.get("abcde"), atol=2e-3, rtol=2e-3)
    again = extract_features(Large().cuda(), images, SMALL, cache / "large").get("abcde")
    assert again.isfinite().all()
