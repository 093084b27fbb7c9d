"""What started this process, and with which settings: our launcher, accelerate, torchrun or none. No torch.

Our launcher may have replaced its own process with the stage, so it passes the requested layout in
LIFECYCLE_LAYOUT. torchrun reads no layout: its users may set the variable to the name of a layout, which is
then compared with the one in effect.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from typing import Any

ASKED = "LIFECYCLE_LAYOUT"
# The variables in which accelerate passes its flags to a process; users of torchrun may set them by hand.
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
# A command line, each word followed by \0, up to and including `accelerate launch` in any of its forms.
LAUNCH = re.compile(
    r"""(([^\0]*/)? python[^\0/]*\0 (-[XW]\0[^\0]*\0 | -(?!m\0)[^\0]*\0)* (-m\0)?)?
    ([^\0]*/)? (accelerate(\.commands\.accelerate_cli)?\0launch | accelerate-launch
    | accelerate[./]commands[./]launch(\.py)?)\0""",
    re.VERBOSE,
)


def hand_on(args: Any) -> None:
    """Pass what accelerate's parser read from the command line to the processes of this launch."""
    config = args.config_file and os.path.abspath(args.config_file)
    os.environ[ASKED] = json.dumps({"config": config, "flags": given_flags(args)})


def given_flags(args: Any) -> dict[str, Any]:
    """The arguments that were given to accelerate's parser, without defaults and those of the script."""
    named = getattr(args, "nondefault", ())
    return {name: getattr(args, name) for name in named if not name.startswith("training_script")}


def asked_by_launcher() -> tuple[str | None, dict[str, Any]] | None:
    """(accelerate config or None, flags) of this process's launch.

    None for `python -m ...`, which requests one process on any device.
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
    if "WORLD_SIZE" in os.environ:  # torchrun, which starts the requested processes or fails
        flags |= {"num_processes": int(os.environ["WORLD_SIZE"]), "multi_gpu": not handed}
        flags |= {"num_machines": int(os.environ.get("GROUP_WORLD_SIZE", 1))}
    return handed or None, flags


def after_accelerate(command: list[str]) -> list[str] | None:
    """The arguments of `accelerate launch`; None for another command."""
    line = "".join(word + "\0" for word in command)
    found = LAUNCH.match(line)
    return line[found.end() :].split("\0")[:-1] if found else None


def _ancestors() -> Iterator[list[str]]:
    """Command lines of the ancestors of this process, the parent first."""
    import psutil

    with contextlib.suppress(psutil.Error):
        for parent in psutil.Process().parents():
            with contextlib.suppress(psutil.Error):  # it ended, or belongs to another user
                yield parent.cmdline()


def _read_arguments(argv: list[str]) -> tuple[str | None, dict[str, Any]]:
    """As accelerate reads them: with its own parser, and its default config if none is named."""
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
