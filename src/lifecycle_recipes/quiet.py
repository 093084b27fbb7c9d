"""Hide upstream messages that a user cannot act on. Errors are always shown. No torch."""

import builtins
import functools
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Values of TOKENIZERS_PARALLELISM. tokenizers reads the first as "false" and the second as "true", and hardly anybody
# writes them so: a user's own value can be told apart.
NOT_PARALLEL, PARALLEL = "n", "y"

# Only defaults: variables that the user has set are kept. WANDB_* is left to the user.
QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": NOT_PARALLEL,  # else it warns at every later fork, such as that of a data loader
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    # torch's C++ logs: errors only. torch reads this when it is imported. With several processes, every rank
    # would warn that DDP searched for unused parameters and found none (reducer.cpp; Python's filters do not
    # apply to it). transformers requests that search if activations are not checkpointed (trainer.py,
    # _build_accelerator_args). We keep the search: without it, a model that leaves parameters out of a step
    # (a tower of a multimodal model, an expert) fails at the next step, and its gradients are not averaged.
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
# Warnings that a user cannot act on; all others are shown.
NOISE = (
    r".*pin_memory.*no accelerator.*",
    r".*gradient_checkpointing.*activation_checkpointing.*",
    r".*destroy_process_group.*",
)
# The same for logs: logger and a part of the message.
LOG_NOISE = (
    ("trl.trainer.kto_trainer", "in an ideal range"),  # the check reports it as label-weights
    # Once for each row; the check reports them together, as prompt-split.
    ("trl.trainer.dpo_trainer", "Mismatch between tokenized prompt"),
    ("trl.trainer.kto_trainer", "Mismatch between tokenized prompt"),
    ("DeepSpeed", "Setting accelerator to CPU"),  # at every import, even if it is not used
    ("bitsandbytes.backends.cpu.ops", "from kernels-community"),  # an optional faster kernel
    ("bitsandbytes.autograd._functions", "will be cast from"),  # int8 computes in float16
    ("torchao", "Failed to load"),  # at every import: kernels for other GPUs, or formats that no layout uses
    (
        "transformers.utils.generic",
        "are deprecated. Use `cache`",
    ),  # TRL 1.12 uses the old name; nothing changes
    ("torch.utils._pytree", "is an Enum subclass"),  # from torchao, at every import
)
# The same for complete lines that upstream prints with print() at imports. No logger or setting hides them
# (WANDB_MODE is left to the user).
PRINTED_NOISE = (
    "[INFO] Running in WANDB offline mode",  # transformers, at its import; wandb reports it when it runs
    "DeepSpeed deepspeed.ops.comm.deepspeed_shm_comm_op built successfully",  # every process, at every start
)


def quiet() -> None:
    """Hide the upstream messages listed above. To be called before transformers is imported."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if not sys.stderr.isatty():  # a log file; the bar of a training is chosen in training/progress.py
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name, noise in LOG_NOISE:
        logging.getLogger(name).addFilter(lambda record, noise=noise: noise not in record.getMessage())
    builtins.print = print_without_noise
    _watch_forks()
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
    for kind in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
        warnings.filterwarnings("ignore", category=kind)


@contextmanager
def tokenizers_in_parallel() -> Iterator[None]:
    """Tokenise batches on all cores, unless the user has set TOKENIZERS_PARALLELISM, and in a forked process."""
    if os.environ.get("TOKENIZERS_PARALLELISM") != NOT_PARALLEL:
        yield
        return
    os.environ["TOKENIZERS_PARALLELISM"] = PARALLEL
    try:
        yield
    finally:
        os.environ["TOKENIZERS_PARALLELISM"] = NOT_PARALLEL


@functools.cache
def _watch_forks() -> None:
    os.register_at_fork(after_in_child=_never_in_parallel)


def _never_in_parallel() -> None:
    """In a forked process: the threads of its parent are not there, and tokenizers would wait for them."""
    if os.environ.get("TOKENIZERS_PARALLELISM") in (NOT_PARALLEL, PARALLEL):
        os.environ["TOKENIZERS_PARALLELISM"] = "false"


def print_without_noise(*values, **options) -> None:
    """`print`, except for PRINTED_NOISE."""
    if not (len(values) == 1 and isinstance(values[0], str) and values[0] in PRINTED_NOISE):
        PRINT(*values, **options)


PRINT = builtins.print
