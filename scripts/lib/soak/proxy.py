"""A proxy of a unix socket whose connections can be cut."""

import asyncio
import os
import threading

PIECE = 64 << 10


class Proxy:
    """Passes bytes on, in a thread of its own, until it is told to cut."""

    def __init__(self, path, upstream):
        self.path, self.upstream, self.open = path, upstream, set()
        self.loop, ready = asyncio.new_event_loop(), threading.Event()
        self.thread = threading.Thread(target=self.work, args=(ready,), daemon=True)
        self.thread.start()
        if not ready.wait(20):
            raise RuntimeError(f"the proxy at {path} did not start")

    @property
    def address(self):
        return f"unix://{self.path}"

    def work(self, ready):
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self.listen(ready))
        self.loop.run_forever()

    async def listen(self, ready):
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.server = await asyncio.start_unix_server(self.accept, self.path)
        ready.set()

    async def accept(self, reader, writer):
        try:
            there = await asyncio.open_unix_connection(self.upstream)
        except OSError:
            writer.transport.abort()
            return
        pair = (writer, there[1])
        self.open.add(pair)
        try:
            await asyncio.gather(self.pass_on(reader, there[1]), self.pass_on(there[0], writer))
        except asyncio.CancelledError:
            pass  # the proxy ends
        finally:
            self.open.discard(pair)
            for end in pair:
                end.transport.abort()

    async def pass_on(self, reader, writer):
        try:
            while piece := await reader.read(PIECE):
                writer.write(piece)
                await writer.drain()
            writer.write_eof()
        except OSError:
            writer.transport.abort()

    def cut(self):
        """Ends all connections in the middle of whatever passes."""
        def abort():
            for pair in list(self.open):
                for end in pair:
                    end.transport.abort()
        self.loop.call_soon_threadsafe(abort)

    def close(self):
        def stop():
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.call_later(0.2, self.loop.stop)
        self.cut()
        self.loop.call_soon_threadsafe(stop)
        self.thread.join(20)
