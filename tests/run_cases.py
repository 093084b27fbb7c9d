"""Several stages in one launch, so that upstream is imported once:

    accelerate launch --config_file LAYOUT tests/run_cases.py cases.json

cases.json: [[stage, recipe], ...]. The process group stays from case to case; what accelerate keeps about a
case is forgotten after it, as in accelerate's own tests. The first failure ends the launch.
"""

import gc
import json
import sys
from importlib import import_module
from pathlib import Path


def run(stage: str, recipe: str) -> None:
    try:
        import_module(f"lifecycle_recipes.stages.{stage}").main([recipe])
    except SystemExit as end:
        if end.code:
            raise
    forget()


def forget() -> None:
    from accelerate.state import AcceleratorState, GradientState
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    gc.collect()  # engines of DeepSpeed are held in cycles
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    unset_hf_deepspeed_config()


def main() -> None:
    from lifecycle_recipes import exit_status
    from lifecycle_recipes.training import weights

    exit_status._leave_process_group = lambda: None
    weights.STEPS_TO_MOVE = 2  # without warm-up two steps move LoRA's A as well
    for stage, recipe in json.loads(Path(sys.argv[1]).read_text()):
        run(stage, recipe)


if __name__ == "__main__":
    main()
