"""Paired comparison of models by their per-query results, of any protocol."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import pandas as pd

from .protocol import Measures, Protocol
from .registry import PROTOCOLS
from .statistics import LEAST_P, Sample, holm, paired_bootstrap

# Columns that no model changes; `images` is how many the query ranks.
CONDITIONS = ("images", "category", "reference", "target", "participant", "preferred")


def compare_models(
    per_query: Mapping[str, pd.DataFrame], protocol: Protocol, names: Sequence[str] = ()
) -> pd.DataFrame:
    """Test every pair of models on the same queries, in each measure that all of them have.

    Args:
        per_query: model -> one row a query, as the protocol's evaluator returns it, in any order.
        protocol: one of PROTOCOLS.
        names: measures, as published or as printed; empty takes all of `protocol.measures`.

    Returns:
        One row a measure and pair of models: measure, a, b, mean_a, mean_b (per cent), difference
        (a - b) with its 95 % interval low and high (percentage points), n, p_value (two-sided,
        `paired_bootstrap`) and p_holm (corrected for all rows of the table).

    Raises:
        ValueError: fewer than two models; a query that one lacks or has twice, or that was asked
            under other conditions; a value that is missing or out of range; an unknown measure; or
            more than 50 rows, of which none could reach p_holm = 0.05 (2,000 resamples).
    """
    if len(per_query) < 2:
        raise ValueError(f"a comparison needs two models or more, not {list(per_query)}")
    samples = {name: _measure(name, f, protocol) for name, f in _align(per_query).items()}
    chosen, rows = _choose(list(samples.values()), names), []
    if (n := len(chosen) * math.comb(len(samples), 2)) * LEAST_P > 0.05:
        raise ValueError(f"{n} tests are too many: corrected, no p can reach 0.05; name --measure")
    for names_of in chosen:
        for a, b in combinations(samples, 2):
            rows.append((names_of[1], a, b, *_apart(samples[a][names_of], samples[b][names_of])))
    columns = ["measure", "a", "b", "mean_a", "mean_b", "difference", "low", "high", "n", "p_value"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(p_holm=holm(table["p_value"]))


def _apart(a: Sample, b: Sample) -> tuple[float, ...]:
    """Both means, their difference with its interval, how many queries, and p."""
    means = (sample.mean for sample in (a, b))
    found = paired_bootstrap(a.values, b.values, (a.weights, b.weights), a.clusters)
    return *means, found.estimate, found.low, found.high, found.n, found.p_value


def read_per_query(paths: Sequence[Path]) -> tuple[Protocol, dict[str, pd.DataFrame]]:
    """Read the files of `--per-query`: their protocol, and one row a query by the file's stem.

    Raises:
        ValueError: no CSV, a column is missing, files of several protocols or of one stem.
    """
    frames: dict[str, pd.DataFrame] = {}
    for path in paths:
        if path.stem in frames:
            raise ValueError(f"two files are called {path.stem}, which names the model; rename one")
        try:
            kinds = {"query_id": str, "participant": str}
            frames[path.stem] = frame = pd.read_csv(path, dtype=kinds, keep_default_na=False)
        except ValueError as error:  # pandas' own are of this kind
            raise ValueError(f"{path} is no CSV ({error}); write it with --per-query") from error
        if missing := {"protocol", "query_id"} - {*frame}:
            raise ValueError(f"{path}: no column {min(missing)}; write it with --per-query")
    found = {name: stem for stem, frame in frames.items() for name in frame["protocol"].unique()}
    if len(found) != 1 or not found.keys() <= PROTOCOLS.keys():
        said = ", ".join(f"{name!r} in {stem}" for name, stem in found.items()) or "no rows"
        raise ValueError(f"column protocol: {said}; all rows must say one of {list(PROTOCOLS)}")
    return PROTOCOLS[next(iter(found))], frames


def _align(per_query: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The frames in the order of the first one's queries."""
    frames = {name: f.set_index(f["query_id"].astype(str)) for name, f in per_query.items()}
    (first, base), *_ = frames.items()
    for name, frame in frames.items():
        for query in frame.index[frame.index.duplicated()]:
            raise ValueError(f"{name}: query {query!r} is there twice; keep one row")
        for query in base.index.symmetric_difference(frame.index, sort=False):
            has, lacks = (first, name) if query in base.index else (name, first)
            raise ValueError(f"{lacks} lacks query {query!r}, which {has} has; compare one split")
        frames[name] = frame = frame.loc[base.index]
        for column in (c for c in CONDITIONS if c in frame and c in base):
            for query in base.index[(frame[column] != base[column]).to_numpy()]:
                values = f"{base.at[query, column]} in {first}, {frame.at[query, column]}"
                raise ValueError(
                    f"query {query!r} has {column} {values} in {name}; evaluate both in one way"
                )
    return frames


def _measure(name: str, frame: pd.DataFrame, protocol: Protocol) -> Measures:
    """A model's measures, whose values must be per cent."""
    try:
        measures = protocol.measures(frame)
        if {"listed", "subset_listed"} & {*frame}:  # some rankings are too short for some measures
            measures = {n: s for n, s in measures.items() if not pd.isna(s.values).any()}
        for (_, words), (values, *_) in measures.items():
            if not pd.Series(values).between(0, 100).all():
                raise ValueError(f"{words} is missing or not within 0 and 100 % for some query")
        return measures
    except KeyError as error:
        raise ValueError(f"{name}: {protocol.name} needs the column {error}") from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _choose(measured: Sequence[Measures], names: Sequence[str]) -> list[tuple[str, str]]:
    """The named measures, or all, of those that every model has."""
    shared = [both for both in measured[0] if all(both in other for other in measured)]
    chosen = [both for both in shared if not names or {*both} & {*names}]
    unknown = {*names} - {name for both in shared for name in both}
    if unknown or not chosen:
        raise ValueError(f"no measure {unknown or ''} in all models: {[w for _, w in shared]}")
    return chosen
