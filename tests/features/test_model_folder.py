"""Models on disk: a folder alone, or a folder that refers to its run's frozen tower."""

import json
import re
import shutil
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from shared import TINY

from qure_lib import diagnose
from qure_lib.evaluation import __main__ as evaluation
from qure_lib.features import model_folder
from qure_lib.features.model_folder import load_model, load_trained, save_model, save_tower
from qure_lib.method.model import QuReModel
from qure_lib.train import __main__ as train


def make_model(seed, config=TINY):
    torch.manual_seed(seed)
    return QuReModel(config).eval()


@pytest.fixture
def model():
    return make_model(0)


@pytest.fixture
def run(model, tmp_path):
    """A run's folder: the frozen tower once, and two stages that refer to it."""
    folder, tower = tmp_path / "run", tmp_path / "run" / "vision_encoder.safetensors"
    save_model(model, folder / "best", tower=tower)
    with torch.no_grad():
        model.query_tokens.add_(1)
    save_model(model, folder / "last", tower=tower)
    return folder


def same(one, other):
    states = one.state_dict(), other.state_dict()
    alike = one.config == other.config and states[0].keys() == states[1].keys()
    return alike and all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# --- a folder of its own -------------------------------------------------------------------------


def test_what_is_saved_is_what_is_loaded(model, tmp_path):
    save_model(model, tmp_path / "model")
    assert same(load_model(tmp_path / "model"), model)
    assert {p.name for p in (tmp_path / "model").iterdir()} == {"config.json", "model.safetensors"}


def test_eva_loads_what_it_saved_and_its_mlp_is_a_little_wider(tmp_path):
    model = make_model(0, replace(TINY, encoder="eva", vision_width=88, vision_heads=1))
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    (mlp,) = (m for n, m in loaded.named_modules() if n.endswith("layers.0.mlp"))
    assert same(loaded, model) and mlp.fc1.out_features == 384  # 88 * 4.3637 = 384.006
    assert not any("post_layernorm" in name for name in loaded.state_dict())


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("config.json", lambda p: p.unlink(), "model is no saved QuReModel"),
        ("config.json", lambda p: p.write_text(p.read_text()[:40]), "config.json"),
        ("config.json", lambda p: p.write_bytes(bytes([255, 254, 0])), "config.json"),
        ("config.json", lambda p: p.write_text("[]"), "config.json"),
        ("config.json", lambda p: edit(p, lambda c: c.update(layers=3)), "json.*: layers"),
        ("config.json", lambda p: edit(p, lambda c: c.update(image_size="64")), "json.*image_size"),
        ("config.json", lambda p: edit(p, lambda c: c.update(patch_size=True)), "json.*patch_size"),
        ("config.json", lambda p: edit(p, lambda c: c.update(qformer_heads=7)), "qformer_heads=7"),
        ("config.json", lambda p: edit(p, lambda c: c.update(encoder="resnet")), "encoder"),
        ("model.safetensors", lambda p: p.unlink(), "cannot be read"),
        ("model.safetensors", lambda p: p.write_bytes(p.read_bytes()[:500]), "cannot be read"),
        ("model.safetensors", lambda p: p.write_bytes(b"\x80\x04pickle"), "cannot be read"),
    ],
)
def test_a_damaged_folder_is_refused_by_name(model, tmp_path, file, damage, message):
    save_model(model, tmp_path / "model")
    damage(tmp_path / "model" / file)
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path / "model")


class TestSomethingElse:
    """What people name where a model's folder is expected."""

    CONVERT = r"published_weights {} OUT --vocabulary"

    @pytest.mark.parametrize(
        "command",
        [
            lambda p, world: train.main([str(world), "--checkpoint", p]),
            lambda p, world: evaluation.main(["fashioniq", "--checkpoint", p, "--root", world]),
            lambda p, world: diagnose.main(
                ["--checkpoint", p, "--dataset", "fashioniq", "--root", world]
            ),
        ],
        ids=["train", "evaluation", "diagnose"],
    )
    def test_each_command_says_how_to_convert_a_file(
        self, command, smoke_world, tmp_path, capsys, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        torch.save({"model": {}}, "x.pth")
        assert command("x.pth", str(smoke_world)) == 2
        said = capsys.readouterr().err
        assert "x.pth is no saved QuReModel" in said
        assert "python -m qure_lib.features.published_weights x.pth OUT" in said

    @pytest.mark.parametrize("name", ["model.pth", "model.safetensors", "notes.txt"])
    def test_a_folder_of_other_files(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"")
        for path in (tmp_path, tmp_path / name):
            with pytest.raises(ValueError, match=self.CONVERT.format(re.escape(str(path)))):
                load_model(path)

    def test_a_hub_snapshot(self, tmp_path):
        (tmp_path / "config.json").write_text('{"model_type": "blip-2"}')
        with pytest.raises(ValueError, match=self.CONVERT.format(re.escape(str(tmp_path)))):
            load_model(tmp_path)

    @pytest.mark.parametrize("inside", ["", "checkpoint.pt", "vision_encoder.safetensors"])
    def test_a_run(self, run, inside):
        (run / "checkpoint.pt").touch()
        with pytest.raises(ValueError, match="of the run .*run, name best/ or last/"):
            load_model(run / inside)

    def test_nothing(self, tmp_path):
        with pytest.raises(ValueError, match="nothing is missing; name the folder"):
            load_model(tmp_path / "nothing")

    def test_a_folder_whose_replacement_was_killed(self, model, tmp_path):
        save_model(model, tmp_path / "best")
        aside = tmp_path / ".best.xyz"  # as `replacing` leaves it between its two renames
        aside.mkdir()
        (tmp_path / "best").rename(aside / "best")
        save_model(make_model(1), aside / "best.old")
        assert same(load_model(tmp_path / "best"), model)
        assert [p.name for p in tmp_path.iterdir()] == ["best"]


@pytest.mark.parametrize("key", asdict(TINY))
def test_no_setting_is_silently_the_published_one(model, tmp_path, key):
    """The number of heads, for one, shows in no weight: a default would read them another way."""
    save_model(model, tmp_path / "model")
    edit(tmp_path / "model" / "config.json", lambda config: config.pop(key))
    with pytest.raises(ValueError, match=rf"config\.json: missing.*: {key}$"):
        load_model(tmp_path / "model")


def test_a_setting_given_twice_is_refused(model, tmp_path):
    save_model(model, tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(
        config.read_text().replace('"vision_heads"', '"vision_heads": 1, "vision_heads"')
    )
    with pytest.raises(ValueError, match="'vision_heads' is there twice"):
        load_model(tmp_path / "model")


def test_weights_of_another_shape_are_refused_by_key(model, tmp_path):
    save_model(model, tmp_path / "model")
    edit(tmp_path / "model" / "config.json", lambda c: c.update(num_query_tokens=4))
    with pytest.raises(ValueError, match=r"query_tokens: .*\[1, 3, 24\].*\[1, 4, 24\]"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize("fails", ["save_file", "write_json"])
def test_saving_replaces_a_whole_folder_or_nothing(model, tmp_path, monkeypatch, fails):
    save_model(model, tmp_path / "model")
    before = {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()}
    monkeypatch.setattr(model_folder, fails, lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_model(make_model(1), tmp_path / "model")
    assert {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_folder_that_is_replaced_keeps_nothing_of_the_old_one(run, model):
    save_model(model, run / "best")
    assert {p.name for p in (run / "best").iterdir()} == {"config.json", "model.safetensors"}
    assert same(load_model(run / "best"), model)


# --- a run's folder ------------------------------------------------------------------------------


def test_a_run_keeps_its_tower_once_and_its_stages_load_to_the_bit(run, model):
    best, last = (load_model(run / stage) for stage in ("best", "last"))
    assert same(last, model) and not same(best, model)
    assert torch.equal(best.query_tokens + 1, last.query_tokens)
    tower = load_file(run / "vision_encoder.safetensors")
    assert tower and all(name.startswith("vision_encoder.") for name in tower)
    for stage in ("best", "last"):
        assert (
            load_file(run / stage / "model.safetensors").keys()
            == model.state_dict().keys() - tower.keys()
        )


def test_a_run_that_is_moved_or_reached_by_a_link_still_loads(run, model, tmp_path):
    shutil.move(run, tmp_path / "moved")
    assert same(load_model(tmp_path / "moved" / "last"), model)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "link").symlink_to(tmp_path / "moved")
    save_model(
        model,
        tmp_path / "deep" / "er" / "link" / "again",
        tower=tmp_path / "moved" / "vision_encoder.safetensors",
    )
    assert same(load_model(tmp_path / "moved" / "again"), model)


def test_a_stage_copied_alone_says_what_it_lacks(run, tmp_path):
    shutil.copytree(run / "best", tmp_path / "alone" / "best")
    message = r"best holds trained weights only.* tower, .*alone.vision_encoder\.safetensors, is "
    with pytest.raises(ValueError, match=message + "missing: copy the run's whole folder, or"):
        load_model(tmp_path / "alone" / "best")


def test_a_whole_copy_of_a_stage_loads_alone(run, model, tmp_path):
    save_model(load_model(run / "last"), tmp_path / "elsewhere" / "whole")
    shutil.rmtree(run)
    assert same(load_model(tmp_path / "elsewhere" / "whole"), model)


def test_the_tower_of_another_run_is_refused(run, tmp_path):
    save_tower(make_model(1), tmp_path / "other.safetensors")
    shutil.copy(tmp_path / "other.safetensors", run / "vision_encoder.safetensors")
    with pytest.raises(ValueError, match=r"vision_encoder\.safetensors is not the vision tower"):
        load_model(run / "best")


@pytest.mark.parametrize(
    "damage",
    [
        lambda best: (best / "frozen.json").unlink(),
        lambda best: (best / "frozen.json").write_text("{}"),
        lambda best: edit(best / "frozen.json", lambda c: c.pop("sha256")),
        lambda best: edit(best / "frozen.json", lambda c: c.update(file=3)),
        lambda best: (best / "frozen.json").write_text("[1]"),
        lambda best: (best / "frozen.json").write_text('{"file": '),
    ],
)
def test_a_damaged_reference_to_the_tower_is_refused(run, damage):
    damage(run / "best")
    with pytest.raises(ValueError, match=r"best"):
        load_model(run / "best")


def test_two_towers_for_one_model_are_refused(run, model):
    save_file(model.state_dict(), run / "best" / "model.safetensors")
    with pytest.raises(ValueError, match=r"holds a vision tower, and frozen\.json names another"):
        load_model(run / "best")


def test_a_model_never_refers_to_the_tower_of_another(run, tmp_path):
    tower = run / "vision_encoder.safetensors"
    before = tower.read_bytes()
    with pytest.raises(ValueError, match="holds the vision tower of another model"):
        save_model(make_model(1), tmp_path / "other", tower=tower)
    assert tower.read_bytes() == before and not (tmp_path / "other").exists()
    tower.write_bytes(before[:-9])
    with pytest.raises(ValueError, match="cannot be read"):
        save_tower(make_model(0), tower)


# --- trained weights into a model ----------------------------------------------------------------


@pytest.mark.parametrize("stage", ["run", "whole", "parameters"])
def test_trained_weights_go_into_a_model_and_leave_its_tower(run, model, tmp_path, stage):
    path = run / "last" / "model.safetensors"
    if stage != "run":
        path = tmp_path / "weights.safetensors"
        save_file(model.state_dict() if stage == "whole" else model.trainable_parameters(), path)
    start = make_model(0)
    tower = start.vision_encoder
    load_trained(path, start)
    assert same(start, model) and start.vision_encoder is tower


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda s: s.pop("temperature"), "temperature"),
        (lambda s: s.update(extra=torch.ones(1)), "extra"),
        (lambda s: s.update(query_tokens=torch.ones(1, 4, 24)), "query_tokens"),
        (lambda s: s.update({"vision_encoder.extra": torch.ones(1)}), "vision_encoder.extra"),
    ],
)
def test_trained_weights_of_another_model_are_refused(model, tmp_path, change, name):
    state = model.state_dict()
    change(state)
    save_file(state, tmp_path / "other.safetensors")
    start = make_model(2)
    before = {n: value.clone() for n, value in start.state_dict().items()}
    start.vision_encoder.load_state_dict(model.vision_encoder.state_dict())
    with pytest.raises(ValueError, match=rf"other\.safetensors belongs to another model: {name} "):
        load_trained(tmp_path / "other.safetensors", start)
    trained = start.trainable_parameters()
    assert all(torch.equal(value, before[n]) for n, value in trained.items())


def test_weights_trained_on_another_tower_are_refused(model, tmp_path):
    """Of the same shapes: only the frozen weights in the file tell."""
    save_model(make_model(1), tmp_path / "other")
    with pytest.raises(ValueError, match=r"another model: vision_encoder\..* differs"):
        load_trained(tmp_path / "other" / "model.safetensors", model)


def test_a_damaged_file_of_trained_weights_is_named(run, model):
    path = run / "best" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be read"):
        load_trained(path, model)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused_by_name(model, tmp_path, value):
    with torch.no_grad():
        model.vision_proj.weight[3, 5] = value
    save_model(model, tmp_path / "model")
    with pytest.raises(ValueError, match=r"model\.safetensors.*vision_proj\.weight is not finite"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "value"),
    [("vision_layers", 2**30), ("vision_heads", 0), ("image_size", 2**70), ("dropout", 1.5)],
)
def test_absurd_settings_are_refused_before_memory_is_taken(model, tmp_path, name, value):
    save_model(model, tmp_path)
    edit(tmp_path / "config.json", lambda config: config.update({name: value}))
    with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path))}.*{name}"):
        load_model(tmp_path)
