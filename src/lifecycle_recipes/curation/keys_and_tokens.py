"""Keys, tokens and passwords in a text: by the forms that their vendors document, or by what stands before them."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections import Counter
from collections.abc import Iterator

from ..redact import CREDENTIALS

_FORMS = [(marks, re.compile(pattern, re.ASCII)) for marks, pattern in CREDENTIALS]
# The body of a block in PEM form (RFC 7468), also with `\n` written out, as in JSON; 2 lines of it are a key.
_BLOCK = re.compile(
    r"-----BEGIN ((?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?)-----(?P<body>[A-Za-z0-9+/=\s\\:,.\-\"'#|>*_]{40,}?)"
    r"(?:-----END \1-----|\Z|(?=\n\s*\n\s*[A-Z][a-z]+ [a-z]))"
)
_BEARER = re.compile(r"(?i)\b(?P<scheme>bearer|basic|token)\s+(?P<value>[A-Za-z0-9._~+/-]{12,}=*)")
_IN_URL = re.compile(
    r"\b[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s:/@?#\"'<>]{0,64}:(?P<value>[^\s/@\"'<>]{3,128})@[\w.\[-]"
)
_PASSWORD = (
    r"(?:pass(?:word|wd|phrase|code)|passw|pwd|kennwort|passwort|contraseña|mot de passe)"
    r"(?:[ _-]?(?:is|was|ist))?"
)
_ASSIGNED = re.compile(
    rf"(?i)(?:(?P<password>{_PASSWORD})|(?:secret|token|credentials?|(?:api|access|account|auth|private|secret|encryption|"
    r"signing|license|storage)[_ -]?key)(?:[_-]?(?:access[_-]?)?key)?)"
    r"[\"'`*]{0,3}\]?(?:\s{0,3}(?P<link>:=|=>|={1,2}|:)\s{0,3}|(?<= is) |(?<= was) |(?<= ist) )"
    r"(?:(?P<quote>[\"'`]{1,3})(?P<quoted>[^\"'`\n]{4,200})(?P=quote)|(?P<bare>(?:[^\s\"'`,;<>(){}\[\]|&]|&(?!\w+=)){4,200}))"
)
_KEYWORDS = ("pass", "pwd", "secret", "token", "key", "credential", "kennwort", "contrase")
_PLACEHOLDER = re.compile(
    r"(?i)^[*x.•_#-]+$|^[$%<{\[(@~/\\]|^(?:your|my|the|some|an?|enter|insert|replace|change|example|dummy|sample|placeholder|todo|"
    r"none|null|nil|true|false|undefined|empty|hidden|redacted|masked|string|str|bytes|int|optional|required|os\.|env|"
    r"process\.|self\.|this\.|config|settings|args|options|getpass|input|request|data|params|user)(?![a-z0-9]{0,3}[0-9!@#$%^&*?])"
    r"|\$\{|\{\{|<[a-z_ -]+>|redacted|\.\.\.|\*\*\*|…|_here$|xxxx"
)


def find_keys(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of every key, token and password; of an assignment only the value."""
    for marks, pattern in _FORMS:
        if any(mark in text for mark in marks):
            yield from (match.span() for match in pattern.finditer(text))
    if "PRIVATE KEY" in text:
        yield from (match.span() for match in _BLOCK.finditer(text) if _is_block(match["body"]))
    if "://" in text and "@" in text:
        yield from (m.span("value") for m in _IN_URL.finditer(text) if not _PLACEHOLDER.search(m["value"]))
    lower = text.lower()
    if "bearer" in lower or "authorization" in lower:
        yield from (m.span("value") for m in _BEARER.finditer(text) if _is_bearer(text, m))
    if any(word in lower for word in _KEYWORDS):
        yield from _assigned(text)


def _assigned(text: str) -> Iterator[tuple[int, int]]:
    for match in _ASSIGNED.finditer(text):
        name = "quoted" if match["quoted"] is not None else "bare"
        value = match[name]
        if name == "bare":
            value = value.rstrip(".:?*")
        start = match.start(name)
        if text[match.start() - 1 : match.start()] in ("$", "%", "{") and match["link"] is None:
            continue
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


def _is_bearer(text: str, match: re.Match) -> bool:
    value = match["value"]
    if match["scheme"].lower() == "basic":
        try:
            return b":" in base64.b64decode(value, validate=True)
        except binascii.Error:
            return False
    if (
        match["scheme"].lower() == "token"
        and "uthorization" not in text[max(0, match.start() - 24) : match.start()]
    ):
        return False
    return bool(re.search("[0-9]", value) and re.search("[A-Za-z]", value)) and entropy(value) >= 2.8
