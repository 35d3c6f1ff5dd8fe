"""Notebook 11: where paper, release and kit differ (`ledger.csv`), and what each point changes.

A row of the ledger is one point. Its effect is the difference in Recall@10 between two variants of
the study, from the shipped rows, or there is a reason why there is none.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from grids import GRIDS
from matplotlib.axes import Axes
from report import figures
from report.claims import Claim, direction, save_claim
from report.folder import Reports
from report.names import plain_name
from report.tables import interval_text

from qure_lib.datasets.image_files import FORMATS, read_image
from qure_lib.datasets.preprocessing import image_transform
from qure_lib.evaluation.statistics import Interval, paired_bootstrap

from .ablations import Rows, load_rows, measure_interval

LEDGER = Path(__file__).with_name("ledger.csv")
KINDS = ("paper and release differ", "paper silent", "kit repairs", "kit adds")
BEST_EPOCH = "best_epoch"  # in the place of a variant: `against` at its best epoch on val
RELEASED = "cosine"  # the published recipe among the variants
PAPERS_RULE, RULE_CLAIM = "cosine_largest", "eq6_rule"
NOT_TRAINED = "not trained yet"


def read_ledger(path: Path = LEDGER) -> pd.DataFrame:
    """Read the ledger, one row a point.

    Returns:
        Columns topic, paper, release, kit ("-": nothing known; the default first, "same" if it is
        the release's), setting (a command and its option), kind (of KINDS), part, grid, variant
        and against (the pair that measures the effect), reason (why there is no such pair), where
        (the test or page behind it). Text; "" where there is nothing.

    Raises:
        ValueError: a point named twice, an unknown kind, or not one of a pair and a reason.
    """
    ledger = pd.read_csv(path, dtype=str, keep_default_na=False)
    for topic in ledger.topic[ledger.topic.duplicated()]:
        raise ValueError(f"{path}: {topic!r} is there twice; delete one")
    for row in ledger.itertuples():
        if row.kind not in KINDS:
            raise ValueError(f"{path}: {row.topic!r}: kind must be one of {KINDS}")
        named = bool(row.grid), bool(row.variant), bool(row.against), not row.reason
        if len(set(named)) > 1:
            raise ValueError(f"{path}: {row.topic!r}: give grid, variant and against, or a reason")
    return ledger


def load_grids(study_dir: Path, world: str) -> dict[str, Rows]:
    """The shipped rows of every grid that was trained on a world."""
    folders = {name: Path(study_dir, name, world) for name in GRIDS}
    return {
        name: load_rows(GRIDS[name], folder)
        for name, folder in folders.items()
        if (folder / "runs.csv").is_file()
    }


def compare_best_epoch(rows: Rows, variant: str) -> Interval:
    """Recall@10 at a variant's best epoch on val less that at its last; over its seeds.

    The epoch is chosen by the recall that is compared, so the difference is never below zero.
    """
    epochs = rows.epochs[rows.epochs.variant == variant].sort_values("epoch").groupby("seed")
    return paired_bootstrap(epochs.val_r10.max(), epochs.val_r10.last())


def count_changed_images(root: Path, count: int) -> tuple[int, int]:
    """How many images reach the model otherwise if they become upright and RGB before all else.

    Args:
        root: a data set; its first `count` image files by name are read.

    Returns:
        How many change, and how many were read.

    Raises:
        ValueError: there are no images.
    """
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in FORMATS)[:count]
    if not paths:
        raise ValueError(f"{root} holds no images; `make data` draws them")
    released, usual = image_transform(), image_transform(convert_first=True)
    images = map(read_image, paths)
    return sum(not torch.equal(released(image), usual(image)) for image in images), len(paths)


def measure_effects(ledger: pd.DataFrame, grids: Mapping[str, Rows]) -> pd.DataFrame:
    """Add to every point what it changes.

    Args:
        ledger: of `read_ledger`.
        grids: of `load_grids`.

    Returns:
        The ledger with estimate, low, high (points of Recall@10, variant less against; NaN where
        nothing was measured), n, seeds (0) and verdict: "better", "worse", "within noise", the
        reason, or NOT_TRAINED.
    """
    return ledger.join(pd.DataFrame([_measure(row, grids) for row in ledger.itertuples()]))


def _measure(row: object, grids: Mapping[str, Rows]) -> dict[str, object]:
    nothing = dict.fromkeys(("estimate", "low", "high"), np.nan) | {"n": 0, "seeds": 0}
    if not row.variant:
        return nothing | {"verdict": row.reason}
    needed = {row.against} | ({row.variant} - {BEST_EPOCH})
    if row.grid not in grids or not needed <= set(grids[row.grid].trained):
        return nothing | {"verdict": NOT_TRAINED}
    rows = grids[row.grid]
    if row.variant == BEST_EPOCH:
        found = compare_best_epoch(rows, row.against)
    else:
        found = measure_interval(rows.hits, row.variant, less=row.against)
    seeds = set.intersection(*(set(rows.hits.loc[variant].index) for variant in needed))
    measured = {name: asdict(found)[name] for name in ("estimate", "low", "high", "n")}
    return measured | {"seeds": len(seeds), "verdict": direction(found)}


def plot_effects(ax: Axes, measured: pd.DataFrame) -> Axes:
    """Draw the measured effects, a colour a kind, the number of seeds in brackets."""
    shown = measured[measured.seeds > 0].sort_values("kind", key=lambda k: k.map(KINDS.index))
    labels = [f"{name_change(row)} ({row.seeds})" for row in shown.itertuples()]
    figures.plot_intervals(ax, shown.assign(label=labels, group=shown.kind), 0.0, "no difference")
    ax.set_xlabel("Difference in Recall@10 (points)")
    return ax


def name_change(row: object) -> str:
    """A measured point in words: its variant, and what it is less where that is not the release."""
    if row.variant == BEST_EPOCH:
        return "best epoch on val"
    less = "" if row.against == RELEASED else f", less {plain_name(row.against)}"
    return plain_name(row.variant) + less


def effect_text(row: object) -> str:
    """Write a difference with its interval: "+1.2 [-0.3, +2.6]"."""
    return interval_text(row.estimate, row.low, row.high, "+.1f")


def tabulate(measured: pd.DataFrame) -> pd.DataFrame:
    """The ledger as it is shown, by point: six short columns, the effect as "+1.2 [-0.3, +2.6]"."""
    rows = [
        {
            "point": row.topic,
            "paper": row.paper,
            "release": row.release,
            "this kit, default first": row.kit,
            "to change it": row.setting or "-",
            "Recall@10": effect_text(row) if row.seeds else "-",
            "verdict": row.verdict,
        }
        for row in measured.itertuples()
    ]
    return pd.DataFrame(rows).set_index("point").rename_axis(None)


def describe_effects(measured: pd.DataFrame) -> str:
    """The ledger's finding, written from the data: counts, then the effects by who decides."""
    known = measured[measured.seeds > 0]
    moved = (known.verdict != "within noise").sum()
    decided = known.kind.isin(KINDS[:2])
    return (
        f"Ledger: paper, release and kit differ, or one is silent, at {len(measured)} points; "
        f"{measured.verdict.str.startswith('same').sum()} give the same result, {len(known)} have "
        f"an effect measured on Recall@10, {moved} of them beyond noise.\n"
        f"Where paper and release differ or the paper is silent: {_list(known[decided])}.\n"
        f"What the kit adds: {_list(known[~decided])}."
    )


def _list(effects: pd.DataFrame) -> str:
    """Those beyond noise, the largest first, with their intervals; then the names of the others."""
    noise = effects.verdict == "within noise"
    moved = effects[~noise].sort_values("estimate", key=abs, ascending=False)
    listed = [f"{name_change(row)} {effect_text(row)}" for row in moved.itertuples()]
    others = [name_change(row) for row in effects[noise].itertuples()]
    return "; ".join(listed) + ("; within noise: " + "; ".join(others) if others else "")


def save_rule_claim(rows: Rows, on: str, reports: Reports) -> str:
    """Judge the claim that the released choice of two drops beats the paper's; the verdict.

    Returns:
        NOT_TRAINED where the rows lack one of the two.
    """
    pair = RELEASED, PAPERS_RULE
    if not {*pair} <= {*rows.trained}:
        return NOT_TRAINED
    found = measure_interval(rows.hits, RELEASED, less=PAPERS_RULE)
    seeds = len(set.intersection(*(set(rows.hits.loc[variant].index) for variant in pair)))
    measure = f"Recall@10 (points): {plain_name(RELEASED)}, less {plain_name(PAPERS_RULE)}."
    claim = Claim(RULE_CLAIM, measure, on, seeds, "pairs of seed and val query")
    return save_claim(claim, found, reports)
