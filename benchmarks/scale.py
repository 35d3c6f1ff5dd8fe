"""What one definition of hard negatives costs against the size of the corpus.

    python benchmarks/scale.py --sizes 1000 10000 100000 1000000 --out reports/shipped/scale

For each size, random embeddings are written to a file, mined exactly and approximately in two
separate processes, and deleted. scale.csv gets a row for each method, window and nprobe, which
notebook 10 plots. A million images of 32 tokens in 256 dimensions take 16.4 GB of disk and 12 GiB
of memory.
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
from approximate import NearTarget, build_index, import_faiss, mine_near_target
from torch import Tensor
from tqdm import tqdm

from qure_lib.files import replacing, write_json
from qure_lib.manifest import run_manifest
from qure_lib.method.config import MiningConfig
from qure_lib.method.mining import mine_hard_negatives
from qure_lib.method.ranking import rank_scores, score_corpus

ROOT = Path(__file__).resolve().parents[1]
GIB = 2**30
# An image is a point on a sphere of LATENT dimensions. Each of its tokens is the sum of that point,
# a vector that all images share and noise; the two shares are of a token's squared length.
LATENT = 8  # the mini model's embeddings spread over 7 dimensions (participation ratio)
COMMON_SHARE = 0.13  # the mini model's mean image has length 0.36
NOISE_SHARE = 0.07  # tokens of one image then have a cosine of 0.93
# A query is its target's mean token, moved in the latent dimensions so that the target ranks among
# the best 0.2 % for about half of the queries, as the published Recall@10 says for 5,179 images.
QUERY_NOISE = 0.23
DEPTH_SHARE = 0.01  # of the corpus, that an approximate ranking goes down beside the window


def compare_near_target(found: NearTarget, exact: NearTarget) -> pd.DataFrame:
    """One row a query: how much approximate sets agree with the exact ones.

    Returns:
        reached (as in NearTarget); found, the share of the exact W images after the target that
        are among the approximate W; jaccard of the two sets of hard negatives, 1 if both are empty;
        identical, whether the two sets are equal.
    """
    rows = []
    for query in range(len(found.reached)):
        near, wanted = ({*t.after[query].tolist()} - {-1} for t in (found, exact))
        ours, theirs = ({*t.negatives[query].tolist()} for t in (found, exact))
        rows.append(
            {
                "reached": bool(found.reached[query]),
                "found": len(near & wanted) / max(len(wanted), 1),
                "jaccard": len(ours & theirs) / len(ours | theirs) if ours | theirs else 1.0,
                "identical": ours == theirs,
            }
        )
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Setting:
    """What is measured at every size. queries is an upper limit, see `queries_of`."""

    tokens: int = 32
    width: int = 256
    queries: int = 256
    pairs: int = 10**7  # of a query and an image: more images get fewer queries, but at least 16
    windows: tuple[int, ...] = (20, 100)  # ranks after the target that may hold a drop
    probes: tuple[int, ...] = (4, 8, 16, 32, 64, 256)  # values of nprobe; an index may have fewer
    encoding: str = "SQ8"  # of a vector in the index
    memory: int = 2 * GIB  # bytes for a chunk of scores, in exact mining
    threads: int = 1
    seed: int = 0

    def queries_of(self, images: int) -> int:
        return min(self.queries, max(self.pairs // images, 16), images)

    def bytes_of(self, images: int) -> int:
        return 2 * images * self.tokens * self.width


class Embeddings:
    """(N, T, D) float16 image embeddings in a file, of which slices are read.

    They are not memory-mapped: mapped pages would count as the process's memory.
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
    """Write a corpus of random embeddings, 4,096 images at a time."""
    generator = torch.Generator().manual_seed(setting.seed)
    basis = latent_basis(setting)
    spread = (NOISE_SHARE / setting.width) ** 0.5
    with open(path, "wb") as file:
        for start in range(0, images, 4096):
            n = min(4096, images - start)
            place = F.normalize(torch.randn(n, LATENT, generator=generator), dim=1)
            own = (1 - COMMON_SHARE - NOISE_SHARE) ** 0.5
            centre = COMMON_SHARE**0.5 * basis[0] + own * place @ basis[1:]
            tokens = torch.randn(n, setting.tokens, setting.width, generator=generator)
            tokens = F.normalize(tokens.mul_(spread).add_(centre[:, None]), dim=2)
            tokens.half().numpy().tofile(file)


def make_queries(images: Embeddings, setting: Setting) -> tuple[Tensor, Tensor]:
    """(Q, D) queries, and the (Q,) corpus positions of their targets, spread over the corpus."""
    count = setting.queries_of(len(images))
    targets = torch.arange(count) * len(images) // count
    generator = torch.Generator().manual_seed(setting.seed + 1)
    moved = (
        QUERY_NOISE * torch.randn(count, LATENT, generator=generator) @ latent_basis(setting)[1:]
    )
    means = torch.stack([images[t : t + 1][0].mean(dim=0) for t in targets.tolist()])
    return F.normalize(means + moved, dim=1), targets


def latent_basis(setting: Setting) -> Tensor:
    """(1 + LATENT, D) orthonormal directions: the shared one, then those in which images differ."""
    generator = torch.Generator().manual_seed(setting.seed + 2)
    drawn = torch.randn(setting.width, 1 + LATENT, generator=generator)
    return torch.linalg.qr(drawn).Q.T


@contextmanager
def made_up(images: int, setting: Setting, scratch: str | Path) -> Iterator[Embeddings]:
    """A corpus of random embeddings, in a folder within `scratch` that is deleted at the end.

    Raises:
        ValueError: it does not fit on the disk.
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
    """Time, memory and agreement of one definition of hard negatives, for N = `images`.

    Returns:
        A row for each method and window, and for each nprobe of the approximate one. Seconds are
        the process's CPU time, without waits: score_s, score_few_s (of `few` queries) and mine_s
        (scoring included) of exact mining; build_s, search_s and mine_s (near the target alone) of
        approximate mining. memory_gib: the process's peak, its libraries included. in_depth: share
        of the queries whose window lies within the depth of the approximate ranking; found,
        jaccard and identical are means over these.

    Raises:
        ValueError: the embeddings do not fit on the disk (see `made_up`).
        ImportError: FAISS is not installed.
    """
    import_faiss()  # raises before anything is written
    with made_up(images, setting, scratch) as corpus:
        exact = in_a_process(measure_exact, corpus.path, setting)
        rows = exact + in_a_process(measure_approximate, corpus.path, setting)
    known = {"images": images, "tokens": setting.tokens, "width": setting.width}
    known |= {"queries": setting.queries_of(images)}
    return pd.DataFrame([known | row for row in rows])


def in_a_process(function: Callable, path: Path, setting: Setting) -> list[dict]:
    """Call a function in a fresh process, so that its peak memory is measured alone."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, _start, (setting.threads,)) as pool:
        return pool.submit(function, path, setting).result()


def _start(threads: int) -> None:
    torch.set_num_threads(threads)
    import_faiss().omp_set_num_threads(threads)


def measure_exact(path: Path, setting: Setting) -> list[dict]:
    """Rows of exact mining, of the whole ranking and the widest window; saves all scores."""
    images = Embeddings(path, setting.tokens, setting.width)
    queries, targets = make_queries(images, setting)
    rows = []
    for window in (None, max(setting.windows)):
        config = MiningConfig(search_window=window)
        begin = time.process_time()
        mine_hard_negatives(queries, images, targets, config, memory=setting.memory)
        row = {"method": "exact", "window": window, "mine_s": time.process_time() - begin}
        rows.append(row | {"memory_gib": peak_memory()})
    known = {"few": max(len(queries) // 8, 1)}  # separates reading the corpus from scoring it
    for column, part in {"score_few_s": queries[: known["few"]], "score_s": queries}.items():
        begin = time.process_time()
        scores = [chunk for _, chunk in score_corpus(part, images, setting.memory)]
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
        depth = min(round(DEPTH_SHARE * len(images)) + 2 * window + 2, len(images))
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
    for name, least in (("threads", options.threads), ("sizes", min(options.sizes))):
        if least < 1:
            parser.error(f"--{name} must be at least 1, not {least}")
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
