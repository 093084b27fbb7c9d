"""accelerate_configs/, deepspeed_configs/, slurm/: the installed versions read them, and every key."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from accelerate.commands import launch
from accelerate.commands.config.config_args import ClusterConfig
from accelerate.utils import launch as prepare
from repository import ROOT

from lifecycle_recipes.doctor.recipe_level.layout_support import LAYOUTS
from lifecycle_recipes.layouts import launch as ours
from lifecycle_recipes.layouts.layout import read_layout

FILES = sorted((ROOT / "accelerate_configs").glob("*.yaml"))
DEEPSPEED = sorted((ROOT / "deepspeed_configs").glob("*.json"))
# Sections whose keys accelerate's launcher takes for its flags; it adds the prefix where it is missing.
SECTIONS = {"fsdp_config": "fsdp_", "fp8_config": "fp8_", "deepspeed_config": "", "parallelism_config": ""}
PRECISE = {"one_gpu_fp16": "fp16", "ddp_fp16": "fp16", "one_gpu_fp8": "fp8", "fsdp2_fp8": "fp8"}


def flags() -> set[str]:
    return {action.dest for action in launch.launch_command_parser()._actions}


def each(files):
    return pytest.mark.parametrize("file", files, ids=lambda file: file.stem)


def environment_of(file: Path, monkeypatch) -> dict[str, str]:
    """What accelerate's launcher gives a process that is started with this file."""
    monkeypatch.setattr(prepare, "is_fp8_available", lambda: True)  # torchao is no dependency
    monkeypatch.setattr(prepare, "is_port_in_use", lambda port: False)
    arguments = ["--config_file", str(file), "-m", "lifecycle_recipes.stages.sft", "recipe.yaml"]
    args, defaults, _ = launch._validate_launch_command(launch.launch_command_parser().parse_args(arguments))
    if args.use_deepspeed:
        args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        return prepare.prepare_deepspeed_cmd_env(args)[1]
    if args.use_fsdp or args.multi_gpu:
        return prepare.prepare_multi_gpu_env(args)
    return prepare.prepare_simple_launcher_cmd_env(args)[1]


def test_a_stage_on_a_cpu_needs_no_second_process(monkeypatch):
    """What `lifecycle run` sets before torch is imported is what accelerate sets, so nothing is left to change."""
    for name in ("KMP_AFFINITY", "KMP_BLOCKTIME", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # restores it after the test
        monkeypatch.delenv(name)
    file = ROOT / "accelerate_configs/cpu.yaml"
    ours.set_thread_variables(read_layout(file))
    wanted = environment_of(file, monkeypatch)
    changed = {name for name, value in wanted.items() if os.environ.get(name) != value}
    assert changed and all(name.startswith("ACCELERATE_") for name in changed)


def test_the_files_are_those_of_the_documentation():
    assert sorted(LAYOUTS) == [file.stem for file in FILES]


@each(FILES)
def test_accelerate_knows_every_key(file):
    config = ClusterConfig.from_yaml_file(str(file))  # raises on an unknown key of the first level
    known = flags()
    for section, prefix in SECTIONS.items():
        for key in getattr(config, section):
            assert (key if key.startswith(prefix) else prefix + key) in known, f"{section}.{key}"
    others = [name for name, value in vars(config).items() if isinstance(value, dict) and value]
    assert set(others) <= set(SECTIONS), "a section whose keys this test does not look at"


@each(FILES)
def test_topology_only(file):
    """Batch, learning rate and, but for the variants named after one, precision belong to the recipe."""
    given = yaml.safe_load(file.read_text())
    assert given.get("mixed_precision") == PRECISE.get(file.stem)
    own = {"gradient_accumulation_steps", "gradient_clipping", "zero_stage"}
    assert not own & set(given.get("deepspeed_config") or {})
    head = file.read_text().split("\ncompute_environment")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert "Memory" in head and ("Communication" in head or "communication" in head), "what does it cost?"


@each(FILES)
def test_accelerate_makes_of_it_what_we_read(file, monkeypatch):
    """The environment of its launcher, and the plugins that the trainer builds from that environment."""
    from accelerate import ParallelismConfig
    from accelerate.utils import FullyShardedDataParallelPlugin

    monkeypatch.chdir(ROOT)
    environment = environment_of(file, monkeypatch)
    layout = read_layout(file)
    for name, value in environment.items():
        if name.startswith(("ACCELERATE_", "FSDP_", "PARALLELISM_CONFIG_")):
            monkeypatch.setenv(name, value)
    assert environment["ACCELERATE_MIXED_PRECISION"] == (layout.precision or "no")
    assert ("ACCELERATE_USE_DEEPSPEED" in environment) == (layout.kind == "deepspeed")
    assert ("ACCELERATE_USE_FSDP" in environment) == (layout.kind == "fsdp")
    if layout.kind == "fsdp":
        plugin = FullyShardedDataParallelPlugin()
        assert (plugin.fsdp_version, plugin.cpu_ram_efficient_loading) == (2, False)
        assert plugin.state_dict_type.name == "FULL_STATE_DICT"
        assert plugin.auto_wrap_policy is not None and plugin.reshard_after_forward
        assert (type(plugin.cpu_offload).__name__ == "CPUOffloadPolicy") == layout.offload
    if "ACCELERATE_USE_PARALLELISM_CONFIG" in environment:
        sizes = ParallelismConfig()
        assert sizes.total_size == layout.processes
        assert (sizes.tp_size, sizes.cp_size) == (layout.tp, layout.cp)
        assert (sizes.dp_replicate_size, sizes.dp_shard_size) == (layout.dp_replicate, layout.dp_shard)
    if layout.kind == "deepspeed":
        assert Path(environment["ACCELERATE_DEEPSPEED_CONFIG_FILE"]).is_file()
        assert environment["ACCELERATE_DEEPSPEED_ZERO3_INIT"] == str(layout.zero_stage == 3).lower()
    if layout.machines > 1:
        assert yaml.safe_load(file.read_text())["main_process_port"], "every machine would look for its own"


def zero_models():
    """Section of a DeepSpeed file -> the pydantic model that reads it."""
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.runtime.zero.offload_config import (
        DeepSpeedZeroOffloadOptimizerConfig,
        DeepSpeedZeroOffloadParamConfig,
    )

    return {
        ("zero_optimization",): DeepSpeedZeroConfig,
        ("zero_optimization", "offload_optimizer"): DeepSpeedZeroOffloadOptimizerConfig,
        ("zero_optimization", "offload_param"): DeepSpeedZeroOffloadParamConfig,
        ("bf16",): DeepSpeedBF16Config,
        ("fp16",): DeepSpeedFP16Config,
    }


@each(DEEPSPEED)
def test_deepspeed_knows_every_key_at_every_depth(file):
    from deepspeed.runtime import constants
    from deepspeed.runtime.zero import config as zero

    known = {
        value for module in (constants, zero) for value in vars(module).values() if isinstance(value, str)
    }
    models = zero_models()

    def look(section: dict, path: tuple[str, ...]) -> None:
        for key, value in section.items():
            if not path:
                assert key in known, key
            else:
                fields = models[path].model_fields
                names = set(fields) | {field.alias for field in fields.values()}
                assert key in names, f"{'.'.join(path)}.{key}"
            if isinstance(value, dict):
                look(value, (*path, key))
        if path:  # and DeepSpeed takes the values, "auto" apart, which the trainer fills in
            models[path](**{k: v for k, v in section.items() if v != "auto" and not isinstance(v, dict)})

    look(json.loads(file.read_text()), ())


@each(DEEPSPEED)
def test_what_the_recipe_decides_is_auto(file):
    config = json.loads(file.read_text())
    assert str(config["zero_optimization"]["stage"]) in file.stem
    auto = "gradient_clipping gradient_accumulation_steps train_batch_size train_micro_batch_size_per_gpu"
    assert {config[key] for key in auto.split()} == {"auto"}
    assert config["bf16"] == config["fp16"] == {"enabled": "auto"}
    assert not {"optimizer", "scheduler"} & set(config), "the recipe's optimizer would be another one here"
    if config["zero_optimization"]["stage"] == 3:
        assert config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True
    named = [yaml.safe_load(f.read_text()).get("deepspeed_config", {}) for f in FILES]
    assert f"deepspeed_configs/{file.name}" in [section.get("deepspeed_config_file") for section in named]


@pytest.fixture
def cluster(tmp_path):
    """A repository with a Slurm whose srun runs the task of two machines, one after the other."""
    stubs = {
        "scontrol": 'if [ "$1" = requeue ]; then echo "requeue $2" >> calls; else echo one; echo two; fi',
        "srun": 'shift; for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@" || s=$?; done; exit ${s:-0}',
        "python": 'echo "$@" >> calls; case "$*" in *layouts.launch*) exit "${STATUS:-0}";; esac',
    }
    for name, body in stubs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "accelerate_configs").symlink_to(ROOT / "accelerate_configs")
    (tmp_path / "sft.yaml").write_text("# a comment\nstage: sft   # the stage\n")

    def run(*arguments, **environment) -> subprocess.CompletedProcess:
        slurm = {
            "SLURM_NNODES": "2",
            "SLURM_GPUS_ON_NODE": "4",
            "SLURM_JOB_ID": "123",
            "SLURM_JOB_NODELIST": "x",
        }
        place = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": str(tmp_path / "python")}
        return subprocess.run(
            ["bash", str(ROOT / "slurm/train.sbatch"), *arguments],
            cwd=tmp_path,
            env=place | slurm | environment,
            capture_output=True,
            text=True,
        )

    run.calls = lambda: (tmp_path / "calls").read_text().splitlines()
    return run


def test_slurm_starts_one_launcher_per_machine(cluster):
    done = cluster("sft.yaml", "zero3", "--train.max_steps", "5")
    assert done.returncode == 0, done.stderr
    check, *machines = cluster.calls()
    layout = "accelerate_configs/zero3.yaml"
    options = f"--upto 1 --layout {layout} --processes 8 --train.max_steps 5"
    assert check == f"-m lifecycle_recipes.cli check sft.yaml {options}"
    for rank, line in enumerate(machines):
        own, _, stage = line.partition(" -m lifecycle_recipes.stages.")
        assert stage == "sft sft.yaml --train.max_steps 5"
        # The launcher takes these words: accelerate's parser would end the test otherwise.
        args = launch.launch_command_parser().parse_args([*own.split()[2:], "-m", "x"])
        assert (args.num_machines, args.num_processes, args.machine_rank) == (2, 8, rank)
        assert (args.main_process_ip, args.main_process_port) == ("one", 20123)
        assert args.config_file == layout
    assert len(machines) == 2


def test_slurm_requeues_what_stopped_with_a_checkpoint_and_nothing_else(cluster):
    assert cluster("sft.yaml", STATUS="4").returncode == 4
    assert cluster.calls()[-1] == "requeue 123"
    assert cluster("sft.yaml", STATUS="1").returncode == 1
    assert cluster.calls()[-1] != "requeue 123"


def test_slurm_refuses_what_it_cannot_start(cluster):
    assert cluster().returncode == 2
    done = cluster("sft.yaml", "zero9")
    assert done.returncode == 2 and "no layout accelerate_configs/zero9.yaml" in done.stderr


def test_the_slurm_script_is_bash():
    subprocess.run(["bash", "-n", str(ROOT / "slurm/train.sbatch")], check=True)
