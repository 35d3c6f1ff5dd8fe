"""Embeddings of any model, from a file: matched by name, and never a wrong one."""

import json
import sys
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from qure_lib.datasets.queries import Corpus, QuerySet, Triplet
from qure_lib.evaluation.cirr import evaluate_cirr
from qure_lib.features import saved_embeddings
from qure_lib.features.saved_embeddings import SavedEmbeddings
from qure_lib.method.ranking import score_corpus

N, Q = 12, 5


@pytest.fixture
def queries():
    triplets = [Triplet(f"q{k}", str(k), "", str(k + 1), "c", ("",)) for k in range(Q)]
    return QuerySet("c", tuple(triplets), Corpus(tuple(map(str, range(N))), ()), {})


@pytest.fixture
def arrays():
    """Named in another order than the protocol's, with one image more than it ranks."""
    rng = np.random.default_rng(0)
    return {
        "queries": rng.standard_normal((Q, 8), dtype=np.float32),
        "images": rng.standard_normal((N + 1, 3, 8)).astype(np.float16),
        "query_ids": [f"q{k}" for k in reversed(range(Q))],
        "image_ids": [str(i) for i in rng.permutation(N + 1)],
    }


def save(folder, arrays, kind):
    path = folder / f"saved.{kind}"
    if kind == "npz":
        np.savez_compressed(path, **arrays)
    else:
        ids = {n: json.dumps(a) for n, a in arrays.items() if n.endswith("_ids")}
        save_file({n: np.asarray(arrays[n]) for n in arrays if n not in ids}, path, metadata=ids)
    return path


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_saved_embeddings_are_matched_by_name(tmp_path, arrays, queries, kind):
    saved = SavedEmbeddings.open(save(tmp_path, arrays, kind))
    saved.check_queries([t.query_id for t in queries.triplets])
    embedded, images = saved.embed_queries(queries), saved.embed_corpus(queries.corpus)
    chunks = [scores for _, scores in score_corpus(embedded, images, memory=1000)]
    scores = torch.cat(chunks)
    assert len(chunks) == Q
    for q in range(Q):
        for i in range(N):
            image = arrays["images"][arrays["image_ids"].index(str(i))].astype(float)
            slow = max(arrays["queries"][Q - 1 - q] @ token for token in image)
            assert scores[q, i].item() == pytest.approx(slow, rel=1e-5)


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_captions_alone_are_read_where_they_are_saved(tmp_path, arrays, queries, kind):
    with pytest.raises(ValueError, match=r"lacks captions \(Q, D\)"):
        SavedEmbeddings.open(save(tmp_path, arrays, kind)).embed_captions(queries)
    arrays["captions"] = np.arange(Q * 8, dtype=np.float32).reshape(Q, 8)
    saved = SavedEmbeddings.open(save(tmp_path, arrays, kind))
    assert saved.embed_captions(queries)[:, 0].tolist() == [32, 24, 16, 8, 0]  # saved in reverse
    for wrong in (arrays["captions"][1:], np.full((Q, 8), np.nan, np.float32)):
        with pytest.raises(ValueError, match="captions"):
            SavedEmbeddings.open(save(tmp_path, arrays | {"captions": wrong}, kind))


def test_one_vector_an_image_is_one_token(tmp_path, arrays, queries):
    arrays["images"] = arrays["images"][:, 0]
    saved = SavedEmbeddings.open(save(tmp_path, arrays, "safetensors"))
    assert saved.embed_corpus(queries.corpus).shape == (N, 1, 8)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc to tell what is mapped")
def test_images_of_safetensors_stay_on_disk(tmp_path, arrays):
    arrays["images"] = np.zeros((N + 1, 256, 4096), np.float16)
    path = save(tmp_path, arrays, "safetensors")
    saved = SavedEmbeddings.open(path)
    with open("/proc/self/maps") as maps:
        assert str(path) in maps.read()
    assert saved.images.row_shape == (256, 4096)


def test_wrong_and_missing_names_are_named(tmp_path, arrays, queries):
    saved = SavedEmbeddings.open(save(tmp_path, arrays, "npz"))
    with pytest.raises(ValueError, match="npz misses 1 of the 1 .* 5 others .'dress/val/0', 'q0'"):
        saved.check_queries(["dress/val/0"])
    with pytest.raises(ValueError, match="misses 0 of the 1 queries and holds 4 others .'q1'.; "):
        saved.check_queries(["q0"])
    corpus = Corpus((*queries.corpus.image_ids, "x", "y"), ())
    with pytest.raises(ValueError, match="misses 2 of the 14 images of the corpus, .* 'x'; embed"):
        saved.embed_corpus(corpus)


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("images"), "images"),
        (lambda a: a.pop("image_ids"), "image_ids"),
        (lambda a: a.update(query_ids=["q0"] * Q), "query_ids hold 'q0' twice; keep one"),
        (lambda a: a.update(query_ids=list(range(Q))), "ids must be"),
        (lambda a: a.update(image_ids=a["image_ids"][1:]), r"images is float16 .*12 image_ids"),
        (lambda a: a.update(images=a["images"].astype(int)), "images is int64 .*write float16"),
        (lambda a: a.update(queries=a["queries"][None]), "queries is .*of 2 dimensions"),
        (lambda a: a.update(images=a["images"][:, :0]), r"images is float16 \(13, 0, 8\)"),
        (lambda a: a["queries"].__setitem__((2, 3), np.nan), "queries hold NaN"),
        (lambda a: a["queries"].__setitem__((2, slice(2)), (np.inf, -np.inf)), "queries hold NaN"),
        (lambda a: a.update(queries=np.full((Q, 8), 1e39)), "queries hold NaN or infinity"),
        (lambda a: a["image_ids"].__setitem__(3, a["image_ids"][12]), "image_ids hold '.*' twice"),
    ],
)
def test_broken_embeddings_are_named(tmp_path, arrays, kind, change, message):
    change(arrays)
    path = save(tmp_path, arrays, kind)
    with pytest.raises(ValueError, match=rf"saved\.{kind}.*{message}"):
        SavedEmbeddings.open(path)


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
@pytest.mark.parametrize("damage", [lambda b: b[:-40], lambda b: b"", lambda b: b"{}", None])
def test_a_file_cut_short_or_missing_is_named(tmp_path, arrays, kind, damage):
    path = save(tmp_path, arrays, kind)
    path.unlink() if damage is None else path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"saved\.{kind} holds no embeddings \(.*; write queries"):
        SavedEmbeddings.open(path)


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
@pytest.mark.parametrize("values", [[np.nan], [np.inf], [-np.inf], [np.inf, -np.inf], [1e39]])
def test_an_image_that_is_not_finite_is_named_when_it_is_read(
    tmp_path, arrays, queries, kind, values
):
    arrays["images"] = arrays["images"].astype(np.float64)
    arrays["images"][arrays["image_ids"].index("4"), 1, : len(values)] = values
    saved = SavedEmbeddings.open(save(tmp_path, arrays, kind))
    with pytest.raises(ValueError, match="image '4' is not finite"):
        list(score_corpus(saved.embed_queries(queries), saved.embed_corpus(queries.corpus)))


def test_an_npz_that_unpacks_to_too_much_or_holds_objects_is_refused(tmp_path, arrays, monkeypatch):
    path = save(tmp_path, arrays | {"images": np.zeros((N + 1, 3, 100_000))}, "npz")
    monkeypatch.setattr(saved_embeddings, "LARGEST_NPZ", 2**20)
    assert path.stat().st_size < 2**20
    with pytest.raises(ValueError, match=r"saved\.npz .*too large to read whole; save it as"):
        SavedEmbeddings.open(path)
    np.savez(path, **arrays | {"query_ids": np.array([{}] * Q, object)})
    with pytest.raises(ValueError, match="allow_pickle=False"):
        SavedEmbeddings.open(path)


def test_finite_embeddings_whose_sum_overflows_are_read(tmp_path, arrays, queries):
    arrays["images"] = np.full((N + 1, 3, 8), 3e38, np.float32)
    saved = SavedEmbeddings.open(save(tmp_path, arrays, "safetensors"))
    assert (saved.embed_corpus(queries.corpus)[0:N] == torch.tensor(3e38)).all()


def test_names_that_an_npz_makes_equal_are_refused(tmp_path, arrays):
    """NumPy cuts the zero characters at the end of a string."""
    arrays["image_ids"][:2] = ["new", "new\0"]
    with pytest.raises(ValueError, match=r"saved\.npz: image_ids hold 'new' twice; keep one"):
        SavedEmbeddings.open(save(tmp_path, arrays, "npz"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["queries", "image_ids"])
def test_an_npz_with_an_array_twice_is_refused(tmp_path, arrays, name):
    path = save(tmp_path, arrays, "npz")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{name}.npy", archive.read(f"{name}.npy"))
    with pytest.raises(ValueError, match=rf"saved\.npz holds no embeddings \({name} twice\)"):
        SavedEmbeddings.open(path)


def test_an_npz_whose_header_lies_is_refused(tmp_path, arrays):
    path = save(tmp_path, arrays, "npz")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["images.npy"] = members["images.npy"].replace(b"(13, 3, 8)", b"(9999,3,8)")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match=r"saved\.npz holds no embeddings"):
        SavedEmbeddings.open(path)


def test_evaluators_take_saved_embeddings(tmp_path, arrays, queries):
    group = tuple(map(str, range(6)))
    triplets = tuple(replace(t, group=group) for t in queries.triplets)
    queries = replace(queries, triplets=triplets)
    saved = SavedEmbeddings.open(save(tmp_path, arrays, "safetensors"))
    images = saved.embed_corpus(queries.corpus)[0:N]
    whole = SimpleNamespace(embed_queries=saved.embed_queries, embed_corpus=lambda c: images)
    assert evaluate_cirr(saved, queries).equals(evaluate_cirr(whole, queries))
