"""Captions, image ids and file names that try to run a script, in a real browser."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import execution
import pandas as pd
import pytest
from analysis.explorer import ExplorerData, RelevanceExplorer
from analysis.page_explorer import save_page_explorer
from analysis.preference_explorer import PreferenceExplorer
from analysis.readable import table
from analysis.retrieval_explorer import RetrievalExplorer
from browser import BROWSER, Page, tab
from drawn_queries import DrawnEmbedder, draw_query_set
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image
from report.folder import Reports
from report.page import build_index
from report.tables import save_table

from qure_lib.method.config import MiningConfig
from qure_lib.method.mining import mine_hard_negatives
from qure_lib.train.training_data import TrainingData

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome to open the pages in"),
    pytest.mark.skipif(
        "QURE_BROWSER" not in os.environ, reason="opens a browser if QURE_BROWSER=1"
    ),
]
# What runs here, and the ways to have it run: where text, an attribute or a script ends, in what is
# no script, in links of HTML and of Markdown, and in a template.
RUN = "top.document.title='ran',void(0)"
ATTACK = f"""</script><script>{RUN}</script>"><img src=x onerror="{RUN}">' onmouseover='{RUN}'\
 x='<svg onload="{RUN}"></svg><iframe srcdoc="<script>{RUN}</script>"></iframe> {{{{ 7 * 7 }}}}\
 <a href="javascript:{RUN}">here</a> [there](javascript:{RUN}) ![x](javascript:{RUN})"""
# Everything in the page that could still run one: clicked, pointed at, loaded.
PROVOKE = """for (const e of document.querySelectorAll('*')) {
    for (const kind of ['mouseover', 'error', 'load']) e.dispatchEvent(new Event(kind));
    if (e.tagName === 'A' && e.href.startsWith('javascript:')) e.click()}"""


@pytest.fixture
def page(tmp_path) -> Iterator[Page]:
    with tab(tmp_path / "browser") as page:
        page.send("Network.enable")
        page.send("Page.enable")
        yield page


def go(page: Page, address: str) -> None:
    page.send("Page.navigate", url=address)
    page.wait(f"location.href == {address!r} && document.readyState == 'complete'")


def provoke(page: Page) -> str:
    """The page's title after a while in which a script could have changed it."""
    page.run(PROVOKE)
    page.run("window.late = false; setTimeout(() => window.late = true, 300)")
    page.wait("window.late")
    asked = [
        event["params"]["request"]["url"]
        for event in page.events
        if event.get("method") == "Network.requestWillBeSent"
    ]
    assert not [url for url in asked if url.startswith("http")]
    return page.run("document.title")


def draw_hostile(folder: Path) -> TrainingData:
    """Queries whose captions and ids try."""
    queries = draw_query_set(folder, ATTACK, 30)
    triplets = tuple(replace(t, caption=ATTACK) for t in queries.triplets)
    queries = replace(queries, triplets=triplets)
    return TrainingData({ATTACK: queries}, {ATTACK: queries}, {})


def write_reports(root: Path, data: TrainingData) -> Path:
    """A report folder whose figure, table, explorer and notes hold text that tries."""
    reports, model = Reports(root, "03_hard_negatives"), DrawnEmbedder("here")
    stem = reports.write_note("figure", "fig7_score_curve", ATTACK)
    Image.new("RGB", (60, 30), "white").save(stem.with_suffix(".png"))
    stem.with_suffix(".pdf").write_bytes(b"%PDF")
    stem.with_suffix(".csv").write_text("rank,score\n0,1\n")
    save_table(pd.DataFrame({ATTACK: [ATTACK], "r10": [1.5]}), "table2", ATTACK, reports)
    queries = data.train[ATTACK]
    embedded = model.embed_queries(queries), model.embed_corpus(queries.corpus)
    config = MiningConfig(temperature=0.07)
    report = mine_hard_negatives(*embedded, queries.target_positions, config)[1]
    save_page_explorer(model, {ATTACK: report}, data, False, reports)
    return build_index(root)


def test_the_report_shows_text_and_runs_its_own_script_alone(page, tmp_path):
    index = write_reports(tmp_path / "reports", draw_hostile(tmp_path))
    go(page, index.as_uri())
    assert page.run("document.querySelectorAll('#explorer svg path').length") > 0  # its own ran
    assert ATTACK in page.run("document.querySelector('#explorer .triplet p').textContent")
    assert ATTACK in page.run("document.querySelector('#table-table2 td').textContent")
    assert provoke(page) == "QuRe reproduction kit: reports"


def test_the_report_runs_no_script_even_where_text_were_not_escaped(page, tmp_path):
    index = write_reports(tmp_path / "reports", draw_hostile(tmp_path))
    index.write_text(index.read_text().replace("<main>", f"<main>{ATTACK}"))
    go(page, index.as_uri())
    assert page.run("document.querySelectorAll('main iframe').length") == 1
    assert provoke(page) == "QuRe reproduction kit: reports"


def test_an_executed_notebook_runs_no_script_whatever_its_cells_show(page, tmp_path):
    """What the kit's tables and prints show stays text, and what is HTML all the same is inert."""
    frame = pd.DataFrame({"caption": [ATTACK]})
    shown = [
        {"text/html": table(frame)},
        {"text/html": frame.to_html()},
        {"text/html": ATTACK},
        {"text/markdown": ATTACK},
        {"text/plain": ATTACK},
        {"application/javascript": RUN},
        {"image/svg+xml": f'<svg xmlns="http://www.w3.org/2000/svg" onload="{RUN}"></svg>'},
    ]
    outputs = [new_output("display_data", data=data) for data in shown]
    outputs.append(new_output("stream", name="stdout", text=ATTACK))
    cells = [new_markdown_cell(f"# 03 Which?\n\n{ATTACK}"), new_code_cell(f"x = {ATTACK!r}")]
    cells[1].outputs = outputs
    execution.write_executed(new_notebook(cells=cells), tmp_path / "one")
    go(page, (tmp_path / "one.html").as_uri())
    cells = page.run("[...document.querySelectorAll('td')].map(e => e.textContent)")
    assert cells == [ATTACK, ATTACK]
    assert ATTACK in page.run("[...document.querySelectorAll('pre')].map(e => e.textContent)")
    assert provoke(page) == "one"


def test_the_explorers_show_text(page, tmp_path):
    """Their HTML goes into a page as ipywidgets does it, by innerHTML, and nothing else guards."""
    data, model = draw_hostile(tmp_path), DrawnEmbedder("epoch 9")
    relevance = RelevanceExplorer({ATTACK: ExplorerData(data, {ATTACK: model})})
    retrieval = RetrievalExplorer(data, {ATTACK: model})
    row = {"participant": ATTACK, "question_set": ATTACK, "category": ATTACK, "caption": ATTACK}
    row |= {"reference": ATTACK, "target": ATTACK, "preferred": 1, "score_1": 4, "score_2": 2}
    row |= {name: tuple(f"{ATTACK}{name}{i}" for i in range(5)) for name in ("set_1", "set_2")}
    preference = PreferenceExplorer(pd.DataFrame([row]), {}, ATTACK)
    parts = [relevance.triplet, relevance.hover, relevance.strips, relevance.zones]
    parts += [retrieval.asked, retrieval.results, preference.row]
    go(page, "about:blank")
    for part in parts:
        assert part.value
        page.run(f"document.title = 'before'; document.body.innerHTML = {json.dumps(part.value)}")
        assert provoke(page) == "before"
        assert page.run("document.querySelectorAll('script, iframe, svg, a').length") == 0
    assert ATTACK in page.run("document.body.textContent")


def test_the_attack_would_run_in_a_page_that_does_not_escape(page):
    go(page, "about:blank")
    page.run(f"document.title = 'before'; document.body.innerHTML = {json.dumps(ATTACK)}")
    assert provoke(page) == "ran"
