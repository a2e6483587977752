"""HTTP/1.1 in a few lines: what a load generator needs, at little cost in CPU."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """Hold an answer; names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """Send requests to one server, each over a kept-alive connection that is free, else over a new one."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def get(self, path: str) -> Answer:
        """Ask for ``path``."""
        return await self._send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    async def post(self, path: str, content_type: str, body: bytes) -> Answer:
        """Post ``body`` to ``path``."""
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n"
        return await self._send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def close(self) -> None:
        """Close the idle connections."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()

    async def _send(self, request: bytes) -> Answer:
        while self._idle:
            reader, writer = self._idle.pop()
            try:
                return await self._exchange(request, reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                if getattr(error, "partial", b""):
                    raise
                # A kept-alive connection may end at any time; only then is it right to ask again.
        return await self._exchange(request, *await asyncio.open_connection("127.0.0.1", self._port))

    async def _exchange(self, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Answer:
        keep = False
        try:
            writer.write(request)
            await writer.drain()
            status, headers = await _head(reader)
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            keep = headers.get("connection", "").lower() != "close"
            return Answer(status, headers, body)
        finally:
            if keep:
                self._idle.append((reader, writer))
            else:
                writer.close()


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    named = (line.partition(":") for line in lines if line)
    return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in named}


async def serve_bytes(body_of: Callable[[str], bytes]) -> asyncio.Server:
    """Serve ``body_of(path)`` on a free port of loopback; where it raises KeyError, 404."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            try:
                status, body = "200 OK", body_of(request.split()[1].decode())
            except KeyError:
                status, body = "404 Not Found", b""
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode())
            writer.write(body)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # whoever asked has gone
        finally:
            writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", 0)
