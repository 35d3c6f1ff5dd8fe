"""Relative captions -> token ids, by BERT's WordPiece."""

from pathlib import Path

from tokenizers import BertWordPieceTokenizer, Tokenizer
from tokenizers.processors import BertProcessing
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from qure_lib.datasets.captions import clean_caption

BERT_TOKENS = 30_522  # BERT-uncased's; BLIP-2 adds [DEC] as the last one
BERT_SPECIAL_IDS = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}


def load_tokenizer(folder: str | Path, vocab_size: int | None = None) -> PreTrainedTokenizerFast:
    """The WordPiece tokenizer kept with a checkpoint, whose model embeds `vocab_size` tokens.

    Raises:
        ValueError: no tokenizer there, one of special tokens only, or of another model.
    """
    path = Path(folder, "tokenizer.json")
    if not path.is_file():
        raise ValueError(f"{path} is missing: captions cannot be tokenised without its vocabulary")
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(path.parent)
    except Exception as error:  # `tokenizers` raises bare exceptions
        raise ValueError(f"{path} is not a tokenizer ({error}); get or make it again") from error
    if len(tokenizer) <= 5:
        raise ValueError(f"{path} holds only {len(tokenizer)} tokens; it is not a vocabulary")
    if vocab_size not in (None, len(tokenizer)):
        sizes = f"{len(tokenizer):,} tokens, the model embeds {vocab_size:,}"
        raise ValueError(f"{path} has {sizes}; get the model's own")
    return tokenizer


def bert_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """BERT-uncased's WordPiece tokenizer with BLIP-2's [DEC]: 30,523 tokens, [CLS] ... [SEP].

    It is built from the vocabulary alone: no setting saved beside it changes how captions are cut.

    Args:
        folder: with BERT-uncased's vocab.txt (a token a line) or tokenizer.json, such as
            bert-base-uncased, blip2-itm-vit-g and most BERT sentence encoders.

    Raises:
        ValueError: neither file, two that differ, or other tokens than BERT-uncased's 30,522.
    """
    paths = [p for name in ("vocab.txt", "tokenizer.json") if (p := Path(folder, name)).is_file()]
    if not paths:
        raise ValueError(f"{folder} holds neither vocab.txt nor tokenizer.json of BERT-uncased")
    vocabulary = _read_vocabulary(paths[0])
    if any(_read_vocabulary(path) != vocabulary for path in paths[1:]):
        raise ValueError(f"{' and '.join(map(str, paths))} differ; keep that of bert-base-uncased")
    wordpiece = BertWordPieceTokenizer(vocabulary, lowercase=True)
    wordpiece.add_special_tokens(["[DEC]"])
    return as_bert_tokenizer(wordpiece)


def _read_vocabulary(path: Path) -> dict[str, int]:
    """Token -> id, BERT-uncased's, without [DEC]."""
    try:
        if path.suffix == ".json":
            vocabulary = Tokenizer.from_file(str(path)).get_vocab()
        else:
            tokens = path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
            vocabulary = {token: i for i, token in enumerate(tokens)}
    except Exception as error:  # `tokenizers` raises bare exceptions
        raise ValueError(f"{path} is not a vocabulary ({error}); get it again") from error
    dec = vocabulary.pop("[DEC]", BERT_TOKENS)
    found = {token: vocabulary.get(token) for token in BERT_SPECIAL_IDS}
    complete = sorted(vocabulary.values()) == list(range(BERT_TOKENS)) and dec == BERT_TOKENS
    if not complete or found != BERT_SPECIAL_IDS:
        raise ValueError(
            f"{path} holds {len(vocabulary):,} different tokens with ids up to "
            f"{max(vocabulary.values(), default=0):,}, {found}; BERT-uncased has {BERT_TOKENS:,}, "
            f"{BERT_SPECIAL_IDS}, before [DEC]: take the vocabulary of bert-base-uncased"
        )
    return vocabulary


def as_bert_tokenizer(wordpiece: BertWordPieceTokenizer) -> PreTrainedTokenizerFast:
    """A WordPiece vocabulary with BERT's special tokens and [DEC] -> the tokenizer of captions."""
    tokenizer = wordpiece._tokenizer
    tokenizer.post_processor = BertProcessing(
        *((token, tokenizer.token_to_id(token)) for token in ("[SEP]", "[CLS]"))
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]"}
    names |= {"sep_token": "[SEP]", "mask_token": "[MASK]", "bos_token": "[DEC]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def tokenize(
    tokenizer: PreTrainedTokenizerFast, captions: list[str], max_tokens: int
) -> tuple[Tensor, Tensor]:
    """Captions, cleaned, -> (input_ids, attention_mask), each (B, L), L the longest of them."""
    cut = {"padding": "longest", "truncation": True, "max_length": max_tokens}
    batch = tokenizer([clean_caption(c) for c in captions], return_tensors="pt", **cut)
    return batch["input_ids"], batch["attention_mask"]
