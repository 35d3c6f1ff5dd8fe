"""Notebooks 00 and 03: single queries and their curves. The library ranks, mines and draws."""

import html
import io
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import ipywidgets as ipw
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from analysis.explorer_parts import Explorer, image_html, ranking_strip
from analysis.hard_negatives import measured_curve, zone_ranks
from qure_lib.datasets.loading import SPLITS
from qure_lib.features.retriever import Retriever
from qure_lib.method.config import MiningConfig
from qure_lib.method.drops import CURVES, RULES
from qure_lib.method.mining import mine_hard_negatives
from qure_lib.method.ranking import Ranking, rank_corpus
from qure_lib.train.training_data import TrainingData

from . import method_figures

SIZE = 7.2, 2.7  # of the curve, in inches: 8 pt print reads well from 700 to 1,180 pixels
DPI = 200
LEFT, BOTTOM, WIDTH, HEIGHT = 0.085, 0.16, 0.91, 0.82  # of the curve's axes, as shares of it
HOVER_RANKS = 150  # ranks with a card under the mouse: all of them, once zoomed in far enough
ZONE_IMAGES, LISTED_QUERIES = 8, 100  # at most
STRIPS = (
    '<p class="note">The whole ranking, best image at the left: target green, windows blue.</p>'
)
WINDOWS = (5, 10, 20, 50, 100, 200, 500, 1000, 2000)  # choices of search_window, beside all


@dataclass(frozen=True)
class ExplorerData:
    """A data set to explore, and the models to see it by.

    data: queries by split and category, with graded relevance where it is known.
    definitions: name -> the model with the weights of that definition, and so its temperature; the
        first is the model before warm-up, so the second is shown first, if there is one.
    """

    data: TrainingData
    definitions: Mapping[str, Retriever]


class RelevanceExplorer(Explorer):
    """One query's relevance-score curve, its drops and its images, under a drop rule to choose.

    Args:
        worlds: name -> a data set and its models; the first is shown first.
    """

    def __init__(self, worlds: Mapping[str, ExplorerData]) -> None:
        self.worlds = worlds
        self._embed = lru_cache(maxsize=4)(self._embed)
        self._generator = random.Random(0)
        self.world = ipw.Dropdown(options=list(worlds), description="world")
        self.category, self.definition, self.overlay = (
            ipw.Dropdown(description=name) for name in ("category", "definition", "overlay")
        )
        self.split = ipw.Dropdown(options=SPLITS, description="split")
        self.search = ipw.Text(description="caption", placeholder="words to look for")
        self.query = ipw.Select(rows=5, description="query")
        names = ("random", "smoothest curve", "most bottom-heavy")
        self.random, self.smoothest, self.lowest = (ipw.Button(description=n) for n in names)
        self.curve = ipw.ToggleButtons(options=CURVES, description="drops in")
        self.rule = ipw.Dropdown(options=RULES, description="drop rule")
        self.threshold = ipw.IntSlider(1, 0, 20, description="consecutive_threshold")
        windows = [*((f"{n:,} ranks", n) for n in WINDOWS), ("all ranks", 0)]
        self.search_window = ipw.SelectionSlider(options=windows, description="search_window")
        self.search_window.value = 0
        self.zoom = ipw.IntRangeSlider(value=(0, 1), max=1, description="zoom").add_class("wide")
        self.triplet, self.hover, self.strips, self.zones = (ipw.HTML() for _ in range(4))
        self.picture = ipw.Image()
        super().__init__(self._rows())
        self._connect()
        self._show_world()

    def _rows(self) -> list[ipw.Widget]:
        """The layout, from top to bottom."""
        for part in (self.picture, self.hover):  # the second lies on the first
            part.layout = ipw.Layout(grid_area="1 / 1", margin="0")
        curve = ipw.GridBox([self.picture, self.hover]).add_class("curve")
        jumps = ipw.HBox([self.random, self.smoothest, self.lowest])
        choice = ipw.VBox([self.search, self.query, jumps]).add_class("choice")
        return [
            ipw.HBox([self.world, self.category, self.split]),
            ipw.HBox([self.definition, self.overlay]),
            ipw.HBox([choice, self.triplet.add_class("query")]),
            ipw.HBox([self.curve, self.rule]),
            ipw.HBox([self.threshold, self.search_window]),
            *(curve, self.zoom, self.strips, self.zones),
        ]

    def _connect(self) -> None:
        """Connect each control to what it changes."""
        self.world.observe(lambda _: self._show_world(), "value")
        for control in (self.category, self.split, self.search):
            control.observe(lambda _: self._list_queries(), "value")
        for control in (self.query, self.definition, self.overlay):
            control.observe(lambda _: self._show_query(), "value")
        for control in (self.curve, self.rule, self.threshold, self.search_window, self.zoom):
            control.observe(lambda _: self._show_window(), "value")
        find, mine, first = self._find, lambda: self._mine(self._find()), self._list_queries
        self.random.on_click(lambda _: first(self._generator.choice(find())))
        self.smoothest.on_click(lambda _: first(mine().largest_gap.idxmin()))
        self.lowest.on_click(lambda _: first(mine().window_start.fillna(-1).idxmax()))

    def _show_world(self) -> None:
        """Offer what the chosen world has, and show its first query."""
        world = self.worlds[self.world.value]
        self.query.options = ()  # or the old query would be shown while the rest changes
        self.definition.options = list(world.definitions)
        self.definition.index = min(1, len(world.definitions) - 1)
        self.overlay.options, self.overlay.index = ["none", *world.definitions], 0
        self.category.options, self.category.index = list(world.data.train), 0
        self._list_queries()

    def _find(self) -> list[int]:
        """Queries whose caption holds every word of the search."""
        words = self.search.value.lower().split()
        captions = (t.caption.lower() for t in self.queries.triplets)
        return [q for q, caption in enumerate(captions) if all(w in caption for w in words)]

    def _list_queries(self, first: int | None = None) -> None:
        """List the queries found, `first` on top, and show the one on top."""
        split, category = self.split.value, self.category.value
        data = self.worlds[self.world.value].data
        self.queries = getattr(data, split)[category]
        known = data.relevance if split == "train" else data.val_relevance
        self.relevance = known.get(category)
        found, triplets = self._find(), self.queries.triplets
        for button in (self.random, self.smoothest, self.lowest):
            button.disabled = not found
        listed = list(dict.fromkeys(found if first is None else [first, *found]))[:LISTED_QUERIES]
        self.query.options = [
            (f"{q}: {triplets[q].caption}", (self.world.value, split, category, q)) for q in listed
        ]
        self.query.index = 0 if listed else None

    def _embed(
        self, definition: str, world: str, split: str, category: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(Q, D) queries, (N, T, D) corpus and (Q,) target positions, by a definition's model."""
        model = self.worlds[world].definitions[definition]
        queries = getattr(self.worlds[world].data, split)[category]
        embedded = model.embed_queries(queries)
        targets = queries.target_positions.to(embedded.device)
        return embedded, model.embed_corpus(queries.corpus), targets

    def _rank(self, definition: str) -> tuple[Ranking, int]:
        """The shown query's ranking by a definition's model, and its target's rank."""
        *where, q = self.query.value
        queries, images, targets = self._embed(definition, *where)
        ((_, ranking),) = rank_corpus(queries[[q]], images)
        return ranking, int(ranking.ranks_of(targets[[q]]))

    def _mine(self, rows: list[int], curve: str | None = None) -> pd.DataFrame:
        """The mining report on these queries, by the chosen rule; None: the chosen curve."""
        where = self.world.value, self.split.value, self.category.value
        queries, images, targets = self._embed(self.definition.value, *where)
        config = replace(self._config(self.definition.value), curve=curve or self.curve.value)
        relevance = None if self.relevance is None else self.relevance[rows]
        _, report = mine_hard_negatives(queries[rows], images, targets[rows], config, relevance)
        return report.per_query.set_axis(rows)

    def _config(self, definition: str) -> MiningConfig:
        """The chosen rule, on the chosen curve, with the temperature of a definition's model."""
        model = self.worlds[self.world.value].definitions[definition].model
        return MiningConfig(
            drop_rule=self.rule.value,
            consecutive_threshold=self.threshold.value,
            search_window=self.search_window.value or None,
            curve=self.curve.value,
            temperature=model.temperature.item(),
        )

    def _show_query(self) -> None:
        """Rank the corpus for the chosen query by the chosen definitions, and show all of it."""
        if self.query.value is None:
            return
        self._ranking, self._target_rank = self._rank(self.definition.value)
        overlay = self.overlay.value
        self._overlaid = None if overlay == "none" else self._rank(overlay)
        triplet = self.queries.triplets[self.query.value[-1]]
        path = self.queries.images[triplet.reference]
        reference = image_html(path, "reference", "reference", triplet.reference)
        caption, target = html.escape(triplet.caption), self._image(self._target_rank, "target")
        self.triplet.value = f'<div class="row">{reference}<p>{caption}<br>→</p>{target}</div>'
        last = len(self.queries.corpus) - 1
        if self.zoom.max != last:
            self.zoom.max, self.zoom.value = last, (0, last)
        self._show_window()

    def _show_window(self) -> None:
        """Mine the shown query alone, and show its window: on the curve, and in images."""
        if self.query.value is None:
            return
        self.threshold.disabled = self.rule.value != "release"
        number, n = self.query.value[-1], len(self.queries.corpus)
        found = {curve: self._mine([number], curve).iloc[0] for curve in CURVES}
        drops = {curve: _drops(window) for curve, window in found.items()}
        chosen, mined = drops[self.curve.value], found[self.curve.value]
        self.picture.value, self.hover.value = self._curve(chosen), "".join(self._hover_columns())
        bars = (ranking_strip(c, n, self._target_rank, d) for c, d in drops.items())
        self.strips.value = STRIPS + "".join(bars)
        zones = {}
        if min(chosen) >= 0:
            zones = zone_ranks(self._target_rank, (chosen[0] + 1, chosen[1]), n, ZONE_IMAGES)
        rows = (self._zone(z, r, mined.get(f"relevance_{z}", np.nan)) for z, r in zones.items())
        self.zones.value = "".join(rows)

    def _zone(self, zone: str, ranks: list[int], relevance: float) -> str:
        """A row of images of one zone."""
        colour = method_figures.ZONE_COLOURS[zone]
        known = "" if np.isnan(relevance) else f"<br>mean relevance {relevance:.2f}"
        title = f'<b style="color: {colour}">{zone} the window</b>{known}'
        images = "".join(self._image(rank, zone) for rank in ranks) or "none"
        shown = f'<div class="zone">{title}</div><div class="images">{images}</div>'
        return f'<div class="row">{shown}</div>'

    def _curve(self, drops: tuple[int, int]) -> bytes:
        """The ranks zoomed in on, as a PNG."""
        figure = Figure(SIZE, dpi=DPI, layout="none")
        ax = figure.add_axes((LEFT, BOTTOM, WIDTH, HEIGHT))
        curves = [self._measured(self._ranking, self._target_rank, self.definition.value)]
        if self._overlaid is not None:
            ranking, rank = self._overlaid
            curves.append(self._measured(ranking, rank, self.overlay.value))
            label = f"{self.overlay.value} (target at rank {rank})"
            ax.plot(curves[1], "*--", color="0.6", markevery=[rank], markersize=8, label=label)
        shown = curves[0], self._target_rank, drops
        method_figures.plot_relevance_curve(ax, *shown, curve=self.curve.value)
        low, high = self.zoom.value
        bottom, top = min(c[high] for c in curves), max(c[low] for c in curves)
        margin = 0.05 * (top - bottom) + 1e-6
        ax.set(xlim=(low - 0.5, high + 0.5), ylim=(bottom - margin, top + margin))
        stream = io.BytesIO()
        figure.savefig(stream, format="png")
        return stream.getvalue()

    def _measured(self, ranking: Ranking, target_rank: int, definition: str) -> np.ndarray:
        """(N,) what the drops are measured in, by rank: cosines, or 1 - P by a definition."""
        scores = ranking.scores[0].cpu().numpy()
        return measured_curve(scores, target_rank, self._config(definition))

    def _hover_columns(self) -> Iterator[str]:
        """What the mouse finds over the curve: a column a rank, each with a card."""
        ranks = np.linspace(*self.zoom.value, HOVER_RANKS).round().astype(int)
        ranks = np.unique(ranks).tolist()
        width = 100 * WIDTH / len(ranks)
        for column, rank in enumerate(ranks):
            late = " late" if column > len(ranks) / 2 else ""
            place = f"left: {100 * LEFT + column * width:.2f}%; width: {width:.2f}%"
            yield f'<div class="rank{late}" style="{place}">{self._image(rank, "reference")}</div>'

    def _image(self, rank: int, zone: str) -> str:
        """The image at a rank of the shown query's ranking, with its score and relevance."""
        position = int(self._ranking.order[0, rank])
        note = f"rank {rank:,}<br>score {self._ranking.scores[0, rank]:.3f}"
        if self.relevance is not None:
            note += f"<br>relevance {self.relevance[self.query.value[-1], position]:.2f}"
        corpus = self.queries.corpus
        return image_html(corpus.paths[position], note, zone, corpus.image_ids[position])


def _drops(mined: pd.Series) -> tuple[int, int]:
    """A query's two drops by its row of the mining report; (-1, -1) without a pair."""
    window = mined.window_start, mined.window_end
    return (int(window[0]) - 1, int(window[1])) if mined.set_size > 0 else (-1, -1)
