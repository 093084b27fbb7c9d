"""The blocks of datatrove that do what our steps of curation do, run by hand: for benchmarks/curation.py.

    python benchmarks/curation_datatrove.py CORPUS OUT

CORPUS: a folder of JSONL files with "id" and "text". Near-duplicates by MinHash with datatrove's own settings (14
buckets of 8 hashes, a threshold of about 0.72, 92 % of the pairs at 0.8), then the Gopher and FineWeb filters and
the formatter of personal data. Words are split at white space: its tokenizers for English would download. So would
its language filter, which is left out. Two workers; every filter writes what it takes out, as our steps do.
"""

import sys
from pathlib import Path

import xxhash
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.formatters import PIIFormatter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.word_tokenizers import WordTokenizer

WORKERS = 2


class WhitespaceWords(WordTokenizer):
    def word_tokenize(self, text: str) -> list[str]:
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        return [text]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return [(0, len(text))]


def hash_of_text(text: str) -> int:
    """datatrove's own hash function; xxhash hashes no str since version 4, and datatrove wants an older one."""
    return xxhash.xxh64_intdigest(text.encode())


def run_blocks(corpus: Path, out: Path) -> None:
    words, config = WhitespaceWords("en"), MinhashConfig()
    files = len(list(corpus.glob("*.jsonl")))

    def folder(name: str) -> str:
        return str(out / name)

    def left_out(name: str) -> JsonlWriter:
        return JsonlWriter(folder(f"left_out/{name}"), compression=None)

    def read() -> JsonlReader:
        return JsonlReader(str(corpus), glob_pattern="*.jsonl")

    def execute(pipeline: list, tasks: int, name: str) -> None:
        logs = folder(f"logs/{name}")
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=min(WORKERS, tasks), logging_dir=logs).run()

    signatures, buckets, remove = folder("signatures"), folder("buckets"), folder("remove")
    signature = MinhashDedupSignature(signatures, config, language=words)
    signature._hash_func = hash_of_text
    execute([read(), signature], files, "signatures")
    execute([MinhashDedupBuckets(signatures, buckets, config=config)], config.num_buckets, "buckets")
    execute([MinhashDedupCluster(buckets, remove, config)], 1, "cluster")
    filters = [
        MinhashDedupFilter(remove, exclusion_writer=left_out("near_duplicates")),
        GopherRepetitionFilter(language=words, exclusion_writer=left_out("gopher_repetition")),
        GopherQualityFilter(language=words, exclusion_writer=left_out("gopher_quality")),
        FineWebQualityFilter(language=words, exclusion_writer=left_out("fineweb")),
        PIIFormatter(),
        JsonlWriter(folder("output"), compression=None),
    ]
    execute([read(), *filters], files, "filters")


if __name__ == "__main__":
    run_blocks(Path(sys.argv[1]), Path(sys.argv[2]))
