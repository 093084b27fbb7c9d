"""The Hub's errors in one line, with the way out. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..exit_status import Stopped
from ..finding import FAILED, Refusal, refuse

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError


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
        status = error.response.status_code if error.response is not None else None
        reason = {
            401: ("the Hub does not accept the token", "set HF_TOKEN, or log in with `hf auth login`"),
            403: ("the token may not write there", "use a token with write access, or another repository"),
            404: ("the repository does not exist", "correct its name"),
            409: ("somebody else has changed the repository meanwhile", "run the same command again"),
            429: (
                "the Hub limits the rate of requests",
                f"wait{asked_wait(error)}, and run the same command again",
            ),
        }.get(status, (f"the Hub answered with status {status}", "run the same command again"))
        raise refuse("push-failed", *reason, repo, FAILED) from error
    except (httpx2.HTTPError, OSError, RuntimeError, ValueError) as error:
        message = f"the push did not end: {' '.join(str(error).split())[:200] or type(error).__name__}"
        raise refuse("push-failed", message, "run the same command again", repo, FAILED) from error


def asked_wait(error: HfHubHTTPError) -> str:
    """` 30 s`, if the Hub says for how long."""
    seconds = error.response.headers.get("Retry-After", "") if error.response is not None else ""
    return f" {seconds} s" if seconds.isdecimal() and seconds != "0" else ""
