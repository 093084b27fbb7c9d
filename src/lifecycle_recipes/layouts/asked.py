"""What started this process, and with which settings: our launcher, accelerate, torchrun or none. No torch.

Our launcher may have replaced itself by the stage, so it passes the requested layout in LIFECYCLE_LAYOUT.
A user of torchrun, which reads no layout, may set that to a name to have it held against what runs.
"""

import json
import os
from collections.abc import Iterator
from typing import Any

ASKED = "LIFECYCLE_LAYOUT"
# What decides a layout among accelerate's flags; the sizes of parallelism_config follow their prefix.
FLAGS = ("num_processes", "num_machines", "cpu", "multi_gpu", "mixed_precision")
FLAGS += ("use_deepspeed", "deepspeed_config_file", "zero_stage", "offload_param_device")
FLAGS += ("offload_optimizer_device", "use_fsdp", "fsdp_version", "fsdp_offload_params")
LAUNCH_MODULE = ("accelerate.commands.launch", "accelerate/commands/launch.py")
PARALLELISM = "parallelism_config_"
# How accelerate passes its flags to a process; with torchrun, users may set them by hand.
VARIABLES = {
    "ACCELERATE_MIXED_PRECISION": "mixed_precision",
    "ACCELERATE_USE_CPU": "use_cpu",
    "ACCELERATE_USE_DEEPSPEED": "use_deepspeed",
    "ACCELERATE_DEEPSPEED_CONFIG_FILE": "deepspeed_config_file",
    "ACCELERATE_DEEPSPEED_ZERO_STAGE": "zero_stage",
    "ACCELERATE_USE_FSDP": "use_fsdp",
    "FSDP_VERSION": "fsdp_version",
    "FSDP_OFFLOAD_PARAMS": "fsdp_offload_params",
}


def hand_on(args: Any) -> None:
    """Leave to the processes of this launch what accelerate's parser read from its command line."""
    config = args.config_file and os.path.abspath(args.config_file)
    os.environ[ASKED] = json.dumps({"config": config, "flags": given_flags(args)})


def given_flags(args: Any) -> dict[str, Any]:
    """Of the arguments that accelerate's parser read, those that decide a layout and were really given."""
    named = getattr(args, "nondefault", ())
    return {name: getattr(args, name) for name in named if name in FLAGS or name.startswith(PARALLELISM)}


def asked_by_launcher() -> tuple[str | None, dict[str, Any]]:
    """(accelerate config or None, flags) of this process's launch; (None, {}) where nothing was asked."""
    handed = os.environ.get(ASKED, "")
    if handed.startswith("{"):
        asked = json.loads(handed)
        return asked["config"], asked["flags"]
    if (argv := _accelerate_arguments()) is not None:
        return _read_arguments(argv)
    flags = _flags_of_environment()
    if "WORLD_SIZE" in os.environ:  # torchrun, which starts the requested number of processes or fails
        flags |= {"num_processes": int(os.environ["WORLD_SIZE"]), "multi_gpu": not handed}
        flags |= {"num_machines": int(os.environ.get("GROUP_WORLD_SIZE", 1))}
    return handed or None, flags


def was_launched() -> bool:
    """False for `python -m ...`, which requests one process and no device."""
    return ASKED in os.environ or "WORLD_SIZE" in os.environ or _accelerate_arguments() is not None


def _accelerate_arguments() -> list[str] | None:
    """What follows `accelerate launch` in the nearest ancestor that is one."""
    return next((argv for command in _ancestors() if (argv := after_accelerate(command)) is not None), None)


def after_accelerate(command: list[str]) -> list[str] | None:
    """The arguments of `accelerate launch`, however it was started; None for another command."""
    if not command:
        return None
    program, *rest = _without_interpreter(command)
    if os.path.basename(program) == "accelerate-launch" or program.endswith(LAUNCH_MODULE):
        return rest
    if os.path.basename(program) == "accelerate" or program.endswith("accelerate.commands.accelerate_cli"):
        return rest[1:] if rest[:1] == ["launch"] else None
    return None


def _without_interpreter(command: list[str]) -> list[str]:
    """`[script or module, ...]` of `python -u script ...` and `python -m module ...`."""
    if not os.path.basename(command[0]).startswith("python"):
        return command
    at = 1
    while at < len(command) and command[at].startswith("-") and command[at] != "-m":
        at += 2 if command[at] in ("-X", "-W") else 1
    return command[at + (command[at : at + 1] == ["-m"]) :] or [""]


def _ancestors() -> Iterator[list[str]]:
    import psutil

    try:
        parents = psutil.Process().parents()
    except psutil.Error:
        return
    for parent in parents:
        try:
            yield parent.cmdline()
        except psutil.Error:  # ended, or another user's
            continue


def _read_arguments(argv: list[str]) -> tuple[str | None, dict[str, Any]]:
    """As accelerate itself reads them: by its own parser, and its default config where none is named."""
    from accelerate.commands.config import default_config_file
    from accelerate.commands.launch import launch_command_parser

    args = launch_command_parser().parse_args(argv)
    config = args.config_file
    if config is None and os.path.isfile(default_config_file) and not args.cpu:
        config = default_config_file
    flags = given_flags(args)
    if config is None and "num_processes" not in flags:
        import torch

        # Without a config, accelerate uses all GPUs.
        flags["num_processes"] = max(1, torch.cuda.device_count())
        flags["multi_gpu"] = flags["num_processes"] > 1
    return config, flags


def _flags_of_environment() -> dict[str, Any]:
    found = {flag: os.environ[name] for name, flag in VARIABLES.items() if os.environ.get(name)}
    found = {flag: value for flag, value in found.items() if value.lower() not in ("false", "none")}
    if found.get("mixed_precision") == "no":
        del found["mixed_precision"]  # accelerate's default
    for name, value in os.environ.items():
        if name.startswith("PARALLELISM_CONFIG_") and name.endswith("_SIZE"):
            found[name.lower()] = value
    return found
