"""A page on which a person labels cells with the stored embeddings, while the decoder learns from them.

``server.py`` answers the page, ``lesson.py`` says what it answers, ``session.py`` keeps the labels, ``deal.py`` says
which cells train and which judge, and ``decode.py`` makes masks. Serving needs the extra ``explore``.
"""
