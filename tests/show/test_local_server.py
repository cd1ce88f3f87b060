"""The server of pages on this machine."""

from __future__ import annotations

import asyncio
import socket

from hela_store.show.local_server import HOST, _listening


def test_the_parts_of_an_answer_do_not_wait_for_each_other() -> None:
    waits: list[int] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted = writer.get_extra_info("socket")
        waits.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    async def connect() -> None:
        with _listening(0) as listener:
            async with await asyncio.start_server(connected, sock=listener):
                reader, writer = await asyncio.open_connection(HOST, listener.getsockname()[1])
                await reader.read()
                writer.close()

    asyncio.run(connect())
    assert waits == [1]
