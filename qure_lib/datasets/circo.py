"""CIRCO over COCO's unlabeled images, and any data set on disk in its layout."""

from collections.abc import Sequence
from pathlib import Path

from qure_lib.files import read_json

from . import loading
from .image_files import FoundImages, find_by_name
from .queries import Counts, QuerySet, Triplet

CIRCO_FOLDERS = ("COCO2017_unlabeled", "")  # around unlabeled2017/ and COCO's annotations/
COUNTS = Counts(images=123_403, queries=220)  # COCO's unlabeled images
KEYS = {"id": int, "reference_img_id": int, "relative_caption": str, "shared_concept": str}
ANSWERS = {"target_img_id": int, "gt_img_ids": list, "semantic_aspects": list}
CIRCO_PROMPTS = {  # around CIRCO's relative caption
    "caption": "{caption}",  # as annotated
    "released": "a photo of $ that {caption}",  # the release keeps a literal $
    "repaired": "a photo of {concept} that {caption}",  # the shared concept in its place
}


def load_circo(
    root: str | Path,
    split: str = "val",
    images: bool = True,
    allow_missing: bool = False,
    prompt: str = "caption",
) -> QuerySet:
    """Load CIRCO, or any data set on disk in its layout (SynthFashion's circo_like/).

    Args:
        root: folder with annotations/, and with COCO's annotations/image_info_unlabeled2017.json
            and its images, unlabeled2017/, both in COCO2017_unlabeled/ or here.
        split: "val" or "test" (whose queries have no target).
        images: False does not look for image files; without COCO's list, the corpus is then only
            the images that this split's annotations name, too few to evaluate on.
        allow_missing: drop what needs an image file that is missing; see `drop_missing`.
        prompt: a key of CIRCO_PROMPTS, what the model reads (docs/method.md).

    Returns:
        Triplets with their `ground_truths`, `aspects` and `concept`, over COCO's unlabeled images.
        Image ids are COCO's numbers as strings.

    Raises:
        ValueError: a file is missing or broken, an entry lacks a key, an id comes twice or is not
            in the corpus, the target is no ground truth or the reference is one, or an image file
            is missing; the message names it.
    """
    loading.check_choice("split", split, ("val", "test"))
    loading.check_choice("prompt", prompt, CIRCO_PROMPTS)
    path, place = Path(root, "annotations", f"{split}.json"), f"{root}, {split}"
    triplets = _read_circo(path, prompt, has_targets=split == "val")
    named = [i for t in triplets for i in (t.reference, *t.ground_truths)]
    found = find_circo_images(root, () if images else named)
    loading.check_listed(triplets, path, found.paths, coco_list(root).name)
    queries = loading.build_query_set("circo", triplets, found.paths, found)
    return loading.drop_missing(queries, found, place, allow_missing) if images else queries


def _read_circo(path: Path, prompt: str, has_targets: bool) -> list[Triplet]:
    triplets, kinds = [], KEYS | (ANSWERS if has_targets else {})
    for place, entry in loading.check_entries(path, read_json(path), kinds, distinct=["id"]):
        reference, caption = str(entry["reference_img_id"]), entry["relative_caption"]
        none: tuple[str, ...] = ()
        target, truths, aspects = "", none, none
        if has_targets:
            target = str(entry["target_img_id"])
            truths = loading.distinct_strings(entry, "gt_img_ids", int, place)
            aspects = loading.distinct_strings(entry, "semantic_aspects", str, place)
            if target not in truths or reference in truths:
                raise ValueError(
                    f"{place}: 'gt_img_ids' must hold the target, {target}, and not the reference, "
                    f"{reference}, but is {truths}; get the file again"
                )
        words = CIRCO_PROMPTS[prompt].format(caption=caption, concept=entry["shared_concept"])
        query = str(entry["id"]), reference, words, target, "circo", (caption,), ()
        triplets.append(Triplet(*query, truths, aspects, entry["shared_concept"]))
    return triplets


def find_circo_images(root: str | Path, instead: Sequence[str] = ()) -> FoundImages:
    """The images of COCO's list, in its order; without a list, those with the ids `instead`."""
    path, kinds = coco_list(root), {"id": int, "file_name": str}
    if instead and not path.is_file():
        names = {image_id: f"{image_id:0>12}.jpg" for image_id in instead}
    else:
        entries = loading.check_entries(path, read_json(path, dict).get("images"), kinds, kinds)
        names = {str(entry["id"]): entry["file_name"] for _, entry in entries}
    return find_by_name(names, root, [str(Path(f, "unlabeled2017")) for f in CIRCO_FOLDERS], path)


def coco_list(root: str | Path) -> Path:
    """Where COCO's list of its unlabeled images lies, or should, in CIRCO's folder."""
    name = Path("annotations", "image_info_unlabeled2017.json")
    paths = [Path(root, folder, name) for folder in CIRCO_FOLDERS]
    return next((path for path in paths if path.is_file()), paths[0])


def list_images(root: str | Path) -> dict[str, Path]:
    """Id -> file of every image that the protocol reads, whether or not it is there."""
    return load_circo(root, "val", images=False).images
