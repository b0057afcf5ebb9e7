"""``invtoolbox train RECIPE``."""

from __future__ import annotations

import argparse
from typing import Any

from invtoolbox.cli import many as options


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "train",
        help="train a prior as a recipe says",
        description="Train a network as a recipe says, and write it to priors/NAME in the current directory: weights, card, model card\n"
        'and learning curve, where `it.priors.load("NAME")` and scene files find it. Started again, an interrupted\n'
        "training goes on from its checkpoints, and ends with the same weights.",
        epilog="a recipe, lpn-small.toml:\n"
        "  # A learned proximal operator of photographs, grey, noise 0.1.\n"
        '  name = "lpn-small"\n'
        "  [network]\n"
        '  name = "convex-convolution"\n'
        "  widths = [32, 32]\n"
        "  strides = [1, 2]\n"
        "  [prior]\n"
        '  name = "learned-proximal"\n'
        "  sigma = 0.1\n"
        "  [data]\n"
        '  photographs = ["camera", "coins"]\n'
        "  noise_std = 0.1\n"
        "  crop = 48\n"
        "  [[stage]]\n"
        '  loss = "l1"\n'
        "  steps = 1000\n"
        "  [[stage]]\n"
        '  loss = "proximal-matching"\n'
        "  gamma = 0.16\n"
        "  steps = 1000\n"
        "  learning_rate = 1e-4\n\n"
        "examples:\n"
        "  invtoolbox train lpn-small.toml\n"
        "  invtoolbox train lpn-small.toml --set stage.0.steps=100 --output priors/quick --overwrite",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a TOML file")
    options.add_changes(parser, "recipe")
    options.add_folder(
        parser,
        "where the prior goes (default: priors/NAME)",
        None,
        "train anew where the folder holds a prior already",
    )
    parser.add_argument(
        "--device", metavar="NAME", help="where to train, for example cuda (default: the processor)"
    )
    parser.add_argument(
        "--mixed-precision", action="store_true", help="run the network in bfloat16 on a GPU"
    )
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from invtoolbox.training import keep_freed_memory, run_recipe

    keep_freed_memory()
    outcome = run_recipe(
        arguments.recipe,
        arguments.overrides,
        arguments.output,
        arguments.overwrite,
        arguments.device,
        arguments.mixed_precision,
        not arguments.quiet,
    )
    if arguments.quiet:
        return 0
    if outcome.trained is None:
        print(
            f"{outcome.folder} holds a trained prior already; nothing was done (--overwrite trains anew)"
        )
    else:
        print(
            f"written: {outcome.folder}, {len(outcome.trained.losses)} steps, {outcome.trained.seconds:.0f} s, {outcome.psnr:.2f} dB"
        )
    return 0
