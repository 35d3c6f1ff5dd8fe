"""What one definition of hard negatives costs against the size of the corpus.

    python benchmarks/scale.py --sizes 1000 10000 100000 1000000 --out reports/shipped/scale

For each size, embeddings are made up in a file, mined exactly and approximately in processes of
their own, and deleted. scale.csv gets a row a method, window and nprobe, which notebook 10 plots. A
million images of 32 tokens in 256 dimensions take 16.4 GB of disk and 12 GiB of memory.
"""

import argparse
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from qure_lib.approximate import (
    build_index,
    compare_near_target,
    import_faiss,
    mine_near_target,
)
from qure_lib.config import MiningConfig
from qure_lib.files import replacing
from qure_lib.mining import mine_hard_negatives
from qure_lib.ranking import rank_scores, score_corpus
from qure_lib.runs import run_manifest, write_json

ROOT = Path(__file__).resolve().parents[1]
GIB = 2**30
# An image is a point on a sphere of LATENT dimensions, seen by each token with noise of its own, on
# top of a part that all images share. Shares of a token's squared length, before it is normalised.
LATENT = 8  # the mini model's embeddings spread over 7 dimensions (participation ratio)
COMMON = 0.13  # the mini model's mean image has length 0.36
OWN = 0.07  # tokens of one image then have a cosine of 0.93
# A query is its target's mean token, moved in the latent dimensions so that the target ranks among
# the best 0.2 % for about half of the queries, as the published Recall@10 says for 5,179 images.
NOISE = 0.23
REACH = 0.01  # share of the corpus that an approximate ranking goes down, and the window on top


@dataclass(frozen=True)
class Setting:
    """What is measured at every size."""

    tokens: int = 32
    width: int = 256
    queries: int = 256  # at most; fewer where they would make more than `pairs`
    pairs: int = 10**7  # of a query and an image, but at least 16 queries
    windows: tuple[int, ...] = (20, 100)  # ranks after the target that may hold a drop
    probes: tuple[int, ...] = (
        4,
        8,
        16,
        32,
        64,
        256,
    )  # lists looked into; as many as there are, at most
    encoding: str = "SQ8"  # of a vector in the index
    memory: int = 2 * GIB  # bytes for a chunk of scores, as mining takes it
    threads: int = 1
    seed: int = 0

    def queries_of(self, images: int) -> int:
        return min(self.queries, max(self.pairs // images, 16), images)

    def bytes_of(self, images: int) -> int:
        return 2 * images * self.tokens * self.width


class Embeddings:
    """(N, T, D) float16 image embeddings in a file, read a slice at a time and never mapped.

    A mapped file's pages would count as the process's memory.
    """

    def __init__(self, path: Path, tokens: int, width: int) -> None:
        self.path, self.each = path, 2 * tokens * width
        self.file = open(path, "rb")  # noqa: SIM115
        self.shape = (path.stat().st_size // self.each, tokens, width)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, block: slice) -> Tensor:
        start, stop, _ = block.indices(len(self))
        part = bytearray((stop - start) * self.each)
        os.preadv(self.file.fileno(), [part], start * self.each)
        return torch.frombuffer(part, dtype=torch.float16).view(-1, *self.shape[1:]).float()


def make_images(path: Path, images: int, setting: Setting) -> None:
    """Write a corpus of made-up embeddings, 4,096 images at a time."""
    generator = torch.Generator().manual_seed(setting.seed)
    basis = latent_basis(setting)
    spread = (OWN / setting.width) ** 0.5
    with open(path, "wb") as file:
        for start in range(0, images, 4096):
            n = min(4096, images - start)
            place = F.normalize(torch.randn(n, LATENT, generator=generator), dim=1)
            centre = COMMON**0.5 * basis[0] + (1 - COMMON - OWN) ** 0.5 * place @ basis[1:]
            tokens = torch.randn(n, setting.tokens, setting.width, generator=generator)
            tokens = F.normalize(tokens.mul_(spread).add_(centre[:, None]), dim=2)
            tokens.half().numpy().tofile(file)


def make_queries(images: Embeddings, setting: Setting) -> tuple[Tensor, Tensor]:
    """(Q, D) queries, and the (Q,) corpus positions of their targets, spread over the corpus."""
    count = setting.queries_of(len(images))
    targets = torch.arange(count) * len(images) // count
    generator = torch.Generator().manual_seed(setting.seed + 1)
    moved = NOISE * torch.randn(count, LATENT, generator=generator) @ latent_basis(setting)[1:]
    means = torch.stack([images[t : t + 1][0].mean(dim=0) for t in targets.tolist()])
    return F.normalize(means + moved, dim=1), targets


def latent_basis(setting: Setting) -> Tensor:
    """(1 + LATENT, D) orthonormal directions: the shared one, and those that images differ in."""
    generator = torch.Generator().manual_seed(setting.seed + 2)
    drawn = torch.randn(setting.width, 1 + LATENT, generator=generator)
    return torch.linalg.qr(drawn).Q.T


@contextmanager
def made_up(images: int, setting: Setting, scratch: str | Path) -> Iterator[Embeddings]:
    """A corpus of made-up embeddings, in a folder of its own in `scratch` that is then deleted.

    Raises:
        ValueError: it would not fit on the disk.
    """
    Path(scratch).mkdir(parents=True, exist_ok=True)
    wanted, free = setting.bytes_of(images), shutil.disk_usage(scratch).free
    if wanted > free:
        raise ValueError(
            f"{images} images take {wanted / GIB:.1f} GiB in {scratch}, where {free / GIB:.1f} are "
            "free; name another folder (--scratch), or leave this size out"
        )
    with tempfile.TemporaryDirectory(prefix="embeddings-", dir=scratch) as folder:
        path = Path(folder, "images.fp16")
        make_images(path, images, setting)
        yield Embeddings(path, setting.tokens, setting.width)


def measure(images: int, setting: Setting, scratch: str | Path) -> pd.DataFrame:
    """Time, memory and agreement of one definition at one size.

    Args:
        images: N.
        scratch: see `made_up`.

    Returns:
        A row a method and window, and for the approximate one a row an nprobe. Seconds of one
        core, so that what else runs or a wait for the disk does not count: score_s, score_few_s
        (of `few` queries) and mine_s (which scores as well) of exact mining; build_s, search_s,
        mine_s (near the target alone) of approximate mining. memory_gib: the process's peak, its
        libraries included. in_depth: share of the queries whose window lies within the depth of
        the approximate ranking; found, jaccard and identical are over these.

    Raises:
        ValueError: the embeddings would not fit on the disk.
        ImportError: FAISS is not installed.
    """
    import_faiss()  # or a process would die of it later
    with made_up(images, setting, scratch) as corpus:
        exact = in_a_process(measure_exact, corpus.path, setting)
        rows = exact + in_a_process(measure_approximate, corpus.path, setting)
    known = {"images": images, "tokens": setting.tokens, "width": setting.width}
    known |= {"queries": setting.queries_of(images)}
    return pd.DataFrame([known | row for row in rows])


def in_a_process(function: Callable, path: Path, setting: Setting) -> list[dict]:
    """Call it in a fresh process, so that peak memory is its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, _start, (setting.threads,)) as pool:
        return pool.submit(function, path, setting).result()


def _start(threads: int) -> None:
    torch.set_num_threads(threads)
    import_faiss().omp_set_num_threads(threads)


def measure_exact(path: Path, setting: Setting) -> list[dict]:
    """Rows of exact mining, over the whole ranking and in the widest window; keeps the scores."""
    images = Embeddings(path, setting.tokens, setting.width)
    queries, targets = make_queries(images, setting)
    rows = []
    for window in (None, max(setting.windows)):
        config = MiningConfig(search_window=window)
        begin = time.process_time()
        mine_hard_negatives(queries, images, targets, config, memory=setting.memory)
        row = {"method": "exact", "window": window, "mine_s": time.process_time() - begin}
        rows.append(row | {"memory_gib": peak_memory()})
    known = {"few": max(len(queries) // 8, 1)}  # tells reading the corpus from scoring it
    for column, asked in {"score_few_s": queries[: known["few"]], "score_s": queries}.items():
        begin = time.process_time()
        scores = [part for _, part in score_corpus(asked, images, setting.memory)]
        known[column] = time.process_time() - begin
    torch.save(torch.cat(scores), path.with_suffix(".scores"))
    return [row | known for row in rows]


def measure_approximate(path: Path, setting: Setting) -> list[dict]:
    """Rows of approximate mining, compared with what exact scores give."""
    images = Embeddings(path, setting.tokens, setting.width)
    queries, targets = make_queries(images, setting)
    begin = time.process_time()
    index = build_index(images, encoding=setting.encoding, seed=setting.seed)
    build = time.process_time() - begin
    lists, rows = index.index.nlist, []
    for nprobe, window in probed(lists, setting):
        depth = min(round(REACH * len(images)) + 2 * window + 2, len(images))
        known = {"method": "approximate", "window": window, "nprobe": nprobe, "lists": lists}
        begin = time.process_time()
        ranking = index.rank(queries, depth, nprobe)
        search = time.process_time() - begin
        config = MiningConfig(search_window=window)
        near = mine_near_target(ranking, queries, images, targets, config)
        known |= {"build_s": build, "search_s": search, "near": near}
        known |= {"mine_s": time.process_time() - begin - search, "depth": depth}
        rows.append(known | {"memory_gib": peak_memory()})
    exact = rank_scores(torch.load(path.with_suffix(".scores")))
    ranks, wanted = exact.ranks_of(targets), {}
    for window in setting.windows:
        config = MiningConfig(search_window=window)
        wanted[window] = mine_near_target(exact, queries, images, targets, config)
    for row in rows:
        agreement = compare_near_target(row.pop("near"), wanted[row["window"]])
        within = (ranks + row["window"] + 1 < row["depth"]).numpy()
        row |= {"target_rank_median": float(ranks.float().median()), "in_depth": within.mean()}
        row |= agreement.loc[within, ["found", "jaccard", "identical"]].mean().to_dict()
    return rows


def probed(lists: int, setting: Setting) -> list[tuple[int, int]]:
    """(nprobe, window) of each row."""
    probes = sorted({min(p, lists) for p in setting.probes})
    return [(nprobe, window) for nprobe in probes for window in setting.windows]


def peak_memory() -> float:
    """Largest memory of this process so far, in GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (GIB if sys.platform == "darwin" else 2**20)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**3, 10**4, 10**5, 10**6])
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "shipped" / "scale")
    parser.add_argument("--scratch", type=Path, default=ROOT / "runs" / "scale", help="on a disk")
    parser.add_argument("--threads", type=int, default=Setting.threads)
    options = parser.parse_args(arguments)
    setting = Setting(threads=options.threads)
    begin, rows = time.perf_counter(), []
    for size in tqdm(sorted(options.sizes), "sizes"):
        rows.append(measure(size, setting, options.scratch))
        with replacing(options.out / "scale.csv") as path:
            pd.concat(rows).to_csv(path, index=False, float_format="%.6g", lineterminator="\n")
    manifest = run_manifest(setting=setting, seconds=time.perf_counter() - begin)
    write_json(options.out / "manifest.json", manifest | {"faiss": import_faiss().__version__})


if __name__ == "__main__":
    main()
