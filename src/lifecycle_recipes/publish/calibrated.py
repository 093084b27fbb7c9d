"""GPTQ and AWQ: 4-bit copies of a model, fitted to calibration rows by GPTQModel; they load with from_pretrained.

python -m lifecycle_recipes.publish.calibrated MERGED FORM DIRECTORY < rows     (the new process; of
`write_calibrated`: GPTQModel starts pools of threads and prints tables, and its memory is given back)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from ..exit_status import signal_in_words
from ..finding import FAILED, refuse
from ..models.config_file import model_config
from ..models.load import load_tokenizer

BITS = 4
# As the models of the Hub have it; a model with narrower layers has groups of 32.
GROUP_SIZE, SMALL_GROUP = 128, 32


def write_calibrated(merged: str, form: str, directory: Path, rows: list[list[int]]) -> None:
    """Save the model of the directory `merged` as GPTQ or AWQ, fitted to rows.

    rows: token ids (`calibration_ids`). Raises Refusal calibration-failed.
    """
    command = [sys.executable, "-m", "lifecycle_recipes.publish.calibrated", merged, form, str(directory)]
    done = subprocess.run(command, input=json.dumps(rows), capture_output=True, text=True, check=False)
    if done.returncode or not list(directory.glob("*.safetensors")):
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1][:300] if lines else "it ended without a message"
        if done.returncode < 0:
            reason = f"it was ended by {signal_in_words(-done.returncode)}"
        message = f"GPTQModel could not make {form}: {reason}"
        raise refuse("calibration-failed", message, "leave the form out", str(directory), FAILED)
    load_tokenizer(merged).save_pretrained(directory)  # GPTQModel changes the padding


def group_size(config: dict) -> int:
    """config: `model_config`."""
    widths = [config.get("hidden_size") or GROUP_SIZE, config.get("intermediate_size") or GROUP_SIZE]
    return SMALL_GROUP if any(width % GROUP_SIZE for width in widths) else GROUP_SIZE


def allow_few_cores() -> None:
    """Before GPTQModel is imported: by default it asks of a machine with two cores more workers than it starts."""
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(max(2, ((os.cpu_count() or 1) + 1) // 2)))


def main(merged: str, form: str, directory: str) -> None:
    allow_few_cores()
    rows = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in json.load(sys.stdin)]
    from gptqmodel import GPTQModel
    from gptqmodel.quantization.config import AWQConfig, GPTQConfig

    from ..models.saved import default_device

    make = GPTQConfig if form == "gptq" else AWQConfig
    settings = make(bits=BITS, group_size=group_size(model_config(merged)))
    merged, directory = os.path.abspath(merged), os.path.abspath(directory)
    with TemporaryDirectory() as elsewhere:  # it writes logs/ into the current directory
        os.chdir(elsewhere)
        model = GPTQModel.load(merged, settings, device=str(default_device()))
        model.quantize(rows, batch_size=1)
        model.save(directory)


if __name__ == "__main__":
    main(*sys.argv[1:])
