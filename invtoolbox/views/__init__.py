"""Scenes from photographs with known cameras: which views, what the scene is made of, stages coarse to fine, scene files of views."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
