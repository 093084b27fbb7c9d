"""How quiet upstream is: its noise is hidden, its errors never. No torch."""

import builtins
import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator

# Defaults only: what the user has set stays. WANDB_* is the user's alone.
QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}
# Warnings that a user cannot act on; all others are shown.
NOISE = (
    r".*pin_memory.*no accelerator.*",
    r".*gradient_checkpointing.*activation_checkpointing.*",
    r".*destroy_process_group.*",
)
# The same in logs: logger -> what its noise holds.
LOG_NOISE = {
    "DeepSpeed": "Setting accelerator to CPU",  # on every import, whether or not it is used
    "bitsandbytes.backends.cpu.ops": "from kernels-community",  # an optional faster kernel
    "torchao": "Failed to load",  # on every import: kernels for other GPUs, or for formats that no layout has
    "torch.utils._pytree": "is an Enum subclass",  # of torchao's, likewise
}
# The same in what upstream prints: whole lines.
PRINTED_NOISE = (
    "[INFO] Running in WANDB offline mode",  # transformers, where it is imported; wandb reports it when it runs
    "DeepSpeed deepspeed.ops.comm.deepspeed_shm_comm_op built successfully",  # every process, at every start
)


def quiet() -> None:
    """Hide upstream's known noise. To be called before transformers is imported; errors stay."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if not sys.stderr.isatty():  # a log file; the trainer's own progress bar stays
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name, noise in LOG_NOISE.items():
        logging.getLogger(name).addFilter(lambda record, noise=noise: noise not in record.getMessage())
    builtins.print = print_without_noise
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
    for kind in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
        warnings.filterwarnings("ignore", category=kind)


def print_without_noise(*values, **options) -> None:
    """`print` but for PRINTED_NOISE."""
    if not (len(values) == 1 and isinstance(values[0], str) and values[0] in PRINTED_NOISE):
        PRINT(*values, **options)


PRINT = builtins.print


@contextlib.contextmanager
def stderr_without(noise: bytes) -> Iterator[None]:
    """Let lines that hold `noise` vanish from what this process, C++ included, writes to stderr meanwhile.

    The others come at the end of the block, so it must be short.
    """
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            for line in held:
                if noise not in line:
                    os.write(2, line)
