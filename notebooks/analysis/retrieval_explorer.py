"""Notebook 00: type a relative caption over an image, see what two models find."""

import html
import random
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

import ipywidgets as ipw
from torch import Tensor

from analysis.explorer_parts import Explorer, image_html
from qure_lib.datasets.loading import SPLITS
from qure_lib.datasets.queries import QuerySet, Triplet
from qure_lib.features.retriever import Retriever
from qure_lib.method.config import MiningConfig
from qure_lib.method.drops import CURVES
from qure_lib.method.mining import mine_hard_negatives
from qure_lib.method.ranking import rank_corpus
from qure_lib.train.training_data import TrainingData

from .method_figures import ZONE_COLOURS

SHOWN, LISTED_QUERIES = 10, 200  # images a model, and queries in the list
LEGEND = "".join(
    f'<b style="color: {ZONE_COLOURS[zone]}">{words}</b>'
    for zone, words in {
        "target": "target",
        "above": "above the window of hard negatives",
        "inside": "inside it",
        "below": "below it",
    }.items()
)


class RetrievalExplorer(Explorer):
    """The best images of two models for any reference image and relative caption.

    Where both are a query of the data set, its target is known: the images then have the frames of
    their zones, and their graded relevance where the data set has it.

    Args:
        data: queries by split and category; val is shown first.
        models: name -> model; the last two are shown first.
    """

    def __init__(self, data: TrainingData, models: Mapping[str, Retriever]) -> None:
        self.data, self.models = data, models
        self._embed = lru_cache(maxsize=4)(self._embed)
        self._generator = random.Random(0)
        self.category = ipw.Dropdown(options=list(data.val), description="category")
        self.split = ipw.Dropdown(options=SPLITS, value="val", description="split")
        self.query = ipw.Dropdown(description="query of the data set").add_class("wide")
        self.reference = ipw.Combobox(description="reference image", continuous_update=False)
        self.caption = ipw.Text(description="relative caption", continuous_update=False)
        self.caption.add_class("wide")
        self.random = ipw.Button(description="another reference image")
        names = list(models)
        self.left, self.right = (
            ipw.Dropdown(options=names, value=name, description=side)
            for side, name in zip(("left", "right"), (names * 2)[-2:], strict=True)
        )
        self.curve = ipw.Dropdown(options=CURVES, description="windows by drops in")
        self.asked, self.results = ipw.HTML(), ipw.HTML()
        super().__init__(self._rows())
        self._connect()
        self._list_queries()

    def _rows(self) -> list[ipw.Widget]:
        """The layout, from top to bottom."""
        return [
            ipw.HBox([self.category, self.split]),
            self.query,
            ipw.HBox([self.reference, self.random]),
            self.caption,
            ipw.HBox([self.left, self.right, self.curve]),
            *(self.asked, self.results),
        ]

    def _connect(self) -> None:
        """Connect each control to what it changes."""
        for control in (self.category, self.split):
            control.observe(lambda _: self._list_queries(), "value")
        self.query.observe(lambda _: self._take_query(), "value")
        for control in (self.reference, self.caption, self.left, self.right, self.curve):
            control.observe(lambda _: self._show(), "value")
        self.random.on_click(lambda _: self._take_any_reference())

    def _list_queries(self) -> None:
        """Offer the queries and images of the chosen split and category; show the first query."""
        split, category = self.split.value, self.category.value
        self.queries: QuerySet = getattr(self.data, split)[category]
        known = self.data.relevance if split == "train" else self.data.val_relevance
        self.relevance = known.get(category)
        self.reference.options = list(self.queries.images)
        listed = enumerate(self.queries.triplets[:LISTED_QUERIES])
        self.query.options = ()  # so that the first query is a new one
        self.query.options = [(f"{q}: {t.caption}", q) for q, t in listed]
        self.query.index = 0

    def _take_query(self) -> None:
        """Show the chosen query of the data set."""
        if self.query.value is not None:
            triplet = self.queries.triplets[self.query.value]
            self.reference.value = ""  # or the old image would be shown with the new caption
            self.caption.value, self.reference.value = triplet.caption, triplet.reference

    def _take_any_reference(self) -> None:
        """Keep the caption, over another image."""
        self.reference.value = self._generator.choice(self.reference.options)

    def _show(self) -> None:
        """Show what both models find for the reference image and the caption."""
        image, caption = self.reference.value, self.caption.value.strip()
        self.results.value = ""
        if image not in self.queries.images or not caption:
            unknown = f"There is no image {html.escape(image)!r} here: " if image else ""
            self.asked.value = f'<p class="note">{unknown}choose an image, and type a caption.</p>'
            return
        query = self._find_query(image, caption)
        shown = image_html(self.queries.images[image], "reference", "reference", image)
        about = "No query of the data set: nobody knows the target, so no image has a zone."
        if query is not None:
            target = self.queries.triplets[query].target
            place = self.queries.images[target]
            shown += (
                f"<p>{html.escape(caption)}<br>→</p>{image_html(place, 'target', 'target', target)}"
            )
            about = f'<span class="legend">Frames: {LEGEND}</span>'
        self.asked.value = f'<div class="row">{shown}</div><p class="note">{about}</p>'
        both = [self._results(name, query) for name in (self.left.value, self.right.value)]
        self.results.value = f'<div class="results">{"".join(both)}</div>'

    def _find_query(self, image: str, caption: str) -> int | None:
        """The query of the data set that asks this, the chosen one before others; None without."""
        triplets, chosen = self.queries.triplets, self.query.value
        order = sorted(range(len(triplets)), key=lambda q: q != chosen)
        return next((q for q in order if (image, caption) == _question(triplets[q])), None)

    def _embed(self, name: str, split: str, category: str) -> Tensor:
        """(N, T, D) corpus of a split and category, by a model."""
        return self.models[name].embed_corpus(getattr(self.data, split)[category].corpus)

    def _results(self, name: str, query: int | None) -> str:
        """A model's best images, and where it ranks the target of a known query."""
        model, corpus = self.models[name], self.queries.corpus
        asked = self.reference.value, self.caption.value.strip()
        one = Triplet(" ".join(asked), *asked, "", self.category.value, ())
        if query is not None:
            one = self.queries.triplets[query]
        embedded = model.embed_queries(replace(self.queries, triplets=(one,)))
        images = self._embed(name, self.split.value, self.category.value)
        zones, about = {}, ""
        if query is not None:
            zones, about = self._zones(embedded, images, model, query)
        ((_, ranking),) = rank_corpus(embedded, images)
        shown = []
        for rank in range(min(SHOWN, len(corpus))):
            position = int(ranking.order[0, rank])
            note = f"rank {rank}<br>score {ranking.scores[0, rank]:.3f}"
            if query is not None and self.relevance is not None:
                note += f"<br>relevance {self.relevance[query, position]:.2f}"
            zone = zones.get(rank, "reference")
            shown.append(image_html(corpus.paths[position], note, zone, corpus.image_ids[position]))
        return f"<div><h4>{html.escape(name)}</h4>{about}<div>{''.join(shown)}</div></div>"

    def _zones(
        self, embedded: Tensor, images: Tensor, model: Retriever, query: int
    ) -> tuple[dict[int, str], str]:
        """The zone of each rank shown, and a line on target and window, of a known query."""
        config = MiningConfig(curve=self.curve.value, temperature=model.model.temperature.item())
        targets = self.queries.target_positions[[query]].to(embedded.device)
        _, report = mine_hard_negatives(embedded, images, targets, config)
        found = report.per_query.iloc[0]
        zones, window = {}, "it has no pair of drops"
        if found.set_size > 0:
            first, last = int(found.window_start), int(found.window_end)
            window = f"the window is ranks {first:,} to {last:,} of {len(self.queries.corpus):,}"
            for rank in range(SHOWN):
                zones[rank] = "above" if rank < first else "inside" if rank <= last else "below"
        zones[int(found.target_rank)] = "target"
        about = f"target at rank {int(found.target_rank):,}; {window}"
        return zones, f'<p class="note">{about}</p>'


def _question(triplet: Triplet) -> tuple[str, str]:
    return triplet.reference, triplet.caption.strip()
