"""What overhead.py compares the pretrain stage with: transformers' own Trainer in a script of its own.

    python benchmarks/bare_pretrain.py settings.json

settings: {"tokenizer": path, "data": a JSON lines file, "config": the arguments of LlamaConfig, "block_size":
ids, "train": the arguments of TrainingArguments}. Prints train_loss. The blocks are made by the stage's own
functions: packing that does not leak is work for any script, not glue.
"""

import json
import sys
from pathlib import Path

from datasets import load_dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

from lifecycle_recipes.data.packing import BlockCollator, pack_documents
from lifecycle_recipes.data.provenance import number_rows, take_off

settings = json.loads(Path(sys.argv[1]).read_text())
args = TrainingArguments(**settings["train"], remove_unused_columns=False)
tokenizer = AutoTokenizer.from_pretrained(settings["tokenizer"])
set_seed(args.seed)
specials = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **specials, **settings["config"]))
documents = number_rows(load_dataset("json", data_files=settings["data"], split="train"), 0)
blocks, _ = pack_documents(documents, tokenizer, "text", settings["block_size"])
trainer = Trainer(
    model=model,
    args=args,
    train_dataset=take_off(blocks),
    processing_class=tokenizer,
    data_collator=BlockCollator(tokenizer.pad_token_id, settings["block_size"]),
)
result = trainer.train()
trainer.save_model()
trainer.save_state()
print(json.dumps({"train_loss": result.training_loss}))
