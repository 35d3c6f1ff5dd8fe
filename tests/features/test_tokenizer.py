"""Captions as tokens: the tokenizer of a checkpoint, and BERT-uncased's."""

import json

import pytest

from qure_lib.datasets.captions import clean_caption
from qure_lib.features.tokenizer import bert_tokenizer, load_tokenizer, tokenize


def test_captions_are_cleaned_padded_and_cut(stage1):
    tokenizer = load_tokenizer(stage1)
    ids, mask = tokenize(tokenizer, ["Is RED.", "is red and is much longer and has a v neck"], 8)
    assert ids.shape == mask.shape == (2, 8)
    assert mask.sum(dim=1).tolist() == [4, 8]
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == clean_caption("Is RED.")
    assert tokenizer.unk_token_id not in ids


def test_a_missing_or_empty_vocabulary_is_refused(stage1, tmp_path):
    with pytest.raises(ValueError, match="missing"):
        load_tokenizer(tmp_path)
    tokenizer = json.loads((stage1 / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {"[UNK]": 1}
    tokenizer |= {"added_tokens": [], "post_processor": None}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match="is not a vocabulary"):
        load_tokenizer(tmp_path)
    for damaged in ("{}", (stage1 / "tokenizer.json").read_text()[:500]):
        (tmp_path / "tokenizer.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer"):
            load_tokenizer(tmp_path)


# --- BERT-uncased's tokenizer --------------------------------------------------------------------


def pack(vocabulary, folder):
    """The same tokens as tokenizer.json with [DEC], as `transformers` saves them."""
    bert_tokenizer(vocabulary).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("packed", [False, True], ids=["vocab.txt", "tokenizer.json"])
def test_captions_get_the_ids_of_the_real_bert(packed, bert_vocabulary, bert_captions, tmp_path):
    folder = pack(bert_vocabulary, tmp_path) if packed else bert_vocabulary
    tokenizer = bert_tokenizer(folder)
    assert (len(tokenizer), tokenizer.bos_token_id, tokenizer.pad_token_id) == (30_523, 30_522, 0)
    for caption, ids in bert_captions["captions"].items():
        assert tokenize(tokenizer, [caption], 32)[0].tolist() == [ids], caption
    ids, mask = tokenize(tokenizer, list(bert_captions["captions"]), 32)
    assert mask.sum(dim=1).tolist() == [len(i) for i in bert_captions["captions"].values()]
    assert (ids[mask == 0] == 0).all()


def test_settings_saved_beside_a_vocabulary_change_nothing(bert_vocabulary, tmp_path):
    folder = pack(bert_vocabulary, tmp_path)
    saved = json.loads((folder / "tokenizer.json").read_text())
    cut = {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Left"}
    saved["truncation"] = cut
    saved["normalizer"] = None
    (folder / "tokenizer.json").write_text(json.dumps(saved))
    captions = ["Is shiny and SILVER with shorter sleeves"]
    expected = tokenize(bert_tokenizer(bert_vocabulary), captions, 32)[0]
    assert tokenize(bert_tokenizer(folder), captions, 32)[0].tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tokens: None, "neither vocab.txt nor tokenizer.json"),
        (lambda tokens: [], "holds 1 different tokens"),
        (lambda tokens: tokens[:-1], r"holds 30,521 different tokens.*bert-base-uncased"),
        (lambda tokens: tokens + ["[more]"], "holds 30,523 different tokens"),
        (lambda tokens: tokens[:-1] + ["[PAD]"], "holds 30,521 different tokens"),
        (lambda tokens: tokens + ["[PAD]"], r"30,522 different .*\{'\[PAD\]': 30522"),
        (lambda tokens: tokens + ["is"], "holds 30,522 different tokens with ids up to 30,522, "),
        (lambda tokens: ["[DEC]"] + tokens[1:], "holds 30,521 different tokens"),
        (
            lambda tokens: tokens[1:] + tokens[:1],
            r"\{'\[PAD\]': 30521.* has 30,522, \{'\[PAD\]': 0",
        ),
    ],
)
def test_another_vocabulary_is_refused(damage, message, bert_vocabulary, tmp_path):
    tokens = (bert_vocabulary / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    if (damaged := damage(tokens)) is not None:
        (tmp_path / "vocab.txt").write_text("\n".join(damaged), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        bert_tokenizer(tmp_path)


def test_two_vocabularies_that_differ_are_refused(bert_vocabulary, tmp_path):
    """Both hold 30,522 tokens with the special ones in their places; two words are swapped."""
    pack(bert_vocabulary, tmp_path)
    text = (bert_vocabulary / "vocab.txt").read_text(encoding="utf-8")
    (tmp_path / "vocab.txt").write_text(text, encoding="utf-8")
    assert len(bert_tokenizer(tmp_path)) == 30_523
    tokens = text.split("\n")
    tokens[2000], tokens[2001] = tokens[2001], tokens[2000]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
    with pytest.raises(ValueError, match=r"vocab\.txt and .*tokenizer\.json differ"):
        bert_tokenizer(tmp_path)


@pytest.mark.parametrize("file", ["vocab.txt", "tokenizer.json"])
def test_a_file_that_is_no_vocabulary_is_named(file, tmp_path):
    (tmp_path / file).write_bytes(b"\xff\xfe{")
    with pytest.raises(ValueError, match=f"{file} is not a vocabulary"):
        bert_tokenizer(tmp_path)
