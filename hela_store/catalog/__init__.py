"""The DuckDB catalog: an index over the Parquet files of a store that anyone may query in SQL.

``index.py`` opens, fills and rebuilds it, ``rows.py`` turns the files of a run into rows, ``schema.sql`` has the
tables. It can be deleted at any time: the files are the truth.
"""
