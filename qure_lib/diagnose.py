"""See which hard negatives the drop rule would choose on a model's scores, before training.

Prints one JSON object: how the scores are shaped, where the windows of hard negatives lie on the
cosine curve (as released) and on the preference curve (docs/method.md, section 3), what their
images cost in the Bradley-Terry loss, and the same in words, which go to stderr too. Ranks are
0-based, keys with "percent" are per cent, shares lie in [0, 1], null is unknown. A picture and the
JSON go to --out. Errors go to stderr, with exit status 2.
"""

import json
import math
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from qure_lib.datasets.queries import QuerySet
from qure_lib.files import replacing, run_command, write_json
from qure_lib.method.config import MiningConfig
from qure_lib.method.drops import CURVES
from qure_lib.method.mining import take_sets
from qure_lib.method.mining_report import MiningReport, sum_moments
from qure_lib.method.ranking import rank_scores, score_corpus
from qure_lib.own_scores import chunks, open_array

COMMAND = "python -m qure_lib.diagnose"
# A source of scores -> the arguments that go with it
NEEDS = {"checkpoint": "dataset root", "embeddings": "dataset annotations", "scores": "targets"}
FEWEST_IMAGES = 11  # so that each tenth of a ranking holds a gap
READY = 5  # per cent of the corpus: if the median target ranks lower, a warm-up comes first
NEAR = 5  # per cent of the corpus: a window that begins so few ranks below its target is near it
NO_PAIR = 0.05  # share of queries without a pair of drops that is worth a sentence
SEARCH_WINDOW = 100  # ranks after the target, as in docs/study.md
SURE = {  # the least mean probability that the target wins -> what training makes of it
    0.95: "the model is already sure about them, so gradients vanish",
    0.8: "the model is rather sure about them, so gradients are small",
    0.0: "the model is not sure about them, so they are informative",
}
MEANS = ["score_margin", "margin_over_temperature", "preference", "loss", "uniform_loss"]
MEANS += ["relevance_above", "relevance_inside", "relevance_below", "relevance_corpus"]
Reports = dict[str, MiningReport]  # by curve
# (q, N) scores, (q,) target positions and (q, N) graded relevance if known, of a few queries each
Chunks = Iterator[tuple[Tensor, Tensor, Tensor | None]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 2 if the input is at fault."""
    args = parser().parse_args(argv)
    try:
        _check_arguments(args)
        corpora, temperature = read_scores(args)
        reports = {about["name"]: find_windows(part, temperature) for about, part in corpora}
        given = {name: str(value) for name, value in vars(args).items() if value is not None}
        about = {"temperature": temperature, "corpora": [about for about, _ in corpora]}
        table = pd.Series({"arguments": given} | about | summarise(reports))
        result = json.loads(table.to_json(double_precision=15))  # NaN becomes null
        result["verdict"] = judge(result)
        result["in_words"] = explain(result)
        with replacing(args.out / "curves.png") as scratch:
            draw(reports, scratch)
            write_json(args.out / "diagnosis.json", result)
    except (ValueError, OSError) as error:
        print(f"{COMMAND}: error: {error}", file=sys.stderr)
        return 2
    print(*result["in_words"], f"Picture: {args.out / 'curves.png'}", sep="\n", file=sys.stderr)
    print(json.dumps(result, indent=2, allow_nan=False))
    return 0


def parser() -> ArgumentParser:
    """The command's arguments: one source of scores, and what goes with it."""
    top = ArgumentParser(COMMAND, description=__doc__, allow_abbrev=False)
    source = top.add_mutually_exclusive_group(required=True)
    path, data_sets = {"type": Path}, {"choices": ("fashioniq", "cirr", "circo")}
    features, out = path | {"default": Path("runs/features")}, path | {"default": Path("diagnosis")}
    for group, flag, how, about in (
        (source, "checkpoint", path, "folder of a saved model"),
        (source, "embeddings", path, "any model's, in a file as qure_lib.evaluation reads it"),
        (source, "scores", path, ".npy of (Q, N) scores, higher is better"),
        (top, "targets", path, "with --scores: .npy of the targets' (Q,) positions, 0 to N - 1"),
        (top, "dataset", data_sets, "without --scores"),
        (top, "root", path, "with --checkpoint: folder of the data set and its images"),
        (top, "annotations", path, "with --embeddings: folder of the data set; needs no images"),
        (top, "split", {}, "without --scores: val (default), or train, where training mines"),
        (top, "queries", {"type": int}, "at most so many a corpus, evenly spaced (default: all)"),
        (top, "temperature", {"type": float}, "of the preference curve: 1 / logit_scale, or 1 "
         "where scores are already divided by it (default: the checkpoint's own)"),
        (top, "cache", features, "with --checkpoint: folder of features (default: %(default)s)"),
        (top, "out", out, "folder of curves.png and diagnosis.json (default: %(default)s)"),
    ):  # fmt: skip
        group.add_argument(f"--{flag}", **how, help=about)
    return top


def _check_arguments(args: Namespace) -> None:
    """Raise a ValueError if an argument is out of its range or two do not go together."""
    source = next(name for name in NEEDS if getattr(args, name))
    for name in ("targets", "dataset", "root", "annotations"):
        needed = name in NEEDS[source].split()
        if (getattr(args, name) is None) == needed:
            raise ValueError(f"--{source} {'needs' if needed else 'takes no'} --{name}")
    if args.split and args.scores:
        raise ValueError("--scores takes no --split")
    for name in ("queries", "temperature"):
        if (value := getattr(args, name)) is not None and not 0 < value < math.inf:
            raise ValueError(f"--{name} must be positive and finite, not {value}")
    if args.out.exists() and not args.out.is_dir():
        raise ValueError(f"--out {args.out} is a file; name a folder")


def read_scores(args: Namespace) -> tuple[list[tuple[dict[str, Any], Chunks]], float | None]:
    """Each corpus's name and sizes, with its scores, that the arguments name; and tau if known.

    Raises:
        ValueError: a file or folder is missing, broken or of another data set, or a split has no
            targets; the message names it. Scores are checked only as they are iterated over.
    """
    if args.scores is None:
        return _read_data_set(args)
    scores, targets = open_array(args.scores), np.array(open_array(args.targets))
    rows = _evenly_spaced(len(scores), args.queries)

    def read() -> Chunks:
        try:
            for part, positions in chunks(scores, targets, rows):
                yield part, positions, None
        except ValueError as error:
            raise ValueError(f"{args.scores} and {args.targets}: {error}") from error

    sizes = {"images": scores.shape[-1], "queries": len(rows), "all_queries": len(scores)}
    return [({"name": args.scores.stem} | sizes, read())], args.temperature


def _read_data_set(args: Namespace) -> tuple[list[tuple[dict[str, Any], Chunks]], float | None]:
    """`read_scores` of a checkpoint or of saved embeddings."""
    from qure_lib.datasets.graded_relevance import load_graded_relevance
    from qure_lib.evaluation.__main__ import open_embedder  # loads transformers
    from qure_lib.evaluation.registry import PROTOCOLS

    args.split, folder = args.split or "val", args.root or args.annotations
    command, corpora, temperature = PROTOCOLS[args.dataset].command, [], args.temperature
    if args.split == command.test_split:
        raise ValueError(f"--split {args.split} has no targets: the server keeps them; take val")
    pool = "targets" if args.split == "train" else "original"  # FashionIQ's, as released
    options = Namespace(protocol=pool, prompt=None, allow_missing=False)
    data = command.load(folder, args.split, args.checkpoint is not None, options)
    embedder = open_embedder(command, command.query_sets(data), args)
    alone = args.dataset == "cirr" and args.split != "train"  # training keeps the reference
    for queries in command.query_sets(command.prepare(data, embedder)):
        rows = _evenly_spaced(len(queries), args.queries)
        graded = load_graded_relevance(folder, queries, args.split)
        graded = None if graded is None else graded[rows]
        sizes = {"images": len(queries.corpus), "queries": len(rows), "all_queries": len(queries)}
        some = replace(queries, triplets=tuple(queries.triplets[row] for row in rows))
        part = _score(embedder, some, graded, leave_out_reference=alone)
        corpora.append(({"name": queries.name} | sizes, part))
    if args.checkpoint and temperature is None:
        retriever: Any = getattr(embedder, "retriever", embedder)
        temperature = retriever.model.temperature.item()
    return corpora, temperature


def _evenly_spaced(count: int, most: int | None) -> np.ndarray:
    """At most `most` of the positions 0 to count - 1, from the first to the last."""
    return np.linspace(0, count - 1, min(most or count, count)).round().astype(np.int64)


def _score(
    embedder: Any, queries: QuerySet, graded: Tensor | None, leave_out_reference: bool
) -> Chunks:
    embedded = embedder.embed_queries(queries), embedder.embed_corpus(queries.corpus)
    for rows, scores in score_corpus(*embedded):
        scores = scores.cpu()
        if leave_out_reference:
            scores.scatter_(1, queries.reference_positions[rows, None], -torch.inf)
        yield scores, queries.target_positions[rows], None if graded is None else graded[rows]


def find_windows(corpus: Chunks, temperature: float | None) -> Reports:
    """Rank the corpus once a query, and find its window on every curve.

    Args:
        corpus: a score of -inf leaves an image out for its query.
        temperature: tau, in the scores' unit; None leaves the preference curve out.

    Returns:
        Reports with more columns in `per_query`: n, relevance_corpus, and what negatives cost.

    Raises:
        ValueError: too few images, or what the source of the scores refuses.

    Source: QuRe, arXiv:2507.12416, Eq. 5-7; the preference curve is this kit's (docs/method.md).
    """
    curves = [curve for curve in CURVES if temperature or curve == "cosine"]
    configs = {curve: MiningConfig(curve=curve, temperature=temperature) for curve in curves}
    frames: dict[str, list[pd.DataFrame]] = {curve: [] for curve in curves}
    moments = np.zeros((2, 1))
    for scores, targets, relevance in corpus:
        if (n := scores.shape[1]) < FEWEST_IMAGES:
            raise ValueError(f"the corpus holds {n} images; give {FEWEST_IMAGES} or more")
        ranking = rank_scores(scores)
        moments = moments + sum_moments(ranking.finite.scores)
        logits = (scores.gather(1, targets[:, None]) - ranking.scores) / (temperature or torch.nan)
        sums, images = F.softplus(-logits).sum(dim=1), (logits < torch.inf).sum(dim=1)
        loss = (sums - math.log(2)) / (images - 1)  # of every image but the target
        uniform = {"n": n, "uniform_loss": loss.numpy()}
        if relevance is not None:
            uniform["relevance_corpus"] = relevance.double().mean(dim=1).numpy()
        for curve, config in configs.items():
            members, frame = take_sets(ranking, targets, config, relevance)
            costs = _costs(logits[members], members[0], torch.tensor(frame.set_size.to_numpy()))
            frames[curve].append(frame.assign(**uniform, **costs))
    return {
        curve: MiningReport.from_moments(config, pd.concat(frames[curve]), moments)
        for curve, config in configs.items()
    }


def _costs(logits: Tensor, query: Tensor, sizes: Tensor) -> dict[str, np.ndarray]:
    """Means over each query's set: (M,) margins / tau, P(the target wins), Bradley-Terry's loss."""
    costs = {"preference": logits.sigmoid(), "loss": F.softplus(-logits)}
    costs["margin_over_temperature"] = logits
    sums = {n: torch.bincount(query, c.double(), minlength=len(sizes)) for n, c in costs.items()}
    return {name: (total / sizes).numpy() for name, total in sums.items()}


def summarise(reports: Mapping[str, Reports]) -> dict[str, Any]:
    """The shape of the scores and the place of the windows, over the queries of all corpora."""
    curves: dict[str, Any] = dict.fromkeys(CURVES)
    for curve in next(iter(reports.values())):
        frame = pd.concat([by_curve[curve].per_query for by_curve in reports.values()])
        curves[curve] = _summarise_windows(frame)
    parts = [by_curve["cosine"] for by_curve in reports.values()]
    weights = [len(report.per_query) for report in parts]
    gaps = np.average([report.gap_by_rank() for report in parts], axis=0, weights=weights)
    shape = {
        "skewness": frame.score_skewness.mean(),
        "gap_by_tenth": gaps.tolist(),
        "gap_ratio_top_to_bottom": gaps[0] / gaps[-1] if gaps[-1] > 0 else None,
        "target_rank": _quartiles(frame.target_rank),
        "target_percent": _quartiles(100 * frame.target_rank / frame.n),
    }
    recall = {f"recall_at_{k}_percent": 100 * (frame.target_rank < k).mean() for k in (10, 50)}
    return {"shape": shape | recall, "curves": curves}


def _summarise_windows(frame: pd.DataFrame) -> dict[str, Any]:
    mined = frame[frame.set_size > 0]
    row: dict[str, Any] = {"share_no_pair": 1 - len(mined) / len(frame)}
    for end in ("window_start", "window_end"):
        below = mined[end] - mined.target_rank
        kinds = {"rank": mined[end], "percent": 100 * mined[end] / mined.n}
        kinds |= {"ranks_below_target": below, "percent_below_target": 100 * below / mined.n}
        row[end] = {name: values.median() for name, values in kinds.items()}
    row["share_best_tenth"] = (mined.window_start < mined.n / 10).mean()
    row["share_bottom_half"] = (mined.window_start >= mined.n / 2).mean()
    row["set_size"] = _quartiles(mined.set_size) | {"mean": mined.set_size.mean()}
    means = mined.reindex(columns=[*MEANS, "false_negatives"]).mean().to_dict()
    means["false_negative_share"] = means.pop("false_negatives") / mined.set_size.mean()
    return row | means


def _quartiles(values: pd.Series) -> dict[str, float]:
    return {"q25": values.quantile(0.25), "median": values.median(), "q75": values.quantile(0.75)}


def judge(result: Mapping[str, Any]) -> dict[str, Any]:
    """Whether the model is ready, where each curve's windows lie, and a suggestion."""
    windows = {curve: row and _place(row) for curve, row in result["curves"].items()}
    near = [curve for curve, place in windows.items() if place == "near the target"]
    near = [curve for curve in near if result["curves"][curve]["share_no_pair"] <= NO_PAIR]
    ranks = max(10, min(SEARCH_WINDOW, *(about["images"] // 10 for about in result["corpora"])))
    ready = result["shape"]["target_percent"]["median"] <= READY
    if not ready:
        advice = "warm up first, on uniform negatives or with in-batch contrast; then look again"
    elif near:
        advice = "keep the cosine curve" if "cosine" in near else "train with `--curve preference`"
    else:
        advice = f"train with `--search-window {ranks}` (search_window={ranks})"
    about = "its windows lie near the target, which is what mattered on this kit's drawn data"
    advice += f": {about} (docs/study.md); this is no forecast for yours" * ready
    return {"ready": ready, "windows": windows, "suggestion": f"Suggestion: {advice}."}


def _place(row: Mapping[str, Any]) -> str:
    if row["share_no_pair"] == 1:
        return "nowhere"
    if row["window_start"]["percent_below_target"] <= NEAR:
        return "near the target"
    return "in the bottom half" if row["share_bottom_half"] > 0.5 else "between"


def explain(result: Mapping[str, Any]) -> list[str]:
    """The result in sentences."""
    shape, verdict = result["shape"], result["verdict"]
    sizes = "{name}: {queries:,} of {all_queries:,} queries over {images:,} images."
    said = [sizes.format(**about) for about in result["corpora"]]
    words = "The target's median rank is {target_rank[median]:,.0f}, {target_percent[median]:.1f}% "
    words = (words + "of the corpus; Recall@10 is {recall_at_10_percent:.1f}%.").format(**shape)
    beyond = f" That is beyond {READY}%: the model is not ready for hard negatives."
    said.append(words + beyond * (not verdict["ready"]))
    gaps = shape["gap_by_tenth"]
    ends = {"at the top": gaps[0], "at the bottom": gaps[-1]}
    thin = " and ".join(end for end, gap in ends.items() if gap > 2 * np.median(gaps))
    said.append(
        f"The scores thin out {thin or 'at neither end'} of the ranking: the mean gap between "
        f"neighbours is {gaps[0]:.2g} in the best tenth, {np.median(gaps):.2g} in the middle and "
        f"{gaps[-1]:.2g} in the worst tenth (skewness {shape['skewness'] or 0:+.2f})."
    )
    for curve, row in result["curves"].items():
        said += [f"{curve.capitalize()} curve: {words}" for words in _explain_curve(row)]
    return [*said, verdict["suggestion"]]


def _explain_curve(row: Mapping[str, Any] | None) -> list[str]:
    if row is None:
        needs = "1 / logit_scale, or 1 if the scores are already divided by it"
        return [f"not looked at, since it needs --temperature: {needs}."]
    said = []
    if row["share_no_pair"] < 1:
        words = (
            "windows of {set_size[median]:,.0f} images begin at rank {window_start[rank]:,.0f}, "
            "{window_start[percent]:.1f}% down the ranking, {window_start[ranks_below_target]:,.0f}"
            " ranks below the target (medians); {share_bottom_half:.0%} of them begin in the bottom"
            " half, {share_best_tenth:.0%} in the best tenth."
        )
        said.append(words.format(**row))
    if row["loss"] is not None:
        words = "these images lose to the target with probability {preference:.3f}, at a loss of "
        words = (words + "{loss:.3f} (uniform negatives: {uniform_loss:.3f}): ").format(**row)
        said.append(words + next(w for p, w in SURE.items() if row["preference"] >= p) + ".")
    elif _place(row) == "in the bottom half":
        said.append("the model is already sure about such images, so gradients vanish.")
    if (share := row["share_no_pair"]) > NO_PAIR:
        said.append(f"{share:.0%} of the queries have no pair of drops and draw uniform negatives.")
    return said


def draw(reports: Mapping[str, Reports], path: Path) -> None:
    """Write the picture: scores and gaps of the first corpus, and where all windows begin."""
    from matplotlib.figure import Figure  # slow to load

    from qure_lib.reporting.style import CURVE_COLOURS, PAGE_WIDTH, use_house_style

    use_house_style()
    figure, (name, first) = Figure(figsize=(PAGE_WIDTH, 2.8)), next(iter(reports.items()))
    axes = figure.subplots(1, 3)
    _plot_scores(axes[0], first)
    gaps = -np.diff(first["cosine"].mean_scores)
    ranks = np.unique(np.geomspace(1, len(gaps), 40)[:-1].astype(int)) - 1  # where stretches begin
    means = np.add.reduceat(gaps, ranks) / np.diff(ranks, append=len(gaps))
    axes[1].loglog(ranks + 1, means, color="0.25")
    axes[1].set(xlabel="Images above the gap", ylabel="Mean gap to the next image")
    for curve, line in zip(first, ("-", "--"), strict=False):
        rows = pd.concat([by_curve[curve].per_query for by_curve in reports.values()])
        below = np.sort(rows.window_start - rows.target_rank)
        share = 100 * np.arange(1, len(below) + 1) / len(below)
        axes[2].step(below, share, line, color=CURVE_COLOURS[curve], where="post")
    axes[2].set(xscale="log", xlim=(1, 1.3 * rows.n.max()), xlabel="Ranks from target to window")
    axes[2].set(ylim=(0, 100), ylabel="Cumulative share of queries (%)")
    for ax, title in zip(axes, (name, name, ", ".join(reports)), strict=True):
        ax.set_title(title * (len(reports) > 1))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    figure.savefig(path, dpi=300, metadata={"Software": None})


def _plot_scores(ax: Any, reports: Reports) -> None:
    from qure_lib.reporting.style import CURVE_COLOURS, GREEN

    mean, std = reports["cosine"].mean_scores, reports["cosine"].std_scores
    ranks, target = np.arange(len(mean)), reports["cosine"].per_query.target_rank.median()
    ax.fill_between(ranks, mean - std, mean + std, color="0.85", label="±1 SD")
    ax.plot(ranks, mean, color="0.25", label="mean")
    for curve, report in reports.items():
        start, end = report.per_query[["window_start", "window_end"]].median()
        colour = CURVE_COLOURS[curve]
        look = {"facecolor": (colour, 0.3), "edgecolor": colour, "lw": 0.8}
        if start >= 0:  # not NaN
            ax.axvspan(start, end + 1, **look, label=f"median window, {curve} curve")
    star = {"color": GREEN, "ms": 9, "clip_on": False, "label": "median target"}
    ax.plot(target, mean[int(target)], "*", **star)
    ax.set_xscale("symlog", linthresh=1)
    ax.set(xlim=(0, 1.3 * len(mean)), xlabel="Rank (0 = best)", ylabel="Relevance score")


if __name__ == "__main__":
    run_command(main)
