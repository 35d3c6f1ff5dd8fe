"""The grid of ablations: every variant is a valid run, and a stopped command resumes."""

import json
from dataclasses import replace

import pandas as pd
import pytest
import study

from qure_lib.features.retriever import Retriever
from qure_lib.method.losses import OBJECTIVES
from qure_lib.method.strategies import STRATEGIES
from qure_lib.train.training_data import load_training_data


def test_every_variant_is_another_valid_run_of_equal_length():
    configs = {name: study.Scale().config(name, 1000) for name in study.VARIANTS}
    assert len(set(configs.values())) == len(configs)
    for config in configs.values():
        assert (config.epochs, config.batch_size) == (12, 32)
        assert config.mining.strategy in STRATEGIES and config.objective in OBJECTIVES
        assert config.definition_epochs
    with pytest.raises(ValueError, match="no variant"):
        study.Scale().config("hardest", 1000)


def test_every_question_has_its_baseline_among_the_variants():
    assert set(study.BASELINES) <= set(study.QUESTIONS)
    assert set(study.BASELINES.values()) <= set(study.VARIANTS)


def test_a_variant_is_compared_with_its_question_s_baseline_or_the_published_recipe():
    assert study.baseline("strategy") == "all_corpus"
    assert study.baseline("warm-up") == study.PUBLISHED and not study.VARIANTS[study.PUBLISHED]


def test_a_cut_keeps_the_pool_of_negatives_and_val(smoke_world):
    data = load_training_data(smoke_world)
    cut = study.Scale(queries=16).cut(data)
    assert cut.val is data.val
    for category, queries in cut.train.items():
        assert queries.triplets == data.train[category].triplets[:16]
        assert queries.corpus is data.train[category].corpus
        assert len(cut.relevance[category]) == 16
    unknown = replace(data, relevance=dict.fromkeys(data.train))
    assert set(study.Scale(queries=16).cut(unknown).relevance.values()) == {None}


def test_a_study_is_resumed_and_repeats_nothing(smoke_world, stage1, tmp_path, capsys):
    options = ["--queries", "16", "--epochs", "6", "--seeds", "1", "--workers", "1"]
    options += ["--checkpoint", str(stage1), "--out", str(tmp_path / "out")]
    options += ["--runs", str(tmp_path / "runs"), "--only"]
    study.main([str(smoke_world), *options, "between_drops"])
    first = study.read(tmp_path / "out" / "smoke")
    assert first["runs"].variant.tolist() == ["between_drops"]
    assert first["epochs"].epoch.tolist() == list(range(6))
    assert first["definitions"].epoch.tolist() == [1, 2, 3, 4, 5]
    ranks = first["ranks"].drop(columns=study.KEY)
    by_category = (ranks < 10).mean().groupby(lambda query: query.split("/")[0]).mean()
    assert first["runs"][study.PRIMARY][0] == pytest.approx(100 * by_category.mean(), rel=1e-5)

    study.main([str(smoke_world), *options, "between_drops", "info_nce"])
    assert "1 of 2 runs are there, 1 to go" in capsys.readouterr().out
    both = study.read(tmp_path / "out" / "smoke")
    assert both["runs"].variant.tolist() == ["between_drops", "info_nce"]
    pd.testing.assert_frame_equal(both["runs"][:1], first["runs"])
    manifest = json.loads((tmp_path / "out" / "smoke" / "manifest.json").read_text())
    assert manifest["runs"] == 2 and manifest["configs"]["info_nce"]["objective"] == "info_nce"

    # A run killed between the tables has no row in the last one, and is as if it never was.
    runs = tmp_path / "out" / "smoke" / "runs.csv"
    runs.write_text("".join(runs.read_text().splitlines(keepends=True)[:2]))
    assert len(study.read(runs.parent)["epochs"]) == 6

    study.main([str(smoke_world), *[o if o != "16" else "8" for o in options], "between_drops"])
    assert "0 of 1 runs are there" in capsys.readouterr().out  # other settings
    again = study.read(runs.parent)
    assert len(again["runs"]) == 1 and again["runs"].settings[0] != first["runs"].settings[0]


def test_the_shipped_rows_have_the_keys_of_their_settings(root):
    folders = sorted((root / "reports" / "shipped" / "study").iterdir())
    assert len(folders) == 3
    for folder in folders:
        hashes = json.loads((folder / "manifest.json").read_text())["data"]
        runs = study.read(folder)["runs"]
        assert runs.groupby("variant").seed.nunique().min() >= 5
        for variant, seed, settings in runs[study.KEY].itertuples(index=False):
            config = study.Scale().config(variant, seed)
            assert study.settings_key(config, hashes) == settings, (folder.name, variant, seed)


def test_the_shipped_rows_were_trained_from_the_shipped_checkpoint(
    root, smoke_world, stage1, tmp_path
):
    data = load_training_data(smoke_world)
    start = data.hashes(Retriever.open(stage1, data.images, tmp_path))
    for path in (root / "reports" / "shipped" / "study").glob("*/manifest.json"):
        shipped = json.loads(path.read_text())["data"]
        assert shipped.keys() == start.keys()
        for name in ("model", "tokenizer", "starting_weights"):
            assert shipped[name] == start[name], (path, name)


def test_a_key_changes_with_any_setting_that_is_not_the_default():
    config, hashes = study.Scale().config("window_100", 1000), {"features": "f"}
    key = study.settings_key(config, hashes)
    assert study.departures(config)["mining"] == {"search_window": 100}
    assert study.settings_key(replace(config, exclude_reference=True), hashes) != key
    assert study.settings_key(config, {"features": "g"}) != key
    near = replace(config, mining=replace(config.mining, search_window=99))
    assert study.settings_key(near, hashes) != key
