"""One volume over several machines, by the ranks of a ``torch.distributed`` process group."""

from invtoolbox.core.ranks import Ranks
from invtoolbox.distributed.slabs import Slabs

__all__ = ["Ranks", "Slabs"]
