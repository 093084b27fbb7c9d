"""A GGUF file for llama.cpp and Ollama, with the official `gguf` package: weights, tokenizer, template, stop tokens.

Sources: llama.cpp's conversion/ and gguf-py (names of keys and tensors), docs/gguf.md of ggml. Read back with
transformers (publish/gguf_reading.py) and compared with the trained model, as every form is.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..finding import refuse
from ..models.config_file import read_json
from ..models.safetensors_files import tensors, weight_files
from ..models.turn_end import ANSWER, QUESTION, SECOND, render, stop_ids_of
from .config import INSTALL

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

# model_type -> llama.cpp's name of the architecture. Mistral's is Llama's.
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
# How a byte-level tokenizer divides a text before its merges -> llama.cpp's name for that (llama-vocab.cpp).
_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    _LETTERS + r"\p{N}{1,3}" + _REST: "llama-bpe",
    _LETTERS + r"\p{N}" + _REST: "qwen2",
}
OLLAMA_CHATML = (
    "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}"
    "<|im_start|>assistant\n"
)
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # gguf.TokenType
ROPE_FACTORS = "rope_freqs.weight"
QWEN3_HEAD = 128  # transformers takes its own default for what it reads
STOPS = 3  # llama.cpp has three keys for tokens that end a reply: eos, eot, eom
BLOCK = 32  # weights that share a scale in Q8_0 and Q4_0


def find_in_gguf(path: str, revision: str = "main") -> list[str]:
    """Why the model at a path or Hub id cannot be written as GGUF; empty if it can."""
    config = read_json(path, "config.json", revision)
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        return [f"the family {kind} is not among those that are written: {', '.join(ARCHITECTURES)}"]
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    scaling = rope.get("rope_type") or rope.get("type") or "default"
    if scaling not in ("default", "llama3") or (scaling == "llama3" and ARCHITECTURES[kind] != "llama"):
        return [f"RoPE scaling ({scaling}) is not written for {kind}"]
    if config.get("attention_bias") or config.get("mlp_bias"):
        return ["biases of attention or MLP are not read back"]
    if config.get("sliding_window") and (kind == "mistral" or config.get("use_sliding_window")):
        return ["sliding-window attention is not written"]
    if kind == "qwen3" and config.get("head_dim") != QWEN3_HEAD:
        return [f"a Qwen3 whose heads are not {QWEN3_HEAD} wide is not read back"]
    tokenizer = read_json(path, "tokenizer.json", revision)
    if not tokenizer or split_of(tokenizer) is None:
        return ["its tokenizer is not a byte-level BPE with the split of Llama 3, Qwen or GPT-2"]
    return []


def require_gguf(path: str) -> None:
    """Raises Refusal missing-package, gguf-unsupported."""
    if importlib.util.find_spec("gguf") is None:
        raise refuse("missing-package", "gguf is not installed", INSTALL)
    if reasons := find_in_gguf(path):
        raise refuse(
            "gguf-unsupported", reasons[0], "leave the GGUF forms out, or convert it with llama.cpp", path
        )


def split_of(tokenizer: dict) -> str | None:
    """llama.cpp's name for the pre-tokenizer of a tokenizer.json; None if it has none."""
    if tokenizer.get("normalizer") not in (None, {"type": "NFC"}) or tokenizer["model"].get("type") != "BPE":
        return None
    parts = tokenizer.get("pre_tokenizer") or {}
    parts = parts.get("pretokenizers") or [parts]
    kinds = [part.get("type") for part in parts]
    if parts[-1].get("add_prefix_space"):
        return None
    if kinds == ["ByteLevel"]:
        return "gpt-2" if parts[0].get("use_regex", True) else None
    if kinds == ["Split", "ByteLevel"] and not parts[1].get("use_regex", True):
        return SPLITS.get((parts[0].get("pattern") or {}).get("Regex"))
    return None


def write_gguf(merged: str, directory: Path, precision: str) -> Path:
    """`directory`/model.gguf of the merged model, and an Ollama Modelfile.

    precision: F16, Q8_0 or Q4_0, of the matrices; vectors stay in float32. Raises Refusal gguf-unsupported.
    """
    require_gguf(merged)
    import gguf
    from transformers import AutoTokenizer

    config = read_json(merged, "config.json")
    file = directory / "model.gguf"
    writer = gguf.GGUFWriter(file, ARCHITECTURES[config["model_type"]], use_temp_file=True)
    # As llama.cpp does, Mistral is written as a Llama: by its own name, transformers would look for another mapping.
    writer.add_name(ARCHITECTURES[config["model_type"]])
    _add_shape(writer, config)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{precision}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    tokenizer = AutoTokenizer.from_pretrained(merged)
    stops = _add_tokenizer(writer, tokenizer, merged, config["vocab_size"])
    if (factors := _rope_factors(merged)) is not None:
        writer.add_tensor(ROPE_FACTORS, factors)
    for name, weights in _weights(merged, config):
        _add_tensor(writer, name, weights, precision)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (directory / "Modelfile").write_text(_modelfile(tokenizer, stops), encoding="utf-8")
    return file


def _add_shape(writer: Any, config: dict) -> None:
    rope = config.get("rope_parameters") or {}
    heads = config["num_attention_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def _rope_factors(merged: str) -> np.ndarray | None:
    """What llama.cpp divides the rotary frequencies by, for the RoPE scaling of Llama 3.1; None without scaling.

    Shape: half the width of a head. Source: llama.cpp, LlamaModel.generate_extra_tensors.
    """
    import torch
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = AutoConfig.from_pretrained(merged)
    rope = config.rope_parameters
    if rope.get("rope_type", "default") == "default":
        return None
    scaled, _ = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, torch.device("cpu"))
    size = 2 * len(scaled)
    plain = rope["rope_theta"] ** -(torch.arange(0, size, 2, dtype=torch.float) / size)
    return (plain / scaled).numpy()


def _add_tokenizer(writer: Any, tokenizer: PreTrainedTokenizerBase, merged: str, size: int) -> list[str]:
    """Vocabulary, merges, special tokens, chat template. Returns the stop tokens."""
    stored = read_json(merged, "tokenizer.json")
    # Rows of the embedding without a token.
    tokens, types = [f"[PAD{i}]" for i in range(size)], [UNUSED] * size
    for token, number in tokenizer.get_vocab().items():
        tokens[number], types[number] = token, NORMAL
    for number, token in tokenizer.added_tokens_decoder.items():
        types[number] = CONTROL if token.special else USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split_of(stored))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in stored["model"]["merges"]])
    generation = read_json(merged, "generation_config.json")
    stops = stop_ids_of(generation.get("eos_token_id"), tokenizer.eos_token_id)
    if tokenizer.eos_token_id is None or len(stops) > STOPS:
        message = (
            f"it has {len(stops)} stop tokens, and GGUF has room for {STOPS}"
            if stops
            else "it has no EOS token"
        )
        raise refuse("gguf-unsupported", message, "leave the GGUF forms out", merged)
    others = [stop for stop in stops if stop != tokenizer.eos_token_id] or [tokenizer.eos_token_id]
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_eot_token_id(others[0])
    if len(others) > 1:
        writer.add_eom_token_id(others[1])
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    first = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(bool(first) and first[0] == tokenizer.bos_token_id)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
    return tokenizer.convert_ids_to_tokens(stops)


def _weights(merged: str, config: dict):
    """(llama.cpp's name, float32 array) of every weight."""
    import gguf
    import torch

    architecture = gguf.MODEL_ARCH[ARCHITECTURES[config["model_type"]].upper()]
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    heads = config["num_attention_heads"]
    rotated = {"q_proj": heads, "k_proj": config.get("num_key_value_heads") or heads}
    for name, tensor in tensors(weight_files(Path(merged), "model.safetensors")):
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue  # llama.cpp reads the embedding there
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if theirs is None:
            raise refuse(
                "gguf-unsupported",
                f"the weight {name} has no place in GGUF",
                "leave the GGUF forms out",
                merged,
            )
        array = tensor.to(torch.float32).numpy()
        part = name.split(".")[-2]
        if architecture == gguf.MODEL_ARCH.LLAMA and part in rotated:
            array = _interleave(array, rotated[part])
        yield theirs, array


def _interleave(weights: np.ndarray, heads: int) -> np.ndarray:
    """The rows of a query or key projection in the order of llama.cpp's rotary embedding, which turns neighbours.

    transformers turns the first half of a head with its second half. Source: llama.cpp, LlamaModel.permute.
    """
    rows = weights.shape[0]
    return (
        weights.reshape(heads, 2, rows // heads // 2, *weights.shape[1:])
        .swapaxes(1, 2)
        .reshape(weights.shape)
    )


def _add_tensor(writer: Any, name: str, weights: np.ndarray, precision: str) -> None:
    import gguf
    import numpy as np

    if weights.ndim == 1:
        writer.add_tensor(name, weights)
        return
    if precision == "F16" or weights.shape[-1] % BLOCK:
        writer.add_tensor(name, weights.astype(np.float16))
        return
    # The embedding and the output head lose most by 4 bits: llama.cpp, too, gives them more.
    coarse = precision == "Q4_0" and name not in ("token_embd.weight", "output.weight")
    kind = gguf.GGMLQuantizationType.Q4_0 if coarse else gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor(name, gguf.quants.quantize(weights, kind), raw_dtype=kind)


def _modelfile(tokenizer: PreTrainedTokenizerBase, stops: list[str]) -> str:
    """For `ollama create NAME -f Modelfile`.

    Ollama does not run the Jinja template of the file. Its own form of ChatML is written where the template is ChatML.
    """
    lines = ["FROM ./model.gguf"]
    if is_chatml(tokenizer):
        lines.append(f'TEMPLATE """{OLLAMA_CHATML}"""')
    else:
        lines.append("# Add a TEMPLATE: Ollama does not run the chat template in model.gguf.")
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    return "\n".join(lines) + "\n"


def is_chatml(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template writes nothing but ChatML."""
    if not tokenizer.chat_template:
        return False
    turns = [QUESTION, ANSWER, SECOND]
    text = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in turns)
    return render(tokenizer, turns, add_generation_prompt=True) == text + "<|im_start|>assistant\n"
