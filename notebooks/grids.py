"""What the study trains: variants of the published recipe, worlds and seeds (docs/study.md)."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from analysis import strategies  # noqa: F401  registers the controls and rivals

from qure_lib.method.config import MiningConfig, TrainConfig

Changes = dict[str, Any]
FROZEN = "frozen_temperature"  # its temperature is that of the seed's warm-up, read from the tables


@dataclass(frozen=True)
class Grid:
    """A family of runs: what they share, and what each variant changes.

    questions: question -> variant -> what differs from the published recipe.
    steps: (world, variants, number of seeds), in the order of training; () trains all variants.
    baselines: question -> the variant that its others are compared with; its first one otherwise.
    queries: training queries a category; the pool of negatives is not cut.
    epochs: 12 on the mini model, so that n_def of 3, 6 and 10 are three schedules.
    """

    questions: dict[str, dict[str, Changes]]
    steps: tuple[tuple[str, tuple[str, ...], int], ...]
    queries: int
    first_seed: int
    baselines: dict[str, str] = field(default_factory=dict)
    epochs: int = 12
    batch_size: int = 32
    learning_rate: float = 1e-3

    @property
    def variants(self) -> dict[str, Changes]:
        """Variant -> what differs from the published recipe."""
        return {v: changes for group in self.questions.values() for v, changes in group.items()}

    def baseline(self, question: str) -> str:
        """The variant that a question's variants are compared with."""
        return self.baselines.get(question) or next(iter(self.questions[question]))

    def jobs(self, variants: Iterable[str], seeds: int) -> list[tuple[str, int]]:
        """(variant, seed) of a step, each variant with the first `seeds` seeds.

        Variant by variant, so that no two processes train the same seed's warm-up at once.
        """
        return [(v, self.first_seed + number) for v in variants for number in range(seeds)]

    def config(self, variant: str, seed: int) -> TrainConfig:
        """The settings of one run.

        Raises:
            ValueError: an unknown variant.
        """
        if variant not in self.variants:
            raise ValueError(f"no variant {variant!r}; there are {list(self.variants)}")
        base = TrainConfig(
            self.epochs, self.batch_size, learning_rate=self.learning_rate, seed=seed
        )
        return replace(base, **self.variants[variant])


UNIFORM = MiningConfig("all_corpus")
PREFERENCE = MiningConfig(curve="preference")
SAME_SIZES = MiningConfig("same_sizes")
NEAR = MiningConfig(search_window=100)
AFTER = MiningConfig("after_target_top_k")
IN_BATCH: Changes = {"objective": "info_nce", "mining": UNIFORM}
# Contrastive until the target's median train rank is within 1 % (notebook 02), then one definition.
STRONG: Changes = {"n_def": 2, "warm_up_objective": "info_nce"}
SLOW: Changes = {"learning_rate": 3e-4}
LISTS: Changes = {"objective": "plackett_luce", "warm_up_objective": "bradley_terry"}


def _scaled(factor: float) -> Changes:
    """The preference curve at `factor` times the model's temperature."""
    return {"mining": MiningConfig("preference_scaled", options={"factor": factor})}


CORE: dict[str, Changes] = {
    "uniform": {"mining": UNIFORM},
    "cosine": {},  # the published recipe
    "preference": {"mining": PREFERENCE},
    "same_sizes": {"mining": SAME_SIZES},
    "in_batch": IN_BATCH,
}
CONTROLS: dict[str, Changes] = {
    "moved": {"mining": MiningConfig("moved")},
    "in_batch_one": {"objective": "in_batch_one", "mining": UNIFORM},
}
FROM_STRONG: dict[str, Changes] = {
    "strong_uniform": STRONG | {"mining": UNIFORM},
    "strong_cosine": STRONG,
    "strong_preference": STRONG | {"mining": PREFERENCE},
    "strong_same_sizes": STRONG | {"mining": SAME_SIZES},
    "strong_window_100": STRONG | {"mining": NEAR},
}  # and in_batch, which is contrastive from the first step to the last
RIVALS: dict[str, Changes] = {
    "window_100": {"mining": NEAR},
    "window_30": {"mining": MiningConfig(search_window=30)},
    "window_by_rank": {"mining": MiningConfig("window_by_rank")},
    "after_target": {"mining": AFTER},
    "top_k": {"mining": MiningConfig("top_k")},
    "cosine_largest": {"mining": MiningConfig(drop_rule="largest")},
    "preference_largest": {"mining": replace(PREFERENCE, drop_rule="largest")},
    "significant_gaps": {"mining": MiningConfig("significant_gaps")},
    "mid_zone": {"mining": MiningConfig("mid_zone")},
    "positive_margin": {"mining": MiningConfig("positive_margin")},
}
MORE: dict[str, Changes] = {
    "preference_3": LISTS | {"mining": PREFERENCE, "negatives": 3},
    "preference_5": LISTS | {"mining": PREFERENCE, "negatives": 5},
}
TEMPERATURES: dict[str, Changes] = {
    FROZEN: {"mining": PREFERENCE},
    "temperature_x0.5": _scaled(0.5),
    "temperature_x2": _scaled(2.0),
    "temperature_x4": _scaled(4.0),
}
SLOWER: dict[str, Changes] = {
    "slow_uniform": SLOW | {"mining": UNIFORM},
    "slow_cosine": SLOW,
    "slow_preference": SLOW | {"mining": PREFERENCE},
}

MINI = "synthfashion-mini"
OTHER_WORLDS = ("synthfashion-store-11", "synthfashion-steep-11", "synthfashion-scales-11")

NEGATIVES = Grid(
    queries=960,
    first_seed=2000,
    questions={
        "where negatives come from": CORE,
        "controls": CONTROLS,
        "from a strong start": FROM_STRONG,
        "rivals": RIVALS,
        "more negatives a query": MORE,
        "temperature of the preference curve": TEMPERATURES,
        "a lower learning rate": SLOWER,
    },
    baselines={
        "controls": "preference",
        "rivals": "preference",
        "more negatives a query": "preference",
        "temperature of the preference curve": "preference",
    },
    steps=(
        (MINI, tuple(CORE), 2),
        (MINI, (*CORE, *CONTROLS), 5),
        (MINI, tuple(FROM_STRONG), 2),
        *((world, tuple(CORE), 1) for world in OTHER_WORLDS),
        (MINI, (*RIVALS, *MORE, *TEMPERATURES), 2),
        (MINI, tuple(SLOWER), 2),
    ),
)

PARTS = Grid(  # older than the study of negatives, and smaller: each part of the recipe in turn
    queries=320,
    first_seed=1000,
    questions={
        "definitions": {"cosine": {}, "n_def_3": {"n_def": 3}, "n_def_10": {"n_def": 10}},
        "negatives a query": {
            "pairs_3": {"negatives": 3},
            "pairs_5": {"negatives": 5},
            "plackett_luce_3": {"negatives": 3, "objective": "plackett_luce"},
            "plackett_luce_5": {"negatives": 5, "objective": "plackett_luce"},
        },
        "warm-up": {
            "no_warm_up": {"warm_up": False},
            "contrastive_warm_up": {"warm_up_objective": "info_nce"},
        },
        "with a window of 100": {
            "window_100": {"mining": NEAR},
            "contrastive_window_100": {"warm_up_objective": "info_nce", "mining": NEAR},
            "plackett_luce_5_window_100": {
                "negatives": 5,
                "objective": "plackett_luce",
                "mining": NEAR,
            },
        },
        "contraction": {  # all right after the target; after_target has 100 throughout
            "fixed_32": {"mining": AFTER, "set_sizes": (32, 32)},
            "after_target": {"mining": AFTER},
            "shrinking_100_10": {"mining": AFTER, "set_sizes": (100, 10)},
            "growing_10_100": {"mining": AFTER, "set_sizes": (10, 100)},
            "drops_fixed_32": {"set_sizes": (32, 32)},  # between the drops, at a fixed size
        },
    },
    baselines={"negatives a query": "cosine", "warm-up": "cosine"},
    steps=((MINI, (), 5),),
)


def _stretched(k: float, curve: str = "cosine") -> Changes:
    """Mining sees scores with other gaps in the same order."""
    return {"mining": MiningConfig("stretched", curve=curve, options={"k": k})}


OPEN_QUESTIONS = Grid(  # docs/study.md, "Open questions"
    queries=960,
    first_seed=2000,
    questions={
        "trained again": {v: CORE[v] for v in ("uniform", "cosine", "preference", "in_batch")},
        "other gaps, same order: cosine": {
            "bottom_stretched_2": _stretched(-2.0),
            "top_stretched_1": _stretched(1.0),
            "top_stretched_2": _stretched(2.0),
            "top_stretched_4": _stretched(4.0),
        },
        "other gaps, same order: preference": {
            "preference_bottom_stretched_2": _stretched(-2.0, "preference"),
            "preference_top_stretched_2": _stretched(2.0, "preference"),
        },
        "auxiliary positives: cosine": {"cosine_auxiliary": {"auxiliary_positives": True}},
        "auxiliary positives: preference": {
            "preference_auxiliary": {"auxiliary_positives": True, "mining": PREFERENCE}
        },
    },
    baselines={
        "other gaps, same order: cosine": "cosine",
        "other gaps, same order: preference": "preference",
        "auxiliary positives: cosine": "cosine",
        "auxiliary positives: preference": "preference",
    },
    steps=(
        (MINI, (), 2),
        (
            "synthfashion-scales-11",
            ("cosine", "preference", "top_stretched_2", "bottom_stretched_2")
            + ("cosine_auxiliary", "preference_auxiliary"),
            1,
        ),
        *(
            (f"synthfashion-{world}-11", ("cosine", "preference"), 1)
            for world in ("store", "steep")
        ),
    ),
)

LARGE_WORLD = "synthfashion-large-13"
# Three epochs of in-batch contrast, which the runs of a seed share, then four definitions.
WARMED: Changes = {"n_def": 5, "warm_up_objective": "info_nce"}

LARGE = Grid(  # a model of 10 M parameters, on a GPU (docs/study.md, "The strong world")
    queries=2400,
    first_seed=2000,
    epochs=15,
    batch_size=64,
    learning_rate=4e-4,
    questions={
        "where negatives come from": {
            "uniform": WARMED | CORE["uniform"],
            "cosine": WARMED | CORE["cosine"],
            "preference": WARMED | CORE["preference"],
            "same_sizes": WARMED | CORE["same_sizes"],
            "in_batch": WARMED | IN_BATCH | {"warm_up_objective": None},  # contrast throughout
            "window_100": WARMED | RIVALS["window_100"],
        }
    },
    steps=((LARGE_WORLD, (), 2),),
)

GRIDS = {
    "negatives": NEGATIVES,
    "open_questions": OPEN_QUESTIONS,
    "parts": PARTS,
    "large": LARGE,
}
