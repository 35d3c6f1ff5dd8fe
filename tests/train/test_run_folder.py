"""What a run's name depends on, and what its folder holds."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from markup import parse
from nbconvert.filters import markdown2html_mistune

from qure_lib.features.model_folder import load_model
from qure_lib.features.retriever import Retriever
from qure_lib.method.config import MiningConfig, TrainConfig
from qure_lib.method.losses import OBJECTIVES, Objective
from qure_lib.method.model import QuReModel
from qure_lib.method.strategies import STRATEGIES, strategy
from qure_lib.train.__main__ import main
from qure_lib.train.checkpoints import load_checkpoint
from qure_lib.train.execution import Execution
from qure_lib.train.loop import train
from qure_lib.train.run_folder import RunFolder

CONFIG = TrainConfig(epochs=2, n_def=2, learning_rate=1e-3, mining=MiningConfig("all_corpus"))


@pytest.fixture(scope="module")
def run(parts, tmp_path_factory):
    return train(CONFIG, *parts, tmp_path_factory.mktemp("runs"), "run")


def folders(tmp_path, config=CONFIG, **hashes):
    folder = RunFolder(tmp_path, "run", config, hashes)
    return folder.path.name, folder.warm_up.name


class TestName:
    @pytest.mark.parametrize("change", [{"dropout": 0.2}, {"max_caption_tokens": 8}])
    def test_covers_the_models_configuration(self, parts, change):
        retriever, data = parts
        model = QuReModel(replace(retriever.model.config, **change))
        model.load_state_dict(retriever.model.state_dict())
        ours, others = data.hashes(retriever), data.hashes(replace(retriever, model=model))
        assert {k for k in ours if ours[k] != others[k]} == {"model"}

    def test_covers_the_tokenizer_and_not_how_it_was_last_called(self, parts):
        retriever, data = parts
        other = replace(retriever, tokenizer=type(retriever.tokenizer).from_pretrained(
            retriever.tokenizer.name_or_path
        ))  # fmt: skip
        before = data.hashes(other)
        other.tokenize(["is red", "is blue and has long sleeves"])
        assert data.hashes(other) == before == data.hashes(retriever)
        other.tokenizer.add_tokens(["[new]"])
        ours, others = data.hashes(retriever), data.hashes(other)
        assert {k for k in ours if ours[k] != others[k]} == {"tokenizer"}

    def test_covers_the_strategys_code(self, tmp_path, monkeypatch):
        monkeypatch.setitem(STRATEGIES, "mine", None)
        config, names = replace(CONFIG, mining=MiningConfig("mine")), []
        for body in ("ranks", "ranks + 1"):
            exec(f"@strategy('mine')\ndef f(ranking, ranks, config):\n    return ranks, {body}",
                 {"strategy": strategy})  # fmt: skip
            names.append(folders(tmp_path, config))
        (one, warm), (other, same) = names
        assert one != other and warm == same  # the warm-up mines nothing

    def test_covers_the_strategys_options(self, tmp_path, monkeypatch):
        monkeypatch.setitem(STRATEGIES, "mine", lambda ranking, ranks, config, *, k=1: (ranks, k))
        names = {
            folders(tmp_path, replace(CONFIG, mining=MiningConfig("mine", options=options)))[0]
            for options in ({}, {"k": 1}, {"k": 2})
        }
        assert len(names) == 3

    def test_covers_the_objectives_code(self, tmp_path, monkeypatch):
        names = []
        for scale in (1.0, 2.0):
            loss = Objective(lambda q, t, n, tau, scale=scale: scale * q.sum())
            monkeypatch.setitem(OBJECTIVES, "mine", loss)
            names.append(folders(tmp_path, replace(CONFIG, objective="mine")))
            names.append(folders(tmp_path, replace(CONFIG, warm_up_objective="mine")))
        paths, warm_ups = zip(*names, strict=True)
        assert len(set(paths)) == 4 and len(set(warm_ups)) == 2

    def test_covers_whether_an_objective_needs_negatives(self, tmp_path, monkeypatch):
        names = []
        for needs in (True, False):
            monkeypatch.setitem(OBJECTIVES, "mine", Objective(len, needs_negatives=needs))
            names.append(folders(tmp_path, replace(CONFIG, objective="mine")))
        assert len({path for path, _ in names}) == len({warm_up for _, warm_up in names}) == 2

    def test_covers_data_and_settings(self, tmp_path):
        names = {folders(tmp_path, data=1), folders(tmp_path, data=2)}
        names.add(folders(tmp_path, replace(CONFIG, seed=1), data=1))
        assert len(names) == 3

    @pytest.mark.parametrize("name", ["../../x", "a/b", "..", "/tmp", "a\\b", ".run"])
    def test_stays_in_the_folder_of_runs(self, name, run, tmp_path, capsys):
        with pytest.raises(ValueError, match="run name .* becomes part of a path"):
            RunFolder(tmp_path / "runs" / "mine", name, CONFIG, {})
        arguments = ["absent", "--checkpoint", "absent", f"--name={name}"]
        assert main([*arguments, "--runs", str(tmp_path / "runs")]) == 2
        assert f"--name {name!r} becomes part of a path" in capsys.readouterr().err
        with pytest.raises(ValueError, match="stage .* becomes part of a path"):
            run.retriever(name)
        assert not list(tmp_path.iterdir())


class TestFolder:
    def test_a_best_model_between_two_renames_is_put_in_place(self, run, parts, tmp_path):
        shutil.copytree(run.folder, tmp_path / run.folder.name)
        best = tmp_path / run.folder.name / "best"
        aside = best.with_name(".best.xyz")  # as `replacing` leaves it when it is killed there
        aside.mkdir()
        (aside / "best.old").mkdir()
        best.rename(aside / "best")
        again = train(CONFIG, *parts, tmp_path, "run")
        assert again.folder == best.parent and not aside.exists()
        load_model(best)

    def test_holds_the_frozen_tower_once(self, run, parts):
        tower = {n for n in parts[0].model.state_dict() if n.startswith("vision_encoder.")}
        files = list(run.folder.rglob("*.safetensors"))
        holders = [f for f in files if tower & set(read(f))]
        assert holders == [run.folder / "vision_encoder.safetensors"]

    @pytest.mark.parametrize("stage", ["best", "last"])
    def test_each_model_loads_whole_from_where_it_lies(self, run, stage, parts):
        loaded = load_model(run.folder / stage).state_dict()
        expected = run.retriever(stage).model.state_dict()
        assert loaded.keys() == expected.keys() == parts[0].model.state_dict().keys()
        assert all(torch.equal(value, expected[name]) for name, value in loaded.items())

    def test_a_copy_of_the_best_alone_says_what_it_lacks(self, run, tmp_path):
        shutil.copytree(run.folder / "best", tmp_path / "mine" / "best")
        with pytest.raises(ValueError, match=r"vision tower.*vision_encoder\.safetensors.*missing"):
            load_model(tmp_path / "mine" / "best")

    def test_an_explicit_save_is_whole(self, run, tmp_path):
        run.retriever("best").save(tmp_path / "whole")
        loaded = load_model(tmp_path / "whole").state_dict()
        expected = run.retriever("best").model.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in loaded.items())

    def test_tensorboards_files_are_closed(self, parts, tmp_path, monkeypatch):
        closed = []
        from torch.utils.tensorboard import SummaryWriter

        close = SummaryWriter.close
        monkeypatch.setattr(SummaryWriter, "close", lambda self: closed.append(1) or close(self))
        train(replace(CONFIG, seed=5), *parts, tmp_path, "run")
        assert closed
        closed.clear()
        with pytest.raises(ZeroDivisionError):
            stop = Execution(on_epoch=lambda row: 1 / 0)
            train(replace(CONFIG, seed=6), *parts, tmp_path, "run", stop)
        assert closed

    def test_a_gpus_checkpoint_is_a_copy_that_a_thread_writes(self, parts, tmp_path):
        folder, state = RunFolder(tmp_path, "run", CONFIG, {}), {"epoch": 9, "w": torch.zeros(2)}
        folder.save(OnGpu(**vars(parts[0])), state, best=True)
        state["w"] += 1  # as the next step does
        folder.finish_saving()
        assert load_checkpoint(folder.checkpoint)["w"].tolist() == [0, 0]
        assert (folder.path / "best" / "model.safetensors").is_file()

    def test_what_a_thread_could_not_write_stops_the_run(self, parts, tmp_path, monkeypatch):
        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("qure_lib.train.run_folder.save_checkpoint", full)
        folder, retriever = RunFolder(tmp_path, "run", CONFIG, {}), OnGpu(**vars(parts[0]))
        with pytest.raises(OSError, match="No space left"), folder.opened():
            folder.save(retriever, {"epoch": 9}, best=False)


class OnGpu(Retriever):
    """A retriever that says it is on a GPU."""

    device = torch.device("cuda")


class TestInBatchContrast:
    """Of one query a batch it is 0, whatever the model does."""

    def config(self, **changes):
        return replace(CONFIG, objective="info_nce", **changes)

    def test_a_last_batch_of_one_joins_the_one_before_and_says_so(self, parts, tmp_path, capsys):
        sizes = []
        real = OBJECTIVES["info_nce"].function

        def watched(queries, targets, negatives, tau):
            sizes.append(len(queries))
            return real(queries, targets, negatives, tau)

        OBJECTIVES["watched"] = Objective(watched, needs_negatives=False)
        try:
            config = replace(CONFIG, objective="watched", batch_size=11)  # of twelve queries
            run = train(config, *parts, tmp_path, "run")
        finally:
            del OBJECTIVES["watched"]
        assert sizes == [12, 12] and (run.history.loss > 0).all()
        assert "last batch of one" in "".join(capsys.readouterr())

    def test_batches_of_two_and_more_are_left_alone(self, parts, tmp_path, capsys):
        train(self.config(batch_size=10), *parts, tmp_path, "run")
        assert "last batch of one" not in "".join(capsys.readouterr())

    @pytest.mark.parametrize(
        "objectives",
        [
            {"objective": "info_nce"},
            {"objective": "info_nce", "warm_up_objective": "bradley_terry"},
            {"warm_up_objective": "info_nce"},
        ],
    )
    def test_a_single_training_query_is_refused_before_the_first_step(
        self, parts, tmp_path, objectives
    ):
        retriever, data = parts
        one = {"shirt": replace(data.train["shirt"], triplets=data.train["shirt"].triplets[:1])}
        data, config = replace(data, train=one, relevance={}), replace(CONFIG, **objectives)
        with pytest.raises(ValueError, match="at least two training queries"):
            train(config, retriever, data, tmp_path, "run", Execution(on_epoch=pytest.fail))

    def test_pairs_keep_a_last_batch_of_one(self, parts, tmp_path, capsys):
        run = train(replace(CONFIG, batch_size=11), *parts, tmp_path, "run")
        assert run.history.loss.notna().all()
        assert "last batch of one" not in "".join(capsys.readouterr())


def read(path):
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return list(file.keys())


def test_a_retrievers_copy_shares_the_frozen_tower_alone(parts):
    retriever, _ = parts
    copy = retriever.copy()
    assert copy.model.vision_encoder is retriever.model.vision_encoder
    assert copy.features is retriever.features
    own, other = (r.model.trainable_parameters() for r in (retriever, copy))
    assert all(torch.equal(own[n], other[n]) and own[n] is not other[n] for n in own)


def test_a_card_shows_the_names_of_run_and_categories_as_text(tmp_path):
    name = "<img src=x onerror=run()> | [see](javascript:run()) `a`\n\n# b &lt; c"
    folder = RunFolder(tmp_path, "run", CONFIG, {})
    manifest = {"name": name, "protocol": "p", "queries": {"val": {name: 7}}, "data": {}}
    manifest |= {"config": {}, "trained_on": ["cpu"], "seconds": {}, "versions": {}}
    folder.path.mkdir(parents=True, exist_ok=True)
    (folder.path / "run.json").write_text(json.dumps(manifest))
    history = pd.DataFrame({"epoch": [0], "val_r10": [1.0]})
    folder.write_cards(history, SimpleNamespace(select_by=["r10"], measures={"r10": ("rank", 10)}))
    card = (folder.path / "best" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: qure-lib\n")
    parsed = parse(markdown2html_mistune(card.split("---", 2)[2]))
    assert parsed.text.count(" ".join(name.split("\n"))) == 2
    assert not [tag for tag, _ in parsed.elements if tag == "img"]
    links = [about["href"] for tag, about in parsed.elements if tag == "a" and "href" in about]
    assert not [link for link in links if link.startswith("javascript")]
