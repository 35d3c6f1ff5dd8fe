"""qure_lib.embeddings: corpora on disk, and any model's saved embeddings."""

import copy
import json
import sys
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from qure_lib import embeddings
from qure_lib.data import Corpus, QuerySet, Triplet, load_circo, load_cirr
from qure_lib.embeddings import CorpusOnDisk, Retriever, SavedEmbeddings
from qure_lib.evaluation import evaluate_circo, evaluate_cirr
from qure_lib.ranking import SORTING, score_corpus


@pytest.fixture(scope="module")
def cirr(smoke_world):
    return load_cirr(smoke_world / "cirr_like")


@pytest.fixture(scope="module")
def retriever(cirr, stage1, tmp_path_factory):
    """With the frozen features of every image: the way that stores keep, the other is held to."""
    return Retriever.open(stage1, cirr.images, tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def on_disk(cirr, retriever, tmp_path_factory):
    return CorpusOnDisk(retriever, tmp_path_factory.mktemp("embedded"))


def test_scores_are_those_of_the_feature_store(cirr, retriever, on_disk):
    """Tolerance: 5e-4, what float16 does to the cosine of two unit vectors."""
    queries = retriever.embed_queries(cirr)
    whole, stored = retriever.embed_corpus(cirr.corpus), on_disk.embed_corpus(cirr.corpus)
    assert stored.shape == tuple(whole.shape)
    (_, expected), (_, found) = (next(score_corpus(queries, i)) for i in (whole, stored))
    torch.testing.assert_close(found, expected, atol=5e-4, rtol=0)


@pytest.mark.parametrize("evaluate", [evaluate_cirr, evaluate_circo])
def test_protocols_hardly_move(smoke_world, cirr, retriever, on_disk, evaluate):
    """Stated: no rank moves by more than two places, nine in ten by none."""
    queries = cirr if evaluate is evaluate_cirr else load_circo(smoke_world / "circo_like")
    if evaluate is evaluate_circo:  # the same images under other names
        opened = Retriever(retriever.model, retriever.tokenizer, retriever.features)
        rows = {i: opened.features.rows[p.stem] for i, p in queries.images.items()}
        opened = replace(opened, features=replace(opened.features, rows=rows))
        retriever, on_disk = opened, CorpusOnDisk(opened, on_disk.cache)
    one, other = evaluate(retriever, queries), evaluate(on_disk, queries)
    moved = (one["rank"] - other["rank"]).abs()
    assert moved.max() <= 2 and (moved == 0).mean() > 0.9


def test_each_image_is_embedded_once_and_found_again(cirr, on_disk, monkeypatch):
    first = on_disk.embed_corpus(cirr.corpus)
    monkeypatch.setattr(embeddings._ImageEmbedder, "forward", None)  # would fail
    moved = Corpus(cirr.corpus.image_ids[::-1], cirr.corpus.paths[::-1])
    again = on_disk.embed_corpus(moved)
    assert torch.equal(again[0:3], first[len(moved) - 3 :].flip(0))
    assert all(shard.dtype == np.float16 for shard in again.store.shards)


@pytest.mark.parametrize("change", ["weights", "heads", "images"])
def test_another_model_or_corpus_is_another_store(cirr, retriever, on_disk, change):
    corpus, model = cirr.corpus, copy.deepcopy(retriever.model)
    key = on_disk.embed_corpus(corpus).store.key
    if change == "weights":
        model.query_tokens.data += 1
    elif change == "heads":  # the same weights, to be read another way
        model.config = replace(model.config, qformer_heads=2)
    else:
        corpus = Corpus(corpus.image_ids[1:], corpus.paths[1:])
    other = CorpusOnDisk(replace(retriever, model=model), on_disk.cache).embed_corpus(corpus)
    assert other.store.key != key


def test_an_interrupted_embedding_leaves_nothing_half_done(cirr, retriever, tmp_path, monkeypatch):
    seen = []

    def fail(self, pixels):
        if seen:
            raise KeyboardInterrupt
        seen.append(len(pixels))
        return torch.zeros(len(pixels), 2, 4)

    disk = CorpusOnDisk(retriever, tmp_path)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(embeddings._ImageEmbedder, "forward", fail)
        disk.embed_corpus(cirr.corpus)
    assert seen and [p.name for p in tmp_path.glob("*/*")] == [".0-of-1.lock"]
    assert disk.embed_corpus(cirr.corpus).shape[0] == len(cirr.corpus)


# ---------------------------------------------------------------- saved embeddings

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
    scores = torch.cat(
        [s for _, s in score_corpus(embedded, images, memory=2 * len(queries.corpus) * SORTING)]
    )
    for q in range(Q):
        for i in range(N):
            image = arrays["images"][arrays["image_ids"].index(str(i))].astype(float)
            slow = max(arrays["queries"][Q - 1 - q] @ token for token in image)
            assert scores[q, i].item() == pytest.approx(slow, rel=1e-5)


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
    with pytest.raises(ValueError, match="saved.npz misses 1 of the 1 queries.* 'dress/val/0'"):
        saved.check_queries(["dress/val/0"])
    with pytest.raises(ValueError, match="holds unknown 4 of the 1 queries, the first is 'q4'"):
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


def test_an_image_that_is_not_finite_is_named_when_it_is_read(tmp_path, arrays, queries):
    arrays["images"][arrays["image_ids"].index("4")] = np.inf
    saved = SavedEmbeddings.open(save(tmp_path, arrays, "safetensors"))
    with pytest.raises(ValueError, match="image '4' is not finite"):
        list(score_corpus(saved.embed_queries(queries), saved.embed_corpus(queries.corpus)))


def test_an_npz_that_unpacks_to_too_much_or_holds_objects_is_refused(tmp_path, arrays, monkeypatch):
    path = save(tmp_path, arrays | {"images": np.zeros((N + 1, 3, 100_000))}, "npz")
    monkeypatch.setattr(embeddings, "LARGEST_NPZ", 2**20)
    assert path.stat().st_size < 2**20
    with pytest.raises(ValueError, match=r"saved\.npz .*too large to read whole; save it as"):
        SavedEmbeddings.open(path)
    np.savez(path, **arrays | {"query_ids": np.array([{}] * Q, object)})
    with pytest.raises(ValueError, match="allow_pickle=False"):
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
