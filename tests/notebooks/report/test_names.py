"""Names and looks: one for every way to train, distinct where they are drawn together."""

from itertools import combinations

import pytest
from grids import CONTROLS, CORE, FROM_STRONG, GRIDS, MORE, NEGATIVES, PARTS, RIVALS, TEMPERATURES
from report.names import LOOKS, VERSIONS, find_look, plain_name

DRAWN_TOGETHER = {
    "fig4": [*CORE, *CONTROLS],
    "strong start": [*FROM_STRONG, "in_batch"],
    "warm-up": ["cosine", "strong_cosine", "preference", "strong_preference"],
    "contraction": ["shrinking_100_10", "growing_10_100", "after_target", "fixed_32"],
    "rivals": [*RIVALS, *MORE, *TEMPERATURES],
    "calibration": ["before warm-up", "after warm-up", "cosine", "preference"],
    "FashionIQ": ["dress", "shirt", "toptee"],
    "SynthFashion": ["tops", "bottoms", "outdoor"],
}


def cues(code: str) -> tuple[str, str, str]:
    look = find_look(code)
    return look.colour, look.marker, look.line


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_every_variant_has_a_name_in_words(grid):
    for variant in grid.variants:
        name = plain_name(variant)
        assert name != variant and "_" not in name, variant


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_no_two_variants_of_a_grid_have_the_same_name(grid):
    assert len({plain_name(variant) for variant in grid.variants}) == len(grid.variants)


def test_no_two_variants_of_the_study_of_negatives_look_alike():
    alike = [pair for pair in combinations(NEGATIVES.variants, 2) if cues(pair[0]) == cues(pair[1])]
    assert not alike


@pytest.mark.parametrize("codes", DRAWN_TOGETHER.values(), ids=DRAWN_TOGETHER)
def test_what_is_drawn_together_differs_in_colour_or_marker_and_line(codes):
    assert len({cues(code) for code in codes}) == len(codes)


def test_the_first_figure_s_variants_differ_in_marker_without_colour():
    markers = [find_look(code).marker for code in DRAWN_TOGETHER["fig4"]]
    assert len(set(markers)) == len(markers)


@pytest.mark.parametrize("beginning", VERSIONS)
def test_a_version_has_colour_and_marker_of_what_it_is_a_version_of(beginning):
    versions = [v for v in NEGATIVES.variants if v.startswith(beginning)]
    assert versions
    words, line = VERSIONS[beginning]
    for version in versions:
        own, first = find_look(version), find_look(version.removeprefix(beginning))
        assert (own.colour, own.marker) == (first.colour, first.marker)
        assert own.name == first.name + words and own.line == line != first.line


def test_what_has_no_look_is_printed_as_it_is():
    assert find_look("strong_unheard_of") is None
    assert plain_name("strong_unheard_of") == "strong_unheard_of"
    assert plain_name(7) == "7"


def test_a_code_that_several_grids_have_is_named_once():
    assert plain_name("window_100") == LOOKS["window_100"].name
    assert PARTS.variants["cosine"] == NEGATIVES.variants["cosine"] == {}
