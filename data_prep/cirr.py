"""CIRR: fetch the annotations by pinned checksums, check them and the images.

    python -m data_prep.cirr fetch data/cirr
    python -m data_prep.cirr unpack dev.tar.gz data/cirr
    python -m data_prep.cirr check data/cirr --images

The train captions have no pinned checksum: they come from the same commit as the rest, and are
accepted if they load and hold 28,225 queries.
"""

from pathlib import Path

from data_prep.real_data import RealData, main, read_known
from qure_lib.datasets.cirr import find_cirr_images, load_cirr
from qure_lib.datasets.loading import check_entries
from qure_lib.files import read_json, run_command

ABOUT_IMAGES = """\
Images are not fetched: they are NLVR2's, which are given out on request for research. Fill in the
form that CIRR's and NLVR2's pages link to, and put train/, dev/ and test1/ into this folder or
below its img_raw/ or images/, as the split lists name them."""
SPLITS = ("train", "val", "test1")
KNOWN = read_known("cirr")


def count_queries(root: Path, split: str) -> dict[str, int]:
    return {f"{split}_queries": len(load_cirr(root, split, images=False))}


def count_images(root: Path) -> dict[str, int]:
    return {f"{split}_images": len(find_cirr_images(root, split).paths) for split in SPLITS}


def count_unlisted_targets(root: Path) -> dict[str, int]:
    """Val queries whose target is missing from their own `target_soft`."""
    path = root / "captions" / "cap.rc2.val.json"
    kinds = {"target_hard": str, "target_soft": dict}
    entries = check_entries(path, read_json(path), kinds)
    missing = [entry for _, entry in entries if entry["target_hard"] not in entry["target_soft"]]
    return {"val_targets_not_in_target_soft": len(missing)}


def check_train(root: Path) -> None:
    """Raise ValueError unless the train captions load and hold the known number of queries."""
    count = count_queries(root, "train")["train_queries"]
    if count != KNOWN["train_queries"]:
        raise ValueError(
            f"captions/cap.rc2.train.json holds {count} queries, CIRR {KNOWN['train_queries']}: "
            "cut short, or another edition; get it again"
        )


DATA = RealData(
    script="cirr",
    key="cirr",
    name="CIRR",
    about_images=ABOUT_IMAGES,
    known=KNOWN,
    counters=(
        lambda root: count_queries(root, "val"),
        lambda root: count_queries(root, "test1"),
        lambda root: count_queries(root, "train"),
        count_images,
        count_unlisted_targets,
    ),
    splits=SPLITS,
    images=lambda root, split: {split: find_cirr_images(root, split).paths},
    validate=check_train,
)

if __name__ == "__main__":
    run_command(main, DATA, __doc__)
