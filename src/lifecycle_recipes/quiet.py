"""How quiet upstream is: its noise is hidden, its errors never. No torch."""

import builtins
import logging
import os
import sys
import warnings

# Defaults only: what the user has set stays. WANDB_* is the user's alone.
QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    # torch's C++ logs from errors on, read as torch is imported. Of its warnings every run on several processes
    # shows one, on each rank: that DDP looked for unused parameters in vain (reducer.cpp, past any filter of
    # Python's). transformers asks for that look where activations are not checkpointed (trainer.py,
    # _build_accelerator_args); it stays: without it, a model that leaves parameters out of a step (a tower of a
    # multimodal one, an expert) ends at the next, its gradients until then not averaged.
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
# Warnings that a user cannot act on; all others are shown.
NOISE = (
    r".*pin_memory.*no accelerator.*",
    r".*gradient_checkpointing.*activation_checkpointing.*",
    r".*destroy_process_group.*",
)
# The same in logs: logger -> what its noise holds.
LOG_NOISE = {
    "trl.trainer.kto_trainer": "in an ideal range",  # the check has found it already, as label-weights
    "DeepSpeed": "Setting accelerator to CPU",  # on every import, whether or not it is used
    "bitsandbytes.backends.cpu.ops": "from kernels-community",  # an optional faster kernel
    "torchao": "Failed to load",  # on every import: kernels for other GPUs, or for formats that no layout has
    "torch.utils._pytree": "is an Enum subclass",  # of torchao's, likewise
}
# The same in what upstream prints: whole lines. Both come from a bare print(), without a logger or a setting
# that would silence them (WANDB_MODE is the user's), while modules are imported by whoever needs them first.
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
