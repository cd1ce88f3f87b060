"""Makes ``v1-shards/``, the embeddings of the store ``v1/`` in shards: ``python make_shards.py OUT``. It was run once.

``OUT`` is laid into a copy of ``v1/`` whose recipe has ``shard = 8`` and whose own embeddings were taken away. Its last
view is committed and in no shard yet.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from hela_store.store.store import Store

SHARD = 8


def main(out: Path) -> None:
    place = Path(tempfile.mkdtemp()) / "v1"
    shutil.copytree(Path(__file__).parent / "v1", place)
    before = Store.open(place)
    key, rows = before.key, sorted(before.committed().values())
    values = [before.embedding_at(row) for row in rows]
    shutil.rmtree(place / "arrays.zarr/embeddings" / key / "embedding")
    store = Store.open(place)
    store.arrays.create_embeddings(key, len(rows), "float16", store.recipe.arrays.codec, shard=SHARD)
    for row in rows[:-1]:
        store.arrays.write_embedding(key, row, values[row])
    store.gather()
    store.arrays.write_embedding(key, rows[-1], values[-1])
    for name in ("staged", f"arrays.zarr/embeddings/{key}/embedding"):
        shutil.copytree(place / name, out / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
