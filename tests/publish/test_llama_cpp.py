"""GGUF files in llama.cpp itself, where it is installed: its tokens and its greedy text are those of the model."""

from itertools import islice

import pytest
from families import LLAMA3_ROPE

from lifecycle_recipes.evals.replies import generate
from lifecycle_recipes.models.saved import load_saved
from lifecycle_recipes.publish.gguf_writing import write_gguf

llama_cpp = pytest.importorskip("llama_cpp")
TEXTS = (
    "Which colour is service 3?",
    " two  spaces\n\nand lines\t",
    "12345 don't ÄÖ 東京 🙂",
    "<|im_start|>user\nHi<|im_end|>\n",
)


def in_llama_cpp(form, **options):
    file = str(form / "model.gguf")
    return llama_cpp.Llama(file, n_ctx=256, n_threads=1, verbose=False, logits_all=True, **options)


@pytest.mark.parametrize("rope", [None, LLAMA3_ROPE | {"original_max_position_embeddings": 8}])
def test_llama_cpp_reads_the_same_tokens_and_writes_the_same_text(chat_model, tmp_path, rope):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    config = AutoConfig.from_pretrained(chat_model, **({"rope_parameters": rope} if rope else {}))
    torch.manual_seed(4)
    model = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.5 if "self_attn" in name else 0.1)
    model.generation_config.eos_token_id = [1, 3]
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "form").mkdir()
    write_gguf(str(tmp_path / "model"), tmp_path / "form", "F16")
    theirs, saved = in_llama_cpp(tmp_path / "form"), load_saved(str(tmp_path / "model"))
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert theirs.tokenize(text.encode(), add_bos=False, special=True) == ids
        reply = list(generate(saved, [ids], 32)[0].ids)
        assert list(islice(theirs.generate(ids, temp=0.0), len(reply))) == reply
