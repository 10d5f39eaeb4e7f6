"""The supervisor's control socket: requests of the command line, answered from the event loop.

What is written on it is defined in `pipefs.protocol`. Only the user that runs the daemon and root
get an answer. Holds no rules of its own about mounts.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable

from pipefs.errors import PipefsError, Refused
from pipefs.home import Home
from pipefs.protocol import (
    MAX_LINE_BYTES,
    Empty,
    FlushProgress,
    ListMounts,
    Mount,
    MountList,
    Ping,
    Pong,
    Shutdown,
    SupervisorRequest,
    Umount,
    decode_supervisor_request,
    encode_error,
    encode_progress,
    encode_result,
)
from pipefs.version import VERSION
from pipefsd.control import Result, check_peer, identity, listen, remove
from pipefsd.mounts import Mounts

log = logging.getLogger(__name__)


class Requests:
    """Serves the control socket of one home."""

    def __init__(
        self, home: Home, mounts: Mounts, shut_down: Callable[[], Awaitable[None]]
    ) -> None:
        """`shut_down` unmounts everything; the daemon ends after it."""
        self.path = home.supervisor_socket
        self._mounts = mounts
        self._shut_down = shut_down
        self._clients: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._made = (0, 0)

    async def open(self) -> None:
        """Listen; raises OSError when the socket cannot be made."""
        server = listen(self.path)
        self._made = identity(self.path)
        self._server = await asyncio.start_unix_server(
            self._client, sock=server, limit=MAX_LINE_BYTES
        )

    def refuse_new(self) -> None:
        """Nobody new from here on; a mount command that comes now starts the next supervisor,
        which waits for our lock."""
        if self._server is not None:
            remove(self.path, self._made)
            self._server.close()

    async def close(self) -> None:
        """Hang up on everybody."""
        for client in list(self._clients):
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    @property
    def busy(self) -> bool:
        """Somebody is connected."""
        return bool(self._clients)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            check_peer(writer.get_extra_info("socket"))
            while line := await reader.readline():
                await self._answer(line, reader, writer)
        except Refused as error:
            writer.write(encode_error(error))
        except (ConnectionError, ValueError, asyncio.CancelledError):
            pass  # It hung up, its line was endless, or we are leaving.
        finally:
            self._clients.discard(task)
            writer.close()

    async def _answer(
        self, line: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        def progress(files: int, size: int) -> None:
            writer.write(encode_progress(FlushProgress(files, size)))

        try:
            request = decode_supervisor_request(line)
            work = asyncio.create_task(self._handle(request, progress))
            if isinstance(request, Umount):
                # Ctrl-C on `umount --wait` means: leave it mounted.
                await _cancel_on_hangup(work, reader)
            reply = encode_result(await work)
        except PipefsError as error:
            reply = encode_error(error)
        except Exception as error:  # The loop's top: a bug must reach the client as an answer.
            log.exception("request failed")
            reply = encode_error(error)
        writer.write(reply)
        await writer.drain()

    async def _handle(
        self, request: SupervisorRequest, progress: Callable[[int, int], None]
    ) -> Result:
        if isinstance(request, Ping):
            return Pong(os.getpid(), VERSION)
        if isinstance(request, ListMounts):
            return MountList(self._mounts.items())
        if isinstance(request, Mount):
            return await self._mounts.mount(request)
        if isinstance(request, Umount):
            return await self._mounts.umount(request, progress)
        assert isinstance(request, Shutdown)
        await self._shut_down()
        return Empty()


async def _cancel_on_hangup(work: asyncio.Task[Result], reader: asyncio.StreamReader) -> None:
    """Wait for `work`; cancel it when the client hangs up first."""
    while not work.done():
        hangup = asyncio.create_task(_hangup(reader))
        await asyncio.wait({work, hangup}, return_when="FIRST_COMPLETED")
        if hangup.done() and not work.done():
            log.info("whoever asked to unmount hung up; not waiting any more")
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            raise ConnectionResetError
        hangup.cancel()
        await asyncio.gather(hangup, return_exceptions=True)


async def _hangup(reader: asyncio.StreamReader) -> None:
    # Looks without reading: a client may send its next request before this one is answered.
    while not reader.at_eof():
        await asyncio.sleep(0.1)
