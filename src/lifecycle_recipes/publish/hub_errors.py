"""The Hub's errors in one line, with the way out. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..exit_status import Stopped
from ..finding import FAILED, Refusal, refuse
from ..redact import redact

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError


AGAIN = "run the same command again"
PASSES = (408, 409, 429)  # of the 4xx: the same request may succeed later
LONGEST = 200  # characters of a reason


@contextmanager
def hub_errors(repo: str) -> Iterator[None]:
    """Raises Refusal no-hub-token, or push-failed with status 1, for the errors of the client inside."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        yield
    except (Refusal, Stopped):
        raise
    except LocalTokenNotFoundError as error:
        fix = "set HF_TOKEN, or log in with `hf auth login`"
        raise refuse("no-hub-token", "no token of the Hub on this machine", fix, repo) from error
    except HfHubHTTPError as error:
        message, fix = _reason(error)
        said = one_line(error.server_message or "")
        raise refuse("push-failed", f"{message}: {said}" if said else message, fix, repo, FAILED) from error
    except (httpx2.HTTPError, OSError, RuntimeError, ValueError) as error:
        message = f"the request to the Hub failed: {one_line(str(error)) or type(error).__name__}"
        raise refuse("push-failed", message, AGAIN, repo, FAILED) from error


def _reason(error: HfHubHTTPError) -> tuple[str, str]:
    """What is wrong, and the fix."""
    status = error.response.status_code if error.response is not None else None
    known = {
        401: ("the Hub does not accept the token", "set HF_TOKEN, or log in with `hf auth login`"),
        403: ("the token may not write there", "use a token with write access, or another repository"),
        404: ("the repository does not exist", "correct its name"),
        409: ("somebody else has changed the repository meanwhile", AGAIN),
        429: ("the Hub limits the rate of requests", f"wait{asked_wait(error)}, and {AGAIN}"),
    }
    if status in known:
        return known[status]
    is_ours = status is not None and 400 <= status < 500 and status not in PASSES
    return f"the Hub answered with status {status}", "correct what the Hub names" if is_ours else AGAIN


def one_line(text: str) -> str:
    """What the Hub said, in one line and without a credential."""
    return redact(" ".join(text.split()))[:LONGEST]


def asked_wait(error: HfHubHTTPError) -> str:
    """` 30 s`, if the Hub says for how long."""
    seconds = error.response.headers.get("Retry-After", "") if error.response is not None else ""
    return f" {seconds} s" if seconds.isdecimal() and seconds != "0" else ""
