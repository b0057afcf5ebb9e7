"""invtoolbox: inverse problems and 3D reconstruction in PyTorch.

Every job is the same job: find ``x`` such that ``A(x)`` explains the measurements ``y``, although
``y`` alone does not determine ``x``. `docs/architecture.md` shows the house on one page. The public
names are listed in ``__init__.pyi``, which type checkers read as well; a part is imported when it
is first used.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 (a clone is run by any Python)
    raise ImportError(
        "invtoolbox needs Python 3.11 or later, and this is Python "
        + ".".join(map(str, sys.version_info[:2])),
        name=__name__,
    )

import lazy_loader

from invtoolbox.core.environment import VERSION

# Bound at once, because `invtoolbox.solve` is also the name of a module.
from invtoolbox.solve import solve as solve

__version__ = VERSION
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
