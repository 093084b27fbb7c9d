"""A tokenizer trained on text: byte-level BPE, or Unigram over the same bytes. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..bundled_files import BUNDLED
from ..finding import refuse
from .special_tokens import SPECIAL_TOKENS, check_vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

# Llama 3's split: digits in groups of at most three, words with their leading space, punctuation separate
# from letters. On real text 3.91 bytes per token, against 3.54 with GPT-2's split.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


DEFAULT_TEMPLATE = "chat_templates/chatml.jinja"


@dataclass
class TokenizerConfig:
    """A new tokenizer (`vocab_size`), or an existing one with more tokens (`extend`).

    kind: byte-level BPE, or Unigram over the same bytes. vocab_size: tokens, the special ones included.
    BPE gives the same file each time. Unigram does not: upstream's trainer iterates over a randomly seeded
    hash map, so the scores of its pieces differ in the second decimal between trainings.
    special_tokens: one id each, in this order from 0; `<|pad|>` and `<|endoftext|>` are required.
    chat_template: path of a Jinja file that is stored with the tokenizer. text_column: the column read.
    sweep: other vocabulary sizes that are measured on the same text, and not saved. sweep_hidden_size: the width
    of the model for which the sweep counts the parameters of the embedding.

    extend: a tokenizer, or a model that has one, which gets `new_tokens` and `new_special_tokens`; nothing is
    trained. resize_model: a model of that tokenizer, which is saved with rows for them beside the tokenizer.
    new_rows: the embedding of a new token is the mean of all old rows, or of those of the pieces that the old
    tokenizer divides it into. extend_revision, resize_model_revision: of a Hub id.
    """

    output_dir: str
    vocab_size: int | None = None
    kind: Literal["bpe", "unigram"] = "bpe"
    special_tokens: list[str] = field(default_factory=lambda: list(SPECIAL_TOKENS))
    chat_template: str = DEFAULT_TEMPLATE
    text_column: str = "text"
    sweep: list[int] = field(default_factory=list)
    sweep_hidden_size: int | None = None
    extend: str | None = None
    extend_revision: str | None = None
    new_tokens: list[str] = field(default_factory=list)
    new_special_tokens: list[str] = field(default_factory=list)
    resize_model: str | None = None
    resize_model_revision: str | None = None
    new_rows: Literal["mean", "pieces"] = "mean"


def find_template(path: str) -> Path:
    """The file of `tokenizer.chat_template`. The default also comes with the package."""
    is_absent = path == DEFAULT_TEMPLATE and not Path(path).is_file()
    return BUNDLED / path if is_absent else Path(path)


def read_template(path: str) -> str:
    """The text of the file of `tokenizer.chat_template`. Raises Refusal missing-file."""
    template = find_template(path)
    if not template.is_file():
        raise refuse("missing-file", "the chat template does not exist", "give an existing file", path)
    return template.read_text(encoding="utf-8")


def build_tokenizer(texts: Iterable[str], config: TokenizerConfig) -> PreTrainedTokenizerFast:
    """Train on `texts`; return a `PreTrainedTokenizerFast`.

    Raises Refusal: missing-special-token, vocab-too-small, missing-file.
    """
    check_vocabulary(config.special_tokens, config.vocab_size)
    read_template(config.chat_template)  # refused before the training
    return complete(train_tokenizer(texts, config, config.vocab_size), config)


def build_sizes(
    texts: Iterable[str], config: TokenizerConfig
) -> tuple[PreTrainedTokenizerFast, dict[int, Tokenizer]]:
    """(the tokenizer of `vocab_size`, size -> tokenizer of every size of `sweep` and of `vocab_size`).

    A BPE tokenizer is trained once, for the largest size: see `cut_merges`. texts: are read once per training.
    """
    for size in (config.vocab_size, *config.sweep):
        check_vocabulary(config.special_tokens, size)
    sizes = sorted({config.vocab_size, *config.sweep})
    read_template(config.chat_template)  # refused before the training
    largest = train_tokenizer(texts, config, sizes[-1])
    found = {}
    for size in sizes[:-1]:
        smaller = cut_merges(largest, size) if config.kind == "bpe" else None
        found[size] = smaller or train_tokenizer(texts, config, size)
    found[sizes[-1]] = largest
    return complete(found[config.vocab_size], config), found


def train_tokenizer(texts: Iterable[str], config: TokenizerConfig, size: int) -> Tokenizer:
    """A tokenizer of `size` tokens, without template and the roles of its special tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    options = {
        "vocab_size": size,
        "special_tokens": config.special_tokens,
        "initial_alphabet": sorted(pre_tokenizers.ByteLevel.alphabet()),
        "show_progress": False,
    }
    if config.kind == "bpe":
        tokenizer, trainer = Tokenizer(models.BPE()), trainers.BpeTrainer(**options)
    else:
        tokenizer, trainer = Tokenizer(models.Unigram()), trainers.UnigramTrainer(**options)
    # Both models work on bytes, so any text can be encoded and no token is unknown.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def cut_merges(tokenizer: Tokenizer, size: int) -> Tokenizer | None:
    """The BPE tokenizer of `size` tokens that the same text would give; None where this one does not tell.

    BPE learns one merge after the other and looks no further ahead, so a smaller vocabulary is the beginning of a
    larger one. Only if two merges made the same token may a merge be listed later than it was learnt.
    """
    from tokenizers import Tokenizer

    state = json.loads(tokenizer.to_str())
    vocabulary, merges = state["model"]["vocab"], state["model"]["merges"]
    first = len(vocabulary) - len(merges)
    # Ids are given in the order of learning: the special tokens, the bytes, then one token per merge.
    if any(vocabulary["".join(pair)] != first + rank for rank, pair in enumerate(merges)):
        return None
    state["model"]["vocab"] = {token: i for token, i in vocabulary.items() if i < size}
    state["model"]["merges"] = merges[: max(size - first, 0)]
    return Tokenizer.from_str(json.dumps(state, ensure_ascii=False))


def complete(tokenizer: Tokenizer, config: TokenizerConfig) -> PreTrainedTokenizerFast:
    """The tokenizer with the roles of its special tokens and its template."""
    from transformers import PreTrainedTokenizerFast

    # <|endoftext|> also starts a document: without it no position could predict a document's first token.
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        extra_special_tokens=[t for t in config.special_tokens if t not in SPECIAL_TOKENS[:2]],
        chat_template=read_template(config.chat_template),
        clean_up_tokenization_spaces=False,
    )
