"""SynthFashion's val images in the layouts of CIRR and of CIRCO, for those protocols.

`synthfashion.make_annotations` writes both views with the data set, from its seed. They refer to
its images by relative paths. Both are simulated: attributes decide which images are similar and
which answer a caption.

cirr_like/    groups of six similar garments; reference and target are of the same group.
circo_like/   the val queries of all categories over one corpus, each with every image that answers
              it; the semantic aspects are the attributes that the caption mentions.
"""

import random

import numpy as np

from data_prep.catalogue import NOTICE, category_of, differences, sample_queries
from data_prep.garments import Garment

GROUP = 6  # images, as in CIRR
NOUNS = {"dress": "a dress", "shirt": "a shirt", "toptee": "a top"}
COCO = "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json"


def cirr_like(corpora: dict[str, dict[str, Garment]], seed: int) -> dict[str, object]:
    """Make CIRR's two files, by path.

    There are a sixth as many groups as images; a group holds one kind of garment, and groups may
    overlap. Each group has up to five distinct targets, each with a reference of the same group;
    queries are sampled like those of the data set. A rank is a place in the group.

    Args:
        corpora: category -> image id -> garment, of the val split.
        seed: of the groups, their queries and captions.
    """
    entries: list[dict] = []
    kinds, number = by_kind(corpora), 0
    for kind, garments in kinds.items():
        rng = random.Random(f"{seed} {kind} cirr")
        for members in find_groups(garments, rng):
            group = {image_id: garments[image_id] for image_id in members}
            for triplet in sample_queries(kind, group, rng)[0]:
                reference, target = triplet["candidate"], triplet["target"]
                ranks = {"reference_rank": members.index(reference)}
                ranks |= {"target_rank": members.index(target)}
                entry = {"pairid": len(entries), "reference": reference, "target_hard": target}
                entry |= {"target_soft": {target: 1.0}, "caption": _sentence(triplet)}
                entries.append(entry | {"img_set": {"id": number, "members": members} | ranks})
            number += 1
    paths = {i: f"../images/{i}.png" for garments in kinds.values() for i in garments}
    return {
        "cirr_like/image_splits/split.rc2.val.json": paths,
        "cirr_like/captions/cap.rc2.val.json": entries,
    }


def by_kind(corpora: dict[str, dict[str, Garment]]) -> dict[str, dict[str, Garment]]:
    """All garments by kind, the first part of an id: a category may hold several kinds."""
    everything = {i: garment for garments in corpora.values() for i, garment in garments.items()}
    return {
        kind: {i: garment for i, garment in everything.items() if category_of(i) == kind}
        for kind in NOUNS
    }


def find_groups(garments: dict[str, Garment], rng: random.Random) -> list[list[str]]:
    """Find groups of six similar images, sorted by their distance from the first one.

    A group is an image drawn at random and the images nearest to it in the sum of `differences`
    (the earlier one of two equally near) that differ visibly from every member so far: two images
    that look the same could not be told apart by a caption.
    """
    ids, known = list(garments), list(garments.values())
    apart = differences(known, known)
    visible = (apart > NOTICE).any(axis=2)
    groups = []
    for first in rng.sample(range(len(ids)), len(ids) // GROUP):
        group = [first]
        for other in np.argsort(apart[first].sum(axis=1), kind="stable").tolist():
            if len(group) < GROUP and visible[other, group].all():
                group.append(other)
        groups.append([ids[i] for i in group])
    return groups


def circo_like(
    queries: dict[str, list[dict]], corpora: dict[str, dict[str, Garment]]
) -> dict[str, object]:
    """Make CIRCO's annotations and the list of the corpus in COCO's layout, by path.

    An image of the reference's kind answers a query if it has every value that the caption mentions
    and otherwise differs from the reference in at most one attribute. A query that its own target
    does not answer is left out.

    Args:
        queries: category -> val triplets, each with its "wanted" attributes.
        corpora: category -> image id -> garment, of the val split.
    """
    kinds = by_kind(corpora)
    names = [image_id for garments in kinds.values() for image_id in garments]
    numbers = {image_id: number for number, image_id in enumerate(names, start=1)}
    everything = [query for part in queries.values() for query in part]
    entries: list[dict] = []
    for kind, garments in kinds.items():
        ids = list(garments)
        of_kind = [query for query in everything if query["candidate"] in garments]
        wanted = [query["wanted"] for query in of_kind]
        differ = differences(wanted, list(garments.values())) > NOTICE
        for query, apart in zip(of_kind, differ, strict=True):
            old = garments[query["candidate"]]
            mentioned = [query["wanted"][attribute] != value for attribute, value in old.items()]
            fits = ~apart[:, mentioned].any(axis=1) & (apart.sum(axis=1) <= 1)
            found = [ids[i] for i in np.flatnonzero(fits)]
            if query["target"] in found:
                others = [i for i in found if i != query["target"]]
                truths = [numbers[i] for i in (query["target"], *others)]
                entry = {"reference_img_id": numbers[query["candidate"]]}
                entry |= {"target_img_id": truths[0], "relative_caption": _sentence(query)}
                entry |= {"shared_concept": NOUNS[kind], "gt_img_ids": truths}
                aspects = [a for a, is_asked in zip(old, mentioned, strict=True) if is_asked]
                entries.append(entry | {"id": len(entries), "semantic_aspects": aspects})
    images = [{"id": n, "file_name": f"../../../images/{i}.png"} for i, n in numbers.items()]
    files = {"annotations/val.json": entries, COCO: {"images": images}}
    return {f"circo_like/{name}": content for name, content in files.items()}


def _sentence(query: dict) -> str:
    return " and ".join(query["captions"])
