"""The `lifecycle` command. Each subcommand imports what it needs, so that --help and refusals are fast."""

import argparse
import os
import re
import sys

from .exit_status import leave, outlive_closed_output, stop_on_sigterm
from .finding import DONE, FAILED, GATE_FAILED, REFUSED, STOPPED, Refusal
from .layouts.left_over import drop_left_over

EXAMPLES = """examples:
  lifecycle recipes copy smollm2-135m recipes/mine
  lifecycle check recipes/desk --upto 1
  lifecycle inspect recipes/desk/04-sft.yaml --rows 2
  lifecycle run recipes/desk/04-sft.yaml --train.max_steps 5
  lifecycle run recipes/desk/07-dpo.yaml --layout ddp --replace
  lifecycle run recipes/desk --until 07-dpo --07-dpo.train.beta 0.3
  lifecycle gate runs/desk/04-sft
  lifecycle report runs/desk
  lifecycle ledger runs/desk/01-curate --step near-duplicates --samples 5
  lifecycle lineage runs/desk/11-export
  lifecycle push runs/desk/11-export --repo me/desk --license apache-2.0 --dry-run
  lifecycle chat runs/desk/04-sft --prompt "Who owns the billing service?"
  lifecycle serve runs/desk/11-export

exit statuses: 0 done, 2 refused before the run, 3 gate failed, 4 interrupted (can be resumed), 1 other error"""


def main(argv: list[str] | None = None) -> None:
    """Parse, run the subcommand, exit with its status."""
    outlive_closed_output()
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    if rest and args.command not in ("check", "run", "gate", "inspect"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if found := drop_left_over():
        print(f"ignored, left over from another launch: {', '.join(found)}", file=sys.stderr)
    try:
        if rest:
            refuse_misspelt(rest, args.parser)
        status = args.function(args, rest)
        sys.stdout.flush()
    except Refusal as refusal:
        if "--debug" in rest:
            import traceback

            traceback.print_exc()
        print(refusal, file=sys.stderr)
        status = refusal.status
    except KeyboardInterrupt:
        again = "; run the same command to resume" if args.command == "run" else ""
        print(f"interrupted{again}", file=sys.stderr)
        status = STOPPED
    leave(status)


def refuse_misspelt(rest: list[str], parser: argparse.ArgumentParser) -> None:
    """Raise Refusal unknown-argument for an argument that is nearly an option of the command.

    Overrides come with it, but none of one word is near an option (tests/test_cli.py).
    """
    from difflib import get_close_matches

    from .finding import refuse
    from .recipe.overrides import FLAGS

    options = {*re.findall(r"--[a-z-]+", parser.format_usage()), *FLAGS}
    for argument in (a for a in rest if a.startswith("--") and a not in options):
        if near := get_close_matches(argument.partition("=")[0], options, 1, 0.8):
            message = f"`{argument.partition('=')[0]}` is not an option"
            raise refuse("unknown-argument", message, f"did you mean {near[0]}?", "command line")


class Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __init__(self, option_strings, dest, help=None):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser, namespace, values, option_string=None):
        from importlib.metadata import version

        print(f"lifecycle {version('lifecycle-recipes')}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    shape = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = argparse.ArgumentParser(
        "lifecycle", description=__doc__.splitlines()[0], epilog=EXAMPLES, **shape
    )
    parser.description = "Train a language model in stages. Each stage has a recipe, a run record and a gate."
    parser.add_argument("--version", action=Version, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, function, help: str, example: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name, help=help, description=help, epilog=f"example:\n  {example}", **shape
        )
        added.set_defaults(function=function, parser=added)
        return added

    sub = command(
        "check", check, "find errors in a recipe before the run", "lifecycle check recipes/desk/04-sft.yaml"
    )
    sub.add_argument(
        "recipes",
        nargs="+",
        metavar="RECIPE|DIRECTORY",
        help="recipes, or directories of them; overrides may follow",
    )
    sub.add_argument("--json", action="store_true", help="print the findings as a JSON list")
    sub.add_argument(
        "--upto",
        type=int,
        choices=(1, 2, 3),
        default=3,
        help="1 recipe and files, 2 rows and tokens, 3 the built trainer (default)",
    )
    _add_layout_options(sub, "also check for this layout, a file of accelerate_configs/ (default: no layout)")

    example = "lifecycle run recipes/desk/04-sft.yaml --layout zero3 --train.learning_rate 2e-5"
    sub = command(
        "run", run, "run the stage of a recipe, or all stages of a directory, or resume them", example
    )
    sub.add_argument(
        "recipes",
        nargs="+",
        metavar="RECIPE|DIRECTORY",
        help="a recipe file; overrides (--train.max_steps 5) follow it. "
        "Of a directory or several files: all stages in order, each with its gate (--07-dpo.train.max_steps 5)",
    )
    _add_layout_options(sub, "a file of accelerate_configs/ (default: one_gpu if there is a GPU, else cpu)")
    sub.add_argument(
        "--unless-done",
        action="store_true",
        help="do nothing if this run is already finished (same recipe, parents, files)",
    )
    _add_life_options(sub)
    sub.epilog += (
        "\n  lifecycle run recipes/desk --until 07-dpo"
        "\n\nfor the stage: --replace (rename an existing output_dir), --allow-failed-parent, --debug,\n"
        "--verbose (upstream's log dictionaries)"
    )

    help = "list the recipes that come with the package, or copy some to edit"
    sub = command("recipes", recipes, help, "lifecycle recipes copy smollm2-135m recipes/mine")
    actions = sub.add_subparsers(dest="action", metavar="copy")
    help = "copy recipes, and to the same paths below the current directory the files that they name"
    copy = actions.add_parser("copy", help=help, description=help, **shape)
    copy.add_argument(
        "name",
        metavar="NAME",
        help="such as desk (`lifecycle recipes` lists them), or a folder: accelerate_configs, chat_templates, ...",
    )
    copy.add_argument(
        "directory", metavar="DIRECTORY", nargs="?", help="a new one (default: recipes/NAME, or the folder)"
    )

    sub = command("gate", gate, "judge the gate of a run; write gate.ok", "lifecycle gate runs/desk/04-sft")
    sub.add_argument(
        "run",
        metavar="RUN_DIR|RECIPE",
        help="a recipe (uses its current gate lines) or a run (uses those it was last judged by)",
    )

    example = "lifecycle inspect recipes/desk/07-dpo.yaml --rows 2 --html pairs.html"
    sub = command("inspect", inspect, "show the input of the loss, token by token", example)
    sub.add_argument("recipe", metavar="RECIPE", help="a recipe file; overrides may follow")
    sub.add_argument("--rows", type=int, default=3, metavar="N", help="rows to show (default: 3)")
    sub.add_argument("--html", metavar="FILE", help="write an HTML page instead")

    example = "lifecycle template runs/desk/04-sft"
    sub = command("template", template, "compare a chat template in training and serving", example)
    sub.add_argument("tokenizer", metavar="TOKENIZER_OR_RUN", help="a run directory or a Hub id")
    sub.add_argument(
        "--template", metavar="FILE", help="use this Jinja file instead of the tokenizer's template"
    )

    sub = command("schema", schema, "print the JSON Schema of a recipe", "lifecycle schema sft > sft.json")
    sub.add_argument("stage", metavar="STAGE")

    sub = command("report", report, "compare the metrics of runs", "lifecycle report runs/desk")
    sub.add_argument("runs", nargs="*", default=["runs"], metavar="DIR_OR_GLOB", help="default: runs")

    example = "lifecycle ledger runs/desk/01-curate --step near-duplicates --samples 5"
    sub = command("ledger", ledger, "show which rows each step left out, and why", example)
    help = "a run of curation, or one that reads its rows, or the recipe of one"
    sub.add_argument("run", metavar="RUN_DIR|RECIPE", help=help)
    sub.add_argument("--step", metavar="NAME", help="show rows that this step, or rule, left out or edited")
    sub.add_argument("--samples", type=int, default=0, metavar="N", help="how many of them (default: 3)")

    help = "show what a run was made from, back to the raw text"
    sub = command("lineage", lineage, help, "lifecycle lineage runs/desk/11-export")
    sub.add_argument("run", metavar="RUN_DIR")

    help = "push a finished run to the Hub: model, card, records of the whole chain"
    sub = command(
        "push", push, help, "lifecycle push runs/desk/11-export --repo me/desk --license apache-2.0 --dry-run"
    )
    sub.add_argument("run", metavar="RUN_DIR")
    sub.add_argument("--repo", metavar="OWNER/NAME", required=True)
    sub.add_argument(
        "--license",
        "--licence",
        metavar="ID",
        help="such as apache-2.0; default: that of all it was made from",
    )
    sub.add_argument("--form", metavar="NAME", help="push this form of an export, such as int8")
    sub.add_argument("--public", action="store_true", help="default: private")
    sub.add_argument("--private", action="store_false", dest="public", help=argparse.SUPPRESS)
    sub.add_argument("--branch", metavar="NAME", default="main")
    sub.add_argument("--tag", metavar="NAME")
    sub.add_argument("--message", metavar="TEXT", help="of the commit")
    sub.add_argument(
        "--allow-failed-gate", action="store_true", help="the card then names the lines that failed"
    )
    help = "mean power of one GPU, or CPU, in watts: the card then estimates the energy"
    sub.add_argument("--power-watts", type=float, metavar="N", help=help)
    sub.add_argument("--dry-run", action="store_true", help="print the files and the card, and push nothing")

    sub = command("chat", chat, "chat with a saved model", "lifecycle chat runs/desk/04-sft --prompt 'Hello'")
    sub.add_argument("run", metavar="RUN_OR_ID")
    sub.add_argument("--prompt", metavar="TEXT", help="answer this and exit")
    sub.add_argument("--max-new-tokens", type=int, default=256, metavar="N")

    help = "serve a saved model with the OpenAI API"
    sub = command("serve", serve, help, "lifecycle serve runs/desk/11-export --port 8000")
    sub.add_argument("path", metavar="RUN_OR_ID")
    sub.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine only")
    sub.add_argument("--port", type=int, default=8000, metavar="N", help="default: 8000; 0: any free port")
    sub.add_argument(
        "--static",
        action="store_false",
        dest="continuous",
        help="one request at a time, each with its own sampling settings; default: continuous batching",
    )
    sub.add_argument("--draft", metavar="RUN_OR_ID", help="decode speculatively with this smaller model")
    sub.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="of a reply, if the request sets none (default: 1024)"
    )
    sub.add_argument(
        "--engine", choices=("transformers", "vllm"), default="transformers", help="vllm: if it is installed"
    )

    help = "measure time to the first token and tokens per second of saved models"
    sub = command(
        "bench", bench, help, "lifecycle bench runs/desk/11-export --draft runs/desk/11-export/int8"
    )
    sub.add_argument("runs", nargs="+", metavar="RUN_OR_ID", help="of an export, its forms are measured, too")
    sub.add_argument("--requests", type=int, default=16, metavar="N", help="at once (default: 16)")
    sub.add_argument("--tokens", type=int, default=64, metavar="N", help="of each reply (default: 64)")
    sub.add_argument("--draft", metavar="RUN_OR_ID", help="measure speculative decoding with this model, too")
    sub.add_argument("--prompts", metavar="FILE", help='a .jsonl file of {"prompt": text or messages}')
    return parser


def _add_life_options(command: argparse.ArgumentParser) -> None:
    life = command.add_argument_group("for several stages, named as their recipes, such as 07-dpo")
    life.add_argument("--dry-run", action="store_true", help="print the plan, start nothing")
    several = {"action": "append", "default": [], "metavar": "NAME"}
    life.add_argument("--until", **several, help="only this stage and what it needs; may be repeated")
    life.add_argument(
        "--from", dest="start", **several, help="only this stage and what needs it; may be repeated"
    )
    life.add_argument("--only", **several, help="only this stage; may be repeated")
    life.add_argument(
        "--keep-going",
        action="store_true",
        help="after a failure, run the stages that do not need the failed one",
    )


def _add_layout_options(command: argparse.ArgumentParser, help: str) -> None:
    command.add_argument("--layout", metavar="NAME", help=help)
    command.add_argument(
        "--processes", type=int, metavar="N", help="number of processes, overrides the layout"
    )
    command.add_argument("--cpu", action="store_true", help="test the layout on the CPU (not FSDP or tp)")


def _asked(args, raw):
    """The layout that the options request; None for a check without --layout and --processes."""
    from .layouts.layout import find_layout, read_layout

    if args.command == "check" and args.layout is None and args.processes is None:
        return None
    on_cpu = args.cpu or bool(raw.values.get("train", {}).get("use_cpu"))
    flags = {"num_processes": args.processes, "use_cpu": on_cpu}
    return read_layout(find_layout(args.layout), flags)


def check(args, overrides: list[str]) -> int:
    from .life.check import check_all, print_findings, print_results

    tell = (lambda line: print(line, file=sys.stderr)) if sys.stderr.isatty() else (lambda line: None)
    asked = lambda raw: _asked(args, raw)  # noqa: E731
    reports, together, status = check_all(args.recipes, overrides, args.upto, tell, asked)
    if args.json:
        import json

        findings = [*together, *(f for report in reports for f in report.findings)]
        print(json.dumps([f.as_json() for f in findings], indent=1))
        return status
    for finding in together:
        print(finding, file=sys.stderr)
    print_findings(reports)
    print_results(reports)
    return status


def run(args, rest: list[str]) -> int:
    life_flags = (args.dry_run, args.until, args.start, args.only, args.keep_going)
    is_life = len(args.recipes) > 1 or os.path.isdir(args.recipes[0]) or any(life_flags)
    with stop_on_sigterm():  # while checking; a stage has its own
        return run_life(args, rest) if is_life else run_recipe(args, rest)


def run_recipe(args, rest: list[str]) -> int:
    from .doctor.check import refuse_launch
    from .layouts.launch import require_one_machine, stage_command, start
    from .recipe.read import read_recipe
    from .record.run import is_done

    recipe = args.recipes[0]
    raw = read_recipe(recipe, rest)
    if args.unless_done and is_done(raw):
        print(f"{raw.output_dir}: already finished")
        return DONE
    raw.layout = _asked(args, raw)
    refuse_launch(raw)
    require_one_machine(raw.layout)
    command = stage_command(raw.stage, recipe, args.layout, rest, args.processes, args.cpu)
    start(command, raw.layout)
    return DONE


def run_life(args, rest: list[str]) -> int:
    from .life.plan import Selection
    from .life.run import as_typed
    from .life.run import run_life as run_all

    launch = ["--layout", args.layout] if args.layout else []
    launch += ["--processes", str(args.processes)] if args.processes else []
    launch += ["--cpu"] if args.cpu else []
    return run_all(
        args.recipes,
        rest,
        Selection(args.until, args.start, args.only),
        lambda raw: _asked(args, raw),
        launch,
        args.dry_run,
        args.keep_going,
        as_typed(sys.argv[1:]),
    )


def recipes(args, rest: list[str]) -> int:
    from .life.bundled_recipes import copy_bundled, sets_text

    print(copy_bundled(args.name, args.directory) if args.action == "copy" else sets_text())
    return DONE


def gate(args, rest: list[str]) -> int:
    from .finding import refuse
    from .near_path import near_path
    from .recipe.read import SUFFIXES, read_recipe
    from .record.file import RUN_FILE
    from .record.gate import judge, write_gate

    run, lines = args.run, None
    if run.endswith(SUFFIXES):
        recipe = read_recipe(run, rest)
        run, lines = str(recipe.output_dir), recipe.gate
    elif rest:
        raise refuse(
            "unknown-argument", f"unrecognized arguments: {' '.join(rest)}", "see lifecycle gate --help"
        )
    if not os.path.isdir(run):
        fix = f"did you mean {near}?" if (near := near_path(run)) else "give the output_dir of a run"
        if lines is not None:
            fix = f"run it first: lifecycle run {args.run}"
        raise refuse("no-record", "the run directory does not exist", fix, run)
    if not os.path.exists(os.path.join(run, RUN_FILE)):
        inside = [os.path.join(run, name) for name in sorted(os.listdir(run))]
        runs = [p for p in inside if p.endswith(SUFFIXES) or os.path.exists(os.path.join(p, RUN_FILE))]
        some = ", ".join(runs[:3] + ["..."] * (len(runs) > 3))
        fix = f"name one of {some}" if runs else "give a recipe or the output_dir of a run"
        raise refuse("no-record", f"this directory has no {RUN_FILE}", fix, run)
    verdicts = judge(run, lines)
    ok = write_gate(run, verdicts)
    for verdict in verdicts:
        print(f"{'pass' if verdict.ok else 'FAIL'}  {verdict.line}    ({verdict.message})")
        if verdict.measured:
            print(f"      measured: {', '.join(verdict.measured)}")
    print(f"{run}: {'gate passed' if ok else 'gate FAILED'}" + ("" if verdicts else " (it has no lines)"))
    return DONE if ok else GATE_FAILED


def report(args, rest: list[str]) -> int:
    from .report.card import card

    print(card(args.runs))
    return DONE


def ledger(args, rest: list[str]) -> int:
    from .recipe.read import SUFFIXES, read_recipe
    from .report.ledger import show_ledger

    run = read_recipe(args.run).output_dir if args.run.endswith(SUFFIXES) else args.run
    print(show_ledger(run, args.step, args.samples))
    return DONE


def lineage(args, rest: list[str]) -> int:
    from .publish.lineage import lineage as tree_of
    from .publish.lineage import lineage_text

    tree = tree_of(args.run)
    print(lineage_text(tree))
    return FAILED if tree.broken() else DONE


def push(args, rest: list[str]) -> int:
    from .publish.push import Push
    from .publish.push import push as push_run

    print(push_run(Push(**settings_of(args, Push))))
    return DONE


def inspect(args, overrides: list[str]) -> int:
    from .inspection.inspect import inspect as look

    print(look(args.recipe, overrides, args.rows, args.html))
    return DONE


def template(args, rest: list[str]) -> int:
    from .doctor.row_level.template_report import parity

    text, findings = parity(args.tokenizer, args.template)
    print(text, flush=True)
    for finding in findings:
        print(finding, file=sys.stderr)
    return REFUSED if any(finding.severity == "error" for finding in findings) else DONE


def schema(args, rest: list[str]) -> int:
    import json

    from .finding import refuse
    from .recipe.schema import load_schema, stage_names

    if args.stage not in stage_names():
        fix = f"choose from {', '.join(stage_names())}"
        raise refuse("unknown-stage", f"unknown stage {args.stage!r}", fix)
    print(json.dumps(load_schema(args.stage), indent=1, ensure_ascii=False))
    return DONE


def chat(args, rest: list[str]) -> int:
    from .serving.chat import chat as talk

    talk(args.run, args.prompt, args.max_new_tokens)
    return DONE


def serve(args, rest: list[str]) -> int:
    from .serving.server import Serve
    from .serving.server import serve as serve_model

    serve_model(Serve(**settings_of(args, Serve)))
    return DONE


def bench(args, rest: list[str]) -> int:
    from .report.speed import speed_tables
    from .serving.speed import Bench
    from .serving.speed import bench as measure

    found: dict = {}
    try:
        measure(Bench(**settings_of(args, Bench)), found)
    finally:  # what was measured before a failure
        if found:
            print(speed_tables(found))
    return DONE


def settings_of(args, kind: type) -> dict:
    """The options that are fields of the dataclass `kind`."""
    return {name: value for name, value in vars(args).items() if name in kind.__dataclass_fields__}


if __name__ == "__main__":
    main()
