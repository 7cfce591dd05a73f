"""Small tokenizer after CLIP's: caption words are tokens, other text is spelled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

START, END, LAST = "<|startoftext|>", "<|endoftext|>", "</w>"

GENERAL = """
    normal abnormal healthy sick disease infection infected patient adult child
    pneumonia bacteria bacterial virus viral covid corona influenza tuberculosis opacity lung lesion mass tumour cancer
    emphysema fibrosis pneumothorax cardiomegaly oedema edema nodule hernia fracture thickening scar abscess
    acute chronic mild moderate severe small large typical atypical positive negative other none finding
    photo picture image scan film view exam report showing shows signs
    and or not without for from to by is this that has was one two
"""
"""Words a prompt may need and captions lack, names of diseases among them; their tokens are not trained."""


def tokenizer(captions: Iterable[str], length: int) -> CLIPTokenizer:
    """Return CLIP's tokenizer with a vocabulary of its own: bytes, and all merges up to whole words.

    CLIP's own 49408 tokens would be most of a tiny model's file.

    Args:
        captions: their words, and those of ``GENERAL``, become one token each; a number is spelled digit by digit.
        length: tokens of the longest text, start and end included; what is longer is cut.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    backend = CLIPTokenizer().backend_tokenizer
    texts = [*captions, GENERAL]
    split = (backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text)) for text in texts)
    merged = list(merges(sorted({word for text in split for word, _ in text})))
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + LAST for letter in letters), *("".join(pair) for pair in merged), START, END]
    vocab = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    pairs: Any = merged  # annotated as strings, read as pairs
    return CLIPTokenizer(vocab, pairs, model_max_length=length)


def merges(words: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the merges of byte-pair encoding, the most frequent pair first, until every word is one token.

    (Sennrich et al. 2016; each word counts once, and of equally frequent pairs the first in alphabetical order merges.)
    """
    spelled = [[*word[:-1], word[-1] + LAST] for word in words]
    while pairs := Counter(pair for letters in spelled for pair in pairwise(letters)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        yield best
        for letters in spelled:
            for at in range(len(letters) - 1, 0, -1):
                if at < len(letters) and (letters[at - 1], letters[at]) == best:
                    letters[at - 1 : at + 1] = ["".join(best)]
