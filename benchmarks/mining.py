"""What mining costs beside the matrix product that it cannot do without, and beside a plain loop.

    python benchmarks/mining.py            (corpora of FashionIQ's and CIRR's size, and a million)
    python benchmarks/mining.py --reduced  (a corpus of 2,000)

Each stage includes those before it: scoring, + ranking, + drops, + sets and report. The plain loop
is the release's rule written slowly, in Python, on a few queries; what it finds is compared with
ours. Costs are linear in the number of queries. Extra memory is how far a process
with the embeddings grows when it mines; it depends on the queries only through the sets.
"""

import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable

import torch
from common import ROOT, parser, write_rows
from torch import Tensor

from qure_lib.method.config import MiningConfig
from qure_lib.method.drops import find_steepest_drops
from qure_lib.method.mining import mine_hard_negatives
from qure_lib.method.ranking import (
    DEFAULT_MEMORY,
    QUERIES_PER_PRODUCT,
    rank_corpus,
    rank_scores,
    score_corpus,
)

sys.path.insert(0, str(ROOT / "tests" / "method"))
from test_drops import plain_drops

TOKENS, WIDTH = 32, 256
PLAIN = 4  # queries of the plain loop


def make_up(queries: int, images: int) -> tuple[Tensor, Tensor, Tensor]:
    """(Q, D) queries, (N, T, D) images and (Q,) targets at random, with no copy beside them."""
    generator = torch.Generator().manual_seed(0)
    embedded = torch.empty(queries, WIDTH), torch.empty(images, TOKENS, WIDTH)
    for array in embedded:
        array.normal_(generator=generator).div_(WIDTH**0.5)
    return *embedded, torch.randint(images, (queries,), generator=generator)


def fastest(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each, the least of some rounds of all, so that a busy moment favours none.

    With one thread it is the processor's time, which other programs add little to.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    taken = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            start = clock()
            work()
            taken[name].append(clock() - start)
    return {name: min(times) for name, times in taken.items()}


def plain_loop(products: list[list[list[float]]], targets: list[int]) -> list[tuple[int, int]]:
    """The two drops of each query, by rank, from its products with N images' T tokens."""
    found = []
    for product, target in zip(products, targets, strict=True):
        scores = [max(tokens) for tokens in product]
        order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
        ranked = [scores[i] for i in order]
        found.append(plain_drops(ranked, order.index(target), "release") or (-1, -1))
    return found


def fast_drops(products: Tensor, targets: Tensor) -> list[tuple[int, int]]:
    """The same of (q, N, T) products."""
    ranking = rank_scores(products.amax(dim=2))
    drops = find_steepest_drops(ranking.scores, ranking.ranks_of(targets))
    return list(zip(drops.first.tolist(), drops.second.tolist(), strict=True))


def compare_costs(queries: Tensor, images: Tensor, targets: Tensor, rounds: int) -> list[dict]:
    """Milliseconds a query of every stage, and the ratios."""
    flat, product = images.flatten(0, 1).T, torch.empty(QUERIES_PER_PRODUCT, len(images) * TOKENS)
    products = torch.mm(queries[:QUERIES_PER_PRODUCT], flat).unflatten(1, images.shape[:2])
    few = products[:PLAIN].tolist(), targets[:PLAIN].tolist()
    parts = [*zip(products.split(32), targets[:QUERIES_PER_PRODUCT].split(32), strict=True)]
    if plain_loop(*few) != fast_drops(products[:PLAIN], targets[:PLAIN]):
        raise RuntimeError("the plain loop finds other drops")

    def with_drops() -> None:
        for rows, ranking in rank_corpus(queries, images):
            find_steepest_drops(ranking.scores, ranking.ranks_of(targets[rows]))

    works = {
        "bare product": lambda: [
            torch.mm(q, flat, out=product) for q in queries.split(QUERIES_PER_PRODUCT)
        ],
        "scoring": lambda: [None for _ in score_corpus(queries, images)],
        "+ ranking": lambda: [None for _ in rank_corpus(queries, images)],
        "+ drops": with_drops,
        "+ sets and report": lambda: mine_hard_negatives(queries, images, targets, MiningConfig()),
        "maxima, ranking and drops of a product": lambda: [fast_drops(*part) for part in parts],
        f"the same in a plain loop ({PLAIN} queries)": lambda: plain_loop(*few),
    }
    counts = [len(queries)] * 5 + [QUERIES_PER_PRODUCT, PLAIN]
    taken = fastest(works, rounds)
    each = {name: 1000 * taken[name] / n for name, n in zip(taken, counts, strict=True)}
    rows = [{"what": name, "value": value, "unit": "ms a query"} for name, value in each.items()]
    bare, *stages, ours, plain = each.values()
    ratios = {
        f"{name} / bare product": value / bare
        for name, value in zip([*each][1:5], stages, strict=True)
    }
    ratios["plain loop / ours, without the product"] = plain / ours
    return rows + [{"what": k, "value": v, "unit": "ratio"} for k, v in ratios.items()]


class Repeated:
    """A corpus on disk for the scorer: images that repeat, each a little different, in float16."""

    def __init__(self, images: int) -> None:
        self.shape = images, TOKENS, WIDTH
        self.some = make_up(1, 1024)[1].half()

    def __getitem__(self, block: slice) -> Tensor:
        positions = torch.arange(block.start, block.stop)
        return self.some[positions % 1024].float() * (1 - positions[:, None, None] / 1e7)


def extra_memory(queries: int, images: int, on_disk: bool) -> tuple[float, float]:
    """MB by which mining raises this process's peak, and seconds a query."""
    embedded, corpus, targets = make_up(queries, 1 if on_disk else images)
    corpus = Repeated(images) if on_disk else corpus
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    mine_hard_negatives(embedded, corpus, targets, MiningConfig())
    seconds = (time.perf_counter() - start) / queries
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, seconds


def measure_memory(name: str, images: int, queries: int | None = None) -> list[dict]:
    """Rows on the largest group of queries that are scored together, unless a number is given."""
    count = queries or DEFAULT_MEMORY // (2 * 4 * images)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        megabytes, seconds = pool.apply(extra_memory, (count, images, queries is not None))
    size = f"{name}: {count} queries x {images} x {TOKENS} x {WIDTH}"
    return [
        {"what": "extra memory, peak", "value": megabytes, "unit": "MB", "size": size},
        {"what": "mining, in all", "value": 1000 * seconds, "unit": "ms a query", "size": size},
    ]


def main() -> None:
    options = parser(__doc__).parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # all of it is about the processor and its memory
    name, queries, images = ("reduced", 256, 2000) if options.reduced else ("FashionIQ", 512, 6000)
    rows = measure_memory(name, images)  # first: a process begins at the peak of the one it is from
    if not options.reduced:
        rows += measure_memory("CIRR", 16_939)
        rows += measure_memory("a million, on disk", 1_000_000, queries=4)
    size = f"{name}: {queries} queries x {images} x {TOKENS} x {WIDTH}"
    rows += [row | {"size": size} for row in compare_costs(*make_up(queries, images), 7)]
    write_rows(rows, options.out, "mining")


if __name__ == "__main__":
    main()
