"""Any Unicode and any code survives a tokenizer that is trained here, after it was saved and loaded again."""

import random
import unicodedata

import pytest
from transformers import AutoTokenizer

from lifecycle_recipes.models.new_tokenizer import TokenizerConfig, build_tokenizer

PLANES = [(0, 0xD7FF), (0xE000, 0xFFFF), *((plane << 16, (plane << 16) + 0xFFFF) for plane in range(1, 17))]
MARKS = [chr(i) for i in range(0x300, 0x370)]
JOINED = ["👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪", "❤️", "1️⃣"]
CONTROL = [chr(i) for i in [*range(0x20), *range(0x7F, 0xA0)]]
INVISIBLE = [
    "\u200b",
    "\u200d",
    "\u200e",
    "\u202e",
    "\u2028",
    "\u2029",
    "\ufeff",
    "\ufffd",
    "\u00ad",
    "\u0085",
]
BREAKS = ["\r\n", "\r", "\n", "\n\n\n", "\t", " \t ", "   ", "\u3000", "\u00a0", "\x0b", "\x0c"]
SCRIPTS = ["שָׁלוֹם עולם", "مرحبا بالعالم", "नमस्ते", "こんにちは世界", "한국어", "Ελληνικά", "ไทย", "𝔘𝔫𝔦"]
CODE = [
    'def f(x: int) -> str:\n\treturn f"{x!r:>{10}}"  # ünï\r\n',
    "if (a && b || !c) { *p++ = 0x1F_u8 << 3; } // }}}}\n\n\n",
    "SELECT * FROM t WHERE a='it''s' AND b<>\"x\";--",
    '<div class="a">&nbsp;&#x1F600;</div>\n<!-- -->',
    "    - key: |\n        two\n\n        lines\n",
    "\\begin{align*} \\frac{1}{2} &\\le x_{i}^{2} \\\\ \\end{align*}",
    "$ awk -F: '{print $1\"\\t\"$NF}' /etc/passwd | sort -u >/dev/null 2>&1",
    "e\u0301 versus \u00e9, \uff21 versus A, \ufb01 versus fi",
]


def strings(seed: int, count: int) -> list[str]:
    """Seeded strings of everything above, of single planes and of all of them mixed."""
    draw = random.Random(seed)

    def character() -> str:
        return chr(draw.randint(*draw.choice(PLANES)))

    def piece() -> str:
        kind = draw.randrange(9)
        if kind == 0:
            first, last = draw.choice(PLANES)
            return "".join(chr(draw.randint(first, last)) for _ in range(draw.randint(1, 20)))
        if kind == 1:
            return character() + "".join(draw.choices(MARKS, k=draw.randint(1, 9)))
        pools = [CONTROL, INVISIBLE, BREAKS, JOINED, SCRIPTS, CODE]
        if kind - 2 < len(pools):
            return draw.choice(pools[kind - 2])
        return "".join(draw.choices("abcXYZ 0123456789'\"-_.,", k=draw.randint(1, 30)))

    return ["".join(piece() for _ in range(draw.randint(1, 8))) for _ in range(count)]


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def reloaded(request, tmp_path_factory, tiny_texts, repo_root):
    folder = tmp_path_factory.mktemp(request.param)
    template = str(repo_root / "chat_templates/chatml.jinja")
    # Trained on code and other scripts as well, so that merges cross the bytes of a character.
    texts = [*tiny_texts, *CODE * 9, *SCRIPTS * 9, *JOINED * 9]
    build_tokenizer(texts, TokenizerConfig("", 420, request.param, chat_template=template)).save_pretrained(
        folder
    )
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("seed", range(8))
def test_any_text_is_decoded_unchanged(reloaded, seed):
    texts = strings(seed, 400)
    for text, ids in zip(texts, reloaded(texts, add_special_tokens=False)["input_ids"], strict=True):
        assert reloaded.decode(ids) == text, ascii(text)
        assert reloaded.decode(ids, skip_special_tokens=True) == text, ascii(text)


def test_every_character_is_decoded_unchanged(reloaded):
    """All of them, surrogates apart, 4,096 at a time: also those that normalisation would change."""
    points = [i for i in range(0x110000) if not 0xD800 <= i < 0xE000]
    for start in range(0, len(points), 4096):
        text = "".join(map(chr, points[start : start + 4096]))
        assert reloaded.decode(reloaded.encode(text, add_special_tokens=False)) == text, hex(points[start])


def test_source_files_are_decoded_unchanged(reloaded, repo_root):
    files = sorted((repo_root / "src").rglob("*.py"))[:40] + sorted((repo_root / "docs").glob("*.md"))[:5]
    for file in files:
        text = file.read_bytes().decode().replace("\n", "\r\n" if len(file.name) % 2 else "\n")
        assert reloaded.decode(reloaded.encode(text, add_special_tokens=False)) == text, file


def test_the_strings_have_what_they_should():
    text = "".join(t for seed in range(8) for t in strings(seed, 400))
    assert {ord(c) >> 16 for c in text} == set(range(17))
    assert {"Mn", "Cc", "Cf", "Co", "Cn", "Lo", "So", "Nd"} <= {unicodedata.category(c) for c in text}
    assert "Cs" not in {unicodedata.category(c) for c in text}
    assert {"R", "AL"} <= {unicodedata.bidirectional(c) for c in text} and "\r\n" in text and "\t" in text
