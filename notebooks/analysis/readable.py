"""Tables as a notebook shows them, in the words of the reports' page, and warnings folded."""

from collections.abc import Mapping, Sequence

import pandas as pd
from IPython.display import HTML, display
from report.tables import in_words

ONE_LINE = 32  # characters


def show(frame: pd.DataFrame, words: Mapping[str, str] | Sequence[str] = ()) -> None:
    """Display a frame as `table` writes it."""
    display(HTML(table(frame, words)))


def table(frame: pd.DataFrame, words: Mapping[str, str] | Sequence[str] = ()) -> str:
    """A frame as an HTML table, `tables.in_words`, its texts escaped; a short one on one line.

    Args:
        frame: the table; an index that has a name is shown as columns.
        words: the columns to show, in order, or column -> its header; all without any.

    Raises:
        KeyError: a column that the frame lacks.
    """
    levels = [name for name in frame.index.names if name is not None]
    frame = frame.reset_index(levels) if levels else frame
    frame = frame[list(words)] if words else frame
    frame = frame.rename(columns=words) if isinstance(words, Mapping) else frame
    if frame.columns.nlevels > 1:
        frame = frame.set_axis([", ".join(filter(None, names)) for names in frame], axis=1)
    return in_words(frame).map(_on_one_line).to_html(index=False, border=0)


def _on_one_line(text: str) -> str:
    return text.replace(" ", "\N{NO-BREAK SPACE}") if len(text) <= ONE_LINE else text


def fold_warnings(warnings: list[str]) -> pd.DataFrame:
    """Each distinct warning once, with its count: numbers in per cent become a range.

    Returns:
        Columns times, warning; in order of appearance, empty without warnings.

    Example:
        >>> fold_warnings(["93% are easy.", "84% are easy."]).to_dict("records")
        [{'times': 2, 'warning': '84-93% are easy.'}]
    """
    texts = pd.Series(warnings, dtype=object)
    percents = texts.str.extract(r"(\d+)%", expand=False).astype(float)
    groups = percents.groupby(texts.str.replace(r"\d+%", "{}", regex=True), sort=False)
    rows = []
    for words, values in groups:
        low, high = values.min(), values.max()
        text = f"{low:.0f}%" if low == high else f"{low:.0f}-{high:.0f}%"
        rows.append({"times": len(values), "warning": words.replace("{}", text)})
    return pd.DataFrame(rows, columns=["times", "warning"])
