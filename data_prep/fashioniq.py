"""FashionIQ: its annotations by pinned checksums, and a check of them and of its images.

    python -m data_prep.fashioniq fetch data/fashioniq
    python -m data_prep.fashioniq unpack images.zip data/fashioniq
    python -m data_prep.fashioniq check data/fashioniq --images

The end of this text says how people get the images.
"""

from itertools import combinations
from pathlib import Path

import pandas as pd

from data_prep.real_data import RealData, main, read_known
from qure_lib.datasets.fashioniq import (
    CATEGORIES,
    find_categories,
    load_fashioniq,
    read_ids,
    read_triplets,
)
from qure_lib.datasets.loading import SPLITS
from qure_lib.datasets.queries import Triplet
from qure_lib.files import run_command

ABOUT_IMAGES = """\
Images are not fetched: they belong to the shops that took them. In use are: downloading what
image_url/asin2url.*.txt names (many of the 77,683 addresses are dead), asking the data set's
authors, and asking for one of the copies that pass around. Put them in images/{id}.png or .jpg,
image_data/{category}/{id}.jpg or resized_image/{id}.jpg; mixtures are read too. The attributes
(titles and tags) are not fetched either: their licence is unclear."""
PUBLISHED = Path(__file__).parents[1] / "reports" / "published" / "fashioniq_counts.csv"
KNOWN = pd.read_csv(PUBLISHED, index_col=0).iloc[:, 0].to_dict() | read_known("fashioniq")


def integrity_report(root: str | Path) -> pd.DataFrame:
    """Count what a data set in FashionIQ's layout holds and what is wrong with it.

    Reads the annotations alone, and reports what `load_fashioniq` would refuse.

    Returns:
        One row a category and split: category, split, images, triplets, repeated_ids (listed
        twice), dangling_ids (in a triplet, in no list), duplicate_pairs (same reference and
        target), target_is_reference (triplets that ask for the image they start from),
        empty_phrases (triplets where one of the two says nothing), train_val_overlap (ids of this
        split also in the other).
    """
    root = Path(root)
    listed = {
        (c, s): read_ids(root / "image_splits" / f"split.{c}.{s}.json")
        for c in find_categories(root)
        for s in SPLITS
    }
    rows = []
    for (category, split), ids in listed.items():
        other = listed[category, SPLITS[1 - SPLITS.index(split)]]
        path = root / "captions" / f"cap.{category}.{split}.json"
        row = _count_problems(read_triplets(path, category, split), ids)
        overlap = len(set(ids) & set(other))
        rows.append({"category": category, "split": split} | row | {"train_val_overlap": overlap})
    return pd.DataFrame(rows)


def _count_problems(triplets: tuple[Triplet, ...], listed: list[str]) -> dict[str, int]:
    used = {image_id for t in triplets for image_id in (t.reference, t.target)}
    return {
        "images": len(set(listed)),
        "triplets": len(triplets),
        "repeated_ids": len(listed) - len(set(listed)),
        "dangling_ids": len(used - set(listed)),
        "duplicate_pairs": len(triplets) - len({(t.reference, t.target) for t in triplets}),
        "target_is_reference": sum(t.reference == t.target for t in triplets),
        "empty_phrases": sum(not all(p.strip(".?, ") for p in t.phrases) for t in triplets),
    }


def count_shared_images(root: str | Path) -> pd.DataFrame:
    """Count ids that the lists of two categories share: columns split, first, second, shared."""
    rows = []
    for split in SPLITS:
        ids = {
            c: set(read_ids(Path(root, "image_splits", f"split.{c}.{split}.json")))
            for c in find_categories(root)
        }
        rows += [(split, a, b, len(ids[a] & ids[b])) for a, b in combinations(ids, 2)]
    return pd.DataFrame(rows, columns=["split", "first", "second", "shared"])


def annotation_counts(root: str | Path) -> pd.Series:
    """Every count of `integrity_report` and `count_shared_images` under one name each.

    Returns:
        Integers by name: dress_train_images, dress_train_triplets, ...; each kind of fault, over
        all categories and splits; shirt_toptee_val_shared, ...
    """
    report, shared = integrity_report(root), count_shared_images(root)
    counts = {
        f"{row.category}_{row.split}_{what}": getattr(row, what)
        for row in report.itertuples()
        for what in ("images", "triplets")
    }
    counts |= report.drop(columns=["category", "split", "images", "triplets"]).sum().to_dict()
    counts["train_val_overlap"] = report.loc[report["split"] == "val", "train_val_overlap"].sum()
    for row in shared.itertuples():
        counts[f"{row.first}_{row.second}_{row.split}_shared"] = row.shared
    return pd.Series(counts, name="count")


def count_pools(root: Path) -> dict[str, int]:
    """Images in each category's pool of train targets and in its VAL-union corpus."""
    targets = load_fashioniq(root, "train", corpus="targets", images=False)
    union = load_fashioniq(root, "val", corpus="union", images=False)
    counts = {f"{category}_train_targets": len(q.corpus) for category, q in targets.items()}
    return counts | {f"{category}_val_union": len(q.corpus) for category, q in union.items()}


def count_addresses(root: Path) -> dict[str, int]:
    """Distinct ids in each category's list of image addresses."""
    counts = {}
    for category in CATEGORIES:
        path = root / "image_url" / f"asin2url.{category}.txt"
        if path.is_file():
            lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
            counts[f"{category}_addresses"] = len({line.partition(" ")[0] for line in lines})
    return counts


def list_images(root: Path, split: str) -> dict[str, dict[str, Path]]:
    """Images of train and val. Nothing here needs the test split, which has no targets."""
    sets = load_fashioniq(root, split, images=False)
    return {f"{split} {category}": queries.images for category, queries in sets.items()}


DATA = RealData(
    script="fashioniq",
    key="fashioniq",
    name="FashionIQ",
    about_images=ABOUT_IMAGES,
    known=KNOWN | {"target_is_reference": 0},  # as counted in the annotations
    counters=(lambda root: annotation_counts(root).to_dict(), count_pools, count_addresses),
    splits=SPLITS,
    images=list_images,
)

if __name__ == "__main__":
    run_command(main, DATA, __doc__)
