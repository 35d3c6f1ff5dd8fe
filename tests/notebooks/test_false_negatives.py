"""Notebook 07: false negatives counted against plain loops, strips, and people's choices."""

import json
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from analysis import false_negatives as fn
from analysis.scorers import labelled_images
from drawn_queries import DrawnEmbedder, draw_query_set

from qure_lib.datasets.fashioniq import load_fashioniq
from qure_lib.datasets.hp_fashioniq import load_hp_fashioniq
from qure_lib.datasets.loading import real_annotations
from qure_lib.method.drops import find_steepest_drops
from qure_lib.method.ranking import rank_scores, score_corpus
from qure_lib.train.training_data import TrainingData

NEEDED = [real_annotations(name) for name in ("hpfiq", "fashioniq", "soft")]


@pytest.fixture
def queries(tmp_path):
    return draw_query_set(tmp_path, "dress", images=40)


@pytest.fixture
def relevance(queries):
    """Graded relevance in quarters: ties are common."""
    return torch.randint(5, (len(queries), 40), generator=torch.Generator().manual_seed(0)) / 4


def plain_fits(queries, relevance):
    """Row by row, the positions that fit as well as the target."""
    found = []
    for row, t in zip(relevance.tolist(), queries.triplets, strict=True):
        target = queries.corpus.image_ids.index(t.target)
        found.append({i for i, r in enumerate(row) if r >= row[target] and i != target})
    return found


def test_as_good_is_every_other_image_at_least_as_relevant(queries, relevance):
    fits = fn.as_good(queries, relevance)
    assert [set(row.nonzero().flatten().tolist()) for row in fits] == plain_fits(queries, relevance)


def test_chances_before_training_are_those_of_plain_counts(tmp_path, queries, relevance):
    other = draw_query_set(tmp_path, "shirt", images=40)
    sets, known = {"dress": queries, "shirt": other}, {"dress": relevance, "shirt": relevance / 2}
    data = TrainingData(sets, sets, known)
    uniform, in_batch, total = [], 0, sum(map(len, sets.values()))
    for name, own in sets.items():
        fits = plain_fits(own, known[name])
        uniform += [len(row) / 39 for row in fits]
        targets = [own.corpus.image_ids.index(t.target) for t in own.triplets]
        in_batch += sum(target in row for row in fits for target in targets)
    assert fn.expected_uniform(data) == pytest.approx(100 * np.mean(uniform))
    assert fn.expected_in_batch(data) == pytest.approx(100 * in_batch / total / (total - 1))


def test_labelled_keeps_labelled_queries_and_leaves_the_target_out(queries):
    first, second = queries.triplets[:2]
    labels = {second.query_id: frozenset({second.target, "dress7", "dress30"})}
    fewer, fits = fn.labelled(queries, labels)
    assert fewer.triplets == (second,) and fewer.corpus is queries.corpus
    assert fits.nonzero().tolist() == [[0, 7], [0, 30]]
    assert first not in fewer.triplets


def test_the_share_of_picks_against_the_rule_itself(queries, relevance):
    model, fits = DrawnEmbedder("last"), fn.as_good(queries, relevance)
    picks = fn.share_of_picks(model, queries, fits, None).set_index(["strategy", "query_id"])
    assert set(picks.index.get_level_values(0)) == {"uniform", "cosine", "window_100", "top_k"}
    embedded = model.embed_queries(queries), model.embed_corpus(queries.corpus)
    ((_, scores),) = score_corpus(*embedded)
    ranking, plain = rank_scores(scores), plain_fits(queries, relevance)
    ranks = ranking.ranks_of(queries.target_positions)
    drops = find_steepest_drops(ranking.scores, ranks)
    for q, t in enumerate(queries.triplets):
        chosen = [int(ranking.order[q, r]) for r in drops.hard_negative_ranks(q)]
        own = picks.loc["cosine", t.query_id]
        anywhere = 100 * len(plain[q]) / 39
        expected = 100 * np.mean([i in plain[q] for i in chosen]) if chosen else anywhere
        assert own.picks == len(chosen) and own.share == pytest.approx(expected)
        assert picks.loc["uniform", t.query_id].share == pytest.approx(anywhere)
        assert picks.loc["top_k", t.query_id].share == pytest.approx(anywhere)  # all 39 others
    with_tau = fn.share_of_picks(model, queries, fits, 0.07)
    assert "preference" in set(with_tau.strategy)
    table = fn.summarise_picks(with_tau).set_index("strategy")
    assert (table["picks a query"] == "-").sum() == 1 and (table.queries == len(queries)).all()


def test_the_signature_counts_found_targets_below_another_of_their_group():
    frame = pd.DataFrame({"rank": [0, 3, 9, 10], "subset_rank": [0, 1, 2, 0]})
    row = fn.signature({"uniform": frame}).iloc[0]
    assert row.model == "uniform negatives" and row["Recall@10 (%)"] == 75
    assert row["Recall_subset@1 (%)"] == 50 and row.iloc[-1] == pytest.approx(200 / 3)


def test_a_ranking_is_summarised_by_category_and_over_them(tmp_path):
    sets = {name: draw_query_set(tmp_path, name, images=40) for name in ("dress", "shirt")}
    labels = {
        name: {t.query_id: frozenset({t.target, f"{name}30"}) for t in q.triplets}
        for name, q in sets.items()
    }
    ids = {name: list(q.corpus.image_ids) for name, q in sets.items()}
    lists = {  # dress: five targets of twelve are found; shirt: all, with the other
        "dress": {t.query_id: ids["dress"][:5] + ids["dress"][32:] for t in sets["dress"].triplets},
        "shirt": {t.query_id: ids["shirt"][30:31] + ids["shirt"] for t in sets["shirt"].triplets},
    }
    lists["shirt"] = {q: list(dict.fromkeys(found)) for q, found in lists["shirt"].items()}
    table = fn.summarise_labelled(lists, labels, sets).set_index("category")
    assert [*table.index] == ["dress", "shirt", "mean"] and table.queries.tolist() == [12, 12, 24]
    hit, either, others = (table[c].str.split(" ").str[0].tolist() for c in table.columns[:3])
    assert hit == ["41.7", "75.0", "58.3"]  # 5 of 12; 9 of 12, behind the other image
    assert either == ["41.7", "100.0", "70.8"] and others == ["0.00", "1.00", "0.50"]
    alone = {"dress": lists["dress"]}, {"dress": labels["dress"]}, {"dress": sets["dress"]}
    assert [*fn.summarise_labelled(*alone).category] == ["dress"]


def test_real_queries_are_empty_without_their_files(monkeypatch):
    monkeypatch.delenv("QURE_DATA", raising=False)
    assert fn.load_real("fashioniq") == ({}, {}, {})
    with pytest.raises(ValueError, match="labels_of must be one of"):
        fn.load_real("circo")


def test_candidates_are_joined_by_reference_and_target(tmp_path, queries):
    entries = [
        {"ref_image_name": t.reference, "target_image_name": t.target, "top_k_names": [t.query_id]}
        for t in reversed(queries.triplets)
    ]
    path = tmp_path / "candidates.json"
    path.write_text(json.dumps(entries))
    assert fn.read_candidates(path, queries) == {t.query_id: [t.query_id] for t in queries.triplets}
    path.write_text(json.dumps(entries[1:]))
    with pytest.raises(ValueError, match=r"candidates.json: no ranking of 1 queries, .*dress/11"):
        fn.read_candidates(path, queries)


def test_real_rankings_leave_the_reference_out_on_cirr_alone(queries):
    models = {"last": DrawnEmbedder("last")}
    for dataset, left_out in (("fashioniq", False), ("cirr", True)):
        (lists,) = fn.rank_real(dataset, {"dress": queries}, models)["last"].values()
        assert {len(ids) for ids in lists.values()} == {20}
        held = [t.reference in lists[t.query_id] for t in queries.triplets]
        assert any(held) != left_out


def test_the_query_shown_has_the_median_number_and_a_target_that_fits_in_full(queries, relevance):
    models = {name: DrawnEmbedder(name) for name in ("cosine", "in_batch")}
    query = fn.choose_query(models, queries, relevance)
    assert relevance[query, queries.target_positions[query]] == 1
    tops = fn.top_ten(models, queries, relevance, query)
    assert (
        len(tops) == 20
        and tops.groupby("model")["rank"].apply(list).map(lambda ranks: ranks == [*range(10)]).all()
    )
    plain = plain_fits(queries, relevance)[query]
    assert set(tops[tops.zone == "false negative"].position) == plain & set(tops.position)
    assert (tops.zone == "false negative").any()
    fig, axes = fn.new_strips(2)
    fn.plot_top_tens(axes, queries, query, tops)
    title = axes[1, 0].get_title(loc="left")
    count = ((tops.model == "cosine") & (tops.zone == "false negative")).sum()
    assert title.startswith(f"drops in the cosine (released): {count} false negative")
    plt.close(fig)
    lower = relevance.clamp(max=0.75)  # no target fits in full: any query may be shown
    assert fn.choose_query(models, queries, lower) >= 0
    nothing = torch.zeros_like(relevance).scatter(1, queries.target_positions[:, None], 1.0)
    with pytest.raises(ValueError, match="no top ten holds"):
        fn.choose_query(models, queries, nothing)


def rows_of(**shares):
    """Made-up study rows of two seeds."""
    runs = [{"variant": v, "seed": s, "val_r10": 40 + s} for v in shares for s in (0, 1)]
    runs = pd.DataFrame(runs).assign(val_false_negatives10=lambda f: f.seed / 10)
    definitions = pd.DataFrame(
        {"variant": v, "seed": s, "epoch": e, "false_negative_share": share}
        for v, share in shares.items()
        for s in (0, 1)
        for e in (2, 4)
    )
    return SimpleNamespace(runs=runs, definitions=definitions, trained=[*shares])


def test_counts_are_means_over_seeds_and_exact_without_windows(queries, relevance):
    data = TrainingData({"dress": queries}, {}, {"dress": relevance})
    rows = rows_of(uniform=0.5, cosine=0.01, preference=0.03)
    counted = fn.count_exactly(rows, data, ["cosine", "uniform", "in_batch"]).set_index("label")
    assert [*counted.index] == ["cosine", "uniform"]  # the other was not trained
    assert counted.negatives["cosine"] == pytest.approx(1)
    assert counted.negatives["uniform"] == pytest.approx(fn.expected_uniform(data))
    assert (counted.top10 == 0.05).all() and (counted.high == 0.1).all()
    apart = fn.false_negatives_by_strategy(rows, "preference", "cosine")
    assert apart.estimate == pytest.approx(2) and apart.n == 2
    said = " ".join(fn.describe(counted.reset_index(), pd.DataFrame()))
    assert "0.05 a query" in said and "1.00 %" in said
    assert "Nothing here" in fn.describe(pd.DataFrame(), pd.DataFrame())[0]
    fig, axes = plt.subplots(1, 2)
    fn.plot_counts(axes, counted.reset_index())
    assert len(axes[0].lines) == len(axes[1].lines) == 2
    plt.close(fig)


@pytest.mark.skipif(None in NEEDED, reason="QURE_DATA lacks hpfiq/, fashioniq/ or soft/")
def test_people_prefer_the_set_with_more_labelled_images():
    judged = load_hp_fashioniq(NEEDED[0] / "hpfiq.json")
    counts = labelled_images(judged, load_fashioniq(NEEDED[1], "val", images=False), NEEDED[2])
    people = fn.people_and_labels(judged, counts).set_index("more of")
    assert people.loc["labelled images", ["rows", "agree"]].tolist() == [1368, 1008]
    assert people.loc["labelled, target aside", ["rows", "agree"]].tolist() == [796, 548]
    assert people.iloc[2][["rows", "agree"]].tolist() == [510, 332]
    apart = fn.agreement_less_half(people.reset_index(), "labelled, target aside")
    assert apart.estimate == pytest.approx(100 * 548 / 796 - 50) and apart.low > 0
    assert apart.n == 796
