"""Captions: FashionIQ's phrases joined as in the release, and BLIP's cleaning."""

import pytest

from qure_lib.datasets.captions import clean_caption, join_phrases


@pytest.mark.parametrize(
    ("first", "second", "joined"),
    [
        ("is RED.", "Has a V-neck, ", "Is red and Has a V-neck"),
        ("", "has sleeves", " and has sleeves"),
        ("darker and not as shiny", ".", "Darker and not as shiny and "),
        ("? is blue", "no.1 logo", "Is blue and no.1 logo"),
    ],
)
def test_phrases_join_as_in_the_release(first, second, joined):
    rule = first.strip(".?, ").capitalize() + " and " + second.strip(".?, ")
    assert join_phrases(first, second) == joined == rule


@pytest.mark.parametrize(
    ("caption", "cleaned"),
    [
        ('Is "RED"; has (two) #1 *dots*: yes!', "is red has two 1 dots yes"),
        ("  no.1   logo \n", "no 1 logo"),
        ("a t-shirt, is it? $5", "a t-shirt, is it? $5"),
        ("", ""),
    ],
)
def test_captions_are_cleaned_as_by_blip(caption, cleaned):
    assert clean_caption(caption) == cleaned == clean_caption(cleaned)


def test_a_caption_keeps_its_first_words():
    assert clean_caption("one two three four", max_words=3) == "one two three"
    assert len(clean_caption("word " * 60).split()) == 50
