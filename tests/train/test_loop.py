"""Training end to end on a tiny SynthFashion: it learns, repeats, resumes, and refuses."""

import json
import math
import resource
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from qure_lib.evaluation.fashioniq import evaluate_fashioniq
from qure_lib.evaluation.metrics import ndcg_at_k, recall_at_k
from qure_lib.features.hub import QuReModel
from qure_lib.features.retriever import Retriever
from qure_lib.method.config import MiningConfig, TrainConfig
from qure_lib.method.drops import find_steepest_drops
from qure_lib.method.losses import OBJECTIVES, Objective
from qure_lib.method.ranking import rank_corpus
from qure_lib.train.checkpoints import load_checkpoint, save_checkpoint
from qure_lib.train.execution import Execution
from qure_lib.train.loop import Loop, train
from qure_lib.train.run_folder import RunFolder
from qure_lib.train.training_data import load_training_data

TOP = MiningConfig("top_k", top_k=10)
CONFIG = TrainConfig(epochs=4, n_def=4, learning_rate=1e-3, mining=MiningConfig(search_window=20))


@pytest.fixture(scope="module")
def parts(smoke_world, stage1, tmp_path_factory):
    torch.set_num_threads(2)
    data = load_training_data(smoke_world)
    return Retriever.open(stage1, data.images, tmp_path_factory.mktemp("cache")), data


def data_root_of(data):
    """Where the world lies, from one of its images."""
    return next(iter(data.images.values())).parents[1]


@pytest.fixture(scope="module")
def first_run(parts, tmp_path_factory):
    return train(CONFIG, *parts, tmp_path_factory.mktemp("runs"), "first")


def weights(run):
    return (run.folder / "last" / "model.safetensors").read_bytes()


def test_loss_falls_and_recall_beats_chance(parts, first_run):
    run = first_run
    trained = run.retriever("last")
    assert run.history.loss.iloc[-1] < 0.8 * run.history.loss.iloc[0]
    ranks = evaluate_fashioniq(trained, parts[1].val)
    chance = 10 / 80  # ten of a category's eighty val images
    # Stated margin: three times chance. Stage 1 alone, without training, must do worse.
    assert recall_at_k(ranks["rank"], 10).mean() > 3 * chance
    untrained = evaluate_fashioniq(parts[0], parts[1].val)
    assert recall_at_k(ranks["rank"], 10).mean() > recall_at_k(untrained["rank"], 10).mean()


def test_of_two_that_want_the_same_run_one_trains_it(parts, tmp_path):
    retriever, data = parts
    config, trained = replace(CONFIG, epochs=2, n_def=2), []

    def ask(_):
        return train(
            config, retriever, data, tmp_path, "shared", Execution(on_epoch=trained.append)
        )

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(ask, range(2))
    assert [row["epoch"] for row in trained] == [0, 1]
    assert first.folder == second.folder and first.history.equals(second.history)


def test_a_card_beside_each_model_says_what_the_manifest_says(parts, first_run, tmp_path):
    shutil.copytree(first_run.folder, tmp_path / "run")
    history, manifest = first_run.history, json.loads((first_run.folder / "run.json").read_text())
    best = (history.val_r10 + history.val_r50).idxmax()
    for stage, epoch in (("best", best), ("last", 3)):
        card = QuReModel.from_pretrained(tmp_path / "run" / stage).card
        assert f"after epoch {epoch} (`{stage}`; 4 epochs" in card
        assert f"| Recall@10 | {history.val_r10[epoch]:.2f} |" in card
        assert f"| Recall@50 | {history.val_r50[epoch]:.2f} |" in card
        assert json.loads(card.split("```json\n")[1].split("```")[0]) == manifest["config"]
        assert manifest["data"]["annotations"] in card and "protocol `fashioniq`" in card
        counts = ", ".join(f"{c} {len(q)}" for c, q in parts[1].val.items())
        assert f"| val | {counts} |" in card
        assert "## Licence\n\n[Not stated" in card and "{{" not in card
        assert str(tmp_path) not in card and str(first_run.folder) not in card


def test_a_card_that_somebody_wrote_stays(parts, first_run):
    card = first_run.folder / "best" / "README.md"
    text = card.read_text()
    card.write_text("mine")
    (first_run.folder / "last" / "README.md").unlink()
    train(CONFIG, *parts, first_run.folder.parent, "first")
    assert card.read_text() == "mine"
    assert "(`last`; " in (first_run.folder / "last" / "README.md").read_text()
    card.write_text(text)


def test_what_a_run_leaves_behind(parts, first_run):
    run = first_run
    manifest = json.loads((run.folder / "run.json").read_text())
    assert (
        manifest["config"]["seed"] == 1000 and manifest["config"]["mining"]["search_window"] == 20
    )
    assert manifest["data"]["features"] == parts[0].features.key
    assert {"torch", "transformers"} <= set(manifest["versions"])
    assert run.history.epoch.tolist() == [0, 1, 2, 3]
    assert sorted(set(run.mining.epoch)) == [1, 2, 3] and len(run.mining) == 9
    assert run.mining.relevance_inside.notna().all()
    mined = run.mined(2)
    assert len(mined) == sum(len(q) for q in parts[1].train.values())
    pd.testing.assert_frame_equal(pd.read_csv(run.folder / "history.csv"), run.history)


def test_the_saved_stages_can_be_loaded(parts, first_run):
    start, last, early = parts[0].model, *map(first_run.retriever, ("last", 1))
    proj = [m.text_proj.weight for m in (start, last.model, early.model)]
    assert not any(torch.equal(a, b) for a, b in combinations(proj, 2))
    assert torch.equal(first_run.retriever(1).model.text_proj.weight, proj[2])
    assert last.features is parts[0].features and last.model.vision_encoder is start.vision_encoder


def test_training_leaves_its_argument_alone(parts, tmp_path):
    before = {n: v.clone() for n, v in parts[0].model.state_dict().items()}
    config = replace(CONFIG, epochs=2, n_def=2, mining=MiningConfig("all_corpus"))
    run = train(config, *parts, tmp_path, "run")
    run.retriever("last").model.query_tokens.data.zero_()
    assert all(torch.equal(v, before[n]) for n, v in parts[0].model.state_dict().items())


def test_the_same_seed_gives_the_same_bits_and_another_does_not(parts, first_run, tmp_path):
    retriever, data = parts
    again = train(CONFIG, retriever, data, tmp_path, "again")
    assert weights(again) == weights(first_run)
    short = replace(CONFIG, epochs=2, n_def=2)
    one = train(short, retriever, data, tmp_path, "seed")
    other = train(replace(short, seed=1001), retriever, data, tmp_path, "seed")
    assert weights(one) != weights(other)


def test_resuming_after_a_kill_equals_no_kill(
    parts,
    first_run,
    tmp_path,
    monkeypatch,
):
    retriever, data = parts
    config = CONFIG

    def killed(*_):
        raise KeyboardInterrupt

    def die_after_two(row):
        if row["epoch"] == 2:
            # Nothing that the process holds is written any more: the third epoch is lost.
            monkeypatch.setattr("qure_lib.train.run_folder.save_checkpoint", killed)
            killed()

    with pytest.raises(KeyboardInterrupt):
        train(config, retriever, data, tmp_path, "killed", Execution(on_epoch=die_after_two))
    with pytest.raises(KeyboardInterrupt):  # once more, within the last epoch
        train(config, retriever, data, tmp_path, "killed")
    monkeypatch.undo()
    resumed = train(config, retriever, data, tmp_path, "killed")
    whole = first_run
    assert weights(resumed) == weights(whole)
    times = ["mining_s", "training_s", "val_s"]
    pd.testing.assert_frame_equal(
        resumed.history.drop(columns=times), whole.history.drop(columns=times)
    )
    pd.testing.assert_frame_equal(resumed.mining, whole.mining)


def test_runs_share_a_warm_up_and_lose_nothing_by_it(parts, tmp_path):
    retriever, data = parts
    first = replace(CONFIG, epochs=2, n_def=2)
    other = replace(first, objective="plackett_luce", warm_up_objective="bradley_terry")
    other = replace(other, negatives=3)
    train(first, retriever, data, tmp_path / "shared", "first")
    epochs = []
    shared = train(
        other, retriever, data, tmp_path / "shared", "other", Execution(on_epoch=epochs.append)
    )
    alone = train(other, retriever, data, tmp_path / "alone", "other")
    assert [row["epoch"] for row in epochs] == [1]
    assert weights(shared) == weights(alone)
    assert shared.history.loss.tolist() == alone.history.loss.tolist()


def test_each_setting_of_the_warm_up_makes_another_start(parts, tmp_path):
    retriever, data = parts
    short = replace(CONFIG, epochs=2, n_def=2)
    chosen = {
        "published": short,
        "contrastive": replace(short, warm_up_objective="info_nce"),
        "none": replace(short, warm_up=False),
    }
    runs = {n: train(c, retriever, data, tmp_path, n) for n, c in chosen.items()}
    assert len({run.history.loss[0] for run in runs.values()}) == 3
    assert runs["none"].mining.epoch.min() == 0 and runs["published"].mining.epoch.min() == 1


def test_several_negatives_are_distinct_and_seen_only_after_warm_up(
    parts,
    tmp_path,
    monkeypatch,
):
    retriever, data = parts
    seen, read = [], []
    real = Retriever.read_features
    monkeypatch.setattr(
        Retriever, "read_features", lambda self, ids: real(self, read.append(ids) or ids)
    )

    def spy(queries, targets, negatives, tau):
        count, k = negatives.shape[:2]
        own = read[-1][count : 2 * count]
        rows = np.array(read[-1][2 * count :]).reshape(count, k)
        assert all(len({*row, t}) == k + 1 for row, t in zip(rows, own, strict=True))
        seen.append(k)
        return (negatives * queries[:, None, None]).mean()

    monkeypatch.setitem(OBJECTIVES, "spy", Objective(spy))
    config = TrainConfig(epochs=2, n_def=2, objective="spy", negatives=3, mining=TOP)
    train(config, retriever, data, tmp_path, "spied")
    half = len(seen) // 2
    assert set(seen[:half]) == {1} and set(seen[half:]) == {3}


def test_evaluation_grades_the_first_ten_images(parts):
    retriever, data = parts
    graded = evaluate_fashioniq(retriever, data.val, relevance=data.val_relevance)
    plain = evaluate_fashioniq(retriever, data.val)
    pd.testing.assert_frame_equal(graded[plain.columns], plain)
    queries, relevance = data.val["shirt"], data.val_relevance["shirt"]
    embedded = retriever.embed_queries(queries), retriever.embed_corpus(queries.corpus)
    order = next(r for _, r in rank_corpus(*embedded)).order.cpu()
    rows = graded[graded.category == "shirt"].reset_index()
    for q, target in enumerate(queries.target_positions.tolist()):
        best = [i for i in order[q, :10].tolist() if i != target]
        as_good = sum(bool(relevance[q, i] >= relevance[q, target]) for i in best)
        assert rows.false_negatives10[q] == as_good
    np.testing.assert_allclose(rows.ndcg10, ndcg_at_k(relevance.gather(1, order), 10))


def test_the_history_goes_to_tensorboard(first_run):
    run = first_run
    events = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    assert [s.value for s in events.Scalars("training/loss")] == pytest.approx(run.history.loss)
    assert {"training/temperature", "mining_shirt/set_size_median"} <= set(events.Tags()["scalars"])


def test_a_finished_run_is_opened_not_repeated(parts, first_run):
    folder = first_run.folder
    again = train(CONFIG, *parts, folder.parent, "first", Execution(on_epoch=lambda row: 1 / 0))
    assert again.folder == folder
    pd.testing.assert_frame_equal(again.history, first_run.history)
    same = [r.retriever("last").model.text_proj.weight for r in (again, first_run)]
    assert torch.equal(*same)


def test_another_setting_is_another_run(parts, first_run, tmp_path):
    retriever, data = parts
    short = replace(CONFIG, epochs=2, n_def=2)
    one = train(short, retriever, data, tmp_path, "run")
    other = train(replace(short, learning_rate=2e-3), retriever, data, tmp_path, "run")
    contrast = train(replace(short, objective="info_nce"), retriever, data, tmp_path, "run")
    assert len({one.folder, other.folder, contrast.folder}) == 3
    assert len({weights(one), weights(other), weights(contrast)}) == 3


DAMAGES = {
    "cut": lambda whole: whole[:2000],
    "zeroed": lambda whole: whole[:5000] + bytes(1000) + whole[6000:],
    "one bit": lambda whole: whole[:5500] + bytes([whole[5500] ^ 1]) + whole[5501:],
    "empty": lambda whole: b"",
    "pickled code": lambda whole: b"cos\nsystem\n(S'true'\ntR.",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_falls_back_to_the_one_before_loudly(parts, tmp_path, damage, capsys):
    retriever, data = parts
    short = replace(CONFIG, epochs=2, n_def=2, mining=MiningConfig("all_corpus"))
    run = train(short, retriever, data, tmp_path, "run")
    newest, before = run.folder / "checkpoint.pt", run.folder / "checkpoint.previous.pt"
    whole, expected = newest.read_bytes(), weights(run)
    newest.write_bytes(damage(whole))
    shutil.rmtree(run.folder / "last")
    epochs = []
    again = train(
        short, retriever, data, tmp_path, "run", Execution(on_epoch=lambda r: epochs.append(r))
    )
    assert [row["epoch"] for row in epochs] == [1] and weights(again) == expected
    printed = capsys.readouterr().out
    assert "WARNING" in printed and "checkpoint.damaged.pt" in printed
    assert (run.folder / "checkpoint.damaged.pt").read_bytes() == damage(whole)
    for path in (newest, before):
        path.write_bytes(damage(whole))
    with pytest.raises(ValueError, match=r"checkpoint\.previous\.pt.*delete its folder"):
        train(short, retriever, data, tmp_path, "run")


def test_a_kill_between_two_checkpoints_renames_goes_on_from_the_one_before(parts, tmp_path):
    retriever, data = parts
    short = replace(CONFIG, epochs=2, n_def=2, mining=MiningConfig("all_corpus"))
    run = train(short, retriever, data, tmp_path, "run")
    expected = weights(run)
    (run.folder / "checkpoint.pt").unlink()
    shutil.rmtree(run.folder / "last")
    assert weights(train(short, retriever, data, tmp_path, "run")) == expected


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        replace(CONFIG, negatives=3, objective="plackett_luce", auxiliary_positives=True),
        replace(CONFIG, objective="info_nce", warm_up_objective="info_nce"),
    ],
    ids=["recipe", "several negatives and auxiliary positives", "in-batch"],
)
def test_a_run_killed_within_epochs_ends_with_the_same_bits(parts, tmp_path, monkeypatch, config):
    retriever, data = parts
    config = replace(config, epochs=3, n_def=3)
    whole = train(config, retriever, data, tmp_path, "whole")
    kills, step = {2, 7, 16, 21, 33}, Loop._step
    taken, stops = [], []

    def watched(loop, *arguments):
        if len(taken) in kills:
            kills.discard(len(taken))
            raise KeyboardInterrupt
        taken.append((loop.epoch, arguments[0].tolist()))
        return step(loop, *arguments)

    monkeypatch.setattr(Loop, "_step", watched)
    at_every_step = Execution(checkpoint_minutes=0)
    while kills:
        with pytest.raises(KeyboardInterrupt):
            train(config, retriever, data, tmp_path / "other", "killed", at_every_step)
        stops.append(len(taken))
    killed = train(config, retriever, data, tmp_path / "other", "killed", at_every_step)
    assert stops == [2, 7, 16, 21, 33]
    steps = -(-len([t for q in data.train.values() for t in q.triplets]) // config.batch_size)
    assert len(taken) == 3 * steps  # none twice: each goes on after the last finished step
    assert weights(killed) == weights(whole)
    times = ["mining_s", "training_s", "val_s"]
    pd.testing.assert_frame_equal(
        killed.history.drop(columns=times), whole.history.drop(columns=times)
    )
    pd.testing.assert_frame_equal(killed.mining, whole.mining)
    assert (killed.history.training_s > 0).all()


def test_checkpoints_within_an_epoch_come_after_the_time_that_is_asked_for(
    parts, tmp_path, monkeypatch
):
    retriever, data = parts
    config = replace(CONFIG, epochs=2, n_def=2, mining=MiningConfig("all_corpus"))
    clock, saved, save, step = [0.0], [], RunFolder.save, Loop._step
    monkeypatch.setattr("qure_lib.train.loop.monotonic", lambda: clock[0])

    def watched(loop, *arguments):
        clock[0] += 60  # a minute a step
        return step(loop, *arguments)

    def noted(folder, retriever, state, best=False):
        saved.append((state["epoch"], state["progress"]["steps"]))
        save(folder, retriever, state, best)

    monkeypatch.setattr(Loop, "_step", watched)
    monkeypatch.setattr(RunFolder, "save", noted)
    train(config, retriever, data, tmp_path, "run", Execution(checkpoint_minutes=5))
    assert saved == [(0, 5), (0, 10), (1, 0), (1, 5), (1, 10), (2, 0)]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_state_that_is_not_finite_is_named_and_never_saved(parts, tmp_path, value):
    retriever, data = parts
    config = replace(CONFIG, epochs=2, n_def=2, mining=MiningConfig("all_corpus"))
    run = train(config, retriever, data, tmp_path, "run")
    path = run.folder / "checkpoint.pt"
    before, state = path.read_bytes(), load_checkpoint(path)
    state["optimizer"]["state"][0]["exp_avg"].view(-1)[0] = value
    with pytest.raises(ValueError, match=r"optimizer\.state\.0\.exp_avg is not finite.*not saved"):
        save_checkpoint(path, state)
    assert path.read_bytes() == before and not [*path.parent.glob(".checkpoint*")]


def test_a_full_disk_leaves_the_checkpoints_as_they_were(parts, tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    for epoch in range(2):
        save_checkpoint(path, {"epoch": epoch})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # as full as a disk can be
    try:
        with pytest.raises(OSError, match=r"checkpoint\.pt cannot be written.*disk full"):
            save_checkpoint(path, {"epoch": 2, "weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load_checkpoint(path) == {"epoch": 1} and len([*tmp_path.iterdir()]) == 2
    assert load_checkpoint(tmp_path / "checkpoint.previous.pt") == {"epoch": 0}


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state.pop("epoch"),
        lambda state: state["model"].pop("query_tokens"),
        lambda state: state["model"].update(query_tokens=torch.zeros(1, 2, 3)),
        lambda state: state["optimizer"].update(param_groups=[]),
    ],
)
def test_another_runs_checkpoint_is_refused_by_name(parts, tmp_path, damage):
    retriever, data = parts
    short = replace(CONFIG, epochs=2, n_def=2, mining=MiningConfig("all_corpus"))
    run = train(short, retriever, data, tmp_path, "run")
    state = load_checkpoint(run.folder / "checkpoint.pt")
    damage(state)
    save_checkpoint(run.folder / "checkpoint.pt", state)
    with pytest.raises(ValueError, match=r"checkpoint\.pt is not this run's"):
        train(short, retriever, data, tmp_path, "run")


def test_what_a_finished_run_lost_is_written_again_or_named(parts, first_run, tmp_path):
    retriever, data = parts
    folder = tmp_path / first_run.folder.name
    shutil.copytree(first_run.folder, folder)
    (folder / "history.csv").unlink()
    shutil.rmtree(folder / "last")
    run = train(CONFIG, retriever, data, tmp_path, "first")
    assert run.folder == folder
    assert (folder / "history.csv").exists() and weights(run) == weights(first_run)
    (folder / "best" / "model.safetensors").write_bytes(b"cut")
    for stage in ("best", "worst", 3000):
        with pytest.raises(ValueError, match="cannot be read"):
            run.retriever(stage)


def test_the_learning_rate_is_a_cosine_a_epoch():
    config = TrainConfig()
    assert config.learning_rate_at(0) == pytest.approx(5e-6)
    assert config.learning_rate_at(15) == pytest.approx((5e-6 + 5e-8) / 2)
    assert config.learning_rate_at(30) == pytest.approx(5e-8)


def test_an_unknown_objective_is_refused(parts, tmp_path):
    for name in ("objective", "warm_up_objective"):
        with pytest.raises(ValueError, match="objective"):
            train(replace(CONFIG, **{name: "triplet"}), *parts, tmp_path, "run")
    with pytest.raises(ValueError, match="strategy"):
        train(replace(CONFIG, mining=MiningConfig("hardest")), *parts, tmp_path, "run")


def test_auxiliary_positives_lie_before_the_first_drop(parts, tmp_path, monkeypatch):
    retriever, data = parts
    config = replace(CONFIG, epochs=2, n_def=2, auxiliary_positives=True)
    seen, define, draw = [], Loop.define, Loop.draw

    def spy_on_define(loop, epoch):
        seen.append((loop.retriever.copy(), define(loop, epoch))[0])

    def spy_on_draw(loop, epoch, generator):
        rows = draw(loop, epoch, generator)
        seen.append((loop.triplets, rows))
        return rows

    monkeypatch.setattr(Loop, "define", spy_on_define)
    monkeypatch.setattr(Loop, "draw", spy_on_draw)
    run = train(config, retriever, data, tmp_path, "auxiliary")
    (_, warm_up), model, (triplets, drawn) = seen
    assert {len(row) for row in warm_up} == {1} and {len(row) for row in drawn} == {2}
    positive = {t.query_id: row[0] for t, row in zip(triplets, drawn, strict=True)}
    for queries in data.train.values():
        embedded = model.embed_queries(queries), model.embed_corpus(queries.corpus)
        for rows, ranking in rank_corpus(*embedded):
            ranks = ranking.ranks_of(queries.target_positions[rows])
            drops = find_steepest_drops(ranking.scores, ranks, search_window=20)
            for triplet, order, rank, first in zip(
                queries.triplets[rows], ranking.order, ranks, drops.first, strict=True
            ):
                before = [queries.corpus.image_ids[p] for p in order[rank + 1 : first + 1]]
                assert positive[triplet.query_id] in before  # never empty where there is a pair
    assert weights(train(config, retriever, data, tmp_path, "auxiliary")) == weights(run)


def test_an_excluded_reference_is_never_drawn(parts, stage1, tmp_path, monkeypatch):
    everything = load_training_data(data_root_of(parts[1]), pool="original")
    drawn = []
    draw = Loop.draw

    def spy(loop, epoch, generator):
        rows = draw(loop, epoch, generator)
        drawn.extend(zip(loop.triplets, rows, strict=True))
        return rows

    monkeypatch.setattr(Loop, "draw", spy)
    wide = Retriever.open(stage1, everything.images, tmp_path / "cache")
    config = replace(CONFIG, epochs=2, n_def=2, exclude_reference=True, mining=MiningConfig())
    train(config, wide, everything, tmp_path, "excluding")
    assert len(drawn) == 2 * sum(len(q) for q in everything.train.values())
    for triplet, negatives in drawn:
        assert not {triplet.reference, triplet.target} & set(negatives)


def test_the_pools_of_negatives(parts):
    released = parts[1]
    root = data_root_of(released)
    for category, queries in load_training_data(root, pool="original").train.items():
        narrow = released.train[category]
        assert queries.triplets == narrow.triplets
        assert set(narrow.corpus.image_ids) == {t.target for t in narrow.triplets}
        assert set(narrow.corpus.image_ids) < set(queries.corpus.image_ids)
        assert (queries.reference_positions >= 0).all()
        assert set(queries.only_targets().corpus.image_ids) == set(narrow.corpus.image_ids)
    with pytest.raises(ValueError, match="pool must be one of"):
        load_training_data(root, pool="everything")


def test_a_definition_records_the_temperature_that_the_model_has_then(parts, first_run, tmp_path):
    learned = first_run.history.temperature
    assert learned.nunique() == len(learned)
    for row in first_run.mining.itertuples():
        assert row.curve == "cosine" and row.temperature == learned[row.epoch - 1]
        assert row.margin_over_temperature == pytest.approx(row.score_margin / row.temperature)
    given = MiningConfig(curve="preference", temperature=0.5)
    config = replace(CONFIG, epochs=2, n_def=2, mining=given)
    mined = train(config, *parts, tmp_path, "given").mining
    assert mined.temperature.eq(0.5).all() and mined.curve.eq("preference").all()


def test_the_gradients_norm_is_the_mean_of_the_finite_ones(parts, tmp_path, monkeypatch):
    norms = iter(torch.tensor([3.0, float("inf"), 5.0, *[4.0] * 1000]))
    monkeypatch.setattr(Loop, "_gradient_norm", lambda loop: next(norms).to(loop.device))
    config = replace(CONFIG, epochs=1, n_def=1, mining=MiningConfig("all_corpus"))
    run = train(config, *parts, tmp_path, "norms")
    assert run.history.gradient_norm[0] == pytest.approx(4.0)


def test_the_gradients_norm_is_of_all_parameters_together(parts, tmp_path, monkeypatch):
    found = []
    norm_of = Loop._gradient_norm

    def spy(loop):
        known = (p.grad for p in loop.parameters.values() if p.grad is not None)
        every = torch.cat([gradient.flatten() for gradient in known])
        found.append((norm_of(loop), every.double().norm()))
        return found[-1][0]

    monkeypatch.setattr(Loop, "_gradient_norm", spy)
    config = replace(CONFIG, epochs=1, n_def=1, mining=MiningConfig("all_corpus"))
    train(config, *parts, tmp_path, "norms")
    assert found and all(
        norm.item() == pytest.approx(every.item(), rel=5e-3) for norm, every in found
    )
