"""Train by the published recipe, or resume where the same command was stopped."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from qure_lib import processes
from qure_lib.features.retriever import Retriever
from qure_lib.files import check_name, run_command
from qure_lib.method.config import MiningConfig, TrainConfig
from qure_lib.method.losses import OBJECTIVES
from qure_lib.method.strategies import STRATEGIES, check_strategy

from .execution import Execution
from .loop import train
from .training_data import POOLS, load_training_data

COMMAND = "python -m qure_lib.train"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 2 where the input is at fault."""
    args = parser().parse_args(argv)
    try:
        config = _given(args, TrainConfig, mining=_given(args, MiningConfig))
        check_strategy(config.mining)
        name = check_name(args.name or config.mining.strategy, "--name")
        with processes.joined():
            data = load_training_data(args.data_root, args.allow_missing, args.pool)
            retriever = Retriever.open(args.checkpoint, data.images, args.runs / "features")
            run = train(config, retriever, data, args.runs, name, _given(args, Execution))
            if processes.is_main():
                print(run.history.to_string(index=False), run.folder, sep="\n")
    except (ValueError, OSError) as error:
        print(f"{COMMAND}: error: {error}", file=sys.stderr)
        return 2
    return 0


def _given(args: argparse.Namespace, kind: type, **more: Any) -> Any:
    """A settings dataclass: its defaults where the command line is silent."""
    given = {f.name: getattr(args, f.name) for f in fields(kind) if f.name in args}
    return kind(**{n: tuple(v) if isinstance(v, list) else v for n, v in given.items()}, **more)


def parser() -> argparse.ArgumentParser:
    """The command's arguments: data, folders, and the settings of a run."""
    top = argparse.ArgumentParser(
        COMMAND,
        description=f"{__doc__} With several processes: `accelerate launch --multi_gpu "
        "--num_processes 2 -m qure_lib.train ...`, on GPUs, or on CPUs where there is none.",
        allow_abbrev=False,
    )
    add = top.add_argument
    add("data_root", type=Path, help="folder in FashionIQ's or CIRR's layout")
    add("--checkpoint", type=Path, required=True, help="folder of the model to start from")
    add("--runs", type=Path, default=Path("runs"), help="folder of runs and features")
    add("--name", help="of the run (default: its strategy)")
    add("--pool", choices=POOLS, default="released", help="targets, or all original images")
    add("--allow-missing", action="store_true", help="leave out what has no image file")
    _add_settings(top.add_argument_group("training"), TrainConfig)
    _add_settings(top.add_argument_group("how hard negatives are chosen"), MiningConfig)
    _add_settings(top.add_argument_group("how it runs; results stay the same"), Execution)
    return top


def _add_settings(group: Any, kind: type) -> None:
    """A flag for each setting of a dataclass, with its own help."""
    known: dict[str, Iterable[str]] = {"objective": OBJECTIVES, "strategy": STRATEGIES}
    known["warm_up_objective"] = OBJECTIVES
    hints = get_type_hints(kind)
    for setting in (f for f in fields(kind) if f.metadata):
        value, *_ = get_args(hints[setting.name]) or (hints[setting.name],)  # of `int | None`
        how: dict[str, Any] = {"type": value}
        if value is bool:
            how = {"action": argparse.BooleanOptionalAction}
        elif of := get_args(value):  # set_sizes
            how = {"type": of[0], "nargs": len(of)}
        about = f"{setting.metadata['help']} (default: {setting.default})"
        if setting.name in known:
            about = f"{', '.join(known[setting.name])}: {about}"
        group.add_argument(
            f"--{setting.name.replace('_', '-')}",
            **how,
            default=argparse.SUPPRESS,
            help=about.replace("%", "%%"),
        )


if __name__ == "__main__":
    run_command(main)
