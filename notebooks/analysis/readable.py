"""Tables as a notebook shows them: headers in words, numbers rounded, no index."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from IPython.display import HTML, display

from qure_lib.reporting.names import plain_name

ONE_LINE = 32  # characters


def show(frame: pd.DataFrame, words: Mapping[str, str] | Sequence[str] = ()) -> None:
    """Display a frame as `table` writes it."""
    display(HTML(table(frame, words)))


def table(frame: pd.DataFrame, words: Mapping[str, str] | Sequence[str] = ()) -> str:
    """A frame as an HTML table, its texts escaped.

    Args:
        frame: the table; an index that has a name is shown as columns.
        words: the columns to show, in order, or column -> its header; all without any. A column
            without a header has its name, "_" as a space.

    Raises:
        KeyError: a column that the frame lacks.
    """
    levels = [name for name in frame.index.names if name is not None]
    frame = frame.reset_index(levels) if levels else frame
    frame = frame[list(words)] if words else frame
    named = words if isinstance(words, Mapping) else {}
    headers = [named.get(column, _words(column)) for column in frame]
    cells = pd.DataFrame({k: frame[c].map(_cell) for k, c in enumerate(frame)}, dtype=object)
    return cells.set_axis(headers, axis=1).to_html(index=False, border=0)


def _words(name: object) -> str:
    """A column's name, or a tuple of names, in words."""
    parts = name if isinstance(name, tuple) else (name,)
    return ", ".join(str(part).replace("_", " ") for part in parts if str(part))


def _cell(value: object) -> str:
    """A value as people write it; a short one stays on one line."""
    text = _text(value)
    return text.replace(" ", "\N{NO-BREAK SPACE}") if len(text) <= ONE_LINE else text


def _text(value: object) -> str:
    """Codes in words, whole numbers with separators, others with two decimals."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, str):
        plain = plain_name(value)
        return plain.replace("_", " ") if plain.isidentifier() else plain
    if pd.isna(value):
        return "-"
    if isinstance(value, int | float | np.number):
        whole = float(value).is_integer()
        small = abs(value) < 0.01
        return f"{value:,.0f}" if whole else f"{value:.2g}" if small else f"{value:,.2f}"
    return str(value)


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
