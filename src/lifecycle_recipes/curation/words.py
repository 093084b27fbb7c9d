"""Words of a text, for everything that compares texts: duplicates, near-duplicates, decontamination. No torch."""

import re
import unicodedata

# Scripts without spaces between words (CJK ideographs, kana, Thai, Lao, Khmer): each character is a word.
_SINGLE = (
    "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f"
)
_WORD = re.compile(rf"[{_SINGLE}]|[^\W{_SINGLE}]+")


# Every ASCII character that is no part of a word is a blank: a split is faster than the expression, and gives the same.
_ASCII = "".join(chr(i) if chr(i).isalnum() or chr(i) == "_" else " " for i in range(128))


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation; equal for texts that differ in Unicode form only."""
    if text.isascii():
        return text.lower().translate(_ASCII).split()
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())
