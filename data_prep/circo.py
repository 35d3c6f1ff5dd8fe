"""CIRCO: fetch the annotations by pinned checksums, check them and COCO's images.

    python -m data_prep.circo fetch data/circo
    curl -O http://images.cocodataset.org/annotations/image_info_unlabeled2017.zip
    python -m data_prep.circo unpack image_info_unlabeled2017.zip data/circo
    curl -O http://images.cocodataset.org/zips/unlabeled2017.zip      (19 GB)
    python -m data_prep.circo unpack unlabeled2017.zip data/circo
    python -m data_prep.circo check data/circo --images

Archives are unpacked into the folder COCO2017_unlabeled there.
"""

from pathlib import Path

from data_prep.real_data import RealData, main, read_known
from qure_lib.datasets.circo import CIRCO_FOLDERS, coco_list, find_circo_images, load_circo
from qure_lib.files import run_command

ABOUT_IMAGES = """\
COCO's list of its unlabeled images and the images are not fetched, since no checksum of them is
pinned. COCO's server has both, without a form; `unpack` puts each into its place:
    curl -O http://images.cocodataset.org/annotations/image_info_unlabeled2017.zip
    curl -O http://images.cocodataset.org/zips/unlabeled2017.zip      (19 GB)
The photographs are Flickr users' own, under their licences."""


def count_val(root: Path) -> dict[str, int]:
    triplets = load_circo(root, "val", images=False).triplets
    truths = [len(t.ground_truths) for t in triplets]
    counts = {"val_queries": len(triplets), "val_ground_truths": sum(truths)}
    return counts | {"fewest_ground_truths": min(truths), "most_ground_truths": max(truths)}


def count_test(root: Path) -> dict[str, int]:
    return {"test_queries": len(load_circo(root, "test", images=False))}


def count_corpus(root: Path) -> dict[str, int]:
    """The number of COCO's unlabeled images, if their list is there."""
    known = coco_list(root).is_file()
    return {"corpus_images": len(find_circo_images(root).paths)} if known else {}


DATA = RealData(
    script="circo",
    key="circo",
    name="CIRCO",
    about_images=ABOUT_IMAGES,
    known=read_known("circo"),
    counters=(count_val, count_test, count_corpus),
    splits=("unlabeled2017",),
    images=lambda root, split: {split: find_circo_images(root).paths},
    archives=CIRCO_FOLDERS[0],
)

if __name__ == "__main__":
    run_command(main, DATA, __doc__)
