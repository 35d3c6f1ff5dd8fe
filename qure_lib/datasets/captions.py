"""Captions: BLIP's cleaning, and FashionIQ's two phrases as one."""

import re


def clean_caption(caption: str, max_words: int = 50) -> str:
    """Lower-case, replace .!"()*#:;~ by spaces, collapse spaces, keep at most `max_words` words.

    Source: BLIP's caption cleaning, as the release applies it before tokenisation.
    """
    caption = re.sub(r"([.!\"()*#:;~])", " ", caption.lower())
    caption = re.sub(r"\s{2,}", " ", caption).rstrip("\n").strip(" ")
    return " ".join(caption.split(" ")[:max_words])


def join_phrases(first: str, second: str) -> str:
    """FashionIQ's two phrases as one relative caption. Source: release, train and val alike."""
    return f"{first.strip('.?, ').capitalize()} and {second.strip('.?, ')}"
