"""`lifecycle bench RUN ...`: time to the first token and tokens per second, one request and many at once.

Every reply has the same number of tokens (stop tokens do not end it), so that models and modes do the same work. Each
mode runs once to warm up, which does not count, then REPEATS times, of which the median counts.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..evals.check import check_prompts
from ..evals.rubric import as_messages, read_prompts
from ..finding import Refusal, refuse
from ..models.config_file import longest_sequence
from ..record.file import BENCH_FILE, RUN_FILE, exported_forms, read_record, write_json
from ..record.parents import hash_weights
from .draft import Draft, load_draft, without_adapter_class
from .model import Loaded, load, require_language_model
from .server import UNBATCHABLE, cache_size

if TYPE_CHECKING:
    import torch

REPEATS = 5
NO_STOP = -1  # the id of no token
# Without a file of prompts: of different lengths, as requests are.
PROMPTS = (
    "Hello",
    "What is a bridge?",
    "Tell me how bread is made, and why it rises.",
    "Why is the sky blue and not green, and is it the same at noon and in the evening, at the sea and on a mountain?",
)


@dataclass(frozen=True)
class Bench:
    """runs: models to compare. requests: at once. tokens: of a reply. prompts: a .jsonl file of prompts."""

    runs: list[str]
    requests: int = 16
    tokens: int = 64
    draft: str | None = None
    prompts: str | None = None


@dataclass(frozen=True)
class Speed:
    """Of a mode. first_token: seconds until a reply has a token, median of the requests. accepted: share of the draft.

    tokens_per_second: of all replies together, from the first request to the last token. spread: the time of the
    slowest of the runs that count, over that of the fastest.
    """

    mode: str
    requests: int
    first_token: float
    tokens_per_second: float
    spread: float
    accepted: float | None = None


@dataclass(frozen=True)
class Timed:
    """Of one run of a mode. firsts: seconds until each reply had a token. seconds: until all were complete."""

    firsts: list[float]
    seconds: float


def bench(what: Bench, found: dict[str, dict[str, Any]]) -> None:
    """Add what was measured to `found`, by path; also written to `bench.json` of every path that is a directory.

    Raises Refusal: bad-value, missing-file and faults of the prompts, draft-differs, context-full; see `load`.
    """
    for name, value in (("--requests", what.requests), ("--tokens", what.tokens)):
        if value < 1:
            message = f"{name} must be at least 1, not {value}"
            raise refuse("bad-value", message, "leave it out for the default", "command line")
    prompts = prompts_of(what)
    runs = with_forms(what.runs)
    for path in [*runs, *filter(None, [what.draft])]:
        require_language_model(path)
    for path in runs:
        print(f"measuring {path}", file=sys.stderr, flush=True)
        found[path] = measure(path, prompts, what)
        if Path(path).is_dir():
            try:
                write_json(Path(path) / BENCH_FILE, found[path])
            except OSError as error:
                message = f"{path}/{BENCH_FILE} is not written: {error.strerror}"
                print(message, file=sys.stderr)


def prompts_of(what: Bench) -> list[Any]:
    """As many as there are requests; a short list is repeated."""
    given: Sequence[Any] = PROMPTS
    if what.prompts:
        if not Path(what.prompts).is_file():
            raise refuse("missing-file", "the file of --prompts does not exist", "give another", what.prompts)
        if findings := check_prompts(Path(what.prompts), "--prompts"):
            raise Refusal(*findings)
        given = [row["prompt"] for row in read_prompts(what.prompts, what.requests)]
    return [given[i % len(given)] for i in range(what.requests)]


def with_forms(runs: Sequence[str]) -> list[str]:
    """The runs, and after an export its forms that transformers loads."""
    found = []
    for run in runs:
        record = read_record(run) if (Path(run) / RUN_FILE).is_file() else {}
        forms = [Path(run) / form for form in exported_forms(record)]
        found += [run, *(str(form) for form in forms if (form / "config.json").is_file())]
    return list(dict.fromkeys(found))


def measure(path: str, prompts: list[Any], what: Bench) -> dict[str, Any]:
    """The weights, the machine, the settings, and a Speed per mode."""
    import torch

    model = load(path)
    causal = without_adapter_class(model.saved.model)
    draft = load_draft(what.draft, model.saved, causal) if what.draft else None
    ids = [fitting(model, prompt, what.tokens) for prompt in prompts]
    modes = {
        "one request": lambda: static(causal, ids[:1], what.tokens),
        "static batch": lambda: static(causal, ids, what.tokens),
    }
    speeds = [speed(mode, run, what.tokens) for mode, run in modes.items()]
    speeds += continuous(causal, ids, what.tokens)
    if draft:
        speeds.append(drafted(causal, ids[:1], what.tokens, draft))
    on_gpu = causal.device.type == "cuda"
    return {
        "weights_sha256": hash_weights(path) if Path(path).is_dir() else None,
        "device": torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads",
        "dtype": str(causal.dtype).removeprefix("torch."),
        "weights_bytes": sum(bytes_of(weights) for weights in [*causal.parameters(), *causal.buffers()]),
        "tokens": what.tokens,
        "draft": what.draft,
        "speeds": [asdict(speed) for speed in speeds],
    }


def bytes_of(weights: torch.Tensor) -> int:
    """In memory; a packed tensor (torchao) names the tensors that it consists of."""
    if hasattr(weights, "__tensor_flatten__"):
        return sum(bytes_of(getattr(weights, name)) for name in weights.__tensor_flatten__()[0])
    return weights.untyped_storage().nbytes()


def fitting(model: Loaded, prompt: Any, tokens: int) -> list[int]:
    """Token ids of a prompt after which `tokens` more have room; its end if it is too long."""
    ids = model.encode(as_messages(prompt))
    longest = longest_sequence(model.saved.model.config.to_dict())
    if longest is None:
        return ids
    if tokens >= longest:
        message = f"--tokens is {tokens}, the context of the model {longest}"
        raise refuse("context-full", message, "give fewer", model.saved.path)
    return ids[tokens - longest :]


def speed(mode: str, run: Callable[[], Timed], tokens: int) -> Speed:
    """Of a mode that makes replies of `tokens` tokens."""
    done = [run() for _ in range(REPEATS + 1)][1:]
    requests = len(done[0].firsts)
    first = statistics.median(statistics.median(one.firsts) for one in done)
    seconds = [one.seconds for one in done]
    rate = requests * tokens / statistics.median(seconds)
    return Speed(mode, requests, first, rate, max(seconds) / min(seconds))


def static(causal: Any, prompts: list[list[int]], tokens: int, **options: Any) -> Timed:
    """One call of `generate`; prompts: token ids, padded on the left."""
    import torch

    from ..evals.replies import padded_left

    rows, mask = padded_left(prompts, 0, causal.device)
    firsts: list[float] = []

    def after_token(ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        if not firsts:
            finish(causal)
            firsts.extend([time.perf_counter() - start] * len(prompts))
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

    start = time.perf_counter()
    with torch.inference_mode():
        causal.generate(
            input_ids=rows,
            attention_mask=mask,
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=NO_STOP,
            pad_token_id=0,
            stopping_criteria=[after_token],
            **options,
        )
    finish(causal)
    return Timed(firsts, time.perf_counter() - start)


def finish(causal: Any) -> None:
    """Wait for what a GPU has been asked to do."""
    import torch

    if causal.device.type != "cpu":
        torch.accelerator.synchronize()


def drafted(causal: Any, prompts: list[list[int]], tokens: int, draft: Draft) -> Speed:
    """One request with speculative decoding."""
    shares: list[float] = []

    def run() -> Timed:
        draft.begin()
        done = static(causal, prompts, tokens, assistant_model=draft.model)
        shares.append(draft.accepted(tokens))
        return done

    found = asdict(speed("one request, drafted", run, tokens))
    return Speed(**found | {"accepted": statistics.median(shares[1:])})


def continuous(causal: Any, prompts: list[list[int]], tokens: int) -> list[Speed]:
    """Requests that join one paged batch, as in `lifecycle serve`; [] for a model that cannot be batched so.

    Without what requests share: the static batch computes the same beginning of prompts for each of them, too.
    """
    config = copy.deepcopy(causal.generation_config)
    config.do_sample, config.use_cache = False, False
    options = {"continuous_batching_config": cache_size(causal, allow_block_sharing=False)}
    manager = None
    try:
        manager = causal.init_continuous_batching(generation_config=config, **options)
        manager.start()
        return [speed("continuous batch", lambda: joined(manager, prompts, tokens), tokens)]
    except UNBATCHABLE as error:
        print(f"no continuous batch: {' '.join(str(error).split())[:200]}", file=sys.stderr)
        return []
    finally:
        if manager is not None:
            manager.stop(block=True, timeout=10)


def joined(manager: Any, prompts: list[list[int]], tokens: int) -> Timed:
    """All requests at once, to a manager of continuous batching."""
    start = time.perf_counter()
    for ids in prompts:
        manager.add_request(ids, max_new_tokens=tokens, eos_token_id=NO_STOP, record_timestamps=True)
    firsts = []
    while len(firsts) < len(prompts):
        result = manager.get_result(timeout=1)
        if result is None:
            if problem := manager.background_thread_status.fatal_error:
                raise problem
        elif result.error:
            raise RuntimeError(result.error)
        elif result.is_finished():
            firsts.append(result.timestamps[0] - start)
    return Timed(firsts, time.perf_counter() - start)
