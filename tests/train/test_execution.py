"""How a run is executed changes nothing of what it computes: compiled, failed, moved, resumed."""

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO

import pandas as pd
import pytest
import torch

from qure_lib.features.retriever import Retriever
from qure_lib.method.config import MiningConfig, ModelConfig, TrainConfig
from qure_lib.method.model import QuReModel
from qure_lib.train.checkpoints import load_checkpoint, save_checkpoint
from qure_lib.train.execution import COMPILED_FROM, PROVEN, Encoder, Execution
from qure_lib.train.loop import Loop, train
from qure_lib.train.run_folder import RunFolder
from qure_lib.train.training_data import load_training_data

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CONFIG = TrainConfig(
    epochs=2, n_def=2, batch_size=50, learning_rate=1e-3, precision="fp32",
    mining=MiningConfig(search_window=20),
)  # fmt: skip


def open_parts(world, stage1, cache):
    """A Q-Former of one layer, without dropout, which compiled code draws otherwise."""
    torch.set_num_threads(2)
    data = load_training_data(world)
    opened = Retriever.open(stage1, data.images, cache)
    torch.manual_seed(0)
    model = QuReModel(replace(opened.model.config, qformer_layers=1, dropout=0.0))
    return replace(opened, model=model.to(opened.device)), data


@pytest.fixture(scope="module")
def parts(smoke_world, stage1, tmp_path_factory):
    return open_parts(smoke_world, stage1, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def plain(parts, tmp_path_factory):
    return train(CONFIG, *parts, tmp_path_factory.mktemp("runs"), "run", Execution(compile=False))


def measures(run):
    return run.history[["loss", "gradient_norm", "temperature", "val_r10"]]


def train_compiled(world, stage1, folder):
    """The run and what it said."""
    with redirect_stdout(StringIO()) as said:
        parts = open_parts(world, stage1, folder / "cache")
        run = train(CONFIG, *parts, folder, "run", Execution(compile=True))
    return replace(run, start=None), said.getvalue()


@pytest.mark.slow
def test_compiled_steps_of_static_shapes_have_equal_losses(smoke_world, stage1, plain, tmp_path):
    """Captions padded to one length: equal up to rounding, 1e-4 of the losses' size.

    In a process of its own: the compiler imports setuptools, which must come before distutils.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        compiled, said = pool.submit(train_compiled, smoke_world, stage1, tmp_path).result()
    assert "the step is compiled" in said and "compiling the training step failed" not in said
    assert compiled.folder.name == plain.folder.name  # the same run, however executed
    losses = ["loss", "gradient_norm", "temperature"]
    pd.testing.assert_frame_equal(compiled.history[losses], plain.history[losses], rtol=1e-4)


@pytest.mark.parametrize("fails_at", [0, PROVEN - 1])
def test_a_failed_compilation_is_said_and_falls_back(
    parts, plain, tmp_path, capsys, monkeypatch, fails_at
):
    calls = []

    def compile_badly(function, **_):
        def run(*batch):
            calls.append(batch)
            if len(calls) > fails_at:
                raise RuntimeError("no C compiler\nlong explanation")
            return function(*batch)

        return run

    monkeypatch.setattr(torch, "compile", compile_badly)
    run = train(CONFIG, *parts, tmp_path, "run", Execution(compile=True))
    said = capsys.readouterr().out
    assert said.count("WARNING: compiling the training step failed (no C compiler); it runs") == 1
    assert len(calls) == fails_at + 1
    losses = measures(run).drop(columns="val_r10")
    pd.testing.assert_frame_equal(losses, measures(plain)[losses.columns], rtol=1e-4)


def test_an_error_of_the_step_itself_is_not_hidden_by_the_fallback(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(Loop, "_gradient_norm", lambda loop: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(CONFIG, *parts, tmp_path, "run", Execution(compile=True))


def test_only_full_batches_are_compiled(parts, tmp_path, monkeypatch):
    sizes = []

    def spy(function, mode, dynamic):
        assert mode == "reduce-overhead" and not dynamic
        return lambda *batch: sizes.append([len(t) for t in batch]) or function(*batch)

    monkeypatch.setattr(torch, "compile", spy)
    train(CONFIG, *parts, tmp_path, "run", Execution(compile=True))
    queries = sum(map(len, parts[1].train.values()))
    assert queries % 50 and len(sizes) == 2 * (queries // 50)
    assert all(size == [50, 50, 50, 100] for size in sizes)


def test_when_compiling_pays():
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    chosen = Execution()
    assert chosen.compiles(gpu, COMPILED_FROM) and not chosen.compiles(gpu, COMPILED_FROM - 1)
    assert not chosen.compiles(cpu, 10 * COMPILED_FROM)
    assert Execution(compile=True).compiles(cpu, 1)
    assert not Execution(compile=False).compiles(gpu, 10 * COMPILED_FROM)
    with pytest.raises(ValueError, match="features must be one of"):
        Execution(features="disk")


def test_the_loss_is_looked_at_at_the_latest_before_anything_is_saved(parts, tmp_path, monkeypatch):
    step = Loop._step

    def spoiled(loop, batch, images, objective):
        loss, norm = step(loop, batch, images, objective)
        return (loss * float("nan") if len(batch) < 50 else loss), norm  # an epoch's last batch

    monkeypatch.setattr(Loop, "_step", spoiled)
    with pytest.raises(ValueError, match="the loss is not finite; lower the learning rate"):
        train(CONFIG, *parts, tmp_path, "run")
    assert not list(tmp_path.rglob("checkpoint.pt"))


def test_a_run_goes_on_on_another_device_and_says_so(parts, plain, tmp_path):
    """Its checkpoint as a GPU leaves it: AdamW's fused steps, a scaler, and the GPU's name."""
    config = replace(CONFIG, epochs=3, n_def=3)
    seen = Execution(on_epoch=lambda row: 1 / 0 if row["epoch"] == 1 else None)
    with pytest.raises(ZeroDivisionError):
        train(config, *parts, tmp_path, "run", seen)
    (path,) = tmp_path.glob("run-*/checkpoint.pt")
    state = load_checkpoint(path)
    here = state["devices"]
    state["devices"] = ["NVIDIA H100"]
    factors = {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5}
    state["scaler"] = state["scaler"] or factors | {"growth_interval": 2000, "_growth_tracker": 0}
    for group in state["optimizer"]["param_groups"]:
        group["fused"] = True
    save_checkpoint(path, state)
    run = train(config, *parts, tmp_path, "run")
    whole = train(config, *parts, tmp_path / "whole", "run")
    rounding = 1e-2 if torch.cuda.is_available() else 1e-9  # a GPU adds in any order
    assert run.history.loss.tolist() == pytest.approx(whole.history.loss.tolist(), rel=rounding)
    manifest = json.loads((run.folder / "run.json").read_text())
    assert manifest["trained_on"] == ["NVIDIA H100", *here]
    assert manifest["features_made_by"] == list(parts[0].features.made_by)


@pytest.mark.skipif(torch.cuda.is_available(), reason="begins on a CPU")
def test_a_run_begun_on_a_cpu_goes_on_with_a_scaler_as_on_a_gpu(parts, tmp_path, monkeypatch):
    """Its checkpoint has no scaler's state; a GPU's factor then starts from torch's own."""
    seen = Execution(on_epoch=lambda row: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(CONFIG, *parts, tmp_path, "run", seen)
    (path,) = tmp_path.glob("run-*/checkpoint.pt")
    begun = load_checkpoint(path)
    assert begun["scaler"] == {} and begun["devices"] == ["cpu"]
    scalers = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda *_, **__: scalers("cpu", enabled=True))
    monkeypatch.setattr("qure_lib.train.loop.describe_device", lambda device: "NVIDIA H100")
    run = train(CONFIG, *parts, tmp_path, "run")
    monkeypatch.undo()
    assert load_checkpoint(path)["scaler"]["scale"] == 65536
    manifest = json.loads((run.folder / "run.json").read_text())
    assert manifest["trained_on"] == ["cpu", "NVIDIA H100"]
    whole = train(CONFIG, *parts, tmp_path / "whole", "run")
    assert run.history.loss.tolist() == pytest.approx(whole.history.loss.tolist(), rel=1e-5)


def test_what_a_run_says_of_its_device(parts, tmp_path, capsys):
    config = replace(CONFIG, epochs=1, n_def=1, mining=MiningConfig("all_corpus"))
    train(config, *parts, tmp_path, "run")
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    assert f"run: on {name}" in capsys.readouterr().out


@NEEDS_GPU
@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("features", ["card", "host"])
def test_ways_of_running_on_a_gpu_have_equal_losses(parts, tmp_path, precision, features):
    """Graphs or not, from the card or from the host. Half precision: before sets are chosen."""
    config, losses = replace(CONFIG, precision=precision), []
    for compiled in (False, True):
        how = Execution(features=features, compile=compiled)
        run = train(config, *parts, tmp_path / str(compiled), "run", how)
        losses.append(run.history.loss.tolist())
    one, other = losses if precision == "fp32" else (losses[0][:1], losses[1][:1])
    assert one == pytest.approx(other, rel=1e-3 if precision == "fp32" else 1e-2)


@NEEDS_GPU
def test_a_compiled_step_does_not_wait_for_the_gpu(parts, tmp_path):
    retriever, data = parts
    loop = Loop(CONFIG, retriever.copy(), data, RunFolder(tmp_path, "run", CONFIG, {}))
    loop.prepare(Execution(features="card", compile=True))
    generator = torch.Generator().manual_seed(0)
    loop.take_steps(0, generator)
    step = Loop._step

    def watched(*arguments):
        if len(arguments[1]) == CONFIG.batch_size:  # an epoch's last batch runs as it is
            torch.cuda.set_sync_debug_mode("error")
        try:
            return step(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Loop, "_step", watched)
        loop.take_steps(0, generator)


def test_the_encoder_without_compilation_is_the_models_own():
    torch.manual_seed(0)
    vision = {"vision_width": 8, "vision_layers": 1, "vision_heads": 2}
    qformer = {"qformer_width": 8, "qformer_layers": 2, "qformer_heads": 2}
    small = ModelConfig(**vision, **qformer, embedding_dim=4, dropout=0.0)
    model = QuReModel(small)
    features, ids = torch.randn(5, 3, 8), torch.ones(2, 4, dtype=torch.int64)
    queries, images = Encoder(model, compiled=False)(True, features[:2], ids, ids, features[2:])
    assert torch.equal(queries, model.encode_query(features[:2], ids, ids))
    assert torch.equal(images, model.encode_image(features[2:]))
