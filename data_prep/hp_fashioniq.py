"""HP-FashionIQ: fetch its file by a pinned checksum, check it against FashionIQ.

    python -m data_prep.hp_fashioniq fetch data/hpfiq
    python -m data_prep.hp_fashioniq check data/hpfiq --images

FashionIQ's annotations and images are read from a folder `fashioniq` beside it.
"""

from pathlib import Path

from data_prep.real_data import RealData, main, read_known
from qure_lib.datasets.fashioniq import list_fashioniq_images, load_fashioniq
from qure_lib.datasets.hp_fashioniq import load_hp_fashioniq, scored_images
from qure_lib.datasets.image_files import find_by_id
from qure_lib.files import run_command

ABOUT_IMAGES = """\
Its images are FashionIQ's val images; `python -m data_prep.fashioniq --help` says how people get
them. Put them into the folder `fashioniq` beside this one or here, in any layout of FashionIQ."""


def count_judgements(root: Path) -> dict[str, int]:
    judged = load_hp_fashioniq(root / "hpfiq.json")
    first, tied = judged["preferred"] == 1, judged["score_1"] == judged["score_2"]
    higher = judged["score_1"] > judged["score_2"]
    pairs = judged.groupby(["category", "reference", "target"]).size()
    same = [set(a) == set(b) for a, b in zip(judged["set_1"], judged["set_2"], strict=True)]
    counts = {
        "rows": len(judged),
        "participants": judged["participant"].nunique(),
        "set_1_preferred": first.sum(),
        "ties": tied.sum(),
        "ties_set_1_preferred": (tied & first).sum(),
        "contradictions": (~tied & (higher != first)).sum(),
        "same_five_images": sum(same),
        "pairs": len(pairs),
        "pairs_shown_twice": (pairs == 2).sum(),
        "captions_with_hyphen": judged["caption"].str.contains("-").sum(),
        "images_to_score": len(scored_images(judged)),
        "image_paths_to_score": sum(len(scored_images(j)) for _, j in judged.groupby("category")),
    }
    by_category = judged["category"].value_counts()
    counts |= {f"{category}_rows": count for category, count in by_category.items()}
    return {name: int(count) for name, count in counts.items()}


def count_against_fashioniq(root: Path) -> dict[str, int]:
    """Count images and pairs that FashionIQ's val lacks, and captions that it has."""
    home = root.parent / "fashioniq"
    if not home.is_dir():
        return {}
    judged = load_hp_fashioniq(root / "hpfiq.json")
    val = load_fashioniq(home, "val", images=False)
    images = {i for queries in val.values() for i in queries.corpus.image_ids}
    captions: dict[tuple[str, str], set[str]] = {}  # of a pair, in either order of the two phrases
    for t in (t for queries in val.values() for t in queries.triplets):
        for phrases in (t.phrases, t.phrases[::-1]):
            words = " and ".join(phrases).split()
            captions.setdefault((t.reference, t.target), set()).add(" ".join(words))
    pairs = list(zip(judged["reference"], judged["target"], strict=True))
    same = [c in captions.get(pair, ()) for c, pair in zip(judged["caption"], pairs, strict=True)]
    named = {*scored_images(judged), *judged["target"]}
    return {
        "images_not_in_val": len(named - images),
        "pairs_not_in_val": sum(pair not in captions for pair in pairs),
        "captions_of_val": sum(same),
    }


def list_images(root: Path, split: str) -> dict[str, dict[str, Path]]:
    judged = load_hp_fashioniq(root / "hpfiq.json")
    files = list_fashioniq_images(root.parent / "fashioniq") | list_fashioniq_images(root)
    return {split: find_by_id(root, files, scored_images(judged)).paths}


DATA = RealData(
    script="hp_fashioniq",
    key="hpfiq",
    name="HP-FashionIQ",
    about_images=ABOUT_IMAGES,
    known=read_known("hpfiq"),
    counters=(count_judgements, count_against_fashioniq),
    splits=("judged",),
    images=list_images,
)

if __name__ == "__main__":
    run_command(main, DATA, __doc__)
