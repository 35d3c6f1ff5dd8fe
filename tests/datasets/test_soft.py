"""SoFT's labels: joined by reference and target, the target always among them."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from qure_lib.datasets.cirr import load_cirr
from qure_lib.datasets.fashioniq import CATEGORIES, load_fashioniq
from qure_lib.datasets.loading import real_annotations
from qure_lib.datasets.soft import load_soft_labels

NEEDED = {name: real_annotations(name) for name in ("soft", "fashioniq", "cirr")}
needs_real = pytest.mark.skipif(
    None in NEEDED.values(), reason="QURE_DATA does not hold soft/, fashioniq/ and cirr/"
)
FILE = "dress_multi_target_selection.json"


@pytest.fixture
def queries(fashioniq):
    return load_fashioniq(fashioniq, "val")["dress"]


@pytest.fixture
def label(tmp_path, queries):
    """Write entries, each the query's own with changes, and return their folder."""

    def label(*changes):
        (triplet,) = queries.triplets
        own = {"reference_image_name": triplet.reference, "target_image_name": triplet.target}
        own |= {"threshold": 0.85, "confidence_scores": {triplet.target: 0.95}}
        (tmp_path / FILE).write_text(json.dumps([own | change for change in changes]))
        return tmp_path

    return label


def test_the_images_that_fit_are_those_the_model_is_sure_of(label, queries):
    (triplet,) = queries.triplets
    other, unsure = (f"dress-val-{name}" for name in "ca")
    scores = {triplet.target: 0.95, other: 0.85, unsure: 0.84}
    found = load_soft_labels(label({"confidence_scores": scores}), queries)
    assert found == {triplet.query_id: {triplet.target, other}}


def test_the_target_fits_though_the_file_may_lack_it(label, queries):
    (triplet,) = queries.triplets
    found = load_soft_labels(label({"confidence_scores": {}}), queries)
    assert found == {triplet.query_id: {triplet.target}}


def test_a_query_that_the_file_lacks_has_no_labels(label, queries):
    (triplet,) = queries.triplets
    turned = replace(triplet, query_id="x", reference=triplet.target, target=triplet.reference)
    both = replace(queries, triplets=(turned, triplet))
    assert load_soft_labels(label({}), both).keys() == {triplet.query_id}


def test_a_file_without_labels_is_refused(label, queries):
    with pytest.raises(ValueError, match=f"{FILE} holds an empty list"):
        load_soft_labels(label(), queries)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([{}, {}], r"entry 1: .* is there twice"),
        ([{"target_image_name": "x"}], r"entry 0: dress-val-a -> x is no val query of dress"),
        ([{"confidence_scores": {"x": 0.9}}], r"entry 0: image 'x' is not in the corpus"),
        ([{"confidence_scores": {"x": 1.5}}], r"entry 0: confidence_scores must lie in \[0, 1\]"),
        ([{"confidence_scores": {"x": "0.9"}}], "confidence_scores must lie in"),
        ([{"confidence_scores": {"x": True}}], "confidence_scores must lie in"),
        ([{"confidence_scores": {"x": float("nan")}}], "confidence_scores must lie in"),
        ([{"confidence_scores": ["x"]}], r"entry 0: needs \{'confidence_scores': 'dict'\}"),
        ([{"reference_image_name": 7}], r"entry 0: needs \{'reference_image_name': 'str'\}"),
    ],
)
def test_a_broken_entry_is_named(label, queries, changes, message):
    folder = label(*changes)
    with pytest.raises(ValueError, match=f"{FILE}, {message}" if "entry" in message else message):
        load_soft_labels(folder, queries)


def test_a_missing_or_cut_file_is_named(tmp_path, queries):
    with pytest.raises(ValueError, match=f"{FILE} is missing"):
        load_soft_labels(tmp_path, queries)
    (tmp_path / FILE).write_text('[{"reference')
    with pytest.raises(ValueError, match=f"{FILE} is not valid JSON"):
        load_soft_labels(tmp_path, queries)


@needs_real
def test_the_real_labels_hold_what_a_plain_count_finds():
    sets = load_fashioniq(NEEDED["fashioniq"], "val", images=False)
    assert [*sets] == list(CATEGORIES)
    sets["cirr"] = load_cirr(NEEDED["cirr"], images=False)
    lacking = Counter()
    for name, queries in sets.items():
        labels = load_soft_labels(NEEDED["soft"], queries)
        entries = json.loads((NEEDED["soft"] / f"{name}_multi_target_selection.json").read_text())
        plain = {
            (e["reference_image_name"], e["target_image_name"]): set(e["confidence_scores"])
            for e in entries
        }
        assert len(labels) == len(plain) == len(entries)
        for triplet in queries.triplets:
            if triplet.query_id in labels:
                own = plain[triplet.reference, triplet.target]
                assert labels[triplet.query_id] == own | {triplet.target}
                lacking[name] += triplet.target not in own
    assert lacking.pop("cirr") == 448 and lacking.total() == 860
