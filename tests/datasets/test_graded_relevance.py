"""Graded relevance: the share of wanted attributes, in step with the queries."""

from dataclasses import replace

import pytest

from qure_lib.datasets.fashioniq import load_fashioniq
from qure_lib.datasets.graded_relevance import dataset_name, load_graded_relevance


@pytest.fixture
def described(fashioniq, write):
    """FashionIQ's layout with what its val dresses show and what their one query wants."""
    colours = {"a": "red", "b": "blue", "c": "blue"}
    images = {
        f"dress-val-{name}": {"colour": colour, "neck": "v" if name == "b" else "round"}
        for name, colour in colours.items()
    }
    write(fashioniq / "synthfashion.json", {"images": images})
    wanted = [{"wanted": {"colour": "blue", "neck": "v"}}]
    write(fashioniq / "relevance" / "rel.dress.val.json", wanted)
    return fashioniq


def test_graded_relevance_is_the_share_of_wanted_attributes(described):
    dresses = load_fashioniq(described, "val")["dress"]
    relevance = load_graded_relevance(described, dresses, "val")
    assert relevance.tolist() == [[0.0, 1.0, 0.5]]
    assert dataset_name(described) == "SynthFashion"


def test_an_attribute_on_a_scale_counts_by_its_closeness_and_a_hue_goes_round(described, write):
    values = {"a": (0.9, 0.2), "b": (0.1, 0.2), "c": (0.6, 1.0)}
    names = ("colour", "length")
    images = {f"dress-val-{i}": dict(zip(names, v, strict=True)) for i, v in values.items()}
    write(described / "synthfashion.json", {"images": images})
    wanted = [{"wanted": {"colour": 0.1, "length": 0.2}}]
    write(described / "relevance" / "rel.dress.val.json", wanted)
    dresses = load_fashioniq(described, "val")["dress"]
    # hues 0.2, 0 and 0.5 apart, of 0.5 at most; lengths 0, 0 and 0.8 apart, of 1
    expected = [(0.6 + 1) / 2, 1, (0 + 0.2) / 2]
    assert load_graded_relevance(described, dresses, "val").tolist()[0] == pytest.approx(expected)


@pytest.mark.parametrize(
    "wanted",
    [
        [{"wanted": {"colour": "blue", "neck": "v"}}] * 2,
        [],
        [{}],
        [{"wanted": {"colour": "blue"}}],
        [{"wanted": {}}],
    ],
)
def test_a_relevance_file_of_other_queries_is_refused(described, write, wanted):
    dresses = load_fashioniq(described, "val")["dress"]
    write(described / "relevance" / "rel.dress.val.json", wanted)
    with pytest.raises(ValueError, match=r"rel\.dress\.val\.json .* make them again"):
        load_graded_relevance(described, dresses, "val")


def test_relevance_stays_in_step_with_the_queries(described, edit, write):
    edit(described / "captions" / "cap.dress.val.json", add=True, candidate="dress-val-c")
    wanted = [{"wanted": {"colour": c, "neck": "v"}} for c in ("blue", "red")]
    write(described / "relevance" / "rel.dress.val.json", wanted)
    dresses = load_fashioniq(described, "val")["dress"]
    expected = [[0.0, 1.0, 0.5], [0.5, 0.5, 0.0]]
    assert load_graded_relevance(described, dresses, "val").tolist() == expected
    backwards = replace(dresses, triplets=dresses.triplets[::-1])
    assert load_graded_relevance(described, backwards, "val").tolist() == expected[::-1]
    (described / "images" / "dress-val-a.png").unlink()  # the first query's reference
    with pytest.warns(UserWarning, match="1 of 2 triplets and 2 of 3 corpus images"):
        fewer = load_fashioniq(described, "val", allow_missing=True)["dress"]
    assert load_graded_relevance(described, fewer, "val").tolist() == [expected[1][1:]]


def test_a_data_set_without_relevance_says_none(fashioniq):
    dresses = load_fashioniq(fashioniq, "val")["dress"]
    assert load_graded_relevance(fashioniq, dresses, "val") is None
    assert dataset_name(fashioniq) == "FashionIQ"
