"""Runs of scene files of every kind, one folder per job, and studies over many items."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
