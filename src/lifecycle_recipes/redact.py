"""Recognise credentials and remove them from text. No torch."""

import os
import re

REDACTED = "<hidden>"

SECRET_ENV = re.compile(r"(?i)(^|_)(token|key|secret|password|passwd)$")
# `hub_token: x`, `--train.hub_token x`, `train.hub_token=x`, `{"hub_token": "x"}`
KEY_AND_VALUE = re.compile(
    r"(?P<key>[A-Za-z_][\w.]*)(?P<link>[\"']?(?:\s*[:=]\s*|[ \t]+))(?P<value>[^\s,}\]#]+)"
)
_SECRET_KEY = re.compile(
    r"(?i)^(token|.*(hub|hf|auth|access)_token|.*(api|access|secret)_?key|.*password|.*secret)$"
)
_SECRET_VALUE = re.compile(r"\b(hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,})")


def is_secret(key: object) -> bool:
    """Whether the name of a key is that of a credential (`hub_token`, `api_key`; not `eos_token`)."""
    return bool(_SECRET_KEY.match(str(key)))


def holds_secret(value: object) -> bool:
    """Whether a value looks like a credential (a Hugging Face, OpenAI or GitHub token)."""
    return isinstance(value, str) and bool(_SECRET_VALUE.search(value))


def hide_secrets(text: str) -> str:
    """`text` with `<hidden>` for everything that looks like a credential."""
    return _SECRET_VALUE.sub("<hidden>", text)


def redact(value, secrets: list[str] = ()):
    """`value` without `secrets`, secrets of the environment, values of secret keys and likely credentials."""
    return _redact(value, sorted({*secrets, *_secrets_in_environment()}, key=len, reverse=True))


def redact_recipe(text_or_overrides):
    """A recipe's text, or a list of overrides, without the values of keys such as `hub_token`."""
    if isinstance(text_or_overrides, str):
        return KEY_AND_VALUE.sub(_redact_pair, text_or_overrides)
    items = [KEY_AND_VALUE.sub(_redact_pair, str(item)) for item in text_or_overrides]
    # `--train.hub_token hf_...` may also be two items.
    after_key = [False, *(item.startswith("--") and _is_secret_key(item) for item in items)]
    return [REDACTED if follows else item for follows, item in zip(after_key, items, strict=False)]


def secret_values(values) -> list[str]:
    """The values of all keys of a recipe whose names are those of credentials."""
    if isinstance(values, list):
        return [secret for value in values for secret in secret_values(value)]
    if not isinstance(values, dict):
        return []
    here = [v for k, v in values.items() if _is_secret_key(str(k)) and isinstance(v, str) and len(v) >= 6]
    return here + secret_values(list(values.values()))


def _secrets_in_environment() -> list[str]:
    # Shorter values ("1", "true") also occur in ordinary text.
    named = [(n, v) for n, v in os.environ.items() if SECRET_ENV.search(n) and len(v) >= 6]
    sure = re.compile("(?i)(token|secret|password|passwd)$")
    return [v for n, v in named if sure.search(n) or is_secret(n) or _looks_random(v)]


def _looks_random(value: str) -> bool:
    """Whether the value of a variable such as SSH_KEY or CACHE_KEY can be a secret: neither a path nor a word."""
    path = os.path.expanduser(value)
    parent = os.path.dirname(path)
    # The root is the parent of every text that begins with its only slash, such as base64.
    is_path = os.path.exists(path) or (parent not in ("", "/") and os.path.isdir(parent))
    return len(value) >= 16 and not is_path


def _redact(value, secrets: list[str]):
    if isinstance(value, dict):
        return {
            k: REDACTED if v and isinstance(v, str) and _is_secret_key(str(k)) else _redact(v, secrets)
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [_redact(v, secrets) for v in value]
    if not isinstance(value, str):
        return value
    for secret in secrets:
        value = value.replace(secret, REDACTED)
    return hide_secrets(value)


def _redact_pair(match: re.Match) -> str:
    # "the token limit" is no credential: without `:` or `=`, only an option (`--train.hub_token x`) counts.
    option = match.string[max(0, match.start() - 2) : match.start()] == "--"
    if not _is_secret_key(match["key"]) or not (option or re.search("[:=]", match["link"])):
        return match[0]
    return match["key"] + match["link"] + REDACTED


def _is_secret_key(key: str) -> bool:
    return is_secret(key.lstrip("-").rsplit(".", 1)[-1])
