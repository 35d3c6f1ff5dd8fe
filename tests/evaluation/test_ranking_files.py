"""Ranking files: one set of rules for what is read and written."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from qure_lib.datasets.queries import Corpus, QuerySet, Triplet
from qure_lib.evaluation import ranking_files
from qure_lib.evaluation.circo import CIRCO_FILE, known_corpus
from qure_lib.evaluation.cirr import CIRR_FILES, read_cirr
from qure_lib.evaluation.fashioniq import read_fashioniq

IDS = [str(i) for i in range(60)]
FORMATS = ("circo", "recall", "recall_subset", "fashioniq")


@pytest.fixture
def queries():
    """Two queries over sixty images: 0 -> 1 in a group of 0 to 5, and 7 -> 6 in one of 6 to 11."""
    triplets = (
        Triplet("3", "0", "", "1", "c", (""), tuple(IDS[:6]), ("1", "2")),
        Triplet("8", "7", "", "6", "c", (""), tuple(IDS[6:12]), ("6",)),
    )
    return QuerySet("c", triplets, Corpus(tuple(IDS), ()), {})


def good(kind: str) -> dict:
    """A file without fault, whose rankings begin with the target."""
    listed = {
        q: [target, *(i for i in IDS if i not in (target, reference))]
        for q, reference, target in (("3", "0", "1"), ("8", "7", "6"))
    }
    head = {"version": "rc2", "metric": kind}
    return {
        "circo": {q: [int(i) for i in ids[:50]] for q, ids in listed.items()},
        "recall": head | {q: ids[:50] for q, ids in listed.items()},
        "recall_subset": head | {"3": ["1", "4", "5"], "8": ["6", "9", "11"]},
        "fashioniq": {"c": listed},
    }[kind]


def read(kind: str, path: Path, queries: QuerySet) -> dict:
    """Query id -> ranking, whatever the format."""
    if kind == "circo":
        return CIRCO_FILE.read(path, queries)
    if kind == "fashioniq":
        rows = {t.query_id: replace(t, query_id=f"c/val/{t.query_id}") for t in queries.triplets}
        return read_fashioniq(path, {"c": replace(queries, triplets=(*rows.values(),))})["c"]
    metric, rankings = read_cirr(path, queries)
    assert metric == kind
    return rankings


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_is_read(tmp_path, queries, kind):
    path = tmp_path / "file.json"
    path.write_text(json.dumps(good(kind)))
    rankings = read(kind, path, queries)
    before = "c/val/" if kind == "fashioniq" else ""
    assert [rankings[f"{before}{q}"][0] for q in "38"] == ["1", "6"]
    assert all(isinstance(i, str) for ids in rankings.values() for i in ids)


def spoil(kind: str, change) -> dict:
    """A good file after `change`(its rankings)."""
    content = good(kind)
    change(content["c"] if kind == "fashioniq" else content)
    return content


CIRR = tuple(CIRR_FILES)
FAULTS = [
    (FORMATS, lambda r: r.pop("8"), r"no ranking of query '(c/val/)?8' \(1 like it\); give one of"),
    (FORMATS, lambda r: r.update({"x": r["3"]}), "a ranking of unknown query '(c/val/)?x'"),
    (FORMATS, lambda r: r["3"].__setitem__(2, r["3"][1]), "query .*3: image '.+' is listed twice"),
    (FORMATS, lambda r: r["8"].clear(), "query .*8: 0 images; list 1 or more, best first"),
    (FORMATS, lambda r: r.update({"3": dict.fromkeys(r["3"])}), "query .*3: write a list"),
    (FORMATS, lambda r: r.update({"3": "1"}), "query .*3: write a list"),
    (FORMATS, lambda r: r["3"].__setitem__(1, None), "query .*3: write a list of"),
    (FORMATS, lambda r: r["3"].__setitem__(1, True), "query .*3: write a list of"),
    (("circo",), lambda r: r["3"].__setitem__(1, "4"), "query 3: write a list .* whole numbers"),
    (("circo",), lambda r: r["3"].__setitem__(1, 4.0), "query 3: write a list .* whole numbers"),
    (("circo",), lambda r: r["3"].__setitem__(1, -1), "query 3: write a list .* whole numbers"),
    (("circo",), lambda r: r["3"].__setitem__(1, 99), "query 3: image '99' is not in the corpus"),
    (FORMATS[1:], lambda r: r["3"].__setitem__(1, 4), "query .*3: write a list .* as strings"),
    (("recall", "fashioniq"), lambda r: r["3"].__setitem__(1, "99"), "'99' is not in the corpus"),
    (("recall_subset",), lambda r: r["3"].__setitem__(1, "8"), "'8' is not in the query's group"),
    (CIRR, lambda r: r["3"].__setitem__(1, "0"), "query 3: '0' is the query's reference; leave it"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "change", "message"), [(k, c, m) for kinds, c, m in FAULTS for k in kinds]
)
def test_a_fault_is_named_with_its_query(tmp_path, queries, kind, change, message):
    path = tmp_path / "file.json"
    path.write_text(json.dumps(spoil(kind, change)))
    with pytest.raises(ValueError, match=rf"file\.json.*{message}"):
        read(kind, path, queries)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "expected a dict, found list"),
        ('{"3": [1, 2', "not valid JSON .*truncated"),
        ('{"3": [], "3": []}', "the key '3' is there twice"),
        ("[" * 100_000, "not valid JSON"),
        ('{"3": [' + "9" * 5000 + "]}", "not valid JSON"),
        ("\udcff", "not valid JSON"),
        ("", "not valid JSON"),
        (None, "is missing; name a file of rankings"),
    ],
    ids=range(8),
)
def test_what_is_no_such_file_is_refused(tmp_path, queries, kind, text, message):
    path = tmp_path / "file.json"
    if text is not None:
        path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=rf"file\.json.*{message}"):
        read(kind, path, queries)


def test_an_absurdly_large_file_is_not_read(tmp_path, queries, monkeypatch):
    (tmp_path / "file.json").write_text(json.dumps(good("circo")))
    monkeypatch.setattr(ranking_files, "LARGEST_FILE", 100)
    with pytest.raises(ValueError, match=r"file\.json has \d+ bytes; keep the first 50"):
        CIRCO_FILE.read(tmp_path / "file.json", queries)


def test_without_cocos_list_any_of_its_numbers_passes(tmp_path, queries):
    named = replace(queries, corpus=Corpus(("0", "1", "2", "7", "6"), ()))
    assert known_corpus(queries) and not known_corpus(named)
    path = tmp_path / "file.json"
    path.write_text(json.dumps(spoil("circo", lambda r: r["3"].__setitem__(1, 581_900))))
    assert CIRCO_FILE.read(path, named)["3"][1] == "581900"
    for number in (10**12, -1):
        path.write_text(json.dumps(spoil("circo", lambda r, n=number: r["3"].__setitem__(1, n))))
        with pytest.raises(ValueError, match=r"query 3: write .* whole numbers up to 9{12}"):
            CIRCO_FILE.read(path, named)


@pytest.mark.parametrize("kind", FORMATS[:3])
def test_a_faulty_ranking_is_not_written(tmp_path, queries, kind):
    file = CIRCO_FILE if kind == "circo" else CIRR_FILES[kind]
    rankings = {q: list(map(str, ids)) for q, ids in good(kind).items() if q in "38"}
    file.write(tmp_path / "good.json", rankings, queries)
    assert json.loads((tmp_path / "good.json").read_text()) == good(kind)
    rankings["8"][1] = rankings["8"][0]
    with pytest.raises(ValueError, match=r"file\.json, query 8: image '6' is listed twice"):
        file.write(tmp_path / "file.json", rankings, queries)
    assert [path.name for path in tmp_path.iterdir()] == ["good.json"]


@pytest.mark.parametrize("kind", FORMATS[:3])
@pytest.mark.parametrize("more", [-1, 1])
def test_a_server_gets_as_many_images_as_it_takes(tmp_path, queries, kind, more):
    """What is read may be of any length."""
    file = CIRCO_FILE if kind == "circo" else CIRR_FILES[kind]
    content = good(kind)
    another = {"circo": 59, "recall": "59", "recall_subset": "10"}[kind]
    content["8"] = content["8"][:-1] if more < 0 else [*content["8"], another]
    path = tmp_path / "file.json"
    path.write_text(json.dumps(content))
    rankings = read(kind, path, queries)
    assert len(rankings["8"]) == file.count + more and len(rankings["3"]) == file.count
    message = rf"out\.json, query 8: {file.count + more} images; list {file.count}"
    with pytest.raises(ValueError, match=message):
        file.write(tmp_path / "out.json", rankings, queries)
    assert not (tmp_path / "out.json").exists()


def test_a_folder_is_never_replaced_by_a_file(tmp_path, queries):
    rankings = {q: list(map(str, ids)) for q, ids in good("circo").items()}
    (tmp_path / "kept.txt").touch()
    with pytest.raises(ValueError, match="is a folder; name a file in it"):
        CIRCO_FILE.write(tmp_path, rankings, queries)
    assert (tmp_path / "kept.txt").is_file()
