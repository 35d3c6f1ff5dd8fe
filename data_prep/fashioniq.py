"""FashionIQ: its annotations by pinned checksums, and a check of them and of its images.

    python -m data_prep.fashioniq fetch data/fashioniq
    python -m data_prep.fashioniq unpack images.zip data/fashioniq
    python -m data_prep.fashioniq check data/fashioniq --images

How people get the images is said at the end.
"""

from pathlib import Path

from data_prep.real_data import RealData, main, read_known
from qure_lib.data import CATEGORIES, SPLITS, annotation_counts, load_fashioniq
from qure_lib.tables import read_published

ABOUT_IMAGES = """\
Images are not fetched: they belong to the shops that took them. In use are: downloading what
image_url/asin2url.*.txt names (many of the 77,683 addresses are dead), asking the data set's
authors, and asking for one of the copies that pass around. Put them in images/{id}.png or .jpg,
image_data/{category}/{id}.jpg or resized_image/{id}.jpg; mixtures are read too. The attributes
(titles and tags) are not fetched either: their licence is unclear."""
PUBLISHED = Path(__file__).parents[1] / "reports" / "published" / "fashioniq_counts.csv"


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
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
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
    known=read_published(PUBLISHED).to_dict() | read_known("fashioniq"),
    counters=(lambda root: annotation_counts(root).to_dict(), count_pools, count_addresses),
    splits=SPLITS,
    images=list_images,
)

if __name__ == "__main__":
    main(DATA, __doc__)
