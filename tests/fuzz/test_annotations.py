"""Damaged annotations and ranking files: a whole result, or an error that names the file."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from fuzzing import damaged_bytes, damaged_json, inputs, named_or_valid
from hypothesis import given
from hypothesis import strategies as st

from qure_lib.datasets.circo import load_circo
from qure_lib.datasets.cirr import load_cirr
from qure_lib.datasets.fashioniq import load_fashioniq
from qure_lib.datasets.graded_relevance import load_graded_relevance
from qure_lib.datasets.hp_fashioniq import load_hp_fashioniq, load_set_scores
from qure_lib.datasets.queries import Corpus, QuerySet, Triplet
from qure_lib.datasets.soft import load_soft_labels
from qure_lib.evaluation.circo import CIRCO_FILE
from qure_lib.evaluation.cirr import read_cirr
from qure_lib.evaluation.compare import compare_models, read_per_query
from qure_lib.evaluation.fashioniq import read_fashioniq

IDS = [f"i{n}" for n in range(8)]
NUMBERS = [str(n) for n in range(60)]  # CIRCO's images
HATS = QuerySet(
    "hat",
    tuple(Triplet(f"hat/val/{n}", IDS[n], "is red", IDS[n + 1], "hat", ()) for n in range(3)),
    Corpus(tuple(IDS), ()),
    {},
)
PHOTOS = QuerySet(
    "cirr",
    tuple(
        Triplet(f"{n}", "0", "", f"{n + 1}", "c", (), tuple(NUMBERS[:6]), (f"{n + 1}",))
        for n in range(2)
    ),
    Corpus(tuple(NUMBERS), ()),
    {},
)
VAL = replace(
    PHOTOS, triplets=tuple(replace(t, query_id=f"c/val/{t.query_id}") for t in PHOTOS.triplets)
)


def shown(first: str) -> dict:
    return {"img_path": [f"hat/{first}{n}.jpg" for n in range(5)], "user_score": "3"}


def check_queries(queries: QuerySet, root: Path) -> None:
    """Every triplet is over the corpus, no path leads out, and every text can be written."""
    assert len(queries.target_positions) == len(queries.triplets) > 0
    for triplet in queries.triplets:
        assert {triplet.target, *triplet.group, *triplet.ground_truths} <= {
            *queries.corpus.image_ids
        }
        json.dumps([triplet.query_id, triplet.reference, triplet.caption]).encode()
        triplet.caption.encode()
    for path in queries.images.values():
        assert path.resolve().is_relative_to(root.resolve().parent)


def check_hats(sets: dict[str, QuerySet], root: Path) -> None:
    entries = json.loads((root / "captions/cap.hat.val.json").read_bytes())
    pairs = [(e["candidate"], e["target"], tuple(e["captions"])) for e in entries]
    assert [(t.reference, t.target, t.phrases) for t in sets["hat"].triplets] == pairs
    check_queries(sets["hat"], root)


def check_judged(judged: pd.DataFrame, root: Path) -> None:
    assert judged["preferred"].isin([1, 2]).all() and len(judged)
    assert all(len(set(ids)) == 5 for ids in [*judged["set_1"], *judged["set_2"]])
    [caption.encode() for caption in judged["caption"]]


def check_relevance(relevance: Any, root: Path) -> None:
    assert relevance.shape == (3, 8) and ((relevance >= 0) & (relevance <= 1)).all()


def check_rankings(rankings: dict, root: Path) -> None:
    for ids in rankings.values():
        assert len(set(ids)) == len(ids) and all(type(i) is str for i in ids)


def check_scores(scores: np.ndarray, root: Path) -> None:
    assert scores.shape == (2, 2) and np.isfinite(scores).all()


def check_labels(labels: dict, root: Path) -> None:
    assert labels and all(ids <= set(IDS) for ids in labels.values())


def check_compared(table: pd.DataFrame, root: Path) -> None:
    assert table[["mean_a", "mean_b"]].stack().between(0, 100).all()


def compare(root: Path) -> pd.DataFrame:
    protocol, frames = read_per_query(sorted(root.glob("*.csv")))
    return compare_models(frames, protocol)


class Case(NamedTuple):
    """Whole files, JSON or text; how they are read; and what a result must be."""

    files: dict[str, Any]
    read: Callable[[Path], Any]
    check: Callable[[Any, Path], None]
    named: tuple[str, ...] = ()  # what an error names one of; the folder where empty


def ranked(target: str, count: int) -> list[str]:
    return [target, *(i for i in NUMBERS[1:] if i != target)][:count]


SCORES = "row,set,score\n0,1,0.5\n0,2,0.25\n1,1,0.75\n1,2,1\n"
MODEL = (
    "protocol,query_id,category,rank,images\n"
    + "".join(f"fashioniq,{c}/val/{n},{c},{n},8\n" for c in ("dress", "hat") for n in range(3))
)  # fmt: skip
CASES = {
    "fashioniq": Case(
        {
            "captions/cap.hat.val.json": [
                {"candidate": IDS[n], "target": IDS[n + 1], "captions": ["is red", "has dots"]}
                for n in range(3)
            ],
            "image_splits/split.hat.val.json": IDS,
        },
        lambda root: load_fashioniq(root, "val", images=False),
        check_hats,
    ),
    "cirr": Case(
        {
            "captions/cap.rc2.val.json": [
                {
                    "pairid": n,
                    "reference": IDS[0],
                    "target_hard": IDS[n + 1],
                    "caption": "is red",
                    "img_set": {"id": n, "members": IDS[:6]},
                }
                for n in range(2)
            ],
            "image_splits/split.rc2.val.json": {i: f"./val/{i}.png" for i in IDS},
        },
        lambda root: load_cirr(root, images=False),
        check_queries,
    ),
    "circo": Case(
        {
            "annotations/val.json": [
                {
                    "id": n,
                    "reference_img_id": n,
                    "target_img_id": n + 1,
                    "gt_img_ids": [n + 1, n + 2],
                    "relative_caption": "is red",
                    "shared_concept": "a hat",
                    "semantic_aspects": ["colour"],
                }
                for n in range(2)
            ],
            "annotations/image_info_unlabeled2017.json": {
                "images": [{"id": n, "file_name": f"{n:012d}.jpg"} for n in range(6)]
            },
        },
        lambda root: load_circo(root, images=False, prompt="repaired"),
        check_queries,
    ),
    "hp-fashioniq": Case(
        {
            "hpfiq.json": {
                "user_1": {
                    "set_1": {
                        "ref_img_paths": ["hat/R1.jpg", "hat/R2.jpg"],
                        "targ_img_paths": ["hat/T1.jpg", "hat/T2.jpg"],
                        "sentences": ["is reddotmark", "has dots"],
                        "retrieved_set1": [shown("A"), shown("C")],
                        "retrieved_set2": [shown("B"), shown("D")],
                        "preferred set": ["2", "1"],
                    }
                }
            }
        },
        lambda root: load_hp_fashioniq(root / "hpfiq.json"),
        check_judged,
    ),
    "soft": Case(
        {
            "hat_multi_target_selection.json": [
                {
                    "reference_image_name": t.reference,
                    "target_image_name": t.target,
                    "confidence_scores": {IDS[5]: 0.9, IDS[6]: 1},
                }
                for t in HATS.triplets
            ]
        },
        lambda root: load_soft_labels(root, HATS),
        check_labels,
    ),
    "relevance": Case(
        {
            "relevance/rel.hat.val.json": [{"wanted": {"colour": 0.5, "kind": "cap"}}] * 3,
            "synthfashion.json": {
                "images": {i: {"colour": n / 10, "kind": "cap"} for n, i in enumerate(IDS)}
            },
        },
        lambda root: load_graded_relevance(root, HATS, "val"),
        check_relevance,
    ),
    "set scores": Case(
        {"scores.csv": SCORES},
        lambda root: load_set_scores(root / "scores.csv", 2),
        check_scores,
    ),
    "compared models": Case(
        {"one.csv": MODEL, "two.csv": MODEL}, compare, check_compared, ("one", "two")
    ),
    "ranking of fashioniq": Case(
        {"file.json": {"c": {t.query_id: ranked(t.target, 50) for t in PHOTOS.triplets}}},
        lambda root: read_fashioniq(root / "file.json", {"c": VAL})["c"],
        check_rankings,
    ),
    "ranking of cirr": Case(
        {
            "file.json": {"version": "rc2", "metric": "recall"}
            | {t.query_id: ranked(t.target, 50) for t in PHOTOS.triplets}
        },
        lambda root: read_cirr(root / "file.json", PHOTOS)[1],
        check_rankings,
    ),
    "ranking of circo": Case(
        {
            "file.json": {
                t.query_id: [int(i) for i in ranked(t.target, 50)] for t in PHOTOS.triplets
            }
        },
        lambda root: CIRCO_FILE.read(root / "file.json", PHOTOS),
        check_rankings,
    ),
}


def write(root: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content)
        (root / name).write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize("name", CASES)
def test_a_whole_file_is_read(name, tmp_path):
    case = CASES[name]
    case.check(case.read(write(tmp_path, case.files)), tmp_path)


@pytest.mark.parametrize("name", CASES)
@inputs()
@given(data=st.data())
def test_a_file_with_damaged_bytes_is_whole_or_named(name, data, tmp_path_factory):
    case, root = CASES[name], tmp_path_factory.getbasetemp() / f"bytes of {name}"
    write(root, case.files)
    path = root / data.draw(st.sampled_from(sorted(case.files)))
    path.write_bytes(data.draw(damaged_bytes(path.read_bytes())))
    with named_or_valid(*(case.named or [root])):
        case.check(case.read(root), root)


@pytest.mark.parametrize("name", [n for n in CASES if str(CASES[n].files).count("{") > 1])
@inputs()
@given(data=st.data())
def test_a_file_with_damaged_values_is_whole_or_named(name, data, tmp_path_factory):
    case, root = CASES[name], tmp_path_factory.getbasetemp() / f"values of {name}"
    file = data.draw(st.sampled_from(sorted(case.files)))
    write(root, case.files | {file: json.dumps(data.draw(damaged_json(case.files[file])))})
    with named_or_valid(*(case.named or [root])):
        case.check(case.read(root), root)
