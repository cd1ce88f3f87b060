"""Say what the page asks for: pages of SQL results, cells as cards, names for autocompletion."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import duckdb

from hela_store.catalog import index as catalog
from hela_store.catalog.values import cell_text, plain_rows, to_arrow
from hela_store.errors import QueryError
from hela_store.show.cards import data_address, draw_cards
from hela_store.show.suspects import suspect_pictures
from hela_store.store.store import Store

SECONDS = 30.0
"""After so long a query is stopped."""
MOST_ROWS = 200
MOST_TEXT = 400
"""Longer values (masks, configurations) are cut in the table."""
MOST_CARDS = 60

NAMES = """
    SELECT table_name AS "table", column_name AS "column", data_type AS type, comment FROM duckdb_columns()
    WHERE (database_name = 'catalog' OR table_name = 'my_metrics')
        AND table_name NOT IN ('indexed', 'catalog_schema', 'table_sums')
    ORDER BY table_name, column_index
"""
CARDS = """
    SELECT k.place, c.cell, c.label, c.x0, c.y0, c.x1, c.y1, c.frame, q.rle, q.rle_height, q.rle_width,
           c.labels_version, p.kind, p.origin, p.prompt_seed, [p.x0, p.y0, p.x1, p.y1] AS box, p.points, p.point_labels
    FROM (SELECT unnest($place) AS place, unnest($cell) AS cell, unnest($run::VARCHAR[]) AS run,
                 unnest($prompt::VARCHAR[]) AS prompt, unnest($seed::BIGINT[]) AS seed) k
    LEFT JOIN runs r ON r.id = k.run
    JOIN cells_at c ON c.cell = k.cell
        AND c.labels_version = coalesce(r.labels_version, (SELECT coalesce(max(version), 0) FROM label_events))
    LEFT JOIN predictions q ON q.run = k.run AND q.cell = k.cell AND q.prompt = coalesce(k.prompt, q.prompt)
        AND q.prompt_seed = coalesce(k.seed, q.prompt_seed)
    LEFT JOIN prompts p ON p.run = q.run AND p.prompt_id = q.prompt_id
    QUALIFY row_number() OVER (PARTITION BY k.place ORDER BY q.prompt, q.prompt_seed) = 1
    ORDER BY c.frame, k.place
"""
SUSPECTS = """
    SELECT k.place, s.suspect, s.frame, s.cell, c.label, s.x0, s.y0, s.x1, s.y1, s.rle, r.labels_version
    FROM (SELECT unnest($place) AS place, unnest($run) AS run, unnest($suspect) AS suspect) k
    JOIN suspects s ON s.run = k.run AND s.suspect = k.suspect
    JOIN runs r ON r.id = s.run
    LEFT JOIN cells_at c ON c.cell = s.cell AND c.labels_version = r.labels_version
    ORDER BY s.frame, k.place
"""
STRIP = 720
"""Side to which the pictures of suspects are reduced, px."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """Describe which part of a result is asked for.

    Attributes
    ----------
    offset, limit : int
        First row and how many.
    order : str
        Column to sort by; empty for the order of the query.
    descending : bool
    count : bool
        Whether to count all rows too.
    """

    offset: int = 0
    limit: int = 100
    order: str = ""
    descending: bool = False
    count: bool = True

    def __post_init__(self) -> None:
        numbers = type(self.offset) is int and type(self.limit) is int
        if not numbers or not 0 <= self.offset < 2**63 or not 1 <= self.limit <= MOST_ROWS:
            raise QueryError(f"a page begins at row 0 or later and has 1 to {MOST_ROWS} rows")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Rows of a result; ``total`` is None where it was not asked for."""

    columns: list[str]
    types: list[str]
    rows: list[list[Any]]
    total: int | None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


class Running:
    """A query that can be stopped from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._con: duckdb.DuckDBPyConnection | None = None
        self._reason = ""

    def begin(self, con: duckdb.DuckDBPyConnection) -> None:
        """Say on which connection it runs."""
        with self._lock:
            if self._reason:
                raise QueryError(self._reason)
            self._con = con

    def end(self) -> None:
        """Say that it no longer runs."""
        with self._lock:
            self._con = None

    def stop(self, reason: str) -> None:
        """Stop it, now or when it begins."""
        with self._lock:
            self._reason = self._reason or reason
            if self._con is not None:
                self._con.interrupt()

    @property
    def reason(self) -> str:
        """Reason why it was stopped; empty if it was not."""
        return self._reason


def ask(store: Store, sql: str, page: Page, running: Running, seconds: float = SECONDS) -> Answer:
    """Run one SELECT and return a page of its rows; sorting and paging are done by DuckDB.

    Raises
    ------
    QueryError
        The SQL fails, writes, reaches for a file, takes too long or was stopped.
    """
    late = threading.Timer(seconds, running.stop, [f"stopped after {seconds:.0f} s; narrow the query or add a LIMIT"])
    late.daemon = True
    with catalog.opened(store.path) as con:
        running.begin(con)
        late.start()
        try:
            return _page(catalog.select(con, sql), page)
        except duckdb.InterruptException:
            raise QueryError(running.reason or "stopped") from None
        finally:
            late.cancel()
            running.end()


def _page(result: duckdb.DuckDBPyRelation | None, page: Page) -> Answer:
    if result is None:
        raise QueryError("this statement has no result; expected a SELECT")
    columns = list(result.columns)
    if page.order:
        if page.order not in columns:
            raise QueryError(f"the result has no column {page.order!r}; it has {', '.join(columns)}")
        quoted = '"' + page.order.replace('"', '""') + '"'
        result = result.order(f"{quoted} {'DESC' if page.descending else 'ASC'} NULLS LAST")
    rows = plain_rows(to_arrow(result.limit(page.limit, page.offset)))
    total = result.aggregate("count(*)").fetchall()[0][0] if page.count else None
    shown = [[_shown(value) for value in row] for row in rows]
    return Answer(columns=columns, types=[str(kind) for kind in result.types], rows=shown, total=total)


def _shown(value: Any) -> Any:
    """Return what JSON and the page's own numbers can hold, cut to what a table can show."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**53 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    text = cell_text(value)
    return text if len(text) <= MOST_TEXT else text[:MOST_TEXT] + "…"


def cards(store: Store, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | None]:
    """Draw the cells of result rows: ``cell`` and, where the row has them, ``run``, ``prompt`` and ``prompt_seed``.

    A row with ``run`` and ``suspect`` is drawn as a suspicious label, with the frames before and after.

    Returns
    -------
    list
        A card for each row, in order; None where there is no such cell.

    Raises
    ------
    QueryError
        Too many rows, or rows of another form.
    StoreError
        The frames cannot be read.
    """
    named = all(isinstance(row.get("cell"), str) or isinstance(row.get("suspect"), str) for row in rows)
    if len(rows) > MOST_CARDS or not named:
        raise QueryError(f"expected up to {MOST_CARDS} rows, each with a cell id, or a suspect and its run")
    drawn: list[dict[str, Any] | None] = [None] * len(rows)
    suspects = [i for i, row in enumerate(rows) if isinstance(row.get("suspect"), str)]
    for place, card in _suspects(store, {i: rows[i] for i in suspects}):
        drawn[place] = card
    places = [i for i in range(len(rows)) if i not in set(suspects)]
    asked = _asked([rows[i] for i in places], places)
    found = catalog.query(store.path, CARDS, asked).to_pylist() if places else []
    for row, drawing in zip(found, draw_cards(store, found), strict=True):
        drawn[row["place"]] = drawing.to_json()
    return drawn


def _asked(rows: Sequence[Mapping[str, Any]], places: Sequence[int]) -> dict[str, list[Any]]:
    texts = {name: [_text(row.get(name)) for row in rows] for name in ("run", "prompt")}
    seeds = [row.get("prompt_seed") if type(row.get("prompt_seed")) is int else None for row in rows]
    return {"place": list(places), "cell": [row["cell"] for row in rows], "seed": seeds, **texts}


def _suspects(store: Store, rows: Mapping[int, Mapping[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the place and the card of each suspect that there is."""
    if not rows:
        return
    asked = {
        "place": list(rows),
        **{name: [_text(row.get(name)) for row in rows.values()] for name in ("run", "suspect")},
    }
    found = catalog.query(store.path, SUSPECTS, asked).to_pylist()
    for row, picture in zip(found, suspect_pictures(store, found), strict=True):
        name = row["cell"] or f"{row['frame']}, no label"
        yield row["place"], {"cell": name, "strip": data_address(picture, STRIP)}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def names(store: Store) -> list[dict[str, Any]]:
    """Return tables and columns of the catalog, with what they mean."""
    found: list[dict[str, Any]] = catalog.query(store.path, NAMES).to_pylist()
    return found
