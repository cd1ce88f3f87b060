"""``store.toml``: the recipe as dataclasses, its text, the split into blocks and the codecs of arrays."""
