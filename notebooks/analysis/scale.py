"""Notebook 10: what a definition of hard negatives costs at any corpus size.

Measurements are rows of `benchmarks/scale.py`: one a size, method, search window and nprobe. `live`
marks those of this run, the others are shipped.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plan
import torch
from matplotlib.axes import Axes
from report.figures import legend_with, line_style
from scipy.optimize import nnls
from torch import Tensor

from qure_lib.method.config import ModelConfig, TrainConfig
from qure_lib.method.ranking import rank_scores, score_corpus

GIB = 2**30
WHOLE = "exact, whole ranking"
EPOCH, EMBEDDING, EXACT = "an epoch of training", "embedding anew", "ranking, exact"
AGREEMENT = ["in_depth", "found", "jaccard", "identical"]


# --- what was measured --------------------------------------------------------------------------


def join_measurements(shipped: pd.DataFrame, live: pd.DataFrame) -> pd.DataFrame:
    """Shipped and live measurements in one frame.

    Returns:
        Their rows with live; share, of the index that a query looks into; query_s, seconds of a
        core a query; shared_s, which adds its share of building the index where there are as many
        queries as images; and `method` that tells mining over the whole ranking apart.
    """
    rows = pd.concat([shipped.assign(live=False), live.assign(live=True)], ignore_index=True)
    rows["share"] = rows["nprobe"] / rows["lists"]
    rows["query_s"] = rows[["search_s", "mine_s"]].sum(axis=1) / rows["queries"]
    rows["method"] = rows["method"].where(rows["window"].notna(), WHOLE)
    rows["shared_s"] = rows["query_s"] + rows["build_s"].fillna(0) / rows["images"]
    return rows


def cost_table(rows: pd.DataFrame, window: int) -> pd.DataFrame:
    """Seconds and memory of each method, over the whole ranking and in one search window."""
    shown = ["live", "images", "method", "window", "nprobe", "lists", "queries", "query_s"]
    shown += ["build_s", "shared_s", "memory_gib", "target_rank_median"]
    return rows.loc[rows["window"].isna() | (rows["window"] == window), shown]


def live_over_shipped(rows: pd.DataFrame) -> str:
    """How this run's exact mining compares with the shipped rows: "0.5 at 10,000 images"."""
    exact = rows[rows["method"] == "exact"]
    seconds = exact.groupby(["images", "live"])["query_s"].mean().unstack("live")
    ratios = seconds.reindex(columns=[True, False]).dropna()
    texts = [f"{row[True] / row[False]:.2g} at {n:,} images" for n, row in ratios.iterrows()]
    return ", ".join(texts) or "no size in common"


def cost_lines(
    rows: pd.DataFrame, window: int, bytes_of: Callable[[int], int]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The lines of the costs' figure, as `plot_scaling` takes them.

    Args:
        rows: of `join_measurements`.
        window: the search window that is drawn, with 16 and with 64 lists.
        bytes_of: number of images -> bytes of their embeddings on disk.

    Returns:
        The measured lines; and the size of the embeddings' file as memory_gib, a row for each of
        the exact ones.
    """
    chosen = rows["nprobe"].isna() | rows["nprobe"].isin([16, 64])
    drawn = rows[(rows["window"] == window) & chosen]
    drawn = drawn.assign(label=drawn["method"])
    probing = drawn["nprobe"].notna()
    lists = drawn["nprobe"][probing].map("{:.0f} lists".format)
    drawn.loc[probing, "label"] = "approximate, " + lists
    stored = drawn[~probing].assign(label="embeddings on disk (float16)")
    return drawn, stored.assign(memory_gib=stored["images"].map(bytes_of) / GIB)


def plot_costs(axes: Sequence[Axes], drawn: pd.DataFrame, stored: pd.DataFrame) -> None:
    """Draw `cost_lines`: seconds a query on the first axes, memory and file on the second."""
    plot_scaling(axes[0], drawn, "images", "shared_s")
    axes[0].set(xlabel="Images in the corpus", ylabel="Time a query (seconds of a core)")
    memory = drawn[drawn["nprobe"] != 64].replace("approximate, 16 lists", "approximate")
    plot_scaling(axes[1], pd.concat([memory, stored]), "images", "memory_gib")
    axes[1].set(xlabel="Images in the corpus", ylabel="Memory or disk (GiB)")


def plot_scaling(ax: Axes, frame: pd.DataFrame, x: str, y: str) -> Axes:
    """Draw a cost against a size on logarithmic axes, one line a label; the caller labels the axes.

    Args:
        ax: where to draw.
        frame: columns `x`, `y`, label, and live: rows of this run are open marks, the others full.
        x, y: names of columns, above zero.
    """
    for index, (label, rows) in enumerate(frame.groupby("label", sort=False)):
        style = line_style(str(label), index)
        shipped, live = rows[~rows["live"]], rows[rows["live"]]
        hollow = style | {"linestyle": "", "markerfacecolor": "none", "markersize": 5.5}
        for part, look in ((shipped, style), (live, hollow)):
            if len(part):
                name = "" if look is hollow and len(shipped) else label
                ax.plot(part[x], part[y], **look, label=name)
    ax.set(xscale="log", yscale="log")
    ax.legend()
    if frame["live"].any():
        legend_with(ax, "this run", marker="o", markerfacecolor="none", color="0.3", linestyle="")
    return ax


# --- made-up scores beside real ones ------------------------------------------------------------


def compare_scores(
    embedded: Mapping[str, tuple[Tensor, Tensor, Tensor]],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How the scores of several corpora fall off around the target.

    Args:
        embedded: label -> (Q, D) queries, (N, T, D) images, (Q,) positions of the targets.

    Returns:
        One row a label: scores, images, spread, skewness and kurtosis of a query's scores, mean
        gap between neighbours in each third of the ranking times N, target (%) (its median rank as
        a share of the corpus), and the mean cosine of an image's tokens.
        Lines as `plot_bands` takes them, the last label first: the mean score by rank, in per
        cent of the corpus.
    """
    facts, curves = [], []
    for label, (queries, images, targets) in embedded.items():
        ranked = rank_scores(torch.cat([part for _, part in score_corpus(queries, images)]))
        scores, n = ranked.scores.double(), len(images)
        z = (scores - scores.mean(1, True)) / scores.std(1, keepdim=True)
        row = {"scores": label, "images": n, "spread": float(scores.std(dim=1).mean())}
        row |= {"skewness": float((z**3).mean()), "kurtosis": float((z**4).mean())}
        gaps = n * -scores.mean(dim=0).diff()
        for place, part in zip(("top", "middle", "bottom"), gaps.tensor_split(3), strict=True):
            row[f"gap, {place} third"] = float(part.mean())
        share = ranked.ranks_of(targets).double() / n
        alike = torch.einsum("ntd,nsd->nts", images, images).mean()
        row |= {"target (%)": 100 * float(share.median()), "tokens' cosine": float(alike)}
        facts.append(row)
        curve = {"rank": np.linspace(0, 100, n), "mean": scores.mean(dim=0), "label": label}
        curves.append(pd.DataFrame(curve))
    curve = pd.concat([curves[-1], *curves[:-1]])
    return pd.DataFrame(facts), curve.assign(low=curve["mean"], high=curve["mean"])


# --- agreement of approximate with exact mining -------------------------------------------------


def agreement_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Agreement of approximate with exact hard negatives, by size, window and lists probed."""
    near = rows[rows["nprobe"].notna()]
    near = near.assign(**{"lists probed (%)": 100 * near["share"]})
    shown = ["live", "images", "queries", "window", "nprobe", "lists probed (%)", *AGREEMENT]
    return near[shown].sort_values(["images", "live", "window", "nprobe"])


def agreement_lines(agreement: pd.DataFrame, window: int) -> pd.DataFrame:
    """The rows of one search window, as `plot_scaling` takes them; found, jaccard in per cent."""
    lines = agreement[agreement["window"] == window]
    lines = lines.assign(label=lines["images"].map("{:,} images".format))
    lines[["found", "jaccard"]] *= 100
    return lines


def plot_agreement(axes: Sequence[Axes], lines: pd.DataFrame) -> None:
    """Draw `agreement_lines`: images found on the first axes, overlap of the sets on the second."""
    labels = ("Images after the target found (%)", "Overlap of the sets (Jaccard, %)")
    for ax, measure, label in zip(axes, ("found", "jaccard"), labels, strict=True):
        plot_scaling(ax, lines, "lists probed (%)", measure)
        ax.set(yscale="linear", ylim=(0, 103), xlabel="Lists probed (% of all)", ylabel=label)
        ax.xaxis.set_major_formatter("{x:g}")
    axes[1].get_legend().remove()


def fewest_lists(lines: pd.DataFrame, wanted: float) -> pd.Series:
    """The row of the largest size with the fewest lists whose sets agree well enough.

    Args:
        lines: of `agreement_lines`.
        wanted: overlap (Jaccard) in [0, 1]; where no row reaches it, the row with most lists.
    """
    largest = lines[lines["images"] == lines["images"].max()]  # sorted by lists probed
    good = largest[largest["jaccard"] >= 100 * wanted]
    return good.iloc[0] if len(good) else largest.iloc[-1]


# --- the cost model -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Law:
    """The time of a step: 1e-9 * terms @ constants seconds.

    Attributes:
        step: the column of the measured seconds.
        fit: laws of the same fit share their constants.
        rows: the measurements.
        terms: (len(rows), k) numbers of units of work.
    """

    step: str
    fit: str
    rows: pd.DataFrame
    terms: np.ndarray


def cost_laws(rows: pd.DataFrame) -> list[Law]:
    """The laws of the shipped rows.

    Exact mining reads N x T x D numbers, scores Q times as many products and sorts Q x N scores;
    approximate mining assigns and stores N x T vectors, scans the lists probed, and keeps the best
    of each query.
    """
    exact = rows[~rows["live"] & (rows["method"] == WHOLE)]
    near = rows[~rows["live"] & rows["nprobe"].notna()]
    read, stored = (r["images"] * r["tokens"] * r["width"] for r in (exact, near))
    scored, few, none = exact["queries"] * read, exact["few"] * read, 0 * read
    ordered = exact["queries"] * exact["images"] * np.log2(exact["images"])
    scanned = near["queries"] * near["share"] * stored
    kept = near["queries"] * near["depth"] * near["tokens"]
    return [
        Law("score_few_s", "exact", exact, np.column_stack([read, few, none])),
        Law("score_s", "exact", exact, np.column_stack([read, scored, none])),
        Law("mine_s", "exact", exact, np.column_stack([read, scored, ordered])),
        Law("build_s", "build", near, np.column_stack([stored * near["lists"], stored])),
        Law("search_s", "search", near, np.column_stack([scanned, kept])),
    ]


def fit_laws(laws: Sequence[Law]) -> dict[tuple[str, str], np.ndarray]:
    """Fit each law's constants, none below zero, by relative least squares.

    Returns:
        (fit, "fitted") from all rows and (fit, "predicted") from all but the largest size ->
        (k,) nanoseconds a unit.
    """
    top, constants = max(law.rows["images"].max() for law in laws), {}
    for fit in dict.fromkeys(law.fit for law in laws):
        mine = [law for law in laws if law.fit == fit]
        terms = np.concatenate([law.terms for law in mine])
        seconds = np.concatenate([law.rows[law.step] for law in mine])
        images = np.concatenate([law.rows["images"] for law in mine])
        for name, used in {"fitted": images <= top, "predicted": images < top}.items():
            relative = 1e-9 * terms[used] / seconds[used, None]
            constants[fit, name], _ = nnls(relative, np.ones(used.sum()))
    return constants


def law_table(laws: Sequence[Law], constants: Mapping[tuple[str, str], np.ndarray]) -> pd.DataFrame:
    """Seconds measured, fitted, and predicted from the smaller sizes; means over a size's rows."""
    frames = []
    for law in laws:
        known = law.rows[["images", "queries"]].assign(step=law.step, measured=law.rows[law.step])
        for name in ("fitted", "predicted"):
            known[name] = 1e-9 * law.terms @ constants[law.fit, name]
        frames.append(known)
    table = pd.concat(frames).groupby(["step", "images"], as_index=False).mean()
    ratio = table["predicted"] / table["measured"]
    return table.assign(**{"ratio at the largest": ratio[table["images"] == table["images"].max()]})


# --- on paper -----------------------------------------------------------------------------------


def product_operations(config: ModelConfig) -> int:
    """Operations of scoring one image for one query: the product with each of its tokens."""
    return 2 * config.num_query_tokens * config.embedding_dim


def project_hours(config: ModelConfig, share: float, pool: int) -> pd.DataFrame:
    """GPU hours of an epoch and of the parts of one definition, with as many queries as images.

    Operations are counted, at the rate that `plan.SUSTAINED` assumes.

    Args:
        share: of the lists that an approximate search looks into.
        pool: images that a query ranks where the corpus is cut into pools.

    Returns:
        A row a corpus size, 1e4 to 1e8 images (the index); columns EPOCH, EMBEDDING, EXACT, and
        ranking in lists (building them included) and in pools.
    """
    image = plan.qformer_operations(config, 0)
    query = plan.qformer_operations(config, plan.CAPTION_TOKENS)
    vectors = product_operations(config)
    n = np.geomspace(1e4, 1e8, 9)
    operations = {
        EPOCH: 3 * (query + 2 * image) * n,
        EMBEDDING: (query + image) * n,
        EXACT: vectors * n**2,
        f"ranking, {share:.0%} of the lists": vectors * (n**1.5 + share * n**2),
        f"ranking, pools of {pool:,}": vectors * n * np.minimum(n, pool),
    }
    return pd.DataFrame(operations, index=pd.Index(n, name="images")) / plan.SUSTAINED / plan.HOUR


def break_even(config: ModelConfig) -> float:
    """Images at which exact ranking takes as many operations as an epoch of training."""
    passes = plan.qformer_operations(config, plan.CAPTION_TOKENS)
    passes += 2 * plan.qformer_operations(config, 0)
    return 3 * passes / product_operations(config)


def projection_lines(hours: pd.DataFrame) -> pd.DataFrame:
    """`project_hours` as `plot_scaling` takes it: images, hours, label, live."""
    parts = [
        pd.DataFrame({"images": hours.index, "hours": column.to_numpy(), "label": label})
        for label, column in hours.items()
    ]
    return pd.concat(parts).assign(live=False)


def projection_table(
    hours: pd.DataFrame, config: ModelConfig, train: TrainConfig, exact: Sequence[float]
) -> pd.DataFrame:
    """Training and all its definitions at each corpus size.

    Args:
        hours: of `project_hours`.
        exact: nanoseconds of reading, scoring and sorting, of `fit_laws`.

    Returns:
        A row a size: embeddings (GB) in float16 and the cards that hold them, GPU hours of
        training (frozen features included, once) and of each way to rank, what all definitions
        add to training in per cent, cards for an exact definition in an hour, and days of exact
        ranking on one core here.
    """
    n, definitions = hours.index.to_numpy(), len(train.definition_epochs)
    features = n * plan.vision_operations(config) / plan.SUSTAINED / plan.HOUR
    whole = train.epochs * hours[EPOCH].to_numpy() + features
    size = n * product_operations(config) / plan.GB  # two bytes a number
    table = {"images": n.astype(int), "embeddings (GB)": size}
    table["cards that hold them"] = np.ceil(size / plan.GPU_MEMORY).astype(int)
    table["training (GPU hours)"] = whole
    for label in [label for label in hours if label.startswith("ranking")]:
        ranking = hours[label].to_numpy()
        table[f"{label} (GPU hours)"] = ranking
        extra = definitions * (hours[EMBEDDING].to_numpy() + ranking)
        table[f"definitions, {label} (% of training)"] = 100 * extra / whole
    table["cards for an exact definition in an hour"] = np.ceil(hours[EXACT]).to_numpy().astype(int)
    read, score, sort = 1e-9 * np.asarray(exact)
    unit = config.num_query_tokens * config.embedding_dim
    seconds = n * unit * read + n**2 * unit * score + n**2 * np.log2(n) * sort
    table["exact, one core here (days)"] = seconds / plan.HOUR / 24
    return pd.DataFrame(table)


def definition_shares(table: pd.DataFrame, images: int) -> list[float]:
    """What all definitions add to training at one size, in per cent: exact, in lists, in pools."""
    columns = [column for column in table if column.startswith("definitions, ")]
    return table.set_index("images").loc[images, columns].tolist()
