"""Keys, tokens and passwords in a text: by the forms that their vendors document, or by what stands before them."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from ..redact import CREDENTIALS

_FORMS = [(marks, re.compile(pattern, re.ASCII)) for marks, pattern in CREDENTIALS]
# The body of a block in PEM form (RFC 7468), also with `\n` written out, as in JSON; 2 lines of it are a key.
_BLOCK = re.compile(
    r"-----BEGIN ((?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?)-----(?P<body>[A-Za-z0-9+/=\s\\:,.\-\"'#|>*_]{40,}?)"
    r"(?:-----END \1-----|\Z|(?=\n\s*\n\s*[A-Z][a-z]+ [a-z]))"
)
_AUTHORIZATION = re.compile(
    r"(?i)(?:(?P<header>authorization[\"']?\s{0,2}[:=]\s{0,2}[\"']?)(?P<scheme>bearer|basic|token)|bearer)\s+"
    r"(?P<value>[A-Za-z0-9._~+/-]{12,}=*)"
)
_IN_URL = re.compile(r"://[^\s:/@?#\"'<>]{0,64}:(?P<value>[^\s:/@\"'<>]{3,128})@[\w.\[-]")
_PASSWORD = r"(?:pass(?:word|wd|phrase|code|wort|e)?|pwd|kennwort|contraseña)(?:[ _-]?(?:is|was|ist))?"
_OF_A_KEY = re.compile(r"(?:api|access|account|auth|private|secret|encryption|storage)[_ -]?$")
# Not the tokens of a cursor, a lock or a request, which many interfaces return.
_OF_A_TOKEN = re.compile(
    r"(?:^|[^a-z0-9_-]|(?:access|auth|api|bearer|refresh|id|session|secret|security|hub|hf|git(?:hub|lab)|slack|bot|private|"
    r"personal|deploy|ci|npm|pypi|user|app|jwt|oauth2?|admin|login|service|vault|aws|device)[_ -]?)$"
)
_ASSIGNED = re.compile(
    rf"(?i)(?:(?P<password>{_PASSWORD})|secret|token|credentials?|key)"
    r"[\"'`*]{0,3}\]?(?:\s{0,3}(?P<link>:=|=>|={1,2}|:)\s{0,3}|(?<= is) |(?<= was) |(?<= ist) )"
    r"(?:(?P<quote>[\"'`]{1,3})(?P<quoted>[^\"'`\n]{4,200})(?P=quote)|(?P<bare>(?:[^\s\"'`,;<>(){}\[\]|&]|&(?!\w+=)){4,200}))"
)
_KEYWORDS = ("pass", "pwd", "secret", "token", "key", "credential", "kennwort", "contrase")
_PLACEHOLDER = re.compile(
    r"(?i)^[*x.•_#-]+$|^(?:pass|passwd|password|pwd|pw|secret|token)$|==|^[$%<{\[(@~/\\]|^(?:your|my|the|some|an?|enter|insert|replace|change|example|dummy|sample|placeholder|todo|"
    r"none|null|nil|true|false|undefined|empty|hidden|redacted|masked|string|str|bytes|int|optional|required|os\.|env|"
    r"process\.|self\.|this\.|config|settings|args|options|getpass|input|request|data|params|user)(?![a-z0-9]{0,3}[0-9!@#$%^&*?])"
    r"|\$\{|\{\{|<[a-z_ -]+>|redacted|\.\.\.|\*\*\*|…|_here$|xxxx"
)


def find_keys(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of every key, token and password; of an assignment only the value."""
    # Searching for fixed texts is faster than for patterns, and fastest in the few long words of a text: no form has
    # fewer than 20 characters. So each pattern is tried near its marks only.
    long = " ".join({word for word in text.split() if len(word) >= 20})
    for marks, pattern in _FORMS if long else ():
        for at in _positions(text, [mark for mark in marks if mark in long]):
            near = pattern.search(text, max(0, at - 10), at + 400)
            if near and near.start() <= at + 20:
                yield pattern.match(text, near.start()).span()
    if "PRIVATE KEY" in text:
        yield from (match.span() for match in _BLOCK.finditer(text) if _is_block(match["body"]))
    for at in _positions(text, ("://",)):
        match = _IN_URL.match(text, at)
        if match and not _PLACEHOLDER.search(match["value"]):
            yield match.span("value")
    lower = _lower(text)
    for at in _positions(lower, ("authorization", "bearer ")):
        match = _AUTHORIZATION.match(text, at)
        if match and _is_authorization(match):
            yield match.span("value")
    for at in _positions(lower, ("pass", "pwd", "secret", "credential", "kennwort", "contraseña")):
        yield from _assigned(text, at)
    for word, names in (("key", _OF_A_KEY), ("token", _OF_A_TOKEN)):
        for at in _positions(lower, (word,)):
            if names.search(lower[max(0, at - 12) : at]):
                yield from _assigned(text, at)


def _positions(text: str, marks: Sequence[str]) -> Iterator[int]:
    for mark in marks:
        at = text.find(mark)
        while at >= 0:
            yield at
            at = text.find(mark, at + 1)


def _lower(text: str) -> str:
    """In lower case, with every character at its place: `\u0130` becomes two otherwise."""
    lower = text.lower()
    return (
        lower if len(lower) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
    )


def _assigned(text: str, at: int) -> Iterator[tuple[int, int]]:
    match = _ASSIGNED.match(text, at)
    if match is None or re.search(
        r"::\w*$", text[max(0, at - 40) : at]
    ):  # a type, such as AWS::IAM::AccessKey
        return
    name = "quoted" if match["quoted"] is not None else "bare"
    value = match[name]
    if name == "bare":
        value = value.rstrip(".:?*")
    start = match.start(name)
    # In a sentence (`the password is changed`) only what has a digit.
    if match["link"] is None and not re.search("[0-9]", value):
        return
    is_secret = is_password(value) if match["password"] else is_random(value)
    if is_secret and not _PLACEHOLDER.search(value):
        yield start, start + len(value)


def is_password(value: str) -> bool:
    """Whether a value after `password=` can be one: no word, name or expression of code."""
    if len(value) < 5 or " " in value or re.search(r"[(\[{]\S*[)\]}]|->|::|//", value):
        return False
    if re.fullmatch(r"[A-Za-z_][\w]*(?:\.[A-Za-z_]\w*)+", value):  # an attribute, a host or a file
        return False
    digits = any(c.isdigit() for c in value)
    letters = any(c.isalpha() for c in value)
    others = bool(re.search(r"[!@#$%^&*?+~=]", value))
    if letters and (digits or others) and not re.fullmatch(r"[a-z_]+[*?=:+]+", value):
        return not re.fullmatch(
            r"(?i)(?:args?|pass(?:word)?|pwd|field|param|value|var|key|user|str|text|line)_?[0-9]", value
        )
    return False


def is_random(value: str) -> bool:
    """Whether a value after `token=` or `secret=` can be one: long, with digits inside words, not a path or a name."""
    if not re.fullmatch(r"[A-Za-z0-9_+/=.~:-]{16,200}", value) or "://" in value:
        return False
    parts = [part for part in re.split(r"[-_./:+=~]", value) if part]
    mixed = [p for p in parts if len(p) >= 6 and re.search("[0-9]", p) and re.search("[A-Za-z]", p)]
    if not any(re.search(r"[0-9][A-Za-z]+[0-9A-Za-z]*[0-9A-Za-z]", p) for p in mixed):
        return False
    return entropy(value) >= 3.0


def entropy(value: str) -> float:
    """Bits per character."""
    counts = Counter(value)
    return -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values())


def _is_block(body: str) -> bool:
    return len(re.findall(r"[A-Za-z0-9+/]", body.replace("\\n", ""))) >= 40 and entropy(body) >= 3.5


def _is_authorization(match: re.Match) -> bool:
    value = match["value"]
    if (match["scheme"] or "").lower() == "basic":
        try:
            return b":" in base64.b64decode(value, validate=True)
        except binascii.Error:
            return False
    return bool(re.search("[0-9]", value) and re.search("[A-Za-z]", value)) and entropy(value) >= 2.8
