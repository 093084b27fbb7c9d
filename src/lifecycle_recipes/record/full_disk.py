"""A full disk, named with its directory: the errors of upstream and of Python name none. No torch."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..finding import FAILED, refuse

# safetensors: "... (os error 28)", or 122 for a quota; torch.save: the last two.
_WORDS = ("No space left", "Disk quota exceeded", "PytorchStreamWriter failed", "unexpected pos")


@contextmanager
def name_full_disk(path: str | Path) -> Iterator[None]:
    """Raises Refusal disk-full, with status 1, for an error inside that means a full disk. path: of the run."""
    try:
        yield
    except Exception as error:
        if getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT) and not any(
            words in str(error) for words in _WORDS
        ):
            raise
        message, fix = "no disk space left while saving", "free disk space and run the same command again"
        raise refuse("disk-full", message, fix, str(path), FAILED) from error
