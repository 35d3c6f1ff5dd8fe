"""Our miner and sentence-transformers' `mine_hard_negatives`, on the same single-vector embeddings.

    python benchmarks/miners.py            (6,000 queries and images of width 256)
    python benchmarks/miners.py --reduced  (1,000)

The embeddings are drawn so that the median target is at a rank of about 1 % of the corpus. Neither
miner has to encode anything: the times are those of ranking and choosing, with our report and with
their dataset. Each takes up to ten negatives a query: ours the first ten between the two drops of
the preference curve, theirs the ten best, or the ten best that score at least 5 % below the target
(by default among the 102 best images). Memory is how far a process with the embeddings grows.
"""

import multiprocessing
import os
import resource
from functools import partial
from types import SimpleNamespace

import torch
from common import parser, write_rows
from datasets import Dataset, disable_progress_bars
from mining import fastest
from sentence_transformers import util
from torch import Tensor
from torch.nn.functional import normalize

from qure_lib.method.config import MiningConfig
from qure_lib.method.mining import mine_hard_negatives

WIDTH, FACTORS, BLUR, COUNT = 256, 12, 1.3, 10
OURS = MiningConfig(curve="preference", temperature=0.07, set_size=COUNT)
THEIRS = {
    "theirs, the best": {},
    "theirs, 5 % margin": {"relative_margin": 0.05},
}


def draw(count: int) -> tuple[Tensor, Tensor]:
    """(Q, D) unit queries and (N, D) unit images, Q = N; image q is query q's target.

    Images differ in a few factors and in noise; a query has its target's factors, blurred.
    """
    noise = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    factors, directions = noise(count, FACTORS), noise(FACTORS, WIDTH)
    images = factors @ directions + noise(count, WIDTH)
    return normalize((factors + BLUR * noise(count, FACTORS)) @ directions), normalize(images)


def mine_ours(queries: Tensor, images: Tensor) -> list[Tensor]:
    """Each query's negatives, by position."""
    targets = torch.arange(len(queries))
    sets, _ = mine_hard_negatives(queries, images[:, None], targets, OURS)
    return [sets[q] for q in range(len(queries))]


def mine_theirs(queries: Tensor, images: Tensor, **settings: float) -> list[Tensor]:
    """The same by sentence-transformers: texts are positions, and the model looks them up."""
    model = SimpleNamespace(
        device=torch.device("cpu"),
        encode_query=lambda texts, **_: queries[[int(text) for text in texts]].numpy(),
        encode_document=lambda texts, **_: images[[int(text) for text in texts]].numpy(),
        similarity=util.dot_score,
        similarity_pairwise=util.pairwise_dot_score,
    )
    positions = [str(position) for position in range(len(images))]
    pairs = Dataset.from_dict({name: positions[: len(queries)] for name in ("query", "target")})
    found = util.mine_hard_negatives(
        pairs, model, corpus=positions, num_negatives=COUNT, verbose=False, **settings
    )
    asked, negatives = (torch.tensor([*map(int, found[n])]) for n in ("query", "negative"))
    return [negatives[asked == query] for query in range(len(queries))]


MINERS = {"ours": mine_ours} | {n: partial(mine_theirs, **s) for n, s in THEIRS.items()}


def extra_memory(name: str, count: int) -> float:
    """MB by which a miner raises this process's peak."""
    MINERS[name](*draw(100))  # what is loaded at the first call is not counted
    queries, images = draw(count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    MINERS[name](queries, images)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def describe(sets: list[Tensor], ranks: Tensor) -> dict[str, dict]:
    """What was chosen: value and unit by name.

    Args:
        ranks: (Q, N) 0-based rank of each image for each query.
    """
    sizes = torch.tensor([len(chosen) for chosen in sets])
    query = torch.repeat_interleave(sizes)
    below = ranks[query, torch.cat(sets)] - ranks.diagonal()[query]
    empty, above = ((100 * which.double().mean()).item() for which in (sizes == 0, below < 0))
    return {
        "queries without a negative": {"value": empty, "unit": "per cent"},
        "negatives a query": {"value": sizes.double().mean().item(), "unit": "images"},
        "rank less the target's, median": {"value": below.median().item(), "unit": "ranks"},
        "negatives ranked above the target": {"value": above, "unit": "per cent"},
    }


def compare(count: int, rounds: int) -> list[dict]:
    """Rows on time and on what was chosen."""
    queries, images = draw(count)
    works = {name: partial(miner, queries, images) for name, miner in MINERS.items()}
    taken = fastest(works, rounds)
    rows = [{"what": f"{n}: time", "value": s, "unit": "s"} for n, s in taken.items()]
    for name in THEIRS:
        ratio = taken[name] / taken["ours"]
        rows.append({"what": f"{name} / ours, time", "value": ratio, "unit": "ratio"})
    order = (queries @ images.T).argsort(dim=1, descending=True, stable=True)
    ranks, sets = order.argsort(dim=1), {name: work() for name, work in works.items()}
    for name, chosen in sets.items():
        rows += [{"what": f"{name}: {w}"} | row for w, row in describe(chosen, ranks).items()]
    for name in THEIRS:
        pairs = zip(sets[name], sets["ours"], strict=True)
        share = torch.cat([torch.isin(theirs, ours) for theirs, ours in pairs]).double().mean()
        what = f"{name}: negatives that ours has too"
        rows.append({"what": what, "value": 100 * share.item(), "unit": "per cent"})
    return rows


def measure_memory(count: int) -> list[dict]:
    """Rows on memory, each miner in a process of its own."""
    grown = {}
    for name in MINERS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            grown[name] = pool.apply(extra_memory, (name, count))
    rows = [
        {"what": f"{n}: extra memory, peak", "value": g, "unit": "MB"} for n, g in grown.items()
    ]
    ratios = {f"{n} / ours, memory": grown[n] / grown["ours"] for n in THEIRS}
    return rows + [{"what": w, "value": v, "unit": "ratio"} for w, v in ratios.items()]


def main() -> None:
    options = parser(__doc__).parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # all of it is about the processor and its memory
    disable_progress_bars()
    count = 1000 if options.reduced else 6000
    rows = measure_memory(count) + compare(count, rounds=5)
    size = f"{count} queries x {count} images x {WIDTH}"
    write_rows([row | {"size": size} for row in rows], options.out, "miners")


if __name__ == "__main__":
    main()
