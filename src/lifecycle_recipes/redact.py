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

# Tokens that are known by their form: the texts one of which they contain, and the form that the vendor documents or
# issues. With the exact length, so that they can also be searched in prose and code, where `sk-` begins words.
CREDENTIALS: list[tuple[tuple[str, ...], str]] = [
    # AWS IAM identifiers: AKIA long-term, ASIA temporary
    (("AKIA", "ASIA", "ABIA", "ACCA"), r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b"),
    # github.blog, "Behind GitHub's new authentication token formats"
    (("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"\bgh[pousr]_[A-Za-z0-9]{36,251}\b"),
    (("github_pat_",), r"\bgithub_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}\b"),
    # docs.gitlab.com, token overview
    (
        ("glpat-", "gldt-", "glrt-", "glptt-", "glft-", "glimt-", "glagent-", "glcbt-", "gloas-", "glsoat-"),
        r"\bgl(?:pat|dt|rt|ptt|ft|imt|agent|cbt|oas|soat)-[A-Za-z0-9_.-]{19,}[A-Za-z0-9_-]",
    ),
    # api.slack.com, token types and incoming webhooks
    (
        ("xox", "xapp-"),
        r"\b(?:xox[abceoprs]-(?:[A-Za-z0-9]{1,80}-){0,4}[A-Za-z0-9]{10,}|xapp-[0-9]-[A-Za-z0-9-]{20,})",
    ),
    (
        ("hooks.slack.com/",),
        r"https://hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9]+/[A-Za-z0-9]+/[A-Za-z0-9/]{16,}",
    ),
    # docs.stripe.com, API keys: secret and restricted, not the publishable ones; webhook secrets
    (
        ("sk_live_", "rk_live_", "sk_test_", "rk_test_", "whsec_"),
        r"\b(?:[sr]k_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9+/=]{32,})",
    ),
    # cloud.google.com: API keys, OAuth access tokens and client secrets
    (
        ("AIza", "ya29.", "GOCSPX-"),
        r"\b(?:AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{30,}|GOCSPX-[A-Za-z0-9_-]{28})(?![\w-])",
    ),
    # OpenAI, Anthropic, OpenRouter, and others in their form
    (
        ("sk-",),
        r"(?<![\w-])sk-(?:(?:proj|svcacct|admin|None)-[A-Za-z0-9_-]{20,}|ant-[a-z0-9]+-[A-Za-z0-9_-]{20,}"
        r"|or-v1-[0-9a-f]{40,}|(?=[A-Za-z]*[0-9])[A-Za-z0-9]{20,})(?![\w-])",
    ),
    # huggingface.co, user access tokens: 34 letters and digits; organisations' older ones
    (("hf_", "api_org_"), r"\b(?:hf|api_org)_[A-Za-z0-9]{30,}\b"),
    (("npm_",), r"\bnpm_[A-Za-z0-9]{36}\b"),
    # pypi.org: a macaroon in base64 whose first bytes are the version and the place
    (("pypi-Ag",), r"\bpypi-Ag[A-Za-z0-9_-]{50,}"),
    # RFC 7519: two JSON objects in base64url, and the signature
    (("eyJ",), r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"),
    (("SG.",), r"\bSG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16,64}"),
    (("dop_v1_", "doo_v1_", "dor_v1_"), r"\bdo[opr]_v1_[0-9a-f]{64}\b"),
    (("shpat_", "shpca_", "shppa_", "shpss_"), r"\bshp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}\b"),
    (("dapi",), r"\bdapi[0-9a-f]{32}(?:-[0-9])?\b"),
    (("dckr_pat_", "dckr_oat_"), r"\bdckr_[po]at_[A-Za-z0-9_-]{27,}"),
    (("hvs.", "hvb.", "hvr."), r"\bhv[sbr]\.[A-Za-z0-9_-]{24,}"),
    (
        ("gsk_", "xai-", "r8_", "nvapi-", "pplx-"),
        r"\b(?:gsk_[A-Za-z0-9]{48,}|xai-[A-Za-z0-9]{70,}|r8_[A-Za-z0-9]{37}|nvapi-[A-Za-z0-9_-]{60,}|pplx-[A-Za-z0-9]{40,})(?![\w-])",
    ),
    (
        ("lin_api_", "ntn_", "glsa_", "glc_"),
        r"\b(?:lin_api_[A-Za-z0-9]{40}|ntn_[A-Za-z0-9]{43,}|glsa_[A-Za-z0-9]{32}_[0-9a-f]{8}|glc_[A-Za-z0-9+/=]{32,})",
    ),
    # core.telegram.org: the number of the bot and 35 characters
    ((":AA",), r"(?<![\w:])[0-9]{8,10}:AA[A-Za-z0-9_-]{33}(?![\w-])"),
    (("AGE-SECRET-KEY-1",), r"\bAGE-SECRET-KEY-1[A-Z0-9]{58}\b"),
    # Azure: the key of a storage account, 64 bytes in base64
    (
        ("AccountKey=", "SharedAccessKey="),
        r"(?<=AccountKey=)[A-Za-z0-9+/]{86}==|(?<=SharedAccessKey=)[A-Za-z0-9+/]{43}=",
    ),
    # wandb/sdk/lib/wbauth/validation.py: 40 characters or more, without a form of their own: only after their name
    (
        ("WANDB_API_KEY", "wandb_api_key"),
        r"(?:(?<=(?:WANDB_API_KEY|wandb_api_key)[=:])|(?<=(?:WANDB_API_KEY|wandb_api_key)[\"'][=:]))"
        r"[ \"']*[\w-]{40,}",
    ),
    # Twilio: the id of an API key; Mailgun
    (("SK", "key-"), r"\b(?:SK|key-)[0-9a-f]{32}\b"),
]
_CREDENTIAL = re.compile("|".join(pattern for _, pattern in CREDENTIALS), re.ASCII)


def is_secret(key: object) -> bool:
    """Whether the name of a key is that of a credential (`hub_token`, `api_key`; not `eos_token`)."""
    return bool(_SECRET_KEY.match(str(key)))


def holds_secret(value: object) -> bool:
    """Whether a value looks like a credential: one of CREDENTIALS, or what begins like a well-known one."""
    return isinstance(value, str) and bool(_SECRET_VALUE.search(value) or _CREDENTIAL.search(value))


def hide_secrets(text: str) -> str:
    """`text` with `<hidden>` for everything that looks like a credential."""
    return _CREDENTIAL.sub(REDACTED, _SECRET_VALUE.sub(REDACTED, text))


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
