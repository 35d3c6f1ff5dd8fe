"""Notebook 11: the published arithmetic recomputed by plain loops, and tables with known faults."""

import csv
import json
from fractions import Fraction

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from analysis import later_results, published_tables
from report.folder import Reports

CIRR_QUERIES = 4148


@pytest.fixture(scope="module")
def folder(root):
    return root / "reports" / "published"


@pytest.fixture(scope="module")
def published(folder):
    return published_tables.read_published_tables(folder)


@pytest.fixture(scope="module")
def audited(published):
    return published_tables.audit(published, CIRR_QUERIES)


def read_rows(folder, table):
    """A published file as dictionaries of text, without pandas."""
    path = folder / f"{published_tables.FILES[table]}.csv"
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def copy_of(published, **changes):
    return published | {table: frame.copy() for table, frame in published.items()} | changes


def flagged(frame):
    return frame[frame.flagged].row.tolist()


# ---------------------------------------------------------------- the tables as published


def test_averages_are_recomputed_in_exact_fractions(folder, audited):
    found = published_tables.choose_averages(audited).set_index(["table", "row"])
    seen = set()
    for table, backbones in (("Table 2", 0), ("Table 3", 0), ("Table 6", 1), ("Table 7", 1)):
        for row in read_rows(folder, table):
            name = f"{row['method']} ({row['backbone']})" if backbones else row["method"]
            for average in [column for column in row if column.startswith("avg")]:
                if average == "avg_r5_rs1":
                    parts = ["r5", "rs1"]
                elif average == "avg":
                    parts = ["avg_r10", "avg_r50"]
                else:
                    parts = [c + average.removeprefix("avg") for c in ("dress", "shirt", "toptee")]
                mean = sum(Fraction(row[part]) for part in parts) / len(parts)
                wrong = abs(Fraction(row[average]) - mean) > Fraction("0.01")
                line = found.loc[table, f"{name} {average}"]
                assert line.expected == pytest.approx(float(mean)) and line.flagged == wrong
                seen.add((table, f"{name} {average}"))
    assert seen == set(found.index)


def test_differences_to_sprc_are_recomputed_in_whole_hundredths(folder, audited):
    found = audited[audited.check == "difference to SPRC"]
    for said, line in zip(read_rows(folder, "text"), found.itertuples(), strict=True):
        rows = {row["method"]: row for row in read_rows(folder, said["table"])}
        own, other = (Fraction(rows[said[key]][said["measure"]]) for key in ("method", "against"))
        assert line.printed == float(said["points"])
        assert line.expected == pytest.approx(float(own - other))
        assert line.flagged == (Fraction(said["points"]) != own - other)


def test_numbers_printed_twice_are_compared_by_a_plain_loop(folder, audited):
    main = {"Table 6": ["Table 3"], "Table 7": ["Table 2"], "Table 8": ["Table 4", "Table 5"]}
    for table, before in main.items():
        expected = {}
        for row in read_rows(folder, table):
            for known in (r for name in before for r in read_rows(folder, name)):
                same = row["method"] == known["method"]
                if same and (row["method"], row["backbone"]) != ("QuRe", "BLIP"):
                    name = f"{row['method']} ({row['backbone']})"
                    pairs = {k: (row[k], known[k]) for k in known if k != "method"}
                    expected |= {f"{name} {k}": a != b for k, (a, b) in pairs.items()}
        found = audited[(audited.table == table) & audited.check.str.startswith("as in")]
        assert dict(zip(found.row, found.flagged, strict=True)) == expected and expected


def test_shares_are_counts_by_trying_every_count(published):
    values = published["Table 2"].dress_r10.to_numpy()
    for n in (2017, 100, 7):
        by_hand = [
            any(
                round(round(100 * k / n, 3) + 1e-9, 2) == v or round(100 * k / n, 2) == v
                for k in range(n + 1)
            )
            for v in values
        ]
        assert published_tables.is_count(values, n).tolist() == by_hand


def test_the_denominator_is_found_by_counting_for_each_n(published):
    tried = published_tables.try_denominators(published, range(4140, 4160)).set_index("n")
    values = {
        value
        for table in ("Table 3", "Table 6")
        for value in published[table][published_tables.COUNTED].to_numpy().ravel()
    }
    for n in tried.index:
        counts = sum(bool(published_tables.is_count(value, n)) for value in values)
        assert tried.counts[n] == counts and tried["values"][n] == len(values)
        assert tried.share[n] == pytest.approx(100 * counts / len(values))
    text = published_tables.describe_denominator(tried.reset_index(), CIRR_QUERIES)
    assert f"{tried.counts[4150]} are a count out of 4,150" in text


def test_what_has_nothing_to_do_with_n_is_a_count_as_often_as_chance_says(published):
    drawn = np.random.default_rng(0).uniform(0, 100, (2, 7 * 200)).round(2)
    frames = [pd.DataFrame(d.reshape(200, 7), columns=published_tables.COUNTED) for d in drawn]
    noise = copy_of(published, **{"Table 3": frames[0], "Table 6": frames[1]})
    tried = published_tables.try_denominators(noise, range(1000, 5000, 500))
    assert (tried.share - tried.chance).abs().max() < 5


# ---------------------------------------------------------------- tables with known faults


def test_an_average_may_be_off_by_rounding_and_no_further(published):
    frame = published["Table 3"].head(3).copy()
    frame["r5"], frame["rs1"] = 50.01, 60.00  # their mean is 55.005
    frame["avg_r5_rs1"] = [55.01, 55.00, 55.02]
    changed = copy_of(published, **{"Table 3": frame})
    found = published_tables.check_averages(changed, "Table 3")
    assert found.flagged.tolist() == [False, False, True]


def test_counts_that_do_not_add_up_are_flagged(published):
    assert not published_tables.check_counts(published).flagged.any()
    frame = published["Table 1"].copy()
    frame.loc[frame.quantity == "excluded_irrelevant", "count"] += 1
    found = published_tables.check_counts(copy_of(published, **{"Table 1": frame}))
    assert flagged(found) == ["valid queries"]


def test_a_recall_that_falls_or_leaves_the_scale_is_flagged(published):
    frame = published["Table 3"].head(2).copy()
    assert not published_tables.check_order(published, "Table 3").flagged.any()
    frame.loc[0, "r50"], frame.loc[1, "rs3"] = frame.loc[0, "r10"] - 0.01, 100.01
    found = published_tables.check_order(copy_of(published, **{"Table 3": frame}), "Table 3")
    assert flagged(found) == [f"{frame.method[0]} r50", f"{frame.method[1]} rs3"]


def test_two_rows_are_alike_from_three_neighbouring_numbers_on(published):
    frame = published["Table 5"].iloc[[2, 4, 6]].reset_index(drop=True)
    measures = ["map5", "map10", "map25", "map50"]
    for shared, alike in ((["map5", "map10"], False), (["map10", "map25", "map50"], True)):
        changed = frame.copy()
        changed.loc[1, measures] = changed.loc[1, measures] + 0.01
        changed.loc[1, shared] = changed.loc[0, shared]
        found = published_tables.check_repeats(
            copy_of(published, **{"Table 5": changed}), "Table 5"
        )
        assert len(found) == 3 and found.printed[0] == len(shared)
        expected = [f"{frame.method[0]} and {frame.method[1]}: {', '.join(shared)}"]
        assert flagged(found) == (expected if alike else [])
    apart = frame.copy()
    apart.loc[1, ["map5", "map25", "map50"]] = apart.loc[0, ["map5", "map25", "map50"]]
    assert not published_tables.check_repeats(
        copy_of(published, **{"Table 5": apart}), "Table 5"
    ).flagged.any()


def test_a_changed_digit_in_a_later_table_is_flagged(published):
    frame = published["Table 8"].copy()
    frame.loc[(frame.method == "QuRe") & (frame.backbone == "BLIP-2"), "map25"] += 0.01
    found = published_tables.check_shared_rows(copy_of(published, **{"Table 8": frame}), "Table 8")
    assert flagged(found) == ["QuRe (BLIP-2) map25"]


def test_a_subset_recall_near_k_fifths_is_no_better_than_chance(published):
    frame = published["Table 3"].head(1).copy()
    half = 100 * 1.96 * (0.2 * 0.8 / CIRR_QUERIES) ** 0.5
    for rs1, chance in ((20 + 0.99 * half, True), (20 + 1.01 * half, False), (20 - half / 2, True)):
        frame[["rs1", "rs2", "rs3"]] = rs1, 50, 70
        found = published_tables.check_chance(
            copy_of(published, **{"Table 3": frame}), CIRR_QUERIES
        )
        assert found.flagged.tolist() == [chance, False, False]
        assert found.expected.tolist() == pytest.approx([20, 40, 60])


def test_the_own_row_leads_where_no_other_is_higher(published):
    frame = pd.DataFrame(
        {"method": ["A", "B", "QuRe"], "x": [1, 3, 2], "y": [1, 2, 2], "z": [0, 1, 2]}
    )
    found = published_tables.check_lead(copy_of(published, **{"Table 5": frame}), "Table 5")
    assert flagged(found) == ["x, best: B"] and found.expected.tolist() == [3, 2, 1]


def test_figures_are_held_against_the_schedule(published):
    found = published_tables.check_figures(published)
    starts = found[found.table == "Fig. 4"]
    curves = published["Fig. 4"].drop(columns="epoch").iloc[0]
    assert starts.flagged.tolist() == (curves != curves.median()).tolist()
    for data, defined in (("fashioniq", range(5, 26, 5)), ("cirr", range(8, 49, 8))):
        rows = found[found.row.str.startswith(data)]
        assert rows.printed.tolist() == published["Fig. 5"].epoch.tolist()
        assert rows.flagged.tolist() == [e not in defined for e in rows.printed]
        assert all(e in defined for e in rows.expected)


# ---------------------------------------------------------------- what is shown


def test_a_summary_counts_the_rows_of_each_check(audited):
    checks = published_tables.summarise(audited)
    assert checks.numbers.sum() == len(audited) and checks.flagged.sum() == audited.flagged.sum()
    for line in checks.itertuples():
        part = audited[(audited.table == line.table) & (audited.check == line.check)]
        apart = [abs(r.printed - r.expected) for r in part.itertuples() if r.flagged]
        assert line.numbers == len(part) and line.flagged == len(apart)
        assert abs(line[5]) == pytest.approx(max(apart, default=0))
        assert line[6] in (set(flagged(part)) or {"-"})


def test_the_answer_names_every_average_that_does_not_follow(audited):
    averages = published_tables.choose_averages(audited)
    text = published_tables.describe_averages(averages)
    wrong = averages[averages.flagged]
    assert text.startswith(f"Audit: {len(wrong)} of {len(averages)} published averages")
    for row in wrong.itertuples():
        assert f"{row.table}, {row.row}: {row.printed:.2f} printed" in text
    clean = published_tables.describe_averages(averages[~averages.flagged])
    assert clean.startswith("Audit: 0 of") and clean.endswith("(none).")


def test_the_claim_of_the_averages_holds_only_if_all_follow(audited, tmp_path):
    averages = published_tables.choose_averages(audited)
    reports = Reports(tmp_path, "11_paper_release_kit")
    path = tmp_path / "claims" / f"{published_tables.CLAIM}.json"
    assert published_tables.save_claim(averages, reports) == "differs"
    for row in averages[averages.flagged].itertuples():
        assert row.row in json.loads(path.read_text())["caveat"]
    assert published_tables.save_claim(averages[~averages.flagged], reports) == "reproduced"
    assert json.loads(path.read_text())["caveat"] == ""


def test_every_average_and_both_denominators_are_drawn(published, audited):
    averages = published_tables.choose_averages(audited)
    _, axes = plt.subplots(1, 2)
    published_tables.plot_averages(axes[0], averages)
    points = np.concatenate(
        [c.get_offsets() for c in axes[0].collections if len(c.get_offsets()) > 1]
    )
    apart = averages.printed - averages.expected
    assert sorted(points[:, 0]) == pytest.approx(sorted(apart))
    low, high = axes[0].get_xlim()
    assert low < apart.min() and apart.max() < high
    tried = published_tables.try_denominators(published, range(4100, 4200))
    published_tables.plot_denominators(axes[1], tried, CIRR_QUERIES)
    names = [text.get_text() for text in axes[1].get_legend().get_texts()]
    assert names == ["any n", "by chance", "4,148 queries", "4,150 entries"]
    plt.close("all")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="lacks table1_hpfiq_counts, table2_fashioniq_val"):
        published_tables.read_published_tables(tmp_path)


# ---------------------------------------------------------------- later results


def test_later_results_have_a_difference_unless_they_cannot_be_compared(published, folder):
    found = later_results.compare(published, CIRR_QUERIES)
    for row, line in zip(read_rows(folder, "later"), found.itertuples(), strict=True):
        own = next(r for r in read_rows(folder, row["table"]) if r["method"] == "QuRe")
        assert line.later == float(row["value"])
        if row["comparable"] == "no":
            assert np.isnan(line.difference) and np.isnan(line.QuRe)
        else:
            assert line.QuRe == float(own[row["measure"]])
            assert line.difference == pytest.approx(
                float(row["value"]) - float(own[row["measure"]])
            )
        assert row["reason"] and row["source"] and len(row["reason"]) <= 50
    assert set(found.comparable) == {"same protocol", "model differs", "training differs", "no"}


def test_the_sampling_error_is_that_of_drawn_queries(published):
    # R@10 and R@50 from one uniform number a query, so that both move together
    own = published["Table 2"].set_index("method").loc["QuRe"] / 100
    queries = published_tables.count_queries(published)
    generator = np.random.default_rng(0)
    averages = np.zeros(2000)
    for category in published_tables.CATEGORIES:
        drawn = generator.random((2000, queries[f"{category}_r10"]))
        for k in ("r10", "r50"):
            averages += 100 * (drawn < own[f"{category}_{k}"]).mean(axis=1) / 6
    half = later_results.sampling_half_width(published, "Table 2", "avg", CIRR_QUERIES)
    assert 0.8 * half < 1.96 * averages.std() <= 1.05 * half  # an upper bound, and not far off
    hits = 100 * (generator.random((1000, CIRR_QUERIES)) < 0.5222).mean(axis=1)
    half = later_results.sampling_half_width(published, "Table 3", "r1", CIRR_QUERIES)
    assert half == pytest.approx(1.96 * hits.std(), rel=0.1)
    assert np.isnan(later_results.sampling_half_width(published, "Table 5", "map5", CIRR_QUERIES))


def test_what_cannot_be_compared_is_not_drawn(published):
    found = later_results.compare(published, CIRR_QUERIES)
    _, ax = plt.subplots()
    assert later_results.plot(ax, found) is ax
    labels = [text.get_text() for text in ax.get_yticklabels()]
    shown = found[found.comparable != "no"]
    assert len(labels) == len(shown) < len(found)
    assert labels[0] == f"{shown.method[0]}: FashionIQ average"
    plt.close("all")
