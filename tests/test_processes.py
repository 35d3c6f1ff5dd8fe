"""Two processes that accelerate starts against one: the same training, and a killed process."""

import json
import math
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import load_file

from qure_lib.features.retriever import Retriever
from qure_lib.method.config import MiningConfig, TrainConfig
from qure_lib.method.mining import mine_hard_negatives
from qure_lib.method.mining_report import MiningReport
from qure_lib.method.negatives import HardNegativeSet
from qure_lib.method.ranking import rank_corpus
from qure_lib.processes import (
    _share_of,
    average_gradients,
    gather_rows,
    gather_shares,
    joined,
    share,
)
from qure_lib.train.__main__ import main
from qure_lib.train.checkpoints import load_checkpoint
from qure_lib.train.progress import set_seed
from qure_lib.train.training_data import load_training_data

LAUNCH = (sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1")
LAUNCH += ("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0")
WINDOW = 20
ROUNDING = 4e-6  # of a score, several times over
# Uneven shares: batches of 51 over two ranks, the last of 27. The first negatives are mined with
# the starting weights, which both runs have to the bit.
MINED = ("--epochs", "3", "--n-def", "3", "--learning-rate", "1e-3", "--no-warm-up")
MINED += ("--batch-size", "51", "--search-window", str(WINDOW))
# Batches of 383 and of one triplet, which two ranks cannot share.
CONTRAST = ("--epochs", "2", "--n-def", "2", "--learning-rate", "1e-3", "--objective", "info_nce")
CONTRAST += ("--batch-size", "383", "--strategy", "all_corpus")


@pytest.fixture(scope="module")
def start(stage1, tmp_path_factory):
    """The mini model without dropout, whose masks no two ranks share."""
    folder = shutil.copytree(stage1, tmp_path_factory.mktemp("start") / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dropout": 0.0}))
    return folder


@pytest.fixture(scope="module")
def launched(root, smoke_world, start):
    """Start the training command in a number of processes; it writes to `runs/output.txt`."""

    def launched(runs: Path, settings: tuple[str, ...], count: int) -> subprocess.Popen:
        words = [*LAUNCH, "--num_processes", str(count)] if count > 1 else [sys.executable]
        words += ["-m", "qure_lib.train", smoke_world, "--checkpoint", start, "--runs", runs]
        env = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        with (runs / "output.txt").open("w") as output:
            command = [*map(str, words), *settings]
            return subprocess.Popen(command, cwd=root, env=env, stdout=output, stderr=output)

    return launched


@pytest.fixture(scope="module")
def trained(launched, tmp_path_factory):
    """Train, or resume training, to the end; the run's folder."""

    def trained(settings: tuple[str, ...], count: int, runs: Path | None = None) -> Path:
        runs = runs or tmp_path_factory.mktemp(f"runs{count}")
        status = launched(runs, settings, count).wait(timeout=300)
        assert status == 0, (runs / "output.txt").read_text()[-3000:]
        (manifest,) = runs.glob("*/run.json")
        assert json.loads(manifest.read_text())["processes"] == count
        return manifest.parent

    return trained


@pytest.fixture(scope="module")
def mined(trained):
    """A run of one process and a run of two, with mining."""
    return trained(MINED, 1), trained(MINED, 2)


def history(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "history.csv").drop(columns=["mining_s", "training_s", "val_s"])


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The last epoch's, without the keys' biases: they do not change the attention, so their
    gradients are rounding errors, which AdamW scales up."""
    loaded = load_file(run / "last" / "model.safetensors")
    return {n: w for n, w in loaded.items() if not n.endswith("key.bias")}


def assert_same_training(one: Path, two: Path) -> None:
    assert one.name == two.name  # a run may resume in another number of processes
    pd.testing.assert_frame_equal(history(one), history(two), rtol=1e-4)
    torch.testing.assert_close(weights(two), weights(one), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_two_processes_train_as_one_does(mined):
    assert_same_training(*mined)
    reports = [pd.read_csv(run / "mining.csv") for run in mined]
    assert sorted(set(reports[0].epoch)) == [0, 1, 2]
    pd.testing.assert_frame_equal(*reports, rtol=0.01)
    shards = mined[1].parent.glob("features/*/*.safetensors")
    assert {path.name[:6] for path in shards} == {"0-of-2", "1-of-2"}


@pytest.mark.slow
def test_two_processes_mine_the_same_sets_where_scores_differ(mined, smoke_world, start):
    data = load_training_data(smoke_world)
    retriever = Retriever.open(start, data.images, mined[0].parent / "features")
    decided = []
    for queries in data.train.values():
        embedded = retriever.embed_queries(queries), retriever.embed_corpus(queries.corpus)
        for rows, ranking in rank_corpus(*embedded):
            ranks = ranking.ranks_of(queries.target_positions[rows])
            for scores, rank in zip(ranking.scores, ranks, strict=True):
                near = scores[max(rank - 1, 0) : rank + WINDOW + 2]
                gaps = sorted((-near.diff()).tolist())
                decided.append(min(gaps[:1] + np.diff(gaps).tolist()) > ROUNDING)
    assert np.mean(decided) > 0.8
    frames = [pd.read_csv(run / "definitions" / "epoch_00.csv")[decided] for run in mined]
    pd.testing.assert_frame_equal(*frames, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_in_batch_contrast_sees_the_other_processes_targets(trained):
    assert_same_training(trained(CONTRAST, 1), trained(CONTRAST, 2))


@pytest.mark.slow
@pytest.mark.parametrize(("killed", "count"), [("1", 2), ("0", 1)])
def test_a_killed_rank_ends_the_job_and_the_run_resumes(
    launched, trained, mined, tmp_path, killed, count
):
    running = launched(tmp_path, MINED, 2)
    while not (found := list(tmp_path.glob("*/checkpoint.pt"))) and running.poll() is None:
        time.sleep(0.1)
    ranks = {p.environ()["RANK"]: p for p in psutil.Process(running.pid).children()}
    ranks[killed].kill()
    assert running.wait(timeout=60) != 0
    assert len(ranks) == 2 and not any(psutil.pid_exists(p.pid) for p in ranks.values())
    assert load_checkpoint(found[0])["epoch"] < 3
    resumed = trained(MINED, count, tmp_path)
    if count == 2:
        pd.testing.assert_frame_equal(history(resumed), history(mined[1]))
        torch.testing.assert_close(weights(resumed), weights(mined[1]), rtol=0, atol=0)
    else:
        assert_same_training(mined[0], resumed)


def join_three_ranks(rank: int, store: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=3)


def check_gradients(rank: int, store: str) -> None:
    """On each rank: the gathered rows are the whole, their gradient is that of one process."""
    join_three_ranks(rank, store)
    for n in (1, 2, 3, 7):
        whole = torch.arange(2.0 * n).view(n, 2) + 1
        mine = whole[share(n)]
        factor, bias, unused, alone = (torch.ones(2, requires_grad=True) for _ in range(4))
        rows = gather_rows(mine * factor, n)
        assert torch.equal(rows, whole)
        assert sum(gather_shares(mine.tolist(), n), []) == whole.tolist()
        ((rows + bias) ** 2).sum().backward()
        average_gradients([factor, unused, bias])
        ((whole * alone + 1) ** 2).sum().backward()
        torch.testing.assert_close(factor.grad, alone.grad)
        torch.testing.assert_close(bias.grad, 2 * (whole + 1).sum(dim=0))
        assert unused.grad is None
    dist.destroy_process_group()


def check_shapes_and_types(rank: int, store: str) -> None:
    """On each rank: rows of any type and shape, also with no element, are gathered by one call."""
    join_three_ranks(rank, store)
    calls, all_gather = [], dist.all_gather
    dist.all_gather = lambda *args: calls.append(args) or all_gather(*args)
    dist.broadcast = None
    for dtype in (torch.bool, torch.uint8, torch.int32, torch.int64, torch.bfloat16, torch.float64):
        for shape in ((7,), (4, 3), (3, 2, 2), (5, 0), (4, 0, 2), (2, 3), (0, 3)):
            whole = (torch.arange(math.prod(shape)) % 5).view(shape).to(dtype)
            calls.clear()
            rows = gather_rows(whole[share(shape[0])], shape[0])
            assert torch.equal(rows, whole) and rows.dtype == dtype
            assert len(calls) == (shape[0] >= 3)
    columns = torch.arange(14.0).view(2, 7).T  # not contiguous
    assert torch.equal(gather_rows(columns[share(7)], 7), columns)
    nothing = torch.ones(7, 0, requires_grad=True)
    gather_rows(nothing[share(7)], 7).sum().backward()
    assert nothing.grad.shape == (7, 0)
    with pytest.raises(ValueError, match="1 rows, but this rank's share of 9"):
        gather_rows(torch.ones(1, 2), 9)
    dist.destroy_process_group()


@pytest.mark.parametrize("check", [check_gradients, check_shapes_and_types])
def test_rows_are_shared_and_gathered(check, tmp_path):
    assert torch.multiprocessing.spawn(check, (str(tmp_path / "store"),), 3) is None


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_shares_cover_the_rows_once_and_differ_by_one_at_most(count):
    for n in range(count, 40):
        shares = [range(n)[_share_of(rank, count, n)] for rank in range(count)]
        assert [row for rows in shares for row in rows] == list(range(n))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for n in range(count):  # too few rows to share: every rank has all
        assert all(_share_of(rank, count, n) == slice(0, n) for rank in range(count))


def test_one_process_keeps_what_it_has():
    rows = torch.ones(3, 2)
    assert gather_rows(rows, 3) is rows
    assert gather_shares("mine", 3) == ["mine"]
    with pytest.raises(ValueError, match="2 rows, but this rank's share of 3"):
        gather_rows(rows[:2], 3)


def test_ranks_draw_the_same_samples_and_dropout_of_their_own():
    samples, masks = [], []
    for rank in (0, 1):
        samples.append(torch.rand(8, generator=set_seed(1000, rank)))
        masks.append(torch.rand(8))
    assert torch.equal(*samples) and not torch.equal(*masks)


def test_queries_mined_in_shares_are_the_whole():
    generator = torch.Generator().manual_seed(0)
    queries = F.normalize(torch.randn(30, 8, generator=generator), dim=-1)
    images = F.normalize(torch.randn(50, 2, 8, generator=generator), dim=-1)
    targets = torch.randint(50, (30,), generator=generator)
    mine = partial(mine_hard_negatives, config=MiningConfig(), images=images)
    shares = [mine(queries[s], targets=targets[s]) for s in (slice(0, 11), slice(11, 30))]
    sets, reports = zip(*shares, strict=True)
    chosen, report = HardNegativeSet.concatenate(sets), MiningReport.concatenate(reports)
    whole, expected = mine(queries, targets=targets)
    for name in ("offsets", "negatives", "targets"):
        assert torch.equal(getattr(chosen, name), getattr(whole, name))
    pd.testing.assert_frame_equal(report.per_query, expected.per_query)
    np.testing.assert_allclose(report.mean_scores, expected.mean_scores, atol=1e-6)
    np.testing.assert_allclose(report.std_scores, expected.std_scores, rtol=1e-6)


@pytest.fixture
def command(smoke_world, stage1, tmp_path, monkeypatch):
    """Run the command in this process, without the training; the settings that training got."""
    seen = []

    def train(config: TrainConfig, *_: object) -> None:
        seen.append(config)
        assert not dist.is_initialized()
        raise ValueError("far enough")

    def command(settings: str) -> list[TrainConfig]:
        words = [smoke_world, "--checkpoint", stage1, "--runs", tmp_path, *settings.split()]
        assert main([*map(str, words)]) == 2
        return seen

    monkeypatch.setattr("qure_lib.train.__main__.train", train)
    monkeypatch.setattr(Retriever, "open", lambda *_: None)
    return command


def test_the_commands_flags_are_the_settings(command, capsys):
    mining = MiningConfig(drop_rule="largest", top_k=7)
    wanted = TrainConfig(epochs=3, n_def=3, precision="fp32", set_sizes=(20, 5), mining=mining)
    flags = "--epochs 3 --n-def 3 --precision fp32 --set-sizes 20 5 --drop-rule largest --top-k 7"
    assert command(flags) == [wanted]
    assert capsys.readouterr().err == "python -m qure_lib.train: error: far enough\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--epochs 3", "n_def is 6 and epochs 3, but"),
        ("--drop-rule steepest", "drop_rule must be one of"),
        ("--pool original --batch-size 0", "batch_size must be a whole number, at least 1"),
    ],
)
def test_the_command_says_what_is_wrong(command, capsys, flags, message):
    assert command(flags) == []
    assert message in capsys.readouterr().err


def test_a_launch_that_starts_one_process_only_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(ValueError, match="--multi_gpu"), joined():
        pass
