"""The page of an executed notebook: results shown, code and logs folded, nothing fetched."""

import re

import execution
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from report.folder import Reports


def stream(lines: int):
    return new_output("stream", name="stdout", text="said\n" * lines)


def picture():
    return new_output("display_data", data={"image/png": "aGVsbG8="})


@pytest.fixture
def page(tmp_path):
    """Writes a notebook of these cells; returns its page."""

    def write(*cells) -> str:
        execution.write_executed(new_notebook(cells=list(cells)), tmp_path / "one")
        assert nbformat.read(tmp_path / "one.ipynb", as_version=4).cells
        return (tmp_path / "one.html").read_text()

    return write


def test_code_is_folded_and_its_outputs_are_not(page):
    cell = new_code_cell("answer = 42", outputs=[stream(2)])
    text = page(new_markdown_cell("# A question?"), cell)
    assert re.search(r"<h1[^>]*>A question\?", text)
    folded = re.findall(r"<details.*?</details>", text, re.DOTALL)
    assert len(folded) == 1 and "<summary>code</summary>" in folded[0] and "answer" in folded[0]
    assert "said" in text.replace(folded[0], "") and " open" not in folded[0].split(">")[0]


def test_parameters_have_plain_titles(page):
    text = page(
        new_code_cell("rate = 1  # lr", metadata={"tags": ["parameters"]}),
        new_code_cell("# Parameters\nrate = 2", metadata={"tags": ["injected-parameters"]}),
    )
    assert "settings and what they mean</summary>" in text
    assert "settings of this run</summary>" in text and "# Parameters" not in text


def test_a_long_log_is_folded_and_a_short_one_is_not(page):
    assert "log, 46 lines" in page(new_code_cell("x", outputs=[stream(46)]))
    assert "log," not in page(new_code_cell("x", outputs=[stream(8)]))


def test_a_widget_and_a_picture_are_shown_without_a_script(page):
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "W()"}
    picture = {"image/png": "aGVsbG8=", "text/plain": "<Figure>"}
    outputs = [new_output("display_data", data=data) for data in (widget, picture)]
    text = page(new_code_cell("x", outputs=outputs))
    assert "make lab" in text and 'src="data:image/png;base64,aGVsbG8="' in text
    assert "<script" not in text and "https:" not in text and "&lt;Figure" not in text


def test_links_lead_to_the_same_file_from_the_report_folder(tmp_path):
    cells = [new_markdown_cell("see [words](../docs/glossary.md), [this](#there)")]
    notebook = new_notebook(cells=[*cells, new_code_cell("x = '](../docs/'")])
    execution.relink(notebook, tmp_path / "notebooks", tmp_path / "reports" / "executed")
    link = "[words](../../notebooks/../docs/glossary.md), [this](#there)"
    assert [cell.source for cell in notebook.cells] == [f"see {link}", "x = '](../docs/'"]


def test_a_picture_has_its_figure_s_caption_as_text_and_alternative(tmp_path, page):
    reports = Reports(tmp_path, "01_first")
    for name in ("fig6_of_cosine", "fig6_of_preference", "extra_one", "extra_two"):
        reports.write_note("figure", name, f"Caption of {name}. Any <b>bold</b>.")
    sources = {
        'save_figure(fig, f"fig6_of_{curve}", x)': 2,
        'name = "extra_one" if real else "extra_missing"': 1,
        '"extra_two" and a picture more': 2,
    }
    cells = [
        new_code_cell(source, outputs=[picture() for _ in range(count)])
        for source, count in sources.items()
    ]
    notebook = new_notebook(cells=cells)
    execution.caption_pictures(notebook, "01_first", tmp_path)
    found = [[o.metadata.get("caption", "")[:30] for o in c.outputs] for c in notebook.cells]
    both = ["Caption of fig6_of_cosine. Any", "Caption of fig6_of_preference."]
    assert found == [both, ["Caption of extra_one. Any <b>b"], ["", ""]]
    text = page(notebook.cells[1])
    assert text.count("Caption of extra_one. Any &lt;b&gt;bold") == 2  # alternative and caption
