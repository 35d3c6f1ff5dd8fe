"""python -m qure_lib.diagnose: three sources of scores, one JSON object, words, and a picture."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import qure_lib
from qure_lib import diagnose, own_scores
from qure_lib.datasets.circo import load_circo
from qure_lib.datasets.cirr import load_cirr
from qure_lib.datasets.fashioniq import load_fashioniq
from qure_lib.diagnose import main
from qure_lib.evaluation.circo import evaluate_circo
from qure_lib.evaluation.cirr import evaluate_cirr
from qure_lib.evaluation.fashioniq import evaluate_fashioniq
from qure_lib.features.retriever import Retriever

COMMAND = "python -m qure_lib.diagnose: error: "
TAU = 0.05


def refuse(number):
    raise AssertionError(f"{number} is no JSON")


@pytest.fixture
def command(capsys, tmp_path, monkeypatch):
    """Run the command, without its picture: its JSON object, or the error where it failed."""
    monkeypatch.setattr(diagnose, "draw", lambda reports, path: path.write_bytes(b""))

    def run(*words):
        status = main([str(word) for word in (*words, "--out", tmp_path / "out")])
        printed = capsys.readouterr()
        if status:
            assert status == 2 and printed.out == "" and printed.err.count("\n") == 1
            assert printed.err.startswith(COMMAND) and not (tmp_path / "out").exists()
            return printed.err.removeprefix(COMMAND)
        result = json.loads(printed.out, parse_constant=refuse)
        assert json.loads((tmp_path / "out" / "diagnosis.json").read_text()) == result
        assert all(sentence in printed.err for sentence in result["in_words"])
        return result

    return run


@pytest.fixture
def write(tmp_path):
    """Write scores and targets; returns the arguments that name them."""

    def save(scores, targets):
        files = {"scores": scores, "targets": targets}
        for name, array in files.items():
            np.save(tmp_path / f"{name}.npy", array)
        return [w for name in files for w in (f"--{name}", tmp_path / f"{name}.npy")]

    return save


def drawn(queries=60, images=200, target=20):
    """Scores without structure; each query's target is its image of rank 0 to `target`."""
    generator = np.random.default_rng(0)
    scores = generator.normal(0.4, 0.1, (queries, images)).astype("float32")
    ranks = generator.integers(0, target, queries)
    return scores, np.argsort(-scores, axis=1)[np.arange(queries), ranks]


# ---------------------------------------------------------------- scores


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("curve", ["cosine", "preference"])
def test_the_windows_are_those_of_hard_negatives(command, write, curve):
    scores, targets = drawn()
    result = command(*write(scores, targets), "--temperature", TAU)
    sets, report = qure_lib.hard_negatives(scores, targets, curve=curve, temperature=TAU)
    row, expected, frame = result["curves"][curve], report.summary(), report.per_query
    assert (result["temperature"], result["shape"]["skewness"]) == pytest.approx(
        (TAU, expected["score_skewness"])
    )
    for ours, its in {"rank": "median", "percent": "fraction"}.items():
        unit = 100 if ours == "percent" else 1
        for end in ("window_start", "window_end"):
            assert row[end][ours] == pytest.approx(unit * expected[f"{end}_{its}"])
    below = frame.window_start - frame.target_rank
    assert row["window_start"]["ranks_below_target"] == below.median()
    for name in ("score_margin", "margin_over_temperature", "share_no_pair", "share_bottom_half"):
        assert row[name] == pytest.approx(expected[name], rel=1e-5)
    for name in ("mean", "median", "q25", "q75"):
        assert row["set_size"][name] == pytest.approx(expected[f"set_size_{name}"])
    assert row["share_best_tenth"] == (frame.window_start < 20).mean()
    margins = [(scores[q, targets[q]] - scores[q, s]) / TAU for q, s in enumerate(sets) if len(s)]
    wins = [sigmoid(m).mean() for m in margins]
    assert row["preference"] == pytest.approx(np.mean(wins), rel=1e-4)
    losses = [-np.log(sigmoid(m)).mean() for m in margins]
    assert row["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert row["relevance_inside"] is row["false_negative_share"] is None


def test_shape_target_and_uniform_loss_are_those_of_the_scores(command, write):
    scores, targets = drawn()
    result = command(*write(scores, targets), "--temperature", TAU)
    shape, rows = result["shape"], np.arange(len(scores))
    ranked = -np.sort(-scores, axis=1)
    gaps = -np.diff(ranked.astype(float), axis=1).mean(axis=0)
    tenths = [part.mean() for part in np.array_split(gaps, 10)]
    assert shape["gap_by_tenth"] == pytest.approx(tenths, rel=1e-3)
    ratio = shape["gap_by_tenth"][0] / shape["gap_by_tenth"][-1]
    assert shape["gap_ratio_top_to_bottom"] == pytest.approx(ratio)
    ranks = (scores > scores[rows, targets][:, None]).sum(axis=1)
    quartiles = dict(
        zip(("q25", "median", "q75"), np.quantile(ranks, [0.25, 0.5, 0.75]), strict=True)
    )
    assert shape["target_rank"] == pytest.approx(quartiles)
    assert shape["target_percent"] == pytest.approx({k: q / 2 for k, q in quartiles.items()})
    assert shape["recall_at_10_percent"] == pytest.approx(100 * (ranks < 10).mean())
    assert shape["recall_at_50_percent"] == 100
    losses = -np.log(sigmoid((scores[rows, targets][:, None] - scores) / TAU))
    losses[rows, targets] = np.nan
    expected = np.nanmean(losses)
    assert result["curves"]["cosine"]["uniform_loss"] == pytest.approx(expected, rel=1e-4)


def test_without_a_temperature_the_preference_curve_is_left_out_and_the_words_say_so(
    command, write
):
    scores = write(*drawn())
    result = command(*scores)
    assert result["temperature"] is result["curves"]["preference"] is None
    cosine, whole = result["curves"]["cosine"], command(*scores, "--temperature", TAU)
    unknown = ["loss", "margin_over_temperature", "preference", "uniform_loss"]
    assert all(cosine[name] is None for name in unknown)
    known = {name: value for name, value in cosine.items() if name not in unknown}
    assert known == {name: whole["curves"]["cosine"][name] for name in known}
    (sentence,) = [words for words in result["in_words"] if words.startswith("Preference")]
    assert "--temperature: 1 / logit_scale, or 1 if the scores are already divided" in sentence
    assert not any("--temperature" in words for words in whole["in_words"])


def family(name):
    """Scores that thin out at one end, a target on top of all."""
    tail = np.random.default_rng(0).exponential(0.05, (60, 400)).astype("float32")
    scores = {"thin bottom": 0.8 - tail, "steep top": 0.2 + tail}[name]
    scores[:, 7] = 0.81 if name == "thin bottom" else scores.max(axis=1)
    return scores, np.full(60, 7)


def test_a_thin_bottom_puts_the_cosine_windows_there_and_the_words_say_so(command, write):
    result = command(*write(*family("thin bottom")), "--temperature", 0.02)
    cosine, words = result["curves"]["cosine"], " ".join(result["in_words"])
    assert cosine["window_start"]["percent"] > 90 and cosine["share_bottom_half"] == 1
    assert cosine["loss"] < 0.01 < cosine["uniform_loss"] and cosine["preference"] > 0.99
    assert result["verdict"]["windows"]["cosine"] == "in the bottom half"
    assert result["shape"]["skewness"] < -1 and result["shape"]["gap_ratio_top_to_bottom"] < 0.5
    assert "thin out at the bottom" in words and "100% of them begin in the bottom half" in words
    assert "already sure about them, so gradients vanish" in words
    assert "--curve preference" in words or "--search-window 40" in words
    blind = " ".join(command(*write(*family("thin bottom")))["in_words"])
    assert "already sure about such images" in blind and "--search-window 40" in blind


def test_a_steep_top_puts_the_windows_near_the_target(command, write):
    result = command(*write(*family("steep top")), "--temperature", 0.2)
    for curve, row in result["curves"].items():
        assert row["share_best_tenth"] == 1 and row["preference"] < 0.8
        assert result["verdict"]["windows"][curve] == "near the target"
    words = " ".join(result["in_words"])
    assert "thin out at the top" in words and "they are informative" in words
    assert "keep the cosine curve" in words and result["verdict"]["ready"]


def test_a_model_that_does_not_find_its_targets_is_sent_to_a_warm_up(command, write):
    scores, _ = drawn()
    result = command(*write(scores, np.argsort(scores, axis=1)[:, 100]))
    assert not result["verdict"]["ready"]
    words = " ".join(result["in_words"])
    assert "beyond 5%: the model is not ready" in words and "warm up first" in words


def test_queries_without_a_pair_of_drops_are_said_and_nothing_is_nan(command, write):
    scores, _ = drawn()
    result = command(*write(scores, scores.argmin(axis=1)), "--temperature", TAU)
    for curve in ("cosine", "preference"):
        row = result["curves"][curve]
        assert row["share_no_pair"] == 1 and row["loss"] is row["window_start"]["rank"] is None
        assert f"{curve.capitalize()} curve: 100% of the queries have no pair" in " ".join(
            result["in_words"]
        )


def test_queries_are_evenly_spaced(command, write):
    scores, targets = drawn()
    result = command(*write(scores, targets), "--queries", 7)
    assert result["corpora"] == [{"name": "scores", "images": 200, "queries": 7, "all_queries": 60}]
    rows = np.linspace(0, 59, 7).round().astype(int)
    expected = qure_lib.hard_negatives(scores[rows], targets[rows])[1].summary()
    row = result["curves"]["cosine"]
    assert row["score_margin"] == pytest.approx(expected["score_margin"])
    assert "scores: 7 of 60 queries over 200 images." in result["in_words"]
    whole = command(*write(scores, targets), "--queries", 1000)
    assert whole["corpora"][0]["queries"] == 60


def test_chunks_half_precision_and_images_left_out(command, write, monkeypatch):
    scores, targets = drawn()
    scores[np.arange(60), (targets + 1) % 200] = -np.inf
    whole = command(*write(scores, targets), "--temperature", TAU)
    expected = qure_lib.hard_negatives(scores, targets)[1].summary()
    assert whole["curves"]["cosine"]["score_margin"] == pytest.approx(expected["score_margin"])
    kept = [np.delete(row, (t + 1) % 200) for row, t in zip(scores, targets, strict=True)]
    losses = [
        -np.log(sigmoid((s[t] - k) / TAU)) for s, k, t in zip(scores, kept, targets, strict=True)
    ]
    uniform = np.mean([(loss.sum() - np.log(2)) / 198 for loss in losses])
    assert whole["curves"]["cosine"]["uniform_loss"] == pytest.approx(uniform, rel=1e-4)
    monkeypatch.setattr(own_scores, "SORTING_CHUNK_BYTES", 7 * 200 * 40)
    parts = command(*write(scores, targets), "--temperature", TAU)["curves"]
    for curve, row in whole["curves"].items():
        same = {name for name, value in row.items() if parts[curve][name] == value}
        means = {"loss", "preference", "margin_over_temperature", "uniform_loss"}
        assert row.keys() - same <= means
        assert [parts[curve][m] for m in means] == pytest.approx([row[m] for m in means])
    half = command(*write(scores.astype("float16"), targets))
    assert half["shape"]["skewness"] == pytest.approx(whole["shape"]["skewness"], rel=1e-2)


# ---------------------------------------------------------------- data sets


@pytest.fixture(scope="module")
def roots(smoke_world):
    views = {"cirr": smoke_world / "cirr_like", "circo": smoke_world / "circo_like"}
    return {"fashioniq": smoke_world} | views


@pytest.fixture(scope="module")
def sets(roots):
    return {
        "fashioniq": load_fashioniq(roots["fashioniq"], "val"),
        "cirr": {"cirr": load_cirr(roots["cirr"])},
        "circo": {"circo": load_circo(roots["circo"])},
    }


@pytest.fixture(scope="module")
def retriever(sets, stage1, tmp_path_factory):
    images = {i: p for named in sets.values() for q in named.values() for i, p in q.images.items()}
    return Retriever.open(stage1, images, tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def ranks(sets, retriever):
    """What the protocols say of each query's target."""
    return {
        "fashioniq": evaluate_fashioniq(retriever, sets["fashioniq"])["rank"],
        "cirr": evaluate_cirr(retriever, sets["cirr"]["cirr"])["rank"],
        "circo": evaluate_circo(retriever, sets["circo"]["circo"])["rank"],
    }


@pytest.fixture(scope="module")
def saved(sets, retriever, tmp_path_factory):
    """One file of embeddings a data set."""
    files = {}
    for name, named in sets.items():
        files[name] = tmp_path_factory.mktemp("saved") / f"{name}.npz"
        np.savez(
            files[name],
            queries=np.concatenate([retriever.embed_queries(q) for q in named.values()]),
            images=np.concatenate([retriever.embed_corpus(q.corpus) for q in named.values()]),
            query_ids=[t.query_id for q in named.values() for t in q.triplets],
            image_ids=[i for q in named.values() for i in q.corpus.image_ids],
        )
    return files


@pytest.mark.parametrize("name", ["fashioniq", "cirr", "circo"])
def test_embeddings_are_ranked_by_their_protocol(command, roots, sets, ranks, saved, name):
    words = ["--embeddings", saved[name], "--dataset", name, "--annotations", roots[name]]
    result = command(*words)
    assert result["curves"]["preference"] is None and result["arguments"]["split"] == "val"
    assert [c["name"] for c in result["corpora"]] == list(sets[name])
    assert [c["images"] for c in result["corpora"]] == [len(q.corpus) for q in sets[name].values()]
    for k in (10, 50):
        recall = 100 * (ranks[name] < k).mean()
        assert result["shape"][f"recall_at_{k}_percent"] == pytest.approx(recall)
    assert result["shape"]["target_rank"]["median"] == ranks[name].median()
    known = name == "fashioniq"
    assert (result["curves"]["cosine"]["relevance_inside"] is not None) == known
    few = command(*words, "--queries", 5, "--temperature", TAU)
    assert [c["queries"] for c in few["corpora"]] == [5] * len(sets[name])
    assert few["curves"]["preference"]["loss"] > 0


@pytest.mark.parametrize("name", ["fashioniq", "cirr", "circo"])
def test_a_checkpoint_brings_its_temperature(command, roots, retriever, stage1, tmp_path, name):
    words = ["--checkpoint", stage1, "--dataset", name, "--root", roots[name]]
    words += ["--cache", tmp_path / "cache", "--queries", 20]
    result = command(*words)
    own = retriever.model.temperature.item()
    assert result["temperature"] == pytest.approx(own)
    row = result["curves"]["preference"]
    assert row["margin_over_temperature"] == pytest.approx(row["score_margin"] / own, rel=1e-5)
    other = command(*words, "--temperature", TAU)
    assert other["temperature"] == TAU
    assert other["curves"]["cosine"]["window_start"] == result["curves"]["cosine"]["window_start"]


def test_graded_relevance_and_the_training_pool(command, smoke_world, stage1, tmp_path):
    words = ["--checkpoint", stage1, "--dataset", "fashioniq", "--root", smoke_world]
    result = command(*words, "--split", "train", "--cache", tmp_path / "cache")
    train = load_fashioniq(smoke_world, "train", "targets")
    assert [c["images"] for c in result["corpora"]] == [len(q.corpus) for q in train.values()]
    assert [c["all_queries"] for c in result["corpora"]] == [len(q) for q in train.values()]
    for row in result["curves"].values():
        relevance = [v for name, v in row.items() if name.startswith("relevance")]
        assert len(relevance) == 4 and all(0 <= v <= 1 for v in relevance)
        assert 0 <= row["false_negative_share"] <= 1


# ---------------------------------------------------------------- the picture


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved."""
    kept, save = [], Figure.savefig

    def keep(figure, *args, **settings):
        kept.append(figure)
        save(figure, *args, **settings)

    monkeypatch.setattr(Figure, "savefig", keep)
    return kept


def check_picture(figure, path, curves):
    """Labels on all axes, nothing cut, a legend beside the axes, and the width of a page."""
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in figure.axes) and len(figure.axes) == 3
    (legend,) = figure.legends
    boxes, inner = [ax.get_tightbbox() for ax in figure.axes], figure.bbox
    place = legend.get_window_extent()
    for box in (*boxes, place):
        assert inner.x0 <= box.x0 and box.x1 <= inner.x1 + 1
        assert inner.y0 <= box.y0 and box.y1 <= inner.y1 + 1
    assert not any(place.overlaps(box) for box in boxes)
    assert len(legend.get_texts()) == 3 + curves
    with Image.open(path) as picture:
        assert picture.width == 2025  # 6.75 inches at 300 dpi


def test_the_picture_of_three_corpora(figures, roots, saved, tmp_path):
    words = ["--embeddings", saved["fashioniq"], "--annotations", roots["fashioniq"]]
    words += ["--dataset", "fashioniq", "--temperature", TAU, "--out", tmp_path / "out"]
    assert main([*map(str, words)]) == 0
    check_picture(figures[0], tmp_path / "out" / "curves.png", curves=2)
    titles = [ax.get_title() for ax in figures[0].axes]
    assert titles == ["dress", "dress", "dress, shirt, toptee"]


@pytest.mark.parametrize("name", ["no window", "thin bottom", "steep top"])
def test_the_picture_of_scores(figures, write, tmp_path, name):
    scores, targets = family("steep top" if name == "no window" else name)
    if name == "no window":
        targets = scores.argmin(axis=1)
    words = [*write(scores, targets), "--out", tmp_path / "out"]
    assert main([*map(str, words)]) == 0
    check_picture(figures[0], tmp_path / "out" / "curves.png", curves=name != "no window")
    assert len(figures[0].axes[2].lines) == 1


# ---------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": None}, "scores.npy holds no array of numbers"),
        ({"scores": np.zeros(60, "f4")}, r"scores (60,) must be (Q, N)"),
        ({"scores": np.zeros((0, 50), "f4")}, "at least one query"),
        ({"scores": np.full((60, 20), "a")}, "of type <U1"),
        ({"scores": np.zeros((60, 20), complex)}, "of type complex128"),
        ({"targets": np.full(60, 200)}, "query 0: its target 200 is not one of 200 images"),
        ({"targets": np.full(60, -1)}, "query 0: its target -1 is not one of 200 images"),
        ({"targets": np.zeros(59, int)}, "targets (59,)"),
        ({"targets": np.zeros(60)}, "positions and ranks must be whole numbers"),
        ({(31, 12): np.nan}, "targets.npy: query 31, image 12: the score is nan"),
        ({(2, 0): np.inf}, "targets.npy: query 2, image 0: the score is inf"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_files_are_named(command, write, tmp_path, change, message):
    given = dict(zip(("scores", "targets"), drawn(), strict=True))
    for name, value in change.items():
        if isinstance(name, tuple):
            given["scores"][name] = value
        else:
            given[name] = value
    missing = [name for name, value in given.items() if value is None]
    words = write(*(np.zeros(1) if value is None else value for value in given.values()))
    for name in missing:
        (tmp_path / f"{name}.npy").unlink()
    error = command(*words)
    assert message in error and ".npy" in error


def test_a_corpus_without_tenths_is_refused(command, write):
    error = command(*write(np.zeros((3, 10), "f4"), np.zeros(3, int)))
    assert "the corpus holds 10 images; give 11 or more" in error


def test_an_error_names_the_query_of_the_file_also_among_few(command, write):
    scores, targets = drawn()
    scores[59, 3] = np.nan
    assert "query 59, image 3" in command(*write(scores, targets), "--queries", 4)


def test_objects_archives_and_rubbish_are_refused(command, write, tmp_path):
    words = write(*drawn())
    path = tmp_path / "scores.npy"
    np.save(path, np.array([{}, []], dtype=object), allow_pickle=True)
    assert "scores.npy holds no array of numbers" in command(*words)
    path.write_bytes(pickle.dumps([1, 2]))
    assert "scores.npy holds no array of numbers" in command(*words)
    path.write_bytes(b"")
    assert "scores.npy holds no array of numbers" in command(*words)
    np.savez(tmp_path / "archive.npz", drawn()[0])
    (tmp_path / "archive.npz").rename(path)
    assert "scores.npy holds no array of numbers" in command(*words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--scores x.npy", "--scores needs --targets"),
        ("--checkpoint x --dataset cirr", "--checkpoint needs --root"),
        ("--checkpoint x --root x", "--checkpoint needs --dataset"),
        ("--embeddings x --dataset cirr", "--embeddings needs --annotations"),
        ("--embeddings x --dataset cirr --annotations x --root x", "--embeddings takes no --root"),
        ("--scores x --targets x --dataset cirr", "--scores takes no --dataset"),
        ("--scores x --targets x --split val", "--scores takes no --split"),
        ("--scores x --targets x --temperature 0", "--temperature must be positive and finite"),
        ("--scores x --targets x --temperature nan", "--temperature must be positive and finite"),
        ("--scores x --targets x --queries 0", "--queries must be positive"),
        ("--scores nowhere.npy --targets x", "nowhere.npy holds no array"),
        ("--embeddings x --dataset circo --annotations x --split test", "test has no targets"),
        ("--embeddings x --dataset cirr --annotations x --split test1", "test1 has no targets"),
        ("--embeddings x --dataset circo --annotations x --split train", "split must be one of"),
        ("--embeddings x --dataset fashioniq --annotations nowhere", "nowhere"),
    ],
)
def test_arguments_that_do_not_fit_are_named(command, words, message):
    assert message in command(*words.split())


@pytest.mark.parametrize("name", ["fashioniq", "cirr", "circo"])
def test_another_data_set_than_named_is_refused(command, roots, saved, stage1, name):
    other = roots["cirr" if name == "fashioniq" else "fashioniq"]
    words = ["--dataset", name, "--embeddings", saved[name], "--annotations", other]
    assert str(other) in command(*words)
    words = ["--dataset", name, "--checkpoint", stage1, "--root", other]
    assert str(other) in command(*words)


def test_embeddings_of_other_queries_and_a_broken_checkpoint_are_named(
    command, roots, saved, tmp_path
):
    words = ["--dataset", "fashioniq", "--embeddings", saved["cirr"]]
    assert "cirr.npz misses" in command(*words, "--annotations", roots["fashioniq"])
    words = ["--dataset", "cirr", "--checkpoint", tmp_path, "--root", roots["cirr"]]
    assert "no saved QuReModel (a folder with config.json)" in command(
        *words, "--cache", tmp_path / "cache"
    )


@pytest.mark.parametrize(
    "words",
    ["", "--scores x --checkpoint y", "--embeddings x --dataset hp-fashioniq --annotations y"],
)
def test_one_source_and_a_known_data_set_are_asked_for(capsys, words):
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    assert stop.value.code == 2 and capsys.readouterr().out == ""


def test_a_file_in_the_place_of_the_folder_stays(capsys, write, tmp_path):
    (tmp_path / "taken").write_text("mine")
    words = [str(w) for w in (*write(*drawn()), "--out", tmp_path / "taken")]
    assert main(words) == 2 and "taken is a file; name a folder" in capsys.readouterr().err
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize("step", ["draw", "write_json"])
def test_an_earlier_diagnosis_stays_whole_when_writing_fails(
    command, write, tmp_path, monkeypatch, step
):
    words = write(*drawn())
    command(*words)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(diagnose, step, fail)
    assert main([*map(str, words), "--temperature", "1", "--out", str(tmp_path / "out")]) == 2
    after = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert after == before and set(after) == {"curves.png", "diagnosis.json"}


def test_the_module_is_the_command_and_needs_no_transformers_for_scores(write, tmp_path, root):
    words = [sys.executable, "-X", "importtime", "-m", "qure_lib.diagnose", *write(*drawn())]
    done = subprocess.run(
        [*words, "--out", tmp_path / "out"], capture_output=True, text=True, cwd=root
    )
    assert done.returncode == 0 and "| transformers\n" not in done.stderr
    assert json.loads(done.stdout)["verdict"]["ready"] is True
    done = subprocess.run(
        [*words[:1], *words[3:], "--queries", "0"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "") and "Traceback" not in done.stderr
