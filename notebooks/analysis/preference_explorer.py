"""Notebook 00: HP-FashionIQ (or the simulated study) row by row."""

import html
import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import ipywidgets as ipw
import pandas as pd

from analysis.explorer_parts import Explorer, image_html
from analysis.preference_study import contradictions, disagreements, same_query, score_differences

FILTERS: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "all rows": lambda judged: judged["preferred"].notna(),
    "own scores tie": lambda judged: score_differences(judged) == 0,
    "choice against own scores": contradictions,
    "participants disagree on the query": disagreements,
}


class PreferenceExplorer(Explorer):
    """One judged row: the query, both sets of five images, the choice, and who else judged it.

    Args:
        judged: of `load_hp_fashioniq`, one row a judged query.
        images: id -> file of the images that are there; ids are shown for the others.
        study: what the rows are ("HP-FashionIQ").
    """

    def __init__(self, judged: pd.DataFrame, images: Mapping[str, Path], study: str) -> None:
        self.judged, self.images, self.study = judged, images, study
        self._generator = random.Random(0)
        self.kept = {name: rule(judged) for name, rule in FILTERS.items()}
        options = [(f"{name} ({kept.sum():,})", name) for name, kept in self.kept.items()]
        self.filter = ipw.Dropdown(options=options, description="show")
        categories = ["all", *sorted(judged["category"].unique())]
        self.category = ipw.Dropdown(options=categories, description="category")
        self.search = ipw.Text(description="caption", placeholder="words to look for")
        self.place = ipw.IntSlider(1, 1, 1, description="row shown").add_class("wide")
        names = ("previous", "next", "random")
        self.previous, self.next, self.random = (ipw.Button(description=n) for n in names)
        self.row = ipw.HTML()
        buttons = ipw.HBox([self.previous, self.next, self.random])
        choice = ipw.HBox([self.filter, self.category, self.search])
        super().__init__([choice, self.place, buttons, self.row])
        self._connect()
        self._list_rows()

    def _connect(self) -> None:
        """Connect each control to what it changes."""
        for control in (self.filter, self.category, self.search):
            control.observe(lambda _: self._list_rows(), "value")
        self.place.observe(lambda _: self._show(), "value")
        self.previous.on_click(lambda _: self._go(self.place.value - 1))
        self.next.on_click(lambda _: self._go(self.place.value + 1))
        self.random.on_click(lambda _: self._go(self._generator.randint(1, self.place.max)))

    def _go(self, place: int) -> None:
        """Show the row at a place of the list, or the nearest one."""
        self.place.value = min(max(place, 1), self.place.max)

    def _list_rows(self) -> None:
        """List the rows that pass the filters, and show the first."""
        kept, category = self.kept[self.filter.value], self.category.value
        if category != "all":
            kept = kept & (self.judged["category"] == category)
        for word in self.search.value.lower().split():
            kept = kept & self.judged["caption"].str.lower().str.contains(word, regex=False)
        self.rows = self.judged.index[kept].tolist()
        for control in (self.place, self.previous, self.next, self.random):
            control.disabled = not self.rows
        self.place.max = max(len(self.rows), 1)
        self.place.value = 1
        self._show()

    def _show(self) -> None:
        """Show the row at the slider's place."""
        if not self.rows:
            self.row.value = '<p class="note">No row passes.</p>'
            return
        number = self.rows[self.place.value - 1]
        row = self.judged.loc[number]
        caption = html.escape(row.caption)
        ends = [self._image(getattr(row, end), end) for end in ("reference", "target")]
        query = f'<div class="row">{ends[0]}<p>{caption}<br>→</p>{ends[1]}</div>'
        sets = "".join(self._set(row, side) for side in (1, 2))
        self.row.value = self._about(number, row) + query + sets + self._others(number)

    def _about(self, number: int, row: pd.Series) -> str:
        """Which row it is, and what is odd about it."""
        rules = [name for name, kept in self.kept.items() if kept[number]][1:]
        odd = f" <b>{'; '.join(rules)}</b>" if rules else ""
        who = html.escape(f"{self.study}, row {number:,}: {row.participant}, {row.question_set}.")
        return f'<p class="note">{self.place.value:,} of {len(self.rows):,}. {who}{odd}</p>'

    def _set(self, row: pd.Series, side: int) -> str:
        """One of the two sets, with the participant's own score."""
        chosen = row.preferred == side
        title = f"<b>set {side}</b><br>own score {row[f'score_{side}']}"
        title += "<br><b>chosen</b>" if chosen else ""
        zones = {row.target: "target", row.reference: "reference"}
        images = "".join(self._image(i, zones.get(i, "below")) for i in row[f"set_{side}"])
        shown = f'<div class="zone">{title}</div><div class="images">{images}</div>'
        return f'<div class="row {"chosen" if chosen else "left"}">{shown}</div>'

    def _image(self, image_id: str, zone: str) -> str:
        note = zone if zone in ("reference", "target") else ""
        return image_html(self.images.get(image_id), note, zone, image_id)

    def _others(self, number: int) -> str:
        """The same query before other participants, as a table."""
        others = [n for n in same_query(self.judged, number) if n != number]
        if not others:
            return '<p class="note">Nobody else judged this query.</p>'
        rows = [_table_row("th", ("row", "participant", "chosen", "own scores", "caption"))]
        for other in others:
            row = self.judged.loc[other]
            cells = f"{other:,}", row.participant, f"set {row.preferred}"
            scores = f"{row.score_1}, {row.score_2}"
            rows.append(_table_row("td", (*cells, scores, row.caption)))
        title = "Other judgements of this reference image and target, mostly of other sets"
        return f'<p class="note">{title}:</p><table class="others">{"".join(rows)}</table>'


def _table_row(cell: str, texts: Iterable[str]) -> str:
    """A row of a table, its texts escaped."""
    return f"<tr>{''.join(f'<{cell}>{html.escape(text)}</{cell}>' for text in texts)}</tr>"
