"""The caption alone and the reference image alone, beside both."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from qure_lib.datasets.circo import load_circo
from qure_lib.datasets.cirr import load_cirr
from qure_lib.datasets.fashioniq import load_fashioniq
from qure_lib.evaluation.__main__ import main
from qure_lib.evaluation.cirr import evaluate_cirr
from qure_lib.evaluation.composition import parts_alone, summarise_composition
from qure_lib.features.retriever import Retriever

NAMES = ("fashioniq", "cirr", "circo")


def shares(rank, caption, reference, k=10):
    ranks = {"rank": rank, "caption_rank": caption, "reference_rank": reference}
    return summarise_composition(pd.DataFrame(ranks), k).set_index("words")


def test_shares_of_queries_drawn_by_hand():
    #                 caption  reference  either  neither  not by both
    found = shares([0, 9, 3, 4, 10], [9, 10, 0, 50, 0], [10, 0, 0, 50, 99])
    of_all = {"both": 80, "caption alone": 60, "reference alone": 40, "either alone": 80}
    of_all["only both"] = 20
    of_both = {"caption alone": 50, "reference alone": 50, "either alone": 75, "only both": 25}
    expected = {f"{part}, of all queries": share for part, share in of_all.items()}
    expected |= {f"{part}, of both's answers": share for part, share in of_both.items()}
    assert found["estimate"].to_dict() == pytest.approx(expected)
    assert found["n"].tolist() == [5] * 5 + [4] * 4


def test_the_shares_of_what_both_answer_add_up(tmp_path):
    ranks = np.random.default_rng(0).integers(20, size=(3, 500))
    found = shares(*ranks)["estimate"]
    assert found["only both, of both's answers"] + found["either alone, of both's answers"] == (
        pytest.approx(100)
    )
    part = found["only both, of both's answers"] * found["both, of all queries"] / 100
    assert part == pytest.approx(found["only both, of all queries"])


def test_parts_that_rank_as_both_leave_nothing_to_composition_and_blind_ones_everything():
    ranks = np.arange(30)
    assert shares(ranks, ranks, ranks).loc["only both, of both's answers", "estimate"] == 0
    blind = np.full(30, 99)
    assert shares(ranks, blind, blind).loc["only both, of both's answers", "estimate"] == 100


def test_shares_of_no_answers_are_refused():
    with pytest.raises(ValueError, match="only 1 of the targets rank below 10"):
        shares([0, 30, 40], [0, 0, 0], [0, 0, 0])
    with pytest.raises(ValueError, match="target_ranks"):
        shares([0, 1, 2], [0, None, 0], [0, 0, 0])


def test_the_reference_alone_is_the_mean_of_its_tokens(drawn):
    queries, embedder, _ = drawn
    images = embedder.embed_corpus(queries.corpus)
    one = SimpleNamespace(
        embed_captions=lambda q: torch.ones(len(q), 8),
        embed_corpus=lambda corpus: images[[int(i) for i in corpus.image_ids]],
    )
    alone = parts_alone(one)
    expected = [images[int(t.reference)].mean(dim=0) for t in queries.triplets]
    assert torch.equal(alone["reference"].embed_queries(queries), torch.stack(expected))
    assert torch.equal(alone["caption"].embed_queries(queries), torch.ones(len(queries), 8))
    slow = []
    for triplet, query in zip(queries.triplets, expected, strict=True):
        scores = {i: float((images[int(i)] @ query).max()) for i in queries.corpus.image_ids}
        ranking = sorted(
            (i for i in scores if i != triplet.reference), key=lambda i, s=scores: (-s[i], int(i))
        )
        slow.append(ranking.index(triplet.target))
    assert evaluate_cirr(alone["reference"], queries)["rank"].tolist() == slow


@pytest.fixture(scope="module")
def world(smoke_world, stage1, tmp_path_factory):
    """By data set: its folder, its query sets, and a file of embeddings with captions."""
    folders = {n: smoke_world / f"{n}_like" for n in NAMES[1:]} | {"fashioniq": smoke_world}
    sets = {"cirr": [load_cirr(folders["cirr"])], "circo": [load_circo(folders["circo"])]}
    sets["fashioniq"] = [*load_fashioniq(smoke_world, "val").values()]
    images = {i: p for named in sets.values() for q in named for i, p in q.images.items()}
    retriever = Retriever.open(stage1, images, tmp_path_factory.mktemp("features"))
    files = {}
    for name, named in sets.items():
        parts = {"queries": retriever.embed_queries, "captions": retriever.embed_captions}
        arrays = {part: torch.cat([embed(q) for q in named]) for part, embed in parts.items()}
        arrays["images"] = torch.cat([retriever.embed_corpus(q.corpus) for q in named])
        arrays["query_ids"] = [t.query_id for q in named for t in q.triplets]
        arrays["image_ids"] = [i for q in named for i in q.corpus.image_ids]
        files[name] = tmp_path_factory.mktemp("saved") / f"{name}.npz"
        np.savez(files[name], **arrays)
    return folders, sets, files


@pytest.mark.parametrize("name", NAMES)
def test_a_model_and_its_embeddings_agree(world, stage1, tmp_path, capsys, name):
    folders, _, files = world
    sources = {
        "checkpoint": [stage1, "--root", folders[name], "--cache", tmp_path / "cache"],
        "embeddings": [files[name], "--annotations", folders[name]],
    }
    found = {}
    for source, words in sources.items():
        path = tmp_path / f"{source}.csv"
        words = [f"--{source}", *words, "--composition", "--per-query", path]
        assert main([name, *map(str, words)]) == 0
        printed = json.loads(capsys.readouterr().out)
        ranks = pd.read_csv(path)
        for part in ("caption", "reference"):
            assert printed[f"{part} alone"]["metrics"].keys() == printed["metrics"].keys()
            assert printed[f"{part} alone"]["metrics"] != printed["metrics"]
        expected = summarise_composition(ranks).set_index("words")["estimate"].to_dict()
        assert printed["in the first 10"]["metrics"] == pytest.approx(expected)
        found[source] = ranks[["rank", "caption_rank", "reference_rank"]]
    apart = (found["checkpoint"] - found["embeddings"]).abs()  # CIRCO's on disk are float16
    assert apart.max(axis=None) <= (2 if name == "circo" else 0)


def test_what_has_no_parts_is_refused(world, tmp_path, capsys):
    folders, _, files = world
    arrays = dict(np.load(files["cirr"]))
    del arrays["captions"]
    np.savez(tmp_path / "both.npz", **arrays)
    place = ["--annotations", str(folders["cirr"]), "--composition"]
    faults = {
        "both.npz lacks captions (Q, D)": ["--embeddings", str(tmp_path / "both.npz")],
        "--composition needs --checkpoint or --embeddings": ["--submission", "x.json"],
        "no --composition": ["--embeddings", str(files["cirr"]), "--test-files", str(tmp_path)],
    }
    for message, words in faults.items():
        assert main(["cirr", *words, *place]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["hp-fashioniq", "--embeddings", "x", *place])
    assert "--composition" in capsys.readouterr().err
