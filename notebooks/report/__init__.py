"""The report that the notebooks write: its folder, tables, claims and page."""

from .folder import Reports, save_figure

__all__ = ["Reports", "save_figure"]
