"""Is a text code? Source code, logs, JSON, YAML, CSV, markup and tables, as against prose. No torch.

Rules for prose (its language, its quality) do not apply to code. Every line is judged by its form, and the share
of the characters in lines of code decides. Prose with a block of code stays prose: a fenced block counts only if
there is hardly any text outside it.
"""

import re
from functools import lru_cache

# Longer texts are judged by their start, middle and end; of a line, its start.
_SAMPLE, _LINE = 4_000, 240
# Share of the characters (of lines that are either) that must be code.
_SHARE = 0.5

_FENCE = re.compile(r"^ {0,3}(```|~~~)", re.MULTILINE)

# The form of a line alone says that it is code, whatever words are in it. No quantifier is nested in another.
_STRONG = re.compile(
    r"""[{}\[\]()]{1,6}[,;]?$                                         # brackets alone
    | \{\s*["'] | \[\s*[{"]                                         # JSON
    | //|/\*|\*/|<!|<\?|</|<[A-Za-z][\w:-]*[\s/>]                    # comments, markup
    | \#[ ]?(?:include|define|ifdef|ifndef|endif|pragma|undef)\b | \#!/
    | @@\s | (?:\+\+\+|---)\s\S+[/.]\S | diff\s--
    | >>>\s | \.\.\.\s{2} | \$\s[a-z./] | In\s\[\d+\]:
    | [.']\\" | \.[A-Z]{2}\b | \.[a-z]{2}(?:\s|$)                    # roff
    | (?:async\s+)?def\s+\w+\s*\( | class\s+\w+\s*[(:{]
    | (?:export\s+)?(?:async\s+)?function\s*[\w.:]*\s*\( | (?:pub\s+)?fn\s+\w+ | func\s+[\w(] | sub\s+\w+\s*\{
    | import\s+[\w.]+(?:\s+as\s+\w+)?;?$ | import\s+[\w.]+,\s*[\w.]+
    | from\s+[\w.]+\s+import\b | import\s.*\bfrom\s+["']
    | (?:use|using|package|namespace|require)\s+[\w:.]+\s*[;{]
    | (?:public|private|protected|static|final|const|extern|inline|template|typedef|struct|enum)\b.*[;{(,<>]$
    | (?:const|let|var|local|my)\s+[$@%\w{(\[][^=]{0,40}=
    | @[A-Za-z_][\w.]*(?:\(|$) | (?:fi|done|esac|end|endif|endfunction|endfor|then|pass|break|continue);?$
    | (?:else|try|finally|do)\s*[:{]$ | (?:if|elif|while|for|switch|catch|except)\b.*(?:[)\]"'_\d]\s*:|\{)$
    | for\s+\w+\s+in\s.*:$ | (?:if|while)\s*\[
    | return(?:\s+[^\s]+)?;?$ | raise\s+\w+[(.] | throw\s+new\s | assert\s.*[=(<>]
    | (?:SELECT|INSERT\s+INTO|UPDATE|DELETE\s+FROM|(?:CREATE|ALTER|DROP)\s+(?:TABLE|INDEX|VIEW)|FROM|WHERE)\s+[\w*"`(]
    | [\w$@%*&.(][\w$@%*&.\[\]"'()>-]{0,60}\s*(?::=|\+=|-=|\|=|<-|=>|==|=)\s*\S
    | [\w$.:>-]{1,60}\([^()]*\)+\s*[;,:{]?$
    | (?:0x|\\x)[0-9a-fA-F]{2} | '[^']{1,10}'\s+\# | [0-9A-F]{4,6}\s.*;             # tables of characters
    | "[^"]{1,80}"\s*:\s | '[^']{1,80}'\s*:\s
    | (?:-\s)?[a-z_][\w.-]*:(?:\s+[\[{"'|>&*\d-].*|\s+[\w./@:-]+|\s*)$(?<![.!?])  # YAML
    | \[[\w."'\s:-]{1,60}\]$
    | \[?\d{4}-\d\d-\d\d[T\s]\d\d:\d\d:\d\d | \[?[A-Z][a-z]{2}\s+\d+\s\d\d:\d\d:\d\d\s    # logs
    | \[?\d\d?/\w{2,3}/\d{2,4}[\s:]\d\d:\d\d | \d\d:\d\d:\d\d[.,]\d
    | \d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\s.*\[ | \[?(?:INFO|DEBUG|WARN|WARNING|ERROR|TRACE|FATAL|CRITICAL)\b[\]:\s]
    | \|.*\|$ | \+[-=+]{3,} | [-=]{3,}[\s|+]+[-=]{3}
    | [^\t]+\t[^\t]+\t
    """,
    re.VERBOSE,
)
# A line that is none of these, and is recognised in a tenth of the time: a capitalised word, and no character that the
# forms of such lines have. So most lines of prose are passed over.
_NOT_STRONG = re.compile(r"[A-Z][a-z]+[^=(\[:;\t<]*")
# Four plain words in a row, or a run of letters in a script without spaces.
_WORD = r"[^\W\d_][^\s\d_=<>{}\[\]|\\/$()]*[ \t]+[(\"“]?"
_PROSE = re.compile(
    rf"{_WORD}{_WORD}{_WORD}[^\W\d_][^\s\d_=;]|[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{{5}}"
)
_WEAK = re.compile(r"[{}<>=\[\]|\\;]|\w_\w|\w\(|::|->|\d\s+\d")
_URL = re.compile(r"\w+://\S+")
_COMMENT = re.compile(r"[#%;*\"]|--\s|dnl\b")


def is_code(text: str) -> bool:
    """Whether most of the text is code. Of texts over 12,000 characters three parts are read."""
    if len(text) > 3 * _SAMPLE:
        middle = len(text) // 2
        text = "\n".join([text[:_SAMPLE], text[middle : middle + _SAMPLE], text[-_SAMPLE:]])
    return _is_code(text)


@lru_cache(maxsize=2048)  # the documents of a shard, which two steps ask about
def _is_code(text: str) -> bool:
    text = _outside_fences(text)
    code, weak, prose, places = 0, 0, 0, 0
    for line in text.split("\n"):
        line = line.strip()
        length = len(line)
        if not length:
            continue
        if length > _LINE:
            line = line[:_LINE]
        if (not _NOT_STRONG.fullmatch(line) and _STRONG.match(line)) or _is_csv(line):
            code += length
            places += 1
        elif _COMMENT.match(line):
            continue
        elif _PROSE.search(line):
            prose += length
        elif _WEAK.search(_URL.sub("", line) if "://" in line else line):
            weak += length
    # A sentence and the one line that it is about is prose.
    if places == 1 and prose:
        return False
    return code + 0.6 * weak >= _SHARE * (code + weak + prose) > 0


def _is_csv(line: str) -> bool:
    """Fields without a blank after the comma."""
    commas = line.count(",")
    return commas >= 3 and line.count(", ") <= commas // 4


def _outside_fences(text: str) -> str:
    """The text without its fenced blocks; all of it if hardly anything else is there."""
    if "```" not in text and "~~~" not in text:
        return text
    # Parts alternate: text, mark, block, mark, text; a block that is cut off ends with the sample.
    outside = "".join(_FENCE.split(text)[::4])
    return outside if len(outside.strip()) > max(0.05 * len(text), 40) else text
