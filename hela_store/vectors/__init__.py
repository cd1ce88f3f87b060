"""Every labelled cell as a vector: what the encoder says about it, pooled in its mask.

``pool.py`` pools embeddings, ``tokens.py`` asks a decoder for its mask tokens, ``make.py`` keeps both as a run, and
``similar.py`` finds the cells that are most like one.
"""
