"""Whether the weight files of a directory can be read, by their sizes and headers alone. No torch."""

import json
from pathlib import Path

# The largest header that safetensors accepts.
LONGEST_HEADER = 100_000_000
LFS_POINTER = b"version https://git-lfs"  # how one begins


def find_unreadable(directory: str | Path) -> tuple[str, str] | None:
    """(path, what is wrong) of the first weight file that cannot be read, an adapter's base/ included; or None.

    A git-lfs pointer, a truncated file, or a file that the index names and that does not exist.
    """
    places = (Path(directory), Path(directory) / "base")
    return next((found for place in places if (found := _find_in(place))), None)


def _find_in(directory: Path) -> tuple[str, str] | None:
    for file in sorted([*directory.glob("*.safetensors"), *directory.glob("*.bin")]):
        if fault := _fault(file):
            return str(file), fault
    for index in sorted(directory.glob("*.safetensors.index.json")):
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError) as error:
            return str(index), f"this index cannot be read: {error}"
        if missing := sorted(name for name in named if not (directory / name).is_file()):
            return str(directory / missing[0]), f"this file does not exist, but {index.name} names it"
    return None


def _fault(file: Path) -> str:
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            return "this file is a git-lfs pointer, not the weights"
        if not size:
            return "this file is empty"
        if file.suffix != ".safetensors":
            return ""
        # Eight bytes with the length of the header, the header as JSON, the tensors.
        length = int.from_bytes(start[:8], "little")
        if length > min(size, LONGEST_HEADER):
            return "this file is truncated, or is not in the safetensors format"
        stream.seek(8)
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError):
            return "this file has no header in the safetensors format"
    wanted = 8 + length + max(ends, default=0)
    return "" if size == wanted else f"this file has {size} bytes, but its header describes {wanted}"
