"""Notebook 10: measured costs as lines, the cost model that is fitted to them, and what follows."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import plan
import pytest
import torch
from analysis import scale
from torch.nn.functional import normalize

from qure_lib.method.config import ModelConfig, TrainConfig

CONFIG = ModelConfig()
READ, SCORE, SORT, ASSIGN, STORE, SCAN, KEEP = 3e-1, 2e-2, 5e-1, 4e-2, 7e-1, 6e-3, 8e-1


def measurements() -> pd.DataFrame:
    """Rows of benchmarks/scale.py whose seconds follow the laws exactly."""
    rows = []
    for images in (1000, 10_000, 100_000):
        known = {"images": images, "tokens": 4, "width": 8, "queries": 10, "memory_gib": 1.0}
        numbers = images * 4 * 8
        exact = known | {"method": "exact", "few": 2}
        exact["score_few_s"] = 1e-9 * (READ * numbers + SCORE * 2 * numbers)
        exact["score_s"] = 1e-9 * (READ * numbers + SCORE * 10 * numbers)
        exact["mine_s"] = exact["score_s"] + 1e-9 * SORT * 10 * images * np.log2(images)
        rows += [exact, exact | {"window": 100.0}]
        for nprobe in (16, 64):
            near = known | {"method": "approximate", "window": 100.0, "nprobe": nprobe}
            near |= {"lists": 200 if images > 1000 else 100, "depth": images / 100, "mine_s": 0.5}
            near["build_s"] = 1e-9 * numbers * (ASSIGN * near["lists"] + STORE)
            scanned = 10 * nprobe / near["lists"] * numbers
            near["search_s"] = 1e-9 * (SCAN * scanned + KEEP * 10 * near["depth"] * 4)
            near |= {"in_depth": 1.0, "found": nprobe / 80, "jaccard": nprobe / 100}
            rows.append(near | {"identical": 0.0, "target_rank_median": 3.0})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def rows():
    shipped = measurements()
    return scale.join_measurements(shipped, shipped[shipped["images"] == 1000])


def test_joined_rows_know_where_they_are_from_and_what_a_query_takes(rows):
    assert rows["live"].tolist() == [False] * 12 + [True] * 4
    whole = rows["method"] == scale.WHOLE
    assert whole.sum() == 4 and rows.loc[whole, "window"].isna().all()
    near = rows[rows["nprobe"] == 64].iloc[0]
    assert near["share"] == 0.64
    assert near["query_s"] == pytest.approx((near["search_s"] + 0.5) / 10)
    assert near["shared_s"] == pytest.approx(near["query_s"] + near["build_s"] / 1000)
    exact = rows[whole].iloc[0]
    assert exact["query_s"] == exact["shared_s"] == exact["mine_s"] / 10


def test_the_cost_table_has_the_whole_ranking_and_one_window(rows):
    other = pd.concat([rows, rows[rows["window"] == 100].assign(window=20.0)], ignore_index=True)
    costs = scale.cost_table(other, 100)
    assert len(costs) == len(rows) and set(costs["window"].dropna()) == {100}


def test_cost_lines_name_the_lists_and_the_file(rows):
    drawn, stored = scale.cost_lines(rows, 100, lambda images: images * 2**20)
    labels = ["exact", "approximate, 16 lists", "approximate, 64 lists"]
    assert list(dict.fromkeys(drawn["label"])) == labels
    assert stored["memory_gib"].tolist() == (stored["images"] / 1024).tolist()
    assert len(stored) == (drawn["label"] == "exact").sum() == 4
    assert drawn["memory_gib"].tolist() == [1.0] * len(drawn)
    _, axes = plt.subplots(1, 2)
    scale.plot_costs(axes, drawn, stored)
    names = [text.get_text() for text in axes[1].get_legend().get_texts()]
    assert names == ["exact", "approximate", "embeddings on disk (float16)", "this run"]
    plt.close("all")


def test_costs_are_lines_and_this_run_is_open_marks():
    frame = pd.DataFrame({"images": [10, 100, 10, 100], "seconds": [1.0, 9.0, 2.0, 3.0]})
    frame["label"] = ["exact", "exact", "approximate", "approximate"]
    frame["live"] = [False, False, False, True]
    frame.loc[4] = [10, 5.0, "measured here", True]
    _, ax = plt.subplots()
    scale.plot_scaling(ax, frame, "images", "seconds")
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    full, hollow = ax.lines[1:3]
    assert full.get_ydata().tolist() == [2.0] and hollow.get_ydata().tolist() == [3.0]
    assert full.get_color() == hollow.get_color()
    assert hollow.get_markerfacecolor() == "none" and full.get_markerfacecolor() != "none"
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words == ["exact", "approximate", "measured here", "this run"]
    plt.close("all")


def test_scores_are_described_by_corpus_and_drawn_the_last_first():
    generator = torch.Generator().manual_seed(0)
    embedded = {}
    for label, n in (("real", 40), ("made up", 30)):
        images = normalize(torch.randn(n, 3, 8, generator=generator), dim=-1)
        targets = torch.tensor([2, 5])
        embedded[label] = normalize(images[targets, 0], dim=-1), images, targets
    facts, curves = scale.compare_scores(embedded)
    assert facts["scores"].tolist() == ["real", "made up"] and facts["images"].tolist() == [40, 30]
    assert list(dict.fromkeys(curves["label"])) == ["made up", "real"]
    queries, images, _ = embedded["real"]
    scores = torch.einsum("qd,ntd->qnt", queries, images).amax(-1).double()
    scores = scores.sort(dim=1, descending=True).values
    real = curves[curves["label"] == "real"]
    np.testing.assert_allclose(real["mean"], scores.mean(0), atol=1e-6)
    assert real["rank"].tolist()[-1] == 100 and (real["low"] == real["high"]).all()
    assert facts["spread"][0] == pytest.approx(float(scores.std(dim=1).mean()), abs=1e-6)
    assert facts["target (%)"].tolist() == [0, 0]  # a query is a token of its target


def test_agreement_is_sorted_and_drawn_in_per_cent(rows):
    agreement = scale.agreement_table(rows)
    assert agreement["lists probed (%)"].tolist()[:4] == [16, 64, 16, 64]
    assert agreement["live"].tolist()[:4] == [False, False, True, True]
    lines = scale.agreement_lines(agreement, 100)
    assert lines["jaccard"].tolist()[:2] == [16, 64] and lines["found"].tolist()[:2] == [20, 80]
    assert agreement["jaccard"].max() < 1  # the table itself stays as it was
    assert set(lines["label"]) == {"1,000 images", "10,000 images", "100,000 images"}
    _, axes = plt.subplots(1, 2)
    scale.plot_agreement(axes, lines)
    assert axes[1].get_legend() is None and axes[0].get_ylim() == (0, 103)
    plt.close("all")


def test_as_few_lists_are_taken_as_agree_well_enough(rows):
    lines = scale.agreement_lines(scale.agreement_table(rows), 100)
    for wanted, nprobe in ((0.1, 16), (0.16, 16), (0.17, 64), (0.99, 64)):
        chosen = scale.fewest_lists(lines, wanted)
        assert (chosen["images"], chosen["nprobe"]) == (100_000, nprobe)


# --- the cost model ---------------------------------------------------------------------------


def test_the_fit_finds_the_constants_that_the_seconds_were_made_of(rows):
    laws = scale.cost_laws(rows)
    assert not any(law.rows["live"].any() for law in laws)
    constants = scale.fit_laws(laws)
    expected = {"exact": (READ, SCORE, SORT), "build": (ASSIGN, STORE), "search": (SCAN, KEEP)}
    for (fit, _), found in constants.items():
        np.testing.assert_allclose(found, expected[fit], rtol=1e-6)
    table = scale.law_table(laws, constants)
    np.testing.assert_allclose(table["fitted"], table["measured"], rtol=1e-6)
    largest = table["images"] == 100_000
    np.testing.assert_allclose(table.loc[largest, "ratio at the largest"], 1, rtol=1e-6)
    assert table.loc[~largest, "ratio at the largest"].isna().all() and largest.sum() == 5


def test_the_prediction_does_not_see_the_largest_size(rows):
    laws = scale.cost_laws(rows)
    before = scale.fit_laws(laws)
    slow = rows.assign(mine_s=rows["mine_s"] * np.where(rows["images"] == 100_000, 5, 1))
    after = scale.fit_laws(scale.cost_laws(slow))
    np.testing.assert_array_equal(after["exact", "predicted"], before["exact", "predicted"])
    assert not np.allclose(after["exact", "fitted"], before["exact", "fitted"])


def test_exact_ranking_takes_an_epoch_at_the_break_even():
    hours = scale.project_hours(CONFIG, share=0.25, pool=10**5)
    even = scale.break_even(CONFIG)
    ratio = hours[scale.EXACT] / hours[scale.EPOCH]
    np.testing.assert_allclose(ratio, hours.index / even)
    lists, pools = hours["ranking, 25% of the lists"], hours["ranking, pools of 100,000"]
    assert (lists[1e8:] / hours[scale.EXACT][1e8:]).item() == pytest.approx(0.25, rel=1e-3)
    np.testing.assert_array_equal(pools[:1e5], hours[scale.EXACT][:1e5])
    assert pools[1e8] / hours[scale.EXACT][1e8] == pytest.approx(1e-3)
    lines = scale.projection_lines(hours)
    assert len(lines) == hours.size and not lines["live"].any()


def test_the_projection_counts_what_all_definitions_add_to_training():
    train = TrainConfig()
    hours = scale.project_hours(CONFIG, share=0.25, pool=10**5)
    table = scale.projection_table(hours, CONFIG, train, exact=(READ, SCORE, SORT))
    assert table["images"].tolist() == pytest.approx(hours.index.tolist(), abs=1)
    row, of = table.iloc[-1], hours.iloc[-1]
    features = 1e8 * plan.vision_operations(CONFIG) / plan.SUSTAINED / plan.HOUR
    training = train.epochs * of[scale.EPOCH] + features
    assert row["training (GPU hours)"] == pytest.approx(training)
    added = len(train.definition_epochs) * (of[scale.EMBEDDING] + of[scale.EXACT])
    shares = scale.definition_shares(table, 10**8)
    assert len(shares) == 3 and shares[0] == pytest.approx(100 * added / training)
    assert row["embeddings (GB)"] == pytest.approx(1e8 * 2 * 32 * 256 / 1e9)
    assert row["cards that hold them"] == np.ceil(row["embeddings (GB)"] / plan.GPU_MEMORY)
    unit, n = 32 * 256, 1e8
    seconds = 1e-9 * (n * unit * READ + n**2 * unit * SCORE + n**2 * np.log2(n) * SORT)
    assert row["exact, one core here (days)"] == pytest.approx(seconds / 86_400)


def test_this_run_is_compared_with_the_shipped_one_at_the_same_size():
    rows = pd.DataFrame({"images": [1000, 1000, 10000, 10000], "query_s": [0.1, 0.2, 4.0, 2.0]})
    rows = rows.assign(live=[False, True, False, True], method="exact")
    assert scale.live_over_shipped(rows) == "2 at 1,000 images, 0.5 at 10,000 images"
    assert scale.live_over_shipped(rows[rows.live]) == "no size in common"
