"""From frames to stored embeddings: ingest, measure, plan, encode, commit.

``embed.py`` is the job, ``plan.py`` makes view ids and writes down which views there will be, ``pipeline.py`` encodes
and commits, ``cluster.py`` does so on many machines, ``reader.py`` reads embeddings back.
"""
