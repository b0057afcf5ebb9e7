"""Scene flow of lidar sweeps: pairs and methods, sequences, tracks and accumulated clouds."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
