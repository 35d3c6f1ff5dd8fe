"""HP-FashionIQ: which of two sets of images people preferred, and scores of such sets."""

import csv
import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qure_lib.files import read_json, replacing

from .fashioniq import list_fashioniq_images
from .image_files import find_by_id
from .queries import Counts, check_distinct

COUNTS = Counts(images=5_473, queries=3_050)
SET_SIZE = 5
QUESTION = ("participant", "category", "reference", "caption", "target", "set_1", "set_2")


def load_hp_fashioniq(path: str | Path) -> pd.DataFrame:
    """Load HP-FashionIQ: which of two sets of five images a person found to answer a query better.

    Args:
        path: hpfiq.json, or a file of the same structure (SynthFashion's hpfiq_simulated.json).

    Returns:
        One row a judged query, in the file's order: participant, question_set, category,
        reference, caption (spelled-out punctuation restored; a hyphen is a hyphen), target, set_1
        and set_2 (five image ids each), preferred (1 or 2), score_1 and score_2 (the participant's
        own, 1 to 5).

    Raises:
        ValueError: the file is missing or broken, the target is the reference, or a participant
            is asked the same QUESTION twice; the message names participant, key and row.
    """
    rows = {}  # by place, for messages
    for participant, question_sets in read_json(path, dict).items():
        place = f"{path}, participant {participant!r}"
        if not isinstance(question_sets, dict) or not question_sets:
            raise ValueError(f"{place}: expected question sets by name; get the file again")
        for name, questions in question_sets.items():
            for row, judgement in _read_questions(questions, f"{place}, {name!r}"):
                rows[row] = {"participant": participant, "question_set": name} | judgement
    if not rows:
        raise ValueError(f"{path} holds no judged query; get the file again")
    asked = ((place, tuple(row[key] for key in QUESTION)) for place, row in rows.items())
    check_distinct(asked, "the question")
    return pd.DataFrame(list(rows.values()))


def _read_questions(questions: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and content of each row of a question set, whose keys hold parallel lists."""
    known = questions if isinstance(questions, dict) else {}
    lengths = {k: len(known[k]) for k in HP_KEYS if isinstance(known.get(k), list)}
    if len(lengths) < len(HP_KEYS) or len(set(lengths.values())) > 1:
        raise ValueError(f"{place}: needs lists {HP_KEYS} of one length; these are {lengths}")
    for number, values in enumerate(zip(*(known[key] for key in HP_KEYS), strict=True)):
        row, read = f"{place}, row {number}", []
        for (key, (reader, expected)), value in zip(READERS.items(), values, strict=True):
            read.append(reader(value))
            if read[-1] is None:
                raise ValueError(f"{row}, {key!r}: expected {expected}, not {value!r}; repair it")
        (category, reference), (_, target), caption, (set_1, score_1), (set_2, score_2), best = read
        if target == reference:
            raise ValueError(f"{row}: the target is the reference, {target!r}; remove the row")
        query = {"category": category, "reference": reference, "caption": caption, "target": target}
        shown = {"set_1": set_1, "set_2": set_2, "preferred": best}
        yield row, query | shown | {"score_1": score_1, "score_2": score_2}


def _read_path(path: Any) -> tuple[str, str] | None:
    """Category and id of ".../{category}/{id}.jpg"; None for anything else."""
    found = re.fullmatch(r"(?:.*/)?([^/]+)/([^/]+)\.\w+", path) if isinstance(path, str) else None
    return found and (found[1], found[2])


def _read_set(shown: Any) -> tuple[tuple[str, ...], int] | None:
    """The ids of a set's five distinct images, and its score; None for anything else."""
    known = shown if isinstance(shown, dict) else {}
    paths, score = known.get("img_path"), _read_choice(known.get("user_score"), 5)
    found = [_read_path(path) for path in paths] if isinstance(paths, list) else []
    ids = tuple(dict.fromkeys(path[1] for path in found if path))
    return (ids, score) if score and len(found) == len(ids) == SET_SIZE else None


def _read_choice(value: Any, highest: int = 2) -> int | None:
    """A whole number from 1, which the file writes as a string; None for anything else."""
    return int(value) if str(value) in map(str, range(1, highest + 1)) else None


def restore_punctuation(caption: str) -> str:
    """Undo HP-FashionIQ's spelled-out punctuation; hyphens are the captions' own and stay.

    Example:
        >>> restore_punctuation("is it a t-shirtquestionmark  and black andmark bluedotmark")
        'is it a t-shirt? and black & blue.'
    """
    for word, mark in ((r"dotmark\b", "."), (r"questionmark\b", "?"), (r"\bandmark\b", "&")):
        caption = re.sub(word, mark, caption)
    return " ".join(caption.split())


PATH = "a path like 'shirt/B000LUIBH8.jpg'"
SHOWN = f"'img_path' with {SET_SIZE} distinct images and 'user_score' from 1 to 5"
# Key of a question set -> how its values are read, and what they must be.
READERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "ref_img_paths": (_read_path, PATH),
    "targ_img_paths": (_read_path, PATH),
    "sentences": (lambda v: restore_punctuation(v) if isinstance(v, str) else None, "a caption"),
    "retrieved_set1": (_read_set, SHOWN),
    "retrieved_set2": (_read_set, SHOWN),
    "preferred set": (_read_choice, "1 or 2"),
}
HP_KEYS = tuple(READERS)


def find_hp_fashioniq_images(judged: pd.DataFrame, root: str | Path) -> dict[str, Path]:
    """Id -> file of every image to score, in FashionIQ's folder; ValueError if one is missing."""
    found = find_by_id(root, list_fashioniq_images(root), scored_images(judged))
    if found.missing:
        raise found.error(f"{root}, HP-FashionIQ")
    return found.paths


def list_images(root: str | Path) -> dict[str, Path]:
    """Id -> file of every image that scoring reads, in FashionIQ's folder or beside hpfiq.json."""
    judged = load_hp_fashioniq(Path(root, "hpfiq.json"))
    files = list_fashioniq_images(Path(root).parent / "fashioniq") | list_fashioniq_images(root)
    return find_by_id(root, files, scored_images(judged)).paths


def scored_images(judged: pd.DataFrame) -> list[str]:
    """Ids of the images to score: references and both sets' images, not targets."""
    sets = chain.from_iterable((*judged["set_1"], *judged["set_2"]))
    return list(dict.fromkeys([*judged["reference"], *sets]))


def load_set_scores(path: str | Path, n_rows: int) -> np.ndarray:
    """Load any model's scores of the two sets of each judged query: (n_rows, 2) float64.

    Args:
        path: CSV with a line a set: row (0-based, the order of `load_hp_fashioniq`), set (1 or 2)
            and either score or the five image scores score_1 ... score_5, whose mean it is.

    Raises:
        ValueError: no such file or no CSV, both kinds of score are there, a column or a set is
            missing or comes twice, or a score is no finite number; the message names it.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            header, *lines = [line for line in csv.reader(stream) if line] or [[]]
        table = pd.DataFrame(lines, columns=header)
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV ({error}); write row,set,score") from error
    columns = _find_columns(header, path)
    numbers = table[columns].apply(pd.to_numeric, errors="coerce").astype(float)
    _check_set_scores(numbers, n_rows, path)
    scores = np.empty((n_rows, 2))
    places = numbers["row"].astype(int), numbers["set"].astype(int) - 1
    scores[places] = numbers[columns[2:]].mean(axis=1)
    return scores


def _find_columns(header: list[str], path: str | Path) -> list[str]:
    """Row, set, and the columns of the score: one or five. Others are ignored."""
    check_distinct(((f"{path}, column {n}", name) for n, name in enumerate(header, 1)), "the name")
    images = [f"score_{i}" for i in range(1, SET_SIZE + 1)]
    given = sorted(name for name in header if re.fullmatch(r"score(_\d+)?", name))
    if not {"row", "set"} <= set(header) or given not in (["score"], images):
        raise ValueError(f"{path}: columns {header}; write row,set,score or row,set,{images}")
    return ["row", "set", *given]


def _check_set_scores(numbers: pd.DataFrame, n_rows: int, path: str | Path) -> None:
    known = numbers["row"].isin(range(n_rows)) & numbers["set"].isin((1, 2))
    good = known & np.isfinite(numbers).all(axis=1)
    if not good.all():
        needs, line = f"row 0 to {n_rows - 1}, set 1 or 2 and finite scores", int(good.idxmin())
        found = numbers.loc[line].to_dict()
        raise ValueError(f"{path}, line {line + 2}: needs {needs}, not {found}; repair it")
    sets = zip(numbers["row"].astype(int), numbers["set"].astype(int), strict=True)
    check_distinct(((f"{path}, line {n}", pair) for n, pair in enumerate(sets, 2)), "(row, set)")
    if len(numbers) != 2 * n_rows:
        raise ValueError(f"{path}: {len(numbers)} sets; {n_rows} queries have two each, add them")


def save_set_scores(path: str | Path, scores: np.ndarray) -> None:
    """Write (n_rows, 2) scores of set 1 and set 2 so that `load_set_scores` reads them."""
    rows, columns = np.indices(scores.shape).reshape(2, -1)
    frame = pd.DataFrame({"row": rows, "set": columns + 1, "score": scores.ravel()})
    with replacing(path) as scratch:
        frame.to_csv(scratch, index=False, lineterminator="\n")
