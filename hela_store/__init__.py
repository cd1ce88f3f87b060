"""SAM embeddings of microscopy frames on disk, and everything that streams from them.

Public names are listed in ``__init__.pyi`` and are loaded when they are first used, so that ``import hela_store`` loads
neither torch nor dask nor zarr. ``README.md`` in this folder is the map of the packages.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
