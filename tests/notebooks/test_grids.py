"""The grids of the study: their variants, their steps, and the strong world's."""

import re
import shlex
from dataclasses import replace

import pytest
import study
from grids import FROZEN, GRIDS, LARGE, LARGE_WORLD, NEGATIVES, Grid

from data_prep.catalogue import TARGET_SHARE
from data_prep.synthfashion import SIZES
from qure_lib.method.config import TrainConfig
from qure_lib.method.losses import OBJECTIVES, find_objective
from qure_lib.method.strategies import STRATEGIES


def configs(grid: Grid) -> dict[str, TrainConfig]:
    """Every variant's settings; the frozen temperature, which the tables give, is made up."""
    found = {variant: grid.config(variant, grid.first_seed) for variant in grid.variants}
    if FROZEN in found:
        mining = replace(found[FROZEN].mining, temperature=0.05)
        found[FROZEN] = replace(found[FROZEN], mining=mining)
    return found


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
class TestGrid:
    def test_every_variant_is_another_valid_run_of_equal_length(self, grid):
        found = configs(grid)
        assert len(set(found.values())) == len(found) == sum(map(len, grid.questions.values()))
        for config in found.values():
            assert (config.epochs, config.batch_size) == (grid.epochs, grid.batch_size)
            assert config.seed == grid.first_seed
            assert config.mining.strategy in STRATEGIES and config.objective in OBJECTIVES
            if find_objective(config.objective).needs_negatives:
                assert config.definition_epochs

    def test_steps_hold_every_variant_and_no_other(self, grid):
        all_of = {v for _, variants, _ in grid.steps for v in variants or grid.variants}
        assert all_of == set(grid.variants)
        assert all(seeds > 0 for *_, seeds in grid.steps)

    def test_every_question_has_a_baseline_among_the_variants(self, grid):
        assert grid.baselines.keys() <= grid.questions.keys()
        assert {grid.baseline(question) for question in grid.questions} <= set(grid.variants)

    def test_an_unknown_variant_is_refused(self, grid):
        with pytest.raises(ValueError, match="no variant 'hardest'"):
            grid.config("hardest", grid.first_seed)


def test_a_code_name_means_the_same_negatives_on_the_strong_world():
    strong, mini = configs(LARGE), configs(NEGATIVES)
    assert strong.keys() <= mini.keys()
    for variant, config in strong.items():
        assert config.mining == mini[variant].mining
        assert config.objective == mini[variant].objective
        assert config.negatives == mini[variant].negatives


def test_all_runs_of_the_strong_world_share_their_warm_up():
    for config in configs(LARGE).values():
        assert config.objective_at(0) == "info_nce"
        assert config.definition_epochs == (3, 6, 9, 12)


def test_the_page_draws_the_strong_world_and_starts_its_study(root):
    page = (root / "docs" / "study.md").read_text()
    (drawn,) = re.findall(r"data_prep\.synthfashion (\S+) --size (\S+) --seed 13\n", page)
    assert drawn == (f"data/{LARGE_WORLD}", "large")
    assert LARGE.queries == round(TARGET_SHARE * SIZES["large"]["train"])
    (arguments,) = re.findall(r"python notebooks/study\.py (large [^\n#`]*)", page)
    assert study.parser().parse_args(shlex.split(arguments)).grid == "large"
