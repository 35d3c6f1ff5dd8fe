"""What the explorers share: their style, images as HTML, and a strip of a whole ranking.

All text that comes from a data set is escaped here or by `html.escape` where it is put together.
"""

import base64
import html
import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import ipywidgets as ipw

from qure_lib.datasets.image_files import read_image

from .method_figures import ZONE_COLOURS

STYLE = Path(__file__).with_name("explorer.css").read_text(encoding="utf-8")


class Explorer(ipw.VBox):
    """Rows of controls and pages, in the explorers' style; as wide as there is room."""

    def __init__(self, rows: Sequence[ipw.Widget]) -> None:
        style = ipw.HTML(f"<style>{STYLE}</style>", layout=ipw.Layout(display="none"))
        super().__init__([style, *rows])
        self.add_class("qure")


def image_html(path: Path | None, note: str = "", zone: str = "reference", name: str = "") -> str:
    """Write an image as `plot_image` draws it, for a page: a small <figure> with its note.

    Args:
        path: its file; None shows `name` in its place.
        note: HTML under it, of numbers and words of our own.
        zone: a key of ZONE_COLOURS.
        name: its id, for who cannot see it; any text.

    Raises:
        ValueError: the file cannot be decoded; the message names it.
    """
    frame, name = f'style="border-color: {ZONE_COLOURS[zone]}"', html.escape(name)
    if path is None:
        return f'<figure><div class="no-image" {frame}>{name}</div>{note}</figure>'
    return f'<figure><img src="{_thumbnail(path)}" alt="{name}" {frame}>{note}</figure>'


@lru_cache(maxsize=8192)
def _thumbnail(path: Path) -> str:
    """A small JPEG of an image file, as a data URL."""
    image = read_image(path).convert("RGB")
    image.thumbnail((96, 96))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def ranking_strip(title: str, images: int, target_rank: int, drops: tuple[int, int]) -> str:
    """A whole ranking as a bar, best image at the left, with the target and the window marked.

    Args:
        title: HTML at its left.
        images: N, of the ranking.
        target_rank: 0-based.
        drops: ranks just before each drop; (-1, -1) without a pair.
    """
    first, count = drops[0] + 1, drops[1] - drops[0]
    marks = [_mark("target", target_rank, 1, images)]
    where = "no pair of drops"
    if count > 0:
        marks.insert(0, _mark("inside", first, count, images))
        where = f"ranks {first:,} to {drops[1]:,}: {count:,} images"
    bar = f'<div class="bar">{"".join(marks)}</div>'
    return f'<div class="strip"><span>{title}</span>{bar}<span>{where}</span></div>'


def _mark(zone: str, first: int, count: int, images: int) -> str:
    """Mark ranks on a bar; its style sheet keeps the mark some pixels wide."""
    place = f"left: {100 * first / images:.2f}%; width: {100 * count / images:.2f}%"
    return f'<i class="{zone}" style="{place}; background: {ZONE_COLOURS[zone]}"></i>'
