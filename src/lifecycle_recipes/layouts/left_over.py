"""Variables of another launch, such as a shell in which a worker was debugged: `lifecycle` drops them. No torch.

`lifecycle` starts every process of a run itself. With a left-over RANK=1 its only process would wait for rank 0;
others select a distribution that the layout does not have. `accelerate launch` and torchrun set their own, after
this.
"""

import os

# accelerate: state.py, utils/environment.py; torch: distributed/elastic, distributed/run.py.
_WORKER = "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE GROUP_RANK GROUP_WORLD_SIZE ROLE_RANK ROLE_WORLD_SIZE"
_MPI = "PMI_RANK PMI_SIZE MPI_LOCALRANKID MPI_LOCALNRANKS"
_SWITCHES = "MASTER_ADDR MASTER_PORT ACCELERATE_USE_DEEPSPEED ACCELERATE_USE_FSDP ACCELERATE_USE_MEGATRON_LM"
NAMES = frozenset(f"{_WORKER} {_MPI} {_SWITCHES} ACCELERATE_USE_PARALLELISM_CONFIG LIFECYCLE_LAYOUT".split())
BEGINNINGS = ("TORCHELASTIC_", "ACCELERATE_DEEPSPEED_", "PARALLELISM_CONFIG_")
BEGINNINGS += ("OMPI_COMM_WORLD_", "MV2_COMM_WORLD_")


def drop_left_over() -> list[str]:
    """Remove them from the environment of this process and its children; returns their names."""
    found = sorted(name for name in os.environ if name in NAMES or name.startswith(BEGINNINGS))
    for name in found:
        del os.environ[name]
    return found
