"""Level 1, the machine: what a recipe needs and this machine lacks. Without torch, in milliseconds."""

import importlib.util
import os
import re
import sys
from pathlib import Path

from ...finding import Finding
from ...layouts.layout import has_accelerator
from ...recipe.read import RawRecipe
from .hub import go_online, why_offline

# Values that a recipe can contain -> Python modules, of which one is required.
TRACKERS = {
    "azure_ml": ("azureml",),
    "clearml": ("clearml",),
    "codecarbon": ("codecarbon",),
    "comet_ml": ("comet_ml",),
    "dagshub": ("dagshub",),
    "dvclive": ("dvclive",),
    "flyte": ("flytekit",),
    "mlflow": ("mlflow",),
    "neptune": ("neptune",),
    "swanlab": ("swanlab",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}
OPTIMIZERS = {
    "galore": "galore_torch",
    "apollo": "apollo_torch",
    "lomo": "lomo_optim",
    "adalomo": "lomo_optim",
}
# NVIDIA before Ampere computes bfloat16 by emulation: Volta, Turing and older.
OLD_GPU = re.compile(r"\b(V100|T4|P100|P40|P4|K80|M60|M40|TITAN|GTX|RTX 20\d\d|Quadro RTX \d000)\b")


def find_in_machine(raw: RawRecipe) -> list[Finding]:
    """missing-package, no-bf16-hardware, no-hub-token, no-wandb-login, push-offline."""
    findings = [*_packages(raw), *_wandb(raw)]
    if "train" in raw.values:
        findings += [*_bf16(raw), *_hub(raw)]
    return findings


def _packages(raw: RawRecipe) -> list[Finding]:
    found = []
    for key, modules in _needs(raw):
        try:
            present = any(importlib.util.find_spec(module) for module in modules)
        except (ImportError, ValueError):
            present = False
        if not present:
            message = f"{key} needs the package {modules[0]}, which is not installed"
            found.append(
                Finding.error("missing-package", message, f"pip install {modules[0]}", raw.place(key))
            )
    return found


def _needs(raw: RawRecipe):
    """(key, modules of which one is needed) for every key of this recipe that needs a package."""
    for section in ("model", "reward", "value"):
        given = raw.values.get(section) or {}
        for key in ("load_in_4bit", "load_in_8bit"):
            if given.get(key):
                yield f"{section}.{key}", ("bitsandbytes",)
        if given.get("attn_implementation") in ("flash_attention_2", "flash_attention_3"):
            # Without the package, transformers loads the kernel from the Hub, if it can.
            modules = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}
            yield f"{section}.attn_implementation", (modules[given["attn_implementation"]], "kernels")
    train = raw.values.get("train") or {}
    if train.get("use_liger_kernel"):
        yield "train.use_liger_kernel", ("liger_kernel",)
    trackers = train.get("report_to") or []
    for tracker in [trackers] if isinstance(trackers, str) else trackers:
        if tracker in TRACKERS:
            yield "train.report_to", TRACKERS[tracker]
    optimizer = train.get("optim") or ""
    if any(word in optimizer for word in ("bnb", "paged", "ademamix", "lion")) or optimizer == "adamw_8bit":
        yield "train.optim", ("bitsandbytes",)
    for word, module in OPTIMIZERS.items():
        if optimizer.startswith(word):
            yield "train.optim", (module,)


def _bf16(raw: RawRecipe) -> list[Finding]:
    if not raw.values["train"].get("bf16") or sys.platform == "darwin":
        return []
    where = raw.place("train.bf16")
    gpus = _nvidia_models()
    if old := [name for name in gpus if OLD_GPU.search(name)]:
        message = (
            f"train.bf16: true, but {old[0]} does not support bfloat16: the emulation is slower than float32"
        )
        return [
            Finding.warning("no-bf16-hardware", message, "write `fp16: true`, or remove both keys", where)
        ]
    if not gpus and not has_accelerator():
        message = "train.bf16: true, but this machine has no GPU: bfloat16 on a CPU is mostly emulated"
        return [
            Finding.warning(
                "no-bf16-hardware",
                message,
                "remove bf16: the precision is then chosen from the hardware",
                where,
            )
        ]
    return []


def _nvidia_models() -> list[str]:
    texts = []
    for file in Path("/proc/driver/nvidia/gpus").glob("*/information"):
        try:
            texts.append(file.read_text())
        except OSError:
            continue
    return re.findall(r"Model:\s*(.+)", "\n".join(texts))


def _hub(raw: RawRecipe) -> list[Finding]:
    if not raw.setting("train.push_to_hub"):
        return []
    where = raw.place("train.push_to_hub")
    if offline := why_offline():
        return [
            Finding.warning("push-offline", f"train.push_to_hub: true, but {offline}", go_online(), where)
        ]
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    token = Path(os.environ.get("HF_TOKEN_PATH") or home / "token")
    if not os.environ.get("HF_TOKEN") and not token.is_file():
        message = "train.push_to_hub: true, but no Hub token is available"
        return [Finding.warning("no-hub-token", message, "set HF_TOKEN, or run `hf auth login`", where)]
    return []


def _wandb(raw: RawRecipe) -> list[Finding]:
    """wandb asks for a login on a terminal, and fails elsewhere, once the trainer is built."""
    trackers = (raw.values.get("train") or {}).get("report_to") or []
    if "wandb" not in ([trackers] if isinstance(trackers, str) else trackers) or _wandb_can_start():
        return []
    message = "train.report_to: wandb, but this machine has no wandb login"
    fix = "run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline"
    return [Finding.warning("no-wandb-login", message, fix, raw.place("train.report_to"))]


def _wandb_can_start() -> bool:
    """Whether wandb has a key for its host, or needs none. Sources: wandb's docs on environment variables, netrc."""
    env = os.environ
    if env.get("WANDB_API_KEY") or env.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    if env.get("WANDB_MODE", "").lower() in ("offline", "disabled", "dryrun", "shared"):
        return True
    if env.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes", "on"):
        return True
    host = env.get("WANDB_BASE_URL", "https://api.wandb.ai").split("://")[-1].split("/")[0].split(":")[0]
    config = Path(env.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser()
    keys = [Path(env.get("NETRC") or "~/.netrc").expanduser(), Path("~/_netrc").expanduser()]
    modes = [config / "settings", Path(env.get("WANDB_DIR") or ".") / "wandb" / "settings"]
    return any(_contains(file, rf"machine\s+{re.escape(host)}\b") for file in keys) or any(
        _contains(file, r"(?m)^\s*(mode\s*=\s*(offline|disabled)|disabled\s*=\s*true)") for file in modes
    )


def _contains(file: Path, pattern: str) -> bool:
    try:
        return bool(re.search(pattern, file.read_text(encoding="utf-8", errors="replace")))
    except OSError:
        return False
