"""What overhead.py compares the sft stage with: TRL's own trainer in a script of its own.

    python benchmarks/bare_sft.py settings.json

settings: {"model": path, "data": a JSON lines file, "train": the arguments of SFTConfig}. Prints train_loss.
"""

import json
import sys
from pathlib import Path

from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import SFTConfig, SFTTrainer

settings = json.loads(Path(sys.argv[1]).read_text())
args = SFTConfig(**settings["train"])
set_seed(args.seed)
trainer = SFTTrainer(
    model=AutoModelForCausalLM.from_pretrained(settings["model"], dtype="float32"),
    args=args,
    train_dataset=load_dataset("json", data_files=settings["data"], split="train").select_columns("messages"),
    processing_class=AutoTokenizer.from_pretrained(settings["model"]),
)
result = trainer.train()
trainer.save_model()
trainer.save_state()
print(json.dumps({"train_loss": result.training_loss}))
