"""``invtoolbox train RECIPE``: train a prior."""

from __future__ import annotations

import argparse

from invtoolbox import training
from invtoolbox.jobs import options


def fill(parser: argparse.ArgumentParser) -> None:
    """Add description, options and examples to the parser of the command."""
    parser.description = (
        "Train the network of a recipe, and write weights, card, model card and "
        "learning curve to priors/NAME in the current\n"
        'directory, where `it.priors.load("NAME")` and scene files find them. An interrupted training that is started\n'
        "again continues from its checkpoints, and ends with the same weights."
    )
    parser.epilog = (
        "a recipe, lpn-small.toml:\n"
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
        "  gamma = 0.16\n  steps = 1000\n  learning_rate = 1e-4\n\nexamples:\n  invtoolbox train "
        "lpn-small.toml\n  invtoolbox train lpn-small.toml --set stage.0.steps=100 --output "
        "priors/quick --overwrite"
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a TOML file")
    options.add_overrides(parser, "recipe")
    options.add_folder(
        parser,
        "folder for the prior (default: priors/NAME)",
        None,
        "train again if the folder holds a trained prior",
    )
    parser.add_argument(
        "--device", metavar="NAME", help="device of the training, for example cuda (default: cpu)"
    )
    parser.add_argument(
        "--mixed-precision", action="store_true", help="run the network in bfloat16"
    )
    options.add_threads(parser)


def command(arguments: argparse.Namespace) -> int:
    """Train the prior of a recipe."""
    training.keep_freed_memory()
    outcome = training.run_recipe(
        arguments.recipe,
        arguments.overrides,
        output=arguments.output,
        overwrite=arguments.overwrite,
        device=arguments.device,
        mixed_precision=arguments.mixed_precision,
        progress=not arguments.quiet,
    )
    if arguments.quiet:
        return 0
    if outcome.trained is None:
        print(
            f"{outcome.folder} holds a trained prior already; nothing was done (--overwrite trains "
            "again)"
        )
    else:
        print(
            f"written: {outcome.folder}, {len(outcome.trained.losses)} steps, "
            f"{outcome.trained.seconds:.0f} s, {outcome.psnr:.2f} dB"
        )
    return 0
