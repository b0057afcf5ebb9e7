"""Jobs of a user, one folder per job, and studies over many items.

A folder holds the method, the tables of its scene files with their `Kind`, its command and its
checks.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
