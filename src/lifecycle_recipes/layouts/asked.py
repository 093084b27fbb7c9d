"""What started this process, and with which settings: our launcher, accelerate, torchrun or none. No torch.

Our launcher may have replaced itself by the stage, so it passes the requested layout in LIFECYCLE_LAYOUT.
A user of torchrun, which reads no layout, may set that to a name to have it held against what runs.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from typing import Any

ASKED = "LIFECYCLE_LAYOUT"
# How accelerate hands its flags on to a process; torchrun's users may set them by hand.
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
# A command line, each word followed by \0, up to and with `accelerate launch`, however that is started.
LAUNCH = re.compile(
    r"""(([^\0]*/)? python[^\0/]*\0 (-[XW]\0[^\0]*\0 | -(?!m\0)[^\0]*\0)* (-m\0)?)?
    ([^\0]*/)? (accelerate(\.commands\.accelerate_cli)?\0launch | accelerate-launch
    | accelerate[./]commands[./]launch(\.py)?)\0""",
    re.VERBOSE,
)


def hand_on(args: Any) -> None:
    """Leave to the processes of this launch what accelerate's parser read from its command line."""
    config = args.config_file and os.path.abspath(args.config_file)
    os.environ[ASKED] = json.dumps({"config": config, "flags": given_flags(args)})


def given_flags(args: Any) -> dict[str, Any]:
    """Of the arguments that accelerate's parser read, those that were really given, but for the script's."""
    named = getattr(args, "nondefault", ())
    return {name: getattr(args, name) for name in named if not name.startswith("training_script")}


def asked_by_launcher() -> tuple[str | None, dict[str, Any]] | None:
    """(accelerate config or None, flags) of this process's launch.

    None for `python -m ...`, which asks for one process and leaves the device open.
    """
    handed = os.environ.get(ASKED, "")
    if handed.startswith("{"):
        asked = json.loads(handed)
        return asked["config"], asked["flags"]
    for command in _ancestors():
        if (argv := after_accelerate(command)) is not None:
            return _read_arguments(argv)
    if not handed and "WORLD_SIZE" not in os.environ:
        return None
    named = VARIABLES | {n: n.lower() for n in os.environ if re.fullmatch("PARALLELISM_CONFIG_.+_SIZE", n)}
    flags: dict[str, Any] = {flag: os.environ.get(name, "") for name, flag in named.items()}
    flags = {flag: value for flag, value in flags.items() if value.lower() not in ("", "false", "none", "no")}
    if "WORLD_SIZE" in os.environ:  # torchrun, which starts what it is told or fails
        flags |= {"num_processes": int(os.environ["WORLD_SIZE"]), "multi_gpu": not handed}
        flags |= {"num_machines": int(os.environ.get("GROUP_WORLD_SIZE", 1))}
    return handed or None, flags


def after_accelerate(command: list[str]) -> list[str] | None:
    """The arguments of `accelerate launch`; None for another command."""
    line = "".join(word + "\0" for word in command)
    found = LAUNCH.match(line)
    return line[found.end() :].split("\0")[:-1] if found else None


def _ancestors() -> Iterator[list[str]]:
    """Command lines of this process's parents, the nearest first."""
    import psutil

    with contextlib.suppress(psutil.Error):
        for parent in psutil.Process().parents():
            with contextlib.suppress(psutil.Error):  # ended, or another user's
                yield parent.cmdline()


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
