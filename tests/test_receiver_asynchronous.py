"""The receiver behind an asyncio server: `async` handlers run on the loop, and hold up neither it nor the process's end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from marzhook.receiver import ReceivedEvent, Receiver
from marzhook.receiver.asynchronous import receive
from marzhook.testing import webhook_request

SECRET = "something-very-very-secret"
LEFT = f"""
import asyncio
from marzhook.receiver import Receiver
from marzhook.receiver.asynchronous import receive
from marzhook.testing import webhook_request

receiver, started, loop = Receiver({SECRET!r}), asyncio.Event(), asyncio.new_event_loop()

@receiver.on("*")
async def handle(event):
    started.set()
    await asyncio.Event().wait()

message = webhook_request({{"action": "user_created", "username": "alice"}}, secret={SECRET!r})
task = loop.create_task(receive(receiver, message.headers, message.body))
loop.run_until_complete(started.wait())
loop.close()
"""


def test_handlers_have_the_loops_own_threads_to_themselves() -> None:
    """A handler that waits for the only thread of asyncio's own gets it: the receiver works in another."""
    receiver, message = Receiver(SECRET), webhook_request({"action": "user_created", "username": "a"}, secret=SECRET)

    @receiver.on("*")
    async def handle(event: ReceivedEvent) -> None:
        await asyncio.to_thread(str)

    async def main() -> int:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        answer = await asyncio.wait_for(receive(receiver, message.headers, message.body), 20)
        return answer.status

    assert asyncio.run(main()) == 200


def test_a_handler_that_is_left_behind_keeps_no_process_alive() -> None:
    """A loop that is closed while a handler waits on it leaves no thread that waits for ever."""
    ended = subprocess.run([sys.executable, "-c", LEFT], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "an event could not be handled" in ended.stderr
