"""Notebook 03: thirty queries, ready to be explored on the reports' page without a kernel.

The page draws; all that needs the method is computed here, by the library.
"""

import base64
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from report.folder import Reports
from torch import Tensor

from qure_lib.datasets.image_files import read_image
from qure_lib.datasets.queries import QuerySet
from qure_lib.features.retriever import Embedder
from qure_lib.files import replacing
from qure_lib.method.config import MiningConfig
from qure_lib.method.drops import CURVES, find_steepest_drops
from qure_lib.method.mining_report import MiningReport
from qure_lib.method.ranking import Ranking, rank_corpus
from qure_lib.train.training_data import TrainingData

# Group -> how many queries of all categories, and the rule that chooses them.
GROUPS = {
    "typical": (9, "the target's rank is the nearest to its category's median"),
    "best": (6, "the target ranks best"),
    "worst": (6, "the target ranks worst"),
    "smooth": (9, "the largest gap between neighbours is the smallest: the smoothest curve"),
}
# Search windows of the slider, in ranks after the target; None is the whole ranking.
WINDOWS = (3, 4, 5, 7, 10, 15, 20, 30, 40, 50, 70, 100, 150, 200, 300, 400, None)
ZONES = ("above", "inside", "below")
IMAGES_IN_ZONE, PIXELS = 8, 48
WHOLE_CURVE, CURVE_POINTS = 500, 1500  # ranks that are all kept, and how many are in all, about


@dataclass(frozen=True)
class Shown:
    """Some queries of a category, with their ranking.

    numbers: which queries of `queries`. target_ranks: (q,). relevance: (Q, N) graded relevance of
    all queries, None if it is not known.
    """

    queries: QuerySet
    numbers: list[int]
    ranking: Ranking
    target_ranks: Tensor
    relevance: Tensor | None


def save_page_explorer(
    model: Embedder,
    mined: Mapping[str, MiningReport],
    data: TrainingData,
    share_images: bool,
    reports: Reports,
) -> None:
    """Save thirty training queries for the explorer in `index.html`.

    Args:
        model: ranks the queries.
        mined: category -> this model's mining report; its rule and temperature find the windows.
        share_images: put small copies of the images shown into the page; else their ids alone.
    """
    lines, paths = [], {}
    for part, (category, report) in enumerate(mined.items()):
        groups = choose_queries(report.per_query, part, len(mined))
        numbers = [number for chosen in groups.values() for number in chosen]
        names = [group for group, chosen in groups.items() for _ in chosen]
        shown = rank_queries(model, data, category, numbers)
        described = describe_queries(shown, report.config)
        lines += [{"group": name} | line for name, line in zip(names, described, strict=True)]
        corpus = shown.queries.corpus
        paths |= shown.queries.images | dict(zip(corpus.image_ids, corpus.paths, strict=True))
    about = {
        "groups": [[name, rule] for name, (_, rule) in GROUPS.items()],
        "windows": WINDOWS,
        "temperature": next(iter(mined.values())).config.temperature,
        "ranks": {line["category"]: kept_ranks(line["size"]).tolist() for line in lines},
        "thumbnails": _thumbnails(lines, paths) if share_images else {},
    }
    _write([about, *lines], reports)


def _write(lines: list[dict[str, Any]], reports: Reports) -> None:
    caption = (
        f"Explore {len(lines) - 1} queries. Training queries as the model ranks them when "
        "negatives are first defined; both curves are drawn from the same scores. The slider keeps "
        "the drops to the ranks right after the target."
    )
    stem = reports.write_note("explorer", "relevance_explorer", caption)
    texts = [json.dumps(line, separators=(",", ":")) for line in lines]
    with replacing(stem.with_suffix(".jsonl")) as path:
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")


def choose_queries(per_query: pd.DataFrame, part: int = 0, parts: int = 1) -> dict[str, list[int]]:
    """Choose a category's queries by the rules of GROUPS; none comes twice.

    Args:
        per_query: of a `MiningReport`, with target_rank and largest_gap.
        part, parts: this category, and how many share the numbers of GROUPS.
    """
    ranks = per_query.target_rank
    orders = {
        "typical": (ranks - ranks.median()).abs(),
        "best": ranks,
        "worst": -ranks,
        "smooth": per_query.largest_gap,
    }
    chosen, left = {}, per_query.index
    for group, (count, _) in GROUPS.items():
        share = count * (part + 1) // parts - count * part // parts
        chosen[group] = [*orders[group][left].sort_values(kind="stable").index[:share]]
        left = left.difference(chosen[group])
    return chosen


def rank_queries(model: Embedder, data: TrainingData, category: str, numbers: list[int]) -> Shown:
    """Rank the corpus of a category for some of its queries."""
    queries = data.train[category]
    some = replace(queries, triplets=tuple(queries.triplets[number] for number in numbers))
    embedded = model.embed_queries(some), model.embed_corpus(queries.corpus)
    parts = [ranking for _, ranking in rank_corpus(*embedded)]
    scores, order = (torch.cat([getattr(p, n) for p in parts]).cpu() for n in ("scores", "order"))
    ranking = Ranking(scores, order)
    target_ranks = ranking.ranks_of(some.target_positions.cpu())
    return Shown(queries, numbers, ranking, target_ranks, data.relevance.get(category))


def describe_queries(shown: Shown, config: MiningConfig) -> Iterator[dict[str, Any]]:
    """What the page needs of each query: scores, the windows on both curves, and images.

    Yields:
        category, caption, reference, target (ids), size (N), target_rank, target_score, relevance
        (mean of the corpus), scores (at `kept_ranks`), windows: curve -> [first, second drop] for
        each of WINDOWS, strips: "first-second" -> ranks above, inside and below and the relevance
        inside, and images: rank -> [id, score, relevance]. Relevance is None where unknown.
    """
    windows = {curve: find_windows(shown, curve, config) for curve in CURVES}
    kept = kept_ranks(shown.ranking.scores.shape[1])
    for row, number in enumerate(shown.numbers):
        triplet, rank = shown.queries.triplets[number], int(shown.target_ranks[row])
        scores, order = shown.ranking.scores[row].numpy(), shown.ranking.order[row].numpy()
        graded = None if shown.relevance is None else shown.relevance[number].numpy()[order]
        mine = {curve: found[:, row].tolist() for curve, found in windows.items()}
        drops = {tuple(pair) for found in mine.values() for pair in found}
        strips = {f"{a}-{b}": make_strip(a, b, graded, len(scores)) for a, b in drops if a >= 0}
        ranks = {rank for strip in strips.values() for zone in ZONES for rank in strip[zone]}
        yield {
            "category": shown.queries.name,
            "caption": triplet.caption,
            "reference": triplet.reference,
            "target": triplet.target,
            "size": len(scores),
            "target_rank": rank,
            "target_score": round(float(scores[rank]), 4),
            "relevance": None if graded is None else round(float(graded.mean()), 3),
            "scores": np.round(scores[kept].astype(float), 4).tolist(),
            "windows": mine,
            "strips": dict(sorted(strips.items())),
            "images": {
                rank: [
                    shown.queries.corpus.image_ids[order[rank]],
                    round(float(scores[rank]), 3),
                    None if graded is None else round(float(graded[rank]), 2),
                ]
                for rank in sorted(ranks)
            },
        }


def find_windows(shown: Shown, curve: str, config: MiningConfig) -> np.ndarray:
    """(len(WINDOWS), q, 2) ranks just before both drops within each search window; -1 for none."""
    found = []
    for window in WINDOWS:
        pair = find_steepest_drops(
            shown.ranking.scores,
            shown.target_ranks,
            config.drop_rule,
            config.consecutive_threshold,
            window,
            curve,
            config.temperature,
        )
        found.append(torch.stack([pair.first, pair.second], dim=1))
    return torch.stack(found).numpy()


def make_strip(first: int, second: int, graded: np.ndarray | None, size: int) -> dict[str, Any]:
    """Evenly spread ranks above, inside and below a window, and the mean relevance inside.

    Args:
        first, second: ranks just before each drop.
        graded: (N,) graded relevance by rank.
    """
    zones = range(first + 1), range(first + 1, second + 1), range(second + 1, size)
    strip: dict[str, Any] = {
        name: sorted({zone[int(i)] for i in np.linspace(0, len(zone) - 1, IMAGES_IN_ZONE)})
        if zone
        else []
        for name, zone in zip(ZONES, zones, strict=True)
    }
    inside = None if graded is None else float(graded[first + 1 : second + 1].mean())
    return strip | {"relevance": None if inside is None else round(inside, 3)}


def kept_ranks(size: int) -> np.ndarray:
    """Ranks at which the page knows a curve's score: all near the top, then evenly spread ones."""
    spread = np.linspace(0, size - 1, CURVE_POINTS).astype(int)
    return np.unique(np.concatenate([np.arange(min(size, WHOLE_CURVE)), spread]))


def _thumbnails(lines: list[dict[str, Any]], paths: Mapping[str, Path]) -> dict[str, str]:
    """Every image that a query shows, once: id -> a small WebP as a data URI."""
    ids = {line[role] for line in lines for role in ("reference", "target")}
    ids |= {image[0] for line in lines for image in line["images"].values()}
    return {image_id: _thumbnail(paths[image_id]) for image_id in sorted(ids)}


def _thumbnail(path: Path) -> str:
    image = read_image(path).convert("RGB")
    image.thumbnail((PIXELS, PIXELS), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=60)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"
