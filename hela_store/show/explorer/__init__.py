"""A local page over the catalog: SQL, its results as a table, and cells as crops with outlines.

Needs the extra ``explore`` (Starlette, uvicorn).
"""

from hela_store.base.extras import needs

with needs("explore"):
    from .server import explore

__all__ = ["explore"]
