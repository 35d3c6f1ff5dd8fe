"""The study's command: a stopped one resumes, and the shipped rows are those of their settings."""

import json
from dataclasses import replace

import pandas as pd
import pytest
import study
from grids import CONTROLS, CORE, FROZEN, GRIDS, MINI, NEGATIVES, PARTS

from qure_lib.features.retriever import Retriever
from qure_lib.method.config import MiningConfig, TrainConfig
from qure_lib.train.training_data import load_training_data

SHIPPED = sorted(path.parent for path in study.SHIPPED.glob("*/*/runs.csv"))
FOLDERS = pytest.mark.parametrize("folder", SHIPPED, ids=lambda f: f"{f.parent.name}-{f.name}")


def rows_of(variant, seed, temperatures, settings="0a1b2c3d"):
    """A made-up run's rows of each table, an epoch a temperature."""
    key = {"variant": variant, "seed": seed, "settings": settings}
    epochs = pd.DataFrame({"epoch": range(len(temperatures)), "temperature": temperatures})
    frames = {"epochs": epochs, "definitions": epochs[["epoch"]], "runs": epochs.tail(1)}
    frames["ranks"] = pd.DataFrame({"dress/val/0": [3]})
    frames["top5"] = pd.DataFrame()  # relevance is not known
    return {name: pd.DataFrame(key, f.index).join(f) for name, f in frames.items()}


# ---------------------------------------------------------------- settings


def test_departures_are_what_differs_from_the_defaults():
    assert study.departures(TrainConfig()) == {}
    config = TrainConfig(n_def=3, mining=MiningConfig(search_window=100))
    assert study.departures(config) == {"n_def": 3, "mining": {"search_window": 100}}


def test_a_key_changes_with_any_setting_that_is_not_the_default():
    config, hashes = NEGATIVES.config("window_100", 2000), {"features": "f"}
    key = study.settings_key(config, hashes)
    assert study.settings_key(replace(config, exclude_reference=True), hashes) != key
    assert study.settings_key(config, {"features": "g"}) != key
    near = replace(config, mining=replace(config.mining, search_window=99))
    assert study.settings_key(near, hashes) != key
    assert study.settings_key(NEGATIVES.config("window_100", 2000), dict(hashes)) == key


def test_the_runs_of_a_grid_have_keys_of_their_own(tmp_path):
    for seed in (2000, 2001):
        study.add(tmp_path, rows_of("uniform", seed, [0.07, 0.05 + seed * 1e-5, 0.03]))
    for grid in GRIDS.values():
        keys = [
            study.settings_key(study.run_config(grid, variant, seed, tmp_path), {})
            for variant in grid.variants
            for seed in (2000, 2001)
        ]
        assert len(set(keys)) == len(keys) == 2 * len(grid.variants)


def test_the_frozen_temperature_needs_the_uniform_run_of_its_seed(tmp_path):
    missing = rf"no uniform run of seed 2000; {FROZEN} needs its temperature"
    with pytest.raises(ValueError, match=missing):
        study.run_config(NEGATIVES, FROZEN, 2000, tmp_path)
    study.add(tmp_path, rows_of("uniform", 2001, [0.07, 0.05, 0.03]))
    study.add(tmp_path, rows_of("cosine", 2000, [0.07, 0.05, 0.03]))
    with pytest.raises(ValueError, match=missing):
        study.run_config(NEGATIVES, FROZEN, 2000, tmp_path)
    assert study.run_config(NEGATIVES, "preference", 2000, tmp_path).mining.temperature is None


def test_the_frozen_temperature_is_that_of_the_end_of_the_warm_up_to_four_digits(tmp_path):
    study.add(tmp_path, rows_of("cosine", 2000, [0.01, 0.02, 0.03]))
    study.add(tmp_path, rows_of("uniform", 2001, [0.04, 0.05, 0.06]))
    study.add(tmp_path, rows_of("uniform", 2000, [0.071234, 0.043218, 0.031234]))
    config = study.run_config(NEGATIVES, FROZEN, 2000, tmp_path)
    assert config.warm_up_epochs == 2 and config.mining.temperature == 0.0432
    plain = replace(config, mining=replace(config.mining, temperature=None))
    assert plain == NEGATIVES.config("preference", 2000)


def test_a_cut_keeps_the_pool_of_negatives_and_val(smoke_world):
    data = load_training_data(smoke_world)
    cut = study.cut(data, 16)
    assert cut.val is data.val
    for category, queries in cut.train.items():
        assert queries.triplets == data.train[category].triplets[:16]
        assert queries.corpus is data.train[category].corpus
        assert cut.relevance[category].equal(data.relevance[category][:16])
    unknown = replace(data, relevance=dict.fromkeys(data.train))
    assert set(study.cut(unknown, 16).relevance.values()) == {None}


# ---------------------------------------------------------------- tables and the command


def test_a_run_trained_again_replaces_its_rows_and_no_others(tmp_path):
    for variant, seed in (("uniform", 2000), ("uniform", 2001), ("cosine", 2000)):
        study.add(tmp_path, rows_of(variant, seed, [0.1, 0.2]))
    study.add(tmp_path, rows_of("uniform", 2000, [0.3, 0.4, 0.5], settings="00000001"))
    tables = study.read(tmp_path)
    runs = tables["runs"].set_index(["variant", "seed"]).settings.to_dict()
    kept = dict.fromkeys([("uniform", 2001), ("cosine", 2000)], "0a1b2c3d")
    assert runs == kept | {("uniform", 2000): "00000001"}
    epochs = tables["epochs"].groupby(["variant", "seed"]).temperature.agg(list).to_dict()
    assert epochs == dict.fromkeys(kept, [0.1, 0.2]) | {("uniform", 2000): [0.3, 0.4, 0.5]}


def test_a_step_goes_through_its_seeds_variant_by_variant():
    jobs = NEGATIVES.jobs(("cosine", "uniform"), 2)
    assert jobs == [("cosine", 2000), ("cosine", 2001), ("uniform", 2000), ("uniform", 2001)]


def test_a_study_is_resumed_and_repeats_nothing(smoke_world, stage1, tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    (data / MINI).symlink_to(smoke_world, target_is_directory=True)
    options = ["negatives", "--worlds", MINI, "--data", str(data), "--checkpoint", str(stage1)]
    options += ["--queries", "16", "--epochs", "6", "--seeds", "1", "--workers", "1"]
    options += ["--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs"), "--only"]
    folder = tmp_path / "out" / "negatives" / MINI
    study.main([*options, "cosine"])
    first = study.read(folder)
    assert first["runs"][["variant", "seed"]].to_numpy().tolist() == [["cosine", 2000]]
    assert first["epochs"].epoch.tolist() == list(range(6))
    assert first["definitions"].epoch.tolist() == [1, 2, 3, 4, 5]
    ranks = first["ranks"].drop(columns=study.KEY)
    by_category = (ranks < 10).mean().groupby(lambda query: query.split("/")[0]).mean()
    assert first["runs"][study.PRIMARY][0] == pytest.approx(100 * by_category.mean(), rel=1e-5)

    study.main([*options, "cosine", "in_batch"])
    assert "1 of 2 runs are there, 1 to go" in capsys.readouterr().out
    both = study.read(folder)
    assert both["runs"].variant.tolist() == ["cosine", "in_batch"]
    pd.testing.assert_frame_equal(both["runs"][:1], first["runs"])
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["runs"] == 2 and manifest["configs"]["in_batch"]["objective"] == "info_nce"
    assert manifest["scale"]["queries"] == 16 and manifest["world"] == MINI
    assert not list((tmp_path / "runs").glob("cosine-*"))  # a run's folder is deleted

    # A run killed between the tables has no row in the last one, and is as if it never was.
    runs = folder / "runs.csv"
    runs.write_text("".join(runs.read_text().splitlines(keepends=True)[:2]))
    assert len(study.read(folder)["epochs"]) == 6

    study.main([*[o if o != "16" else "8" for o in options], "cosine"])
    assert "0 of 1 runs are there" in capsys.readouterr().out  # other settings
    again = study.read(folder)
    assert len(again["runs"]) == 1 and again["runs"].settings[0] != first["runs"].settings[0]


# ---------------------------------------------------------------- shipped rows


def test_rows_of_both_parts_of_the_study_are_shipped():
    assert {(f.parent.name, f.name) for f in SHIPPED} >= {("parts", MINI), ("negatives", MINI)}


@FOLDERS
def test_shipped_rows_have_the_keys_of_their_settings(folder):
    grid = GRIDS[folder.parent.name]
    assert folder.name in {world for world, *_ in grid.steps}
    hashes = json.loads((folder / "manifest.json").read_text())["data"]
    runs = study.read(folder)["runs"]
    assert set(runs.variant) <= set(grid.variants)
    for variant, seed, settings in runs[study.KEY].itertuples(index=False):
        config = study.run_config(grid, variant, seed, folder)
        assert study.settings_key(config, hashes) == settings, (variant, seed)


@FOLDERS
def test_shipped_seeds_count_up_from_the_grid_s_first(folder):
    grid, runs = GRIDS[folder.parent.name], study.read(folder)["runs"]
    assert not runs.duplicated(["variant", "seed"]).any()
    for variant, seeds in runs.groupby("variant").seed:
        expected = range(grid.first_seed, grid.first_seed + len(seeds))
        assert sorted(seeds) == list(expected), variant


@FOLDERS
def test_shipped_tables_hold_the_whole_of_every_run(folder):
    grid, tables = GRIDS[folder.parent.name], study.read(folder)
    runs = tables["runs"].set_index(["variant", "seed"])
    assert len(tables["ranks"]) == len(runs) and not tables["ranks"].isna().any(axis=None)
    epochs = tables["epochs"].groupby(["variant", "seed"]).epoch.agg(list)
    assert epochs.map(lambda found: found == list(range(grid.epochs))).all()
    for (variant, seed), found in tables["definitions"].groupby(["variant", "seed"]):
        config = grid.config(variant, seed)
        assert tuple(found.epoch) == config.definition_epochs, (variant, seed)
    hits = tables["ranks"].set_index(["variant", "seed"]).drop(columns="settings") < 10
    recall = 100 * hits.T.groupby(lambda query: query.split("/")[0]).mean().mean()
    assert recall.to_numpy() == pytest.approx(runs[study.PRIMARY][recall.index], rel=1e-5)


@FOLDERS
def test_a_shipped_manifest_is_of_its_rows(folder):
    grid, runs = GRIDS[folder.parent.name], study.read(folder)["runs"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["runs"] == len(runs) and set(manifest["configs"]) == set(runs.variant)
    assert manifest["scale"]["queries"] == grid.queries


def test_every_part_of_the_recipe_has_five_seeds():
    runs = study.read(study.SHIPPED / "parts" / MINI)["runs"]
    seeds = runs.groupby("variant").seed.nunique()
    assert seeds.to_dict() == dict.fromkeys(PARTS.variants, 5)


def test_what_the_study_of_negatives_tests_has_five_seeds():
    runs = study.read(study.SHIPPED / "negatives" / MINI)["runs"]
    seeds = runs.groupby("variant").seed.nunique().to_dict()
    tested = [*CORE, *CONTROLS]
    assert {variant: seeds.get(variant, 0) for variant in tested} == dict.fromkeys(tested, 5)


def test_shipped_rows_were_trained_from_the_shipped_checkpoint(smoke_world, stage1, tmp_path):
    data = load_training_data(smoke_world)
    start = data.hashes(Retriever.open(stage1, data.images, tmp_path))
    for folder in SHIPPED:
        shipped = json.loads((folder / "manifest.json").read_text())["data"]
        assert shipped.keys() == start.keys()
        if folder.parent.name != "large":  # the strong world has a checkpoint of its own
            for name in ("model", "tokenizer", "starting_weights"):
                assert shipped[name] == start[name], (folder, name)
