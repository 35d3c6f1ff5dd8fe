"""A notebook's figures and tables of the previous run, kept until the new run has succeeded."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from report.folder import note_path, read_notes


@contextmanager
def replacing_outputs(root: str | Path, notebook: str) -> Iterator[None]:
    """Set a notebook's previous figures and tables aside; bring them back if the block fails.

    A successful run leaves nothing of the previous one. A run that fails or is interrupted leaves
    the previous one as it was; if it was killed, the next call brings the previous one back.

    Args:
        root: the report folder.
        notebook: its name; its figures and tables are found by their notes, all others stay.
    """
    root = Path(root)
    aside = root / f".previous-{notebook}"
    if aside.exists():
        _restore(root, notebook, aside)
    _move(_outputs(root, notebook), root, aside)
    try:
        yield
    except BaseException:
        _restore(root, notebook, aside)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _restore(root: Path, notebook: str, aside: Path) -> None:
    for path in _outputs(root, notebook):
        path.unlink()
    _move([path for path in aside.rglob("*") if path.is_file()], aside, root)
    shutil.rmtree(aside, ignore_errors=True)


def _move(paths: list[Path], source: Path, destination: Path) -> None:
    for path in paths:
        new = destination / path.relative_to(source)
        new.parent.mkdir(parents=True, exist_ok=True)
        path.replace(new)


def _outputs(root: Path, notebook: str) -> list[Path]:
    """Every file of the notebook's figures and tables, the notes last."""
    stems = [note_path(root, n) for n in read_notes(root) if n["notebook"] == notebook]
    files = [path for stem in stems for path in stem.parent.glob(f"{stem.name}.*")]
    return sorted(files, key=lambda path: (path.suffix == ".json", path))
