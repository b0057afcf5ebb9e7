"""Files of weights, of which nothing but tensors and plain containers is read."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch

from invtoolbox.errors import InputError

#: What a pickle asks for beyond tensors, in the words of torch.
_ASKED_FOR = re.compile(r"GLOBAL ([\w.]+)")
#: What torch and safetensors raise for files that are something else.
_UNREADABLE = (
    OSError,
    RuntimeError,
    EOFError,
    pickle.UnpicklingError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
)


def read_weights(path: str | Path) -> dict[str, Any]:
    """The dictionary that a ``.safetensors`` file holds, or a file of ``torch.save``, on the CPU.

    Objects in a pickle are code that runs while it is read. Here they are refused: tensors, numbers, words, lists and dictionaries are all
    that is ever made.

    Raises:
        InputError: where the file is missing, is not a file of weights, or asks for anything else.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"there are no weights at {path}; fetch or train them first")
    try:
        if path.suffix == ".safetensors":
            from safetensors import SafetensorError
            from safetensors.torch import load_file

            try:
                return load_file(path)
            except SafetensorError as error:
                raise ValueError(str(error)) from error
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        asked = _ASKED_FOR.search(str(error))
        if asked is not None:
            raise InputError(
                f"{path} asks for {asked[1]} while it is read, and that could run any code, so it is refused; where you trust "
                "the file, load it in a program of your own and save its tensors alone, as safetensors"
            ) from error
        reason = (
            str(error).split("WeightsUnpickler error: ")[-1].splitlines() or [type(error).__name__]
        )[0]
        raise InputError(f"{path} is not a readable file of weights ({reason})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not weights by name")
    return content
