"""python -m qure_lib.evaluation: three sources, one JSON object, and faults without a traceback."""

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from shared import ROOT
from torch.nn.modules.module import register_module_forward_pre_hook

from data_prep.stand_in import stand_in
from qure_lib.datasets.circo import load_circo
from qure_lib.datasets.cirr import load_cirr
from qure_lib.datasets.fashioniq import load_fashioniq
from qure_lib.datasets.hp_fashioniq import find_hp_fashioniq_images, load_hp_fashioniq
from qure_lib.datasets.loading import real_annotations
from qure_lib.evaluation.__main__ import main, parser
from qure_lib.evaluation.circo import CIRCO_FILE, evaluate_circo, rank_circo
from qure_lib.evaluation.cirr import CIRR_FILES, evaluate_cirr, rank_cirr
from qure_lib.evaluation.fashioniq import evaluate_fashioniq
from qure_lib.evaluation.hp_fashioniq import evaluate_hp_fashioniq, hp_query_set
from qure_lib.evaluation.metrics import recall_at_k
from qure_lib.evaluation.registry import PROTOCOLS
from qure_lib.evaluation.target_ranks import rank_images
from qure_lib.features.model_folder import load_model, save_model
from qure_lib.features.retriever import Retriever
from qure_lib.features.saved_embeddings import SavedEmbeddings
from qure_lib.files import file_sha256
from qure_lib.method.encoders import ClipEncoder
from qure_lib.method.ranking import DEFAULT_MEMORY

NAMES = ("fashioniq", "cirr", "circo", "hp-fashioniq")
HP = "hp_like/hpfiq_simulated.json"


@pytest.fixture
def command(capsys):
    """Run the command: its JSON object, or (status, what it said) where it failed."""

    def run(*words):
        status = main([str(word) for word in words])
        printed = capsys.readouterr()
        if status:
            assert printed.out == "" and "Traceback" not in printed.err
            return status, printed.err
        return json.loads(printed.out)

    return run


@pytest.fixture(scope="module")
def sets(smoke_world):
    """Every protocol's query sets, by name."""
    return {
        "fashioniq": load_fashioniq(smoke_world, "val"),
        "cirr": {"": load_cirr(smoke_world / "cirr_like")},
        "circo": {"": load_circo(smoke_world / "circo_like")},
    }


@pytest.fixture(scope="module")
def judged(smoke_world):
    return load_hp_fashioniq(smoke_world / HP)


@pytest.fixture(scope="module")
def retriever(sets, stage1, tmp_path_factory):
    images = {i: p for named in sets.values() for q in named.values() for i, p in q.images.items()}
    return Retriever.open(stage1, images, tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def frames(sets, judged, retriever):
    """What the evaluators say, with every image's frozen features."""
    return {
        "fashioniq": evaluate_fashioniq(retriever, sets["fashioniq"]),
        "cirr": evaluate_cirr(retriever, sets["cirr"][""]),
        "circo": evaluate_circo(retriever, sets["circo"][""]),
        "hp-fashioniq": evaluate_hp_fashioniq(retriever, judged),
    }


@pytest.fixture(scope="module")
def folders(smoke_world):
    """--annotations of each protocol, and --root."""
    views = {"cirr": smoke_world / "cirr_like", "circo": smoke_world / "circo_like"}
    roots = {name: views.get(name, smoke_world) for name in NAMES}
    return roots | {"hp-fashioniq": smoke_world / HP}, roots


@pytest.fixture(scope="module")
def saved(sets, judged, retriever, tmp_path_factory):
    """One file of embeddings a protocol, in float32."""
    files = {}
    for name, named in (sets | {"hp-fashioniq": {"": hp_query_set(judged, None)}}).items():
        embedded = [retriever.embed_queries(q).numpy() for q in named.values()]
        images = [retriever.embed_corpus(q.corpus).numpy() for q in named.values()]
        files[name] = tmp_path_factory.mktemp("saved") / f"{name}.npz"
        np.savez(
            files[name],
            queries=np.concatenate(embedded),
            images=np.concatenate(images),
            query_ids=[t.query_id for q in named.values() for t in q.triplets],
            image_ids=[i for q in named.values() for i in q.corpus.image_ids],
        )
    return files


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("source", ["checkpoint", "embeddings"])
def test_a_model_and_its_embeddings_score_as_the_evaluators_say(
    request, command, frames, folders, tmp_path, name, source
):
    annotations, roots = folders
    words = ["--per-query", tmp_path / "per_query.csv"]
    if source == "checkpoint":
        words += ["--checkpoint", request.getfixturevalue("stage1"), "--root", roots[name]]
        words += ["--cache", tmp_path / "cache"]
        words += ["--annotations", annotations[name]] * (name == "hp-fashioniq")
    else:
        words += ["--embeddings", request.getfixturevalue("saved")[name]]
        words += ["--annotations", annotations[name]]
    printed = command(name, *words)
    expected, found = frames[name], pd.read_csv(tmp_path / "per_query.csv")
    assert printed["n"] == len(expected) == len(found)
    assert list(found) == [*expected, "protocol", "images"] and {*found["protocol"]} == {name}
    assert found["query_id"].astype(str).tolist() == expected["query_id"].tolist()
    if source == "embeddings":
        columns = [c for c in expected.select_dtypes("number")]
        np.testing.assert_allclose(found[columns], expected[columns], rtol=1e-6)
    elif "rank" in expected:  # embeddings on disk are float16
        assert (found["rank"] - expected["rank"]).abs().max() <= 2
    metrics = printed["metrics"]
    assert metrics.keys() == printed["intervals"].keys() == printed["queries"].keys()
    for metric, (low, high) in printed["intervals"].items():
        assert 0 <= low <= metrics[metric] <= high <= 100


def test_metrics_are_means_of_the_per_query_results(command, frames, folders, saved):
    def run(name, *words):
        words = ["--embeddings", saved[name], "--annotations", folders[0][name], *words]
        return command(name, *words)["metrics"]

    fashion, ranks = run("fashioniq"), frames["fashioniq"]
    by = {
        k: ranks.groupby("category")["rank"].agg(lambda r, k=k: 100 * (r < k).mean())
        for k in (10, 50)
    }
    assert fashion["Recall@10 dress"] == pytest.approx(by[10]["dress"])
    assert fashion["Recall@50 average"] == pytest.approx(by[50].mean())
    assert fashion["Avg"] == pytest.approx((by[10].mean() + by[50].mean()) / 2)
    cirr, frame = run("cirr"), frames["cirr"]
    assert [cirr[f"Recall@{k}"] for k in (1, 5, 10, 50)] == pytest.approx(
        [100 * recall_at_k(frame["rank"], k).mean() for k in (1, 5, 10, 50)]
    )
    assert cirr["(R@5+Rs@1)/2"] == (cirr["Recall@5"] + cirr["Recall_subset@1"]) / 2
    circo, frame = run("circo"), frames["circo"]
    assert circo["mAP@25"] == pytest.approx(100 * frame["ap25"].mean())
    assert circo["Recall@5"] == pytest.approx(100 * (frame["rank"] < 5).mean())
    colour = ["colour" in aspects for aspects in frame["aspects"]]
    assert circo["mAP@10 colour"] == pytest.approx(100 * frame["ap10"][colour].mean())
    assert run("circo", "--exclude-reference") != circo
    people, frame = run("hp-fashioniq"), frames["hp-fashioniq"]
    rate = 100 * frame["agrees"][frame["one_sided"]].mean()
    assert people["preference rate (one-sided)"] == pytest.approx(rate)
    assert people["base rate"] == pytest.approx(100 * (frame["preferred"] == 1).mean())


def test_the_output_names_protocol_corpus_and_prompt(command, folders, saved, stage1, tmp_path):
    words = ["--embeddings", saved["fashioniq"], "--annotations", folders[0]["fashioniq"]]
    original, union = (
        command("fashioniq", *words),
        command("fashioniq", *words, "--protocol", "union"),
    )
    assert original["protocol"] == "FashionIQ val, original split, reference not removed"
    assert union["protocol"] == "FashionIQ val, VAL-union, reference not removed"
    assert original["images"]["dress"] > union["images"]["dress"]
    assert original["metrics"] != union["metrics"]
    words = ["--checkpoint", stage1, "--root", folders[1]["circo"], "--cache", tmp_path]
    names = {
        p: command("circo", *words, "--prompt", p) for p in ("released", "repaired", "caption")
    }
    assert {p: r["protocol"] for p, r in names.items()} == {
        p: f"CIRCO val, reference not removed, prompt '{p}'" for p in names
    }
    assert names["repaired"]["metrics"] != names["caption"]["metrics"]


def test_hp_fashioniq_encodes_each_image_once_for_all_models(hp_study, stage1, tmp_path, command):
    """Two models with the same frozen encoder, as any that were trained here from the same."""
    root, annotations = hp_study
    judged = load_hp_fashioniq(annotations)
    paths = find_hp_fashioniq_images(judged, root)
    encoded = Counter()

    def count(module, inputs):
        if isinstance(module, ClipEncoder):
            pixels = inputs[0].cpu().numpy()
            encoded.update(hashlib.sha256(p.tobytes()).hexdigest() for p in pixels)

    trained = load_model(stage1)
    trained.query_tokens.data.neg_()
    save_model(trained, tmp_path / "trained")
    shutil.copy(stage1 / "tokenizer.json", tmp_path / "trained")
    words = ["--root", root, "--annotations", annotations, "--cache", tmp_path / "cache"]
    hook = register_module_forward_pre_hook(count)
    try:
        one, other = (
            command("hp-fashioniq", "--checkpoint", folder, *words)
            for folder in (stage1, tmp_path / "trained")
        )
    finally:
        hook.remove()
    assert one["n"] == other["n"] == len(judged) and one["metrics"] != other["metrics"]
    assert len(encoded) == len({file_sha256(path) for path in paths.values()})
    assert set(encoded.values()) == {1}


@pytest.fixture(params=["drawn", pytest.param("real", marks=pytest.mark.slow)])
def hp_study(request, smoke_world, tmp_path):
    """A folder of images and judgements of them; the real ones with drawn images."""
    if request.param == "drawn":
        return smoke_world, smoke_world / HP
    annotations = real_annotations("hpfiq")
    if annotations is None:
        pytest.skip("QURE_DATA holds no hpfiq")
    return stand_in("hpfiq", annotations, tmp_path / "images", None), annotations / "hpfiq.json"


def test_submissions_score_as_their_model_does(command, sets, retriever, folders, saved, tmp_path):
    queries = sets["cirr"][""]
    words = ["--annotations", folders[0]["cirr"]]
    whole = command("cirr", "--embeddings", saved["cirr"], *words)["metrics"]
    paths = [tmp_path / f"{metric}.json" for metric in CIRR_FILES]
    for path, rankings in zip(paths, rank_cirr(retriever, queries), strict=True):
        CIRR_FILES[path.stem].write(path, rankings, queries)
    assert command("cirr", "--submission", *paths, *words)["metrics"] == pytest.approx(whole)
    part = command("cirr", "--submission", paths[1], *words)["metrics"]
    assert list(part) == [f"Recall_subset@{k}" for k in (1, 2, 3)]
    status, said = command("cirr", "--submission", paths[0], paths[0], *words)
    assert status == 2 and "a second file of metric 'recall'" in said
    queries, words = sets["circo"][""], ["--annotations", folders[0]["circo"]]
    CIRCO_FILE.write(tmp_path / "circo.json", rank_circo(retriever, queries), queries)
    whole = command("circo", "--embeddings", saved["circo"], *words)
    found = command("circo", "--submission", tmp_path / "circo.json", *words)
    assert found["metrics"] == pytest.approx(whole["metrics"])
    assert found["images"] == whole["images"] == len(queries.corpus)


def cut_to_one(folder, out, name):
    """Annotations with one query a file, or one participant, and how many queries are left."""
    paths = [folder] if folder.is_file() else folder.rglob("*.json")
    for path in paths:
        parts = () if folder.is_file() else path.relative_to(folder).parts
        content = json.loads(path.read_text())
        if name == "hp-fashioniq":
            content = dict([next(iter(content.items()))])
        elif isinstance(content, list) and parts[0] in ("captions", "annotations"):
            content = content[:1]
        copied = out.joinpath(*parts or ["hpfiq.json"])
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_text(json.dumps(content))
    if name == "hp-fashioniq":
        return [str(row) for row in range(len(load_hp_fashioniq(out / "hpfiq.json")))]
    load = {"fashioniq": load_fashioniq, "cirr": load_cirr, "circo": load_circo}[name]
    sets = load(out, "val", images=False)
    sets = sets if isinstance(sets, dict) else {"": sets}
    return [t.query_id for queries in sets.values() for t in queries.triplets]


@pytest.mark.parametrize("name", NAMES)
def test_one_query_has_a_result_without_an_interval(folders, saved, tmp_path, capsys, name):
    kept = cut_to_one(folders[0][name], tmp_path / "data", name)
    arrays = dict(np.load(saved[name]))
    rows = np.isin(arrays["query_ids"], kept)
    arrays |= {key: arrays[key][rows] for key in ("queries", "query_ids")}
    np.savez(tmp_path / "one.npz", **arrays)
    words = [name, "--embeddings", tmp_path / "one.npz", "--annotations", tmp_path / "data"]
    assert main([str(word) for word in words]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["n"] == len(kept) and None not in result["metrics"].values()
    alone = [metric for metric, ends in result["intervals"].items() if ends == [None, None]]
    averages = {"Recall@10 average", "Recall@50 average", "Avg"} & result["metrics"].keys()
    assert set(alone) == result["metrics"].keys() - averages  # of three categories
    assert f"no interval, since a single query or participant counts: {alone[0]}" in printed.err


def test_a_name_that_a_console_lacks_is_printed_as_json_escapes(tmp_path, capsys):
    write_category(tmp_path, "größe 😀")
    words = ["--submission", tmp_path / "file.json", "--annotations", tmp_path]
    assert main(["fashioniq", *map(str, words)]) == 0
    out = capsys.readouterr().out
    assert out.isascii() and json.loads(out)["metrics"]["Recall@10 größe 😀"] == 100


def write_category(root, name):
    """One category of 51 images and two queries, and a ranking file that begins with the target."""
    ids = [f"image-{number}" for number in range(51)]
    entries = [{"candidate": ids[n], "target": ids[5], "captions": ["a", "b"]} for n in range(2)]
    ranked = [ids[5], *(i for i in ids if i != ids[5])]
    for path, content in {
        f"captions/cap.{name}.val.json": entries,
        f"image_splits/split.{name}.val.json": ids,
        "file.json": {name: {"0": ranked, "1": ranked}},
    }.items():
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text(json.dumps(content), encoding="utf-8-sig")


def score_short(command, capsys, sets, folders, saved, tmp_path, name, length):
    """The whole result of saved embeddings, that of their first `length` images, and stderr."""
    source = SavedEmbeddings.open(saved[name])
    ranked = {
        category: rank_images(source, q, length, DEFAULT_MEMORY, name == "cirr")
        for category, q in sets[name].items()
    }
    content = ranked if name == "fashioniq" else ranked[""]
    if name == "circo":
        content = {q: list(map(int, ids)) for q, ids in content.items()}
    if name == "cirr":
        content = {"version": "rc2", "metric": "recall"} | content
    path = write(tmp_path / "short.json", content)
    words = ["--annotations", folders[0][name]]
    whole = command(name, "--embeddings", saved[name], *words)
    assert main([name, "--submission", *map(str, (path, *words))]) == 0
    printed = capsys.readouterr()
    return whole, json.loads(printed.out), printed.err


@pytest.mark.parametrize(
    ("name", "length", "unknown"),
    [
        ("fashioniq", 20, ["Recall@50 dress", "Recall@50 average", "Avg"]),
        ("fashioniq", 9, ["Recall@10 dress", "Recall@50 shirt", "Avg"]),
        ("circo", 7, ["mAP@10", "mAP@50", "Recall@10", "mAP@10 colour"]),
        ("cirr", 1, ["Recall@5", "Recall@50"]),
    ],
)
def test_short_rankings_score_up_to_their_end(
    command, capsys, sets, folders, saved, tmp_path, name, length, unknown
):
    whole, found, said = score_short(command, capsys, sets, folders, saved, tmp_path, name, length)
    null = [words for words, estimate in found["metrics"].items() if estimate is None]
    assert set(unknown) <= set(null)
    for words, estimate in found["metrics"].items():
        k = re.search(r"@(\d+)", words)
        assert (words in null) == (words == "Avg" or int(k[1]) > length)
        if words in null:
            assert found["intervals"][words] == [None, None]
        else:
            assert estimate == whole["metrics"][words]
    assert found["notes"] == [f"no result, since a ranking lists too few images: {', '.join(null)}"]
    assert found["notes"][0] in said


def test_one_short_ranking_hides_no_more_than_its_own_category(command, sets, folders, tmp_path):
    content = {
        category: {t.query_id: list(q.corpus.image_ids[:60]) for t in q.triplets}
        for category, q in sets["fashioniq"].items()
    }
    content["dress"][sets["fashioniq"]["dress"].triplets[3].query_id][20:] = []
    path = write(tmp_path / "short.json", content)
    words = ["--submission", path, "--annotations", folders[0]["fashioniq"]]
    found = command("fashioniq", *words, "--per-query", tmp_path / "q.csv")["metrics"]
    null = [words for words, estimate in found.items() if estimate is None]
    assert null == ["Recall@50 dress", "Recall@50 average", "Avg"]
    listed_images = pd.read_csv(tmp_path / "q.csv").groupby("category")["listed"].min()
    assert listed_images["dress"] == 20 and listed_images.drop("dress").isna().all()
    shutil.copy(tmp_path / "q.csv", tmp_path / "again.csv")
    compared = command("compare", tmp_path / "q.csv", tmp_path / "again.csv")["differences"]
    assert {row["measure"] for row in compared} == found.keys() - {*null}


def as_test_split(folder, name):
    """Rename a view's val to the test split, its answers taken away."""
    renamed = {"cirr": ("rc2.val", "rc2.test1"), "circo": ("val", "test")}[name]
    for path in [*folder.glob("captions/*"), *folder.glob("*/split.*"), *folder.glob("*/val.json")]:
        entries = json.loads(path.read_text())
        for entry in entries if isinstance(entries, list) else ():
            for answer in ("target_hard", "target_img_id", "gt_img_ids", "semantic_aspects"):
                entry.pop(answer, None)
        path.with_name(path.name.replace(*renamed)).write_text(json.dumps(entries))
        path.unlink()


@pytest.mark.parametrize("name", ["cirr", "circo"])
def test_files_for_the_server_are_those_of_the_test_split(
    command, smoke_world, sets, retriever, saved, tmp_path, name
):
    view = smoke_world / f"{name}_like"
    for path in view.rglob("*.json"):
        copied = tmp_path / "world" / path.relative_to(view)
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_text(path.read_text())
    as_test_split(tmp_path / "world", name)
    words = ["--annotations", tmp_path / "world", "--test-files", tmp_path / "out"]
    printed = command(name, "--embeddings", saved[name], *words)
    assert printed["n"] == len(sets[name][""]) and "metrics" not in printed
    assert printed["protocol"].startswith(("CIRR test1", "CIRCO test,"))
    written = [json.loads(Path(path).read_text()) for path in printed["files"]]
    if name == "cirr":
        for content, rankings in zip(written, rank_cirr(retriever, sets[name][""]), strict=True):
            assert content.pop("version") == "rc2" and content.pop("metric").startswith("recall")
            assert content == rankings
    else:
        rankings = rank_circo(retriever, sets[name][""])
        assert written == [{q: list(map(int, ids)) for q, ids in rankings.items()}]


def test_circo_needs_no_list_of_coco_where_the_embeddings_name_the_images(
    command, sets, folders, saved, tmp_path
):
    (tmp_path / "annotations").mkdir()
    text = (folders[0]["circo"] / "annotations" / "val.json").read_text()
    (tmp_path / "annotations" / "val.json").write_text(text)
    words = ["circo", "--annotations", tmp_path, "--embeddings"]
    whole = command("circo", "--annotations", folders[0]["circo"], "--embeddings", saved["circo"])
    assert command(*words, saved["circo"]) == whole
    arrays = dict(np.load(saved["circo"]))
    truth = sets["circo"][""].triplets[0].target
    keep = arrays["image_ids"] != truth
    np.savez(tmp_path / "few.npz", **arrays | {n: arrays[n][keep] for n in ("images", "image_ids")})
    status, said = command(*words, tmp_path / "few.npz")
    assert status == 2 and "few.npz misses 1 of the" in said and f"'{truth}'" in said


# ---------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("cirr --submission x.json", "--submission needs --annotations"),
        ("cirr --checkpoint x", "--checkpoint needs --root"),
        ("cirr --checkpoint x --root x --annotations x", "--checkpoint takes no --annotations"),
        ("hp-fashioniq --checkpoint x --root x", "--checkpoint needs --annotations"),
        ("circo --embeddings x --annotations x --root x", "--embeddings takes no --root"),
        ("circo --embeddings x --annotations x --prompt released", "--prompt needs --checkpoint"),
        ("circo --submission x --annotations x --prompt released", "--prompt needs --checkpoint"),
        (
            "circo --submission x --annotations x --exclude-reference",
            "--exclude-reference needs --checkpoint or --embeddings",
        ),
        (
            "fashioniq --embeddings x --annotations x --allow-missing",
            "--allow-missing needs --checkpoint; leave it out with --embeddings",
        ),
        (
            "cirr --submission x --annotations x --test-files x",
            "--test-files needs --checkpoint or --embeddings",
        ),
        ("cirr --embeddings x --annotations x --test-files x --per-query x", "only the server"),
        ("cirr --submission x --annotations x --per-query .", "--per-query . is a folder"),
        ("cirr --submission x --annotations nowhere", "cap.rc2.val.json is missing|split.rc2"),
        ("hp-fashioniq --submission x --annotations nowhere", "nowhere is missing"),
        ("fashioniq --checkpoint nowhere --root nowhere", "is missing"),
    ],
)
def test_arguments_that_do_not_fit_are_named(command, words, message):
    status, said = command(*words.split())
    assert status == 2 and said.startswith(
        f"python -m qure_lib.evaluation {words.split()[0]}: error: "
    )
    assert any(part in said for part in message.split("|"))


@pytest.mark.parametrize(
    "words", ["", "cirr", "cirr --submission x --checkpoint y", "cir --root x"]
)
def test_exactly_one_source_is_asked_for(capsys, words):
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    assert stop.value.code == 2 and capsys.readouterr().out == ""


@pytest.mark.parametrize("name", NAMES)
def test_help_names_every_source(capsys, name):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    said = capsys.readouterr().out
    assert stop.value.code == 0
    assert all(
        f"--{word}" in said for word in ("checkpoint", "embeddings", "submission", "per-query")
    )
    assert list(PROTOCOLS) == list(NAMES)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_the_commands_of_a_page_are_understood(page):
    commands = re.findall(r"^python -m qure_lib\.evaluation (.*)$", page.read_text(), re.MULTILINE)
    assert page.stem != "compare" or len(commands) >= 3
    assert all(parser().parse_args(shlex.split(command)) for command in commands)


def test_an_option_has_its_own_default_and_other_data_sets_lack_it():
    args = parser().parse_args(["fashioniq", "--embeddings", "x", "--annotations", "x"])
    assert args.protocol == "original" and args.test_files is None and not args.allow_missing
    with pytest.raises(SystemExit):
        parser().parse_args(["cirr", "--embeddings", "x", "--protocol", "union"])


def test_the_module_is_the_command(smoke_world, tmp_path):
    """As a process: one JSON object and nothing else on stdout; a fault and status 2 on stderr."""
    judged = load_hp_fashioniq(smoke_world / HP)
    path = tmp_path / "scores.csv"
    shown = {"row": np.repeat(range(len(judged)), 2), "set": [1, 2] * len(judged)}
    pd.DataFrame(shown).assign(score=np.arange(2 * len(judged)) % 7).to_csv(path, index=False)
    words = [sys.executable, "-m", "qure_lib.evaluation", "hp-fashioniq", "--submission", path]
    done = subprocess.run(
        [*words, "--annotations", smoke_world / HP], capture_output=True, text=True
    )
    assert json.loads(done.stdout)["n"] == len(judged), done.stderr
    path.write_text("row,set,score\n0,1,x\n")
    done = subprocess.run(
        [*words, "--annotations", smoke_world / HP], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "scores.csv, line 2" in done.stderr and "Traceback" not in done.stderr


# ---------------------------------------------------------------- real annotations


def needs(name):
    return pytest.mark.skipif(
        real_annotations(name) is None, reason=f"QURE_DATA does not hold {name}/"
    )


def listed(first, others, count):
    """A ranking of `count` images that begins with `first`."""
    return list(dict.fromkeys([*first, *others]))[:count]


def write(path, content):
    path.write_text(json.dumps(content))
    return path


@needs("fashioniq")
@pytest.mark.parametrize(("protocol", "images"), [("original", (3817, 6346, 5373)),
                                                  ("union", (2628, 3089, 2902))])  # fmt: skip
def test_fashioniq_perfect_and_reversed(command, tmp_path, protocol, images):
    root = real_annotations("fashioniq")
    rankings = {
        category: {
            row: listed([t.target], q.corpus.image_ids[:51], 50) for row, t in enumerate(q.triplets)
        }
        for category, q in load_fashioniq(root, "val", protocol, images=False).items()
    }
    words = ["--annotations", root, "--protocol", protocol]
    best = command("fashioniq", "--submission", write(tmp_path / "best.json", rankings), *words)
    assert tuple(best["images"].values()) == images
    assert (best["n"], best["queries"]["Recall@10 dress"]) == (6016, 2017)
    assert set(best["metrics"].values()) == {100} and len(best["metrics"]) == 9
    worst = {c: {q: ids[::-1] for q, ids in r.items()} for c, r in rankings.items()}
    worst = command("fashioniq", "--submission", write(tmp_path / "w.json", worst), *words)
    assert worst["metrics"]["Recall@10 average"] == 0 and worst["metrics"]["Avg"] == 50


@needs("fashioniq")
def test_a_ranking_of_the_other_corpus_is_refused(command, tmp_path):
    root = real_annotations("fashioniq")
    rankings = {
        c: {row: list(q.corpus.image_ids[:50]) for row in range(len(q))}
        for c, q in load_fashioniq(root, "val", images=False).items()
    }
    words = ["--annotations", root, "--protocol", "union"]
    status, said = command(
        "fashioniq", "--submission", write(tmp_path / "r.json", rankings), *words
    )
    assert status == 2 and "is not in the corpus of this protocol" in said


@needs("cirr")
def test_cirr_perfect_and_reversed(command, tmp_path):
    root = real_annotations("cirr")
    queries = load_cirr(root, images=False)
    some = queries.corpus.image_ids[:53]
    head = {"version": "rc2", "metric": "recall"}
    others = {t.query_id: [i for i in some if i != t.reference] for t in queries.triplets}
    recall = head | {
        t.query_id: listed([t.target], others[t.query_id], 50) for t in queries.triplets
    }
    groups = {t.query_id: [i for i in t.group if i != t.reference] for t in queries.triplets}
    subset = {t.query_id: listed([t.target], groups[t.query_id], 3) for t in queries.triplets}
    subset = head | {"metric": "recall_subset"} | subset
    paths = [write(tmp_path / "recall.json", recall), write(tmp_path / "subset.json", subset)]
    best = command("cirr", "--submission", *paths, "--annotations", root)
    assert (best["n"], best["images"]) == (4181, 2297)
    assert set(best["metrics"].values()) == {100} and len(best["metrics"]) == 8
    for path, content in zip(paths, (recall, subset), strict=True):
        write(path, {q: v[::-1] if isinstance(v, list) else v for q, v in content.items()})
    worst = command("cirr", "--submission", *paths, "--annotations", root)["metrics"]
    assert (worst["Recall@10"], worst["Recall@50"]) == (0, 100)
    assert (worst["Recall_subset@2"], worst["Recall_subset@3"], worst["(R@5+Rs@1)/2"]) == (
        0,
        100,
        0,
    )


@needs("circo")
def test_circo_perfect_and_reversed(command, tmp_path):
    root = real_annotations("circo")
    rankings = {
        t.query_id: listed(map(int, t.ground_truths), range(1000, 1064), 50)
        for t in load_circo(root, images=False).triplets
    }
    words = ["circo", "--annotations", root, "--submission"]
    best = command(*words, write(tmp_path / "best.json", rankings))
    assert (best["n"], best["images"]) == (220, None)
    maps = {k: v for k, v in best["metrics"].items() if k.startswith("mAP")}
    assert set(maps.values()) == {100} and len(maps) == 4 + 9
    assert best["queries"]["mAP@10 negation"] == 21
    worst = {q: ids[::-1] for q, ids in rankings.items()}
    worst = command(*words, write(tmp_path / "worst.json", worst))["metrics"]
    assert worst["mAP@25"] == worst["Recall@25"] == 0 and 0 < worst["mAP@50"] < 10
    assert worst["Recall@50"] == 100
    example = command(*words, root / "submission_examples" / "submission_val.json")["metrics"]
    assert (round(example["mAP@5"], 4), round(example["Recall@50"], 4)) == (0.4861, 3.6364)
    status, said = command(*words, root / "submission_examples" / "submission_test.json")
    assert status == 2 and "submission_test.json: a ranking of unknown query '220'" in said


@needs("hpfiq")
def test_hp_fashioniq_perfect_reversed_and_blind(command, tmp_path):
    root = real_annotations("hpfiq")
    judged = load_hp_fashioniq(root / "hpfiq.json")
    rows = {"row": np.repeat(np.arange(len(judged)), 2), "set": [1, 2] * len(judged)}
    preferred = np.repeat(judged["preferred"].to_numpy(), 2) == rows["set"]
    found = {}
    for name, scores in {
        "best": preferred,
        "worst": ~preferred,
        "blind": np.random.default_rng(0).random(len(preferred)),
    }.items():
        path = tmp_path / f"{name}.csv"
        pd.DataFrame(rows | {"score": scores.astype(float)}).to_csv(path, index=False)
        found[name] = command("hp-fashioniq", "--submission", path, "--annotations", root)
    rates = {n: [*r["metrics"].values()] for n, r in found.items()}
    assert found["best"]["n"] == 3050 and found["best"]["queries"]["base rate"] == 3050
    base = 100 * 1641 / 3050
    assert rates["best"] == [100, 100, base] and rates["worst"] == [0, 0, base]
    low, high = found["blind"]["intervals"]["preference rate (one-sided)"]
    assert low < base < high and 4 < high - low < 8
