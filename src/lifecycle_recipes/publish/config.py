"""The `export` section of a recipe: what is written, and how far it may differ from the trained model. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..recipe.pruned_forms import pruned_forms

Form = Literal["int8", "nf4", "gguf-f16", "gguf-q8_0", "gguf-q4_0"]
MERGED = "merged"  # the model in output_dir itself
# Least share of the tokens of the trained model's replies that a form would choose as well, given those before them.
# Measured on the desk's model of 1.5 M parameters, in which more tokens are almost equally likely than in a large one:
# bfloat16 0.989 to 0.999 (also in a merged LoRA or QLoRA), int8 0.999, nf4 0.929, gguf-q4_0 0.990 (docs/publish.md).
AGREEMENT = {MERGED: 0.98, "gguf-f16": 0.98, "int8": 0.97, "gguf-q8_0": 0.97, "nf4": 0.90, "gguf-q4_0": 0.85}
SAME = 0.999  # of float32 weights that were only merged


@dataclass
class ExportedModel:
    """model_name_or_path: the trained model, a run, a directory or a Hub id. model_revision: of a Hub id."""

    model_name_or_path: str
    model_revision: str = "main"


@dataclass
class ExportConfig:
    """What is written, and how it is compared with the trained model.

    output_dir: of the model, with all adapters merged; each of the forms is in a directory of its name below. dtype:
    of the merged weights; null: that of the trained model. forms: smaller copies: int8 and nf4 (bitsandbytes), and
    GGUF files for llama.cpp and Ollama. prompts: a .jsonl file of prompts, {"prompt": text or messages}; limit: the
    first of them; max_new_tokens: of a reply. The trained model answers them, and every form must agree. agreement:
    form (`merged` for the model itself) -> least share of the tokens of these replies that the form chooses, too.
    recovery: of each form, the least share of every score of the evaluate section.
    """

    output_dir: str
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    forms: list[Form] = field(default_factory=list)
    prompts: str | None = None
    limit: int = 50
    max_new_tokens: int = 96
    agreement: dict[str, float] = field(default_factory=dict)
    recovery: float = 0.95

    def least_agreement(self, form: str, exact: bool) -> float:
        """exact: whether the merged model has the weights of the trained one, in float32.

        0 for a pruned copy, unless `agreement` names it: what it costs is the question.
        """
        return self.agreement.get(form, SAME if form == MERGED and exact else AGREEMENT.get(form, 0.0))


@dataclass
class PruneConfig:
    """Copies of the model whose smallest weights are zero, to measure what that costs.

    The weights are those of all linear layers but the output head. levels: shares of them, such as 0.5; each gives a
    copy, such as `pruned-50`. two_of_four: also `pruned-2of4`, in which the 2 largest of every 4 consecutive weights
    of a row are kept. scope: of levels: `layer` prunes every layer by this share, `global` compares all layers.
    Neither export.recovery nor a default of export.agreement applies to these copies: a level that is too high is a
    result. Gate lines decide about one.
    """

    levels: list[float] = field(default_factory=list)
    two_of_four: bool = False
    scope: Literal["layer", "global"] = "layer"

    @property
    def forms(self) -> dict[str, float | None]:
        """Name of the copy -> its level; None for 2 of 4."""
        return pruned_forms(self.levels, self.two_of_four)
