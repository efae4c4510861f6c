"""Captions as token ids and back: by words, or by byte-pair encoding (Sennrich et al. 2016), as the `tokenizers`
library has them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from vae_lightning.core import TextSpec

SPECIAL = ("[PAD]", "[START]", "[END]", "[UNKNOWN]")
"""Ids 0 to 3."""
PAD, START, END, UNKNOWN = range(len(SPECIAL))
WORD_END = "</w>"
MARKS = r"[^\w\s\p{M}]"
"""What is neither part of a word nor space."""


def train_tokens(captions: Sequence[str], bpe: int | None = None) -> TextSpec:
    """Learns the tokens of some captions, without regard to case or to hyphens and other marks.

    Args:
        captions: those of training.
        bpe: how many tokens there may be, for byte-pair encoding; None for a token a word.

    Raises:
        ValueError: no word in any caption, or fewer tokens than letters.
    """
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    special = {"unk_token": SPECIAL[UNKNOWN]}
    made: Any
    trainer: Any
    if bpe is None:
        made = tokenizers.Tokenizer(models.WordLevel(**special))
        trainer = trainers.WordLevelTrainer(vocab_size=2**31, special_tokens=list(SPECIAL), show_progress=False)
    else:
        made = tokenizers.Tokenizer(models.BPE(**special, end_of_word_suffix=WORD_END))
        made.decoder = decoders.BPEDecoder(suffix=WORD_END)
        trainer = trainers.BpeTrainer(
            vocab_size=bpe, special_tokens=list(SPECIAL), end_of_word_suffix=WORD_END, show_progress=False
        )
    made.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(tokenizers.Regex(MARKS), " ")]
    )
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.train_from_iterator(captions, trainer)
    size = made.get_vocab_size()
    if size == len(SPECIAL):
        raise ValueError("captions: expected words in them, got none: write what the images show.")
    if bpe is not None and size > bpe:
        raise ValueError(
            f"data.bpe: expected at least {size} tokens, one a letter of the captions, got {bpe}: allow some more for "
            "pieces of words."
        )
    made.encode_special_tokens = True
    longest = max(len(found.ids) for found in made.encode_batch(captions))
    return TextSpec(size, longest + 2, made.to_str())


@lru_cache(maxsize=4)
def tokens_of(text: TextSpec, sentences: tuple[str, ...]) -> Tensor:
    """`Tokens.table` of sentences that several splits share, or that are loaded twice: not to be changed."""
    return Tokens(text).table(sentences)


class Tokens:
    """Captions to ids and back, by what a `TextSpec` says.

    Args:
        text: of the data, or of a model that was trained on them.
    """

    def __init__(self, text: TextSpec) -> None:
        import tokenizers

        self.text, self.tokenizer = text, tokenizers.Tokenizer.from_str(text.tokenizer)
        self.tokenizer.encode_special_tokens = True

    def encode(self, captions: Sequence[str]) -> Tensor:
        """(B, T) int64 of captions that somebody has typed.

        Raises:
            ValueError: a caption without words, with a word that no training caption has, or longer than any of them.
        """
        for caption, ids in zip(captions, self._ids(captions), strict=True):
            if not ids:
                raise ValueError(f"caption {caption!r}: expected words, got none: say what the image is to show.")
            if UNKNOWN in ids:
                raise ValueError(self._unknown(caption))
            if len(ids) > self.text.length - 2:
                raise ValueError(
                    f"caption {caption!r}: expected at most {self.text.length - 2} tokens, as many as the longest "
                    f"training caption has, got {len(ids)}: say it in fewer words."
                )
        return self.table(captions)

    def table(self, captions: Sequence[str]) -> Tensor:
        """(B, T) int64 of a data set's captions: unknown words get id 3, and what is too long is cut off."""
        most = self.text.length - 2
        rows = ([START, *ids[:most], END, *[PAD] * (most - len(ids))] for ids in self._ids(captions))
        return torch.tensor(list(rows), dtype=torch.int64).view(-1, self.text.length)

    def decode(self, text: Tensor) -> list[str]:
        """(B, T) int64 -> what they say, without start, end and padding."""
        rows = [[token for token in row if token not in (PAD, START, END)] for row in text.tolist()]
        found: list[str] = self.tokenizer.decode_batch(rows, skip_special_tokens=False)
        return found

    def _ids(self, captions: Sequence[str]) -> Iterator[list[int]]:
        return (found.ids for found in self.tokenizer.encode_batch(list(captions), add_special_tokens=False))

    def _unknown(self, caption: str) -> str:
        normal = self.tokenizer.normalizer.normalize_str(caption)
        words = [word for word, _ in self.tokenizer.pre_tokenizer.pre_tokenize_str(normal)]
        word = next(word for word, ids in zip(words, self._ids(words), strict=True) if UNKNOWN in ids)
        vocabulary = sorted({token.removesuffix(WORD_END) for token in self.tokenizer.get_vocab()} - set(SPECIAL))
        near = difflib.get_close_matches(word, vocabulary, n=3, cutoff=0.5)
        some = [token for token in vocabulary if re.fullmatch(r"\w\w+", token)][:10]
        hint = f"did you mean {' or '.join(near)}?" if near else f"say it otherwise ({', '.join(some)}, ...)."
        return f"caption {caption!r}: expected words of the training captions, got {word!r}: {hint}"
