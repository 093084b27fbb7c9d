"""Read a layout from an accelerate config and its DeepSpeed file. No torch, no accelerate.

The keys are those of accelerate 1.15 (commands/config/config_args.py) and its flags (commands/launch.py).
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..bundled_files import BUNDLED
from ..finding import refuse
from .asked import asked_by_launcher

PARALLEL = ("dp_replicate", "dp_shard", "tp", "cp", "sp")
PRECISIONS = ("no", "fp16", "bf16", "fp8")
ACCELERATORS = ("/dev/nvidia0", "/dev/kfd", "/dev/accel0", "/dev/davinci0", "/dev/neuron0", "/dev/dxg")
DEEPSPEED_FILE = "ACCELERATE_DEEPSPEED_CONFIG_FILE"
KINDS = {"NO": "single", "DEEPSPEED": "deepspeed", "FSDP": "fsdp"}


@dataclass(frozen=True)
class Layout:
    """The requested layout, or the one in effect.

    processes: on all machines together. precision: None if the recipe sets it. offload: weights or optimizer
    state are in host memory. tp, cp, sp, dp_replicate, dp_shard: sizes in accelerate's parallelism_config.
    distributed_type: as in the file. name: `zero3`, or the path of the file.
    fp8_all_gather: whether torchao wraps the weights for FSDP (accelerate's default). For FSDP only: state_dict, the
    type of its checkpoints, and fsdp_checkpointing, whether FSDP recomputes activations.
    """

    kind: Literal["single", "ddp", "deepspeed", "fsdp"] = "single"
    processes: int = 1
    machines: int = 1
    zero_stage: int | None = None
    fsdp_version: int | None = None
    precision: str | None = None
    offload: bool = False
    cpu: bool = False
    tp: int = 1
    cp: int = 1
    sp: int = 1
    dp_replicate: int = 1
    dp_shard: int = 1
    distributed_type: str = "NO"
    fp8_backend: str | None = None
    fp8_all_gather: bool = True
    state_dict: str | None = None
    fsdp_checkpointing: bool = False
    name: str = ""

    def __str__(self) -> str:
        return f"the layout {self.name}" if self.name else "the launch"

    @property
    def data_parallel(self) -> int:
        """Number of ranks with different rows. Ranks of a tensor, context or sequence group share rows."""
        return max(1, self.processes // (self.tp * self.cp * self.sp))


def asked_layout(on_cpu: bool = False) -> Layout | None:
    """The layout requested by the launch of this process; None for `python -m ...`, which requests none.

    on_cpu: the recipe requests the CPU. Raises Refusal as read_layout does.
    """
    asked = asked_by_launcher()
    if asked is None:
        return None
    config, flags = asked
    if config is None and not has_accelerator():
        on_cpu = True  # no file sets a device, and the machine has no accelerator
    return read_layout(config, flags | {"use_cpu": on_cpu or flags.get("use_cpu")})


def has_accelerator() -> bool:
    """Whether this machine has the device file of a GPU or another accelerator."""
    return any(os.path.exists(device) for device in ACCELERATORS)


def find_layout(name: str | None) -> Path:
    """The accelerate config of a layout: a path, or a name in accelerate_configs/ here or of the package.

    Without a name: one_gpu if there is a GPU, else cpu. Raises Refusal: unknown-layout.
    """
    name = name or ("one_gpu" if os.path.exists("/dev/nvidia0") else "cpu")
    if name.endswith((".yaml", ".yml", ".json")) and os.path.isfile(name):
        return Path(name)
    places = [Path("accelerate_configs"), (BUNDLED / "accelerate_configs").resolve()]
    for place in places:
        if (place / f"{name}.yaml").is_file():
            return place / f"{name}.yaml"
    known = sorted({file.stem for place in places for file in place.glob("*.yaml")})
    raise refuse("unknown-layout", f"unknown layout `{name}`", f"one of: {', '.join(known) or 'none found'}")


def read_layout(path_or_name: str | Path | None, flags: dict[str, Any] | None = None) -> Layout:
    """The layout of an accelerate config and the flags of `accelerate launch`, which override the file.

    path_or_name: a file, a name of accelerate_configs/, or None for flags alone. flags: only those that were
    given, under accelerate's names (num_processes, cpu, use_deepspeed, zero_stage, ...).
    Raises Refusal: unknown-layout, bad-layout, layout-zero-stage, layout-fsdp, missing-file (of DeepSpeed).
    """
    flags = {key: value for key, value in (flags or {}).items() if value is not None and value is not False}
    path = find_layout(str(path_or_name)) if path_or_name is not None else None
    given = _read_mapping(path) if path else {}
    kind = _distributed_type(given, flags)
    nested = _nested(given) | flags
    cpu = bool(flags.get("cpu") or flags.get("use_cpu") or given.get("use_cpu"))
    fp8 = given.get("fp8_config") or {}
    processes = _whole(flags.get("num_processes") or given.get("num_processes") or 1, "num_processes", path)
    fields: dict[str, Any] = {
        "kind": KINDS.get(kind, "ddp"),
        "processes": processes,
        "machines": _whole(flags.get("num_machines") or given.get("num_machines") or 1, "num_machines", path),
        "precision": _precision(flags.get("mixed_precision") or given.get("mixed_precision"), path),
        "cpu": cpu or _gpus_hidden(),
        # --cpu starts one process, regardless of the file.
        "distributed_type": "NO" if flags.get("cpu") else kind,
        "fp8_backend": fp8.get("backend"),
        "fp8_all_gather": bool(fp8.get("enable_fsdp_float8_all_gather", True)),
        "name": _name_of(path),
    }
    if kind == "DEEPSPEED":
        fields |= _deepspeed(nested, path, fields["precision"])
    if kind == "FSDP":
        fields["fsdp_version"] = _whole(nested.get("fsdp_version", 1), "fsdp_version", path)
        fields |= _fsdp(nested)
    for name in PARALLEL:
        key = f"parallelism_config_{name}_size"
        fields[name] = _whole(nested.get(key, 1), key, path)
    if fields["kind"] == "single" and processes > 1:
        fields["kind"] = "ddp"  # requested by its number of processes; accelerate starts only one
    _require_what_its_name_says(fields, path)
    return Layout(**fields)


def _require_what_its_name_says(fields: dict[str, Any], path: Path | None) -> None:
    """Raises Refusal. Without this, a file named zero3 that sets stage 2 would be reported as ZeRO-3."""
    for code, key, word, written in (
        ("layout-zero-stage", "zero_stage", "zero", "zero_optimization.stage in the DeepSpeed file"),
        ("layout-fsdp", "fsdp_version", "fsdp", "fsdp_config.fsdp_version"),
    ):
        named = re.search(rf"{word}-?(\d)", path.stem) if path else None
        if named and fields.get(key) != int(named[1]):
            message = f"the file is named {named[0]}, but it sets {key.replace('_', ' ')} {fields.get(key)}"
            raise refuse(code, message, f"set {written} to {named[1]}, or rename the layout", str(path))


def _distributed_type(given: dict, flags: dict) -> str:
    """As in accelerate: a flag overrides the file."""
    for flag, kind in (("use_deepspeed", "DEEPSPEED"), ("use_fsdp", "FSDP"), ("multi_gpu", "MULTI_GPU")):
        if flags.get(flag):
            return kind
    # YAML parses NO as false.
    kind = given.get("distributed_type", "NO")
    return "NO" if kind is False else str(kind)


def _nested(given: dict) -> dict:
    """The keys of deepspeed_config, fsdp_config and parallelism_config, under the names of their flags."""
    found = dict(given.get("deepspeed_config") or {})
    found |= {
        key if key.startswith("fsdp") else f"fsdp_{key}": value
        for key, value in (given.get("fsdp_config") or {}).items()
    }
    return found | (given.get("parallelism_config") or {})


def _fsdp(nested: dict) -> dict[str, Any]:
    """offload, state_dict, fsdp_checkpointing, with the defaults of accelerate launch."""
    default = "SHARDED_STATE_DICT" if str(nested.get("fsdp_version", 1)) == "2" else "FULL_STATE_DICT"
    return {
        "offload": _is_true(nested.get("fsdp_offload_params")),
        "state_dict": str(nested.get("fsdp_state_dict_type") or default).upper(),
        "fsdp_checkpointing": _is_true(nested.get("fsdp_activation_checkpointing")),
    }


def _deepspeed(nested: dict, path: Path | None, precision: str | None) -> dict[str, Any]:
    """zero_stage, offload and precision: from the DeepSpeed file if there is one, else from the config."""
    if file := nested.get("deepspeed_config_file"):
        config = _read_mapping(deepspeed_file(str(file), path))
        zero = config.get("zero_optimization") or {}
        devices = [(zero.get(f"offload_{part}") or {}).get("device") for part in ("param", "optimizer")]
        stage = _whole(zero.get("stage", 0), "zero_optimization.stage", path)
        if nested.get("zero_stage") not in (None, stage, str(stage)):
            message = f"zero_stage is {nested['zero_stage']}, but {file} sets stage {stage}"
            raise refuse(
                "layout-zero-stage",
                message,
                "remove zero_stage: the DeepSpeed file decides",
                str(path or "command line"),
            )
        for name in ("bf16", "fp16"):
            if (config.get(name) or {}).get("enabled") is True:
                precision = name
    else:
        devices = [nested.get("offload_param_device"), nested.get("offload_optimizer_device")]
        stage = _whole(nested.get("zero_stage", 2), "zero_stage", path)  # accelerate's default
    return {
        "zero_stage": stage,
        "offload": any(d not in (None, "none") for d in devices),
        "precision": precision,
    }


def deepspeed_file(named: str, config: Path | None) -> Path:
    """The DeepSpeed file that an accelerate config names.

    accelerate searches only the working directory, so a config would work from one directory only. Here the
    directory of the config, its parent and the files of the package follow. Raises Refusal: missing-file.
    """
    places = [Path(named)]
    if config is not None and not Path(named).is_absolute():
        here = config.resolve().parent
        places += [here / named, here.parent / named]
    places.append(BUNDLED / named)
    for place in places:
        if place.is_file():
            return place
    raise refuse(
        "missing-file",
        f"the DeepSpeed file {named} was not found in the working directory or next to the layout",
        "write its path relative to the working directory or to the layout, or an absolute path",
        str(config or "command line"),
    )


def mend_deepspeed_path() -> None:
    """Make the path of the launch's DeepSpeed file valid in any working directory.

    Raises Refusal: missing-file. To be called before TrainingArguments are built.
    """
    named = os.environ.get(DEEPSPEED_FILE)
    if named and not os.path.isfile(named):
        config = (asked_by_launcher() or (None,))[0]
        os.environ[DEEPSPEED_FILE] = str(deepspeed_file(named, config and Path(config)))


def _read_mapping(path: Path) -> dict:
    """The mapping in a YAML or JSON file. Raises Refusal: bad-layout."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        message = " ".join(str(error).split())
        raise refuse(
            "bad-layout", f"the file cannot be read: {message}", "correct the file", str(path)
        ) from None
    if not isinstance(found, dict):
        raise refuse(
            "bad-layout", "the file must contain a mapping of keys", "see accelerate_configs/", str(path)
        )
    return found


def _whole(value: Any, key: str, path: Path | None) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = -1
    if number < 0 or isinstance(value, bool):
        message = f"{key} must be a whole number, not {value!r}"
        raise refuse("bad-layout", message, "write a whole number", str(path or "command line"))
    return number


def _precision(value: Any, path: Path | None) -> str | None:
    """None if the file does not set it: then the recipe does. YAML parses no as false."""
    value = "no" if value is False else value
    if value is None or str(value).lower() in PRECISIONS:
        return value and str(value).lower()
    message = f"mixed_precision cannot be {value!r}"
    raise refuse("bad-layout", message, f"one of: {', '.join(PRECISIONS)}", str(path or "command line"))


def _is_true(value: Any) -> bool:
    return str(value).lower() in ("true", "1", "yes")


def _gpus_hidden() -> bool:
    """`CUDA_VISIBLE_DEVICES= accelerate launch ...` requests the CPU, regardless of the file."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")


def _name_of(path: Path | None) -> str:
    """The bare name for a file of accelerate_configs/, else its path."""
    if path is None:
        return ""
    return path.stem if path.parent.name == "accelerate_configs" else str(path)
