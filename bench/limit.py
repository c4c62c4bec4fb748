"""The limit: libcurl and nothing else. It makes and signs the same requests, and forgets them.

No queue, no timeouts, no look at the answers' heads, nothing on disk. What Marzhook is measured against.
"""

from __future__ import annotations

import select
import time
from typing import Any

import pycurl

from marzhook.cli.bench import CONCURRENCY, BenchError, rendering


def bare(url: str, count: int, *, ca_file: str | None = None) -> float:
    """Seconds for `count` requests, CONCURRENCY at a time on kept-alive connections."""
    request = rendering(url)
    epoll, multi = select.epoll(), pycurl.CurlMulti()
    watched: set[int] = set()
    deadline = 0.0

    def on_socket(what: int, fd: int, _multi: object, _data: object) -> None:
        if what == pycurl.POLL_REMOVE:
            if fd in watched:
                watched.discard(fd)
                epoll.unregister(fd)
            return
        mask = (select.EPOLLIN if what & pycurl.POLL_IN else 0) | (select.EPOLLOUT if what & pycurl.POLL_OUT else 0)
        (epoll.modify if fd in watched else epoll.register)(fd, mask)
        watched.add(fd)

    def on_timer(milliseconds: int) -> None:
        nonlocal deadline
        deadline = time.monotonic() + (milliseconds / 1000 if milliseconds >= 0 else 3600)

    multi.setopt(pycurl.M_SOCKETFUNCTION, on_socket)
    multi.setopt(pycurl.M_TIMERFUNCTION, on_timer)
    multi.setopt(pycurl.M_MAXCONNECTS, CONCURRENCY)
    idle: list[Any] = [_handle(url, ca_file) for _ in range(CONCURRENCY)]
    handles = list(idle)
    begun = time.perf_counter()
    sent = done = 0
    while done < count:
        while sent < count and idle:
            curl, made = idle.pop(), request(sent)
            curl.setopt(pycurl.HTTPHEADER, [*made.lines, "Expect:"])
            curl.setopt(pycurl.POSTFIELDS, made.body)
            multi.add_handle(curl)
            sent += 1
        for fd, event in epoll.poll(max(0.0, min(1.0, deadline - time.monotonic()))):
            multi.socket_action(fd, pycurl.CSELECT_OUT if event & select.EPOLLOUT else pycurl.CSELECT_IN)
        if time.monotonic() >= deadline:
            deadline = time.monotonic() + 3600
            multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        waiting = 1
        while waiting:
            waiting, good, bad = multi.info_read(CONCURRENCY)
            for curl in good:
                multi.remove_handle(curl)
                if curl.getinfo(pycurl.RESPONSE_CODE) != 200:
                    raise BenchError("the receiver did not answer 200")
                idle.append(curl)
            done += len(good)
            if bad:
                raise BenchError(f"the receiver did not answer: {bad[0][2]}")
    seconds = time.perf_counter() - begun
    for curl in handles:
        curl.close()
    multi.close()
    epoll.close()
    return seconds


def _handle(url: str, ca_file: str | None) -> Any:
    curl = pycurl.Curl()
    curl.setopt(pycurl.URL, url)
    curl.setopt(pycurl.POST, 1)
    curl.setopt(pycurl.NOSIGNAL, 1)
    curl.setopt(pycurl.PROXY, "")
    curl.setopt(pycurl.WRITEFUNCTION, len)
    if ca_file:
        curl.setopt(pycurl.CAINFO, ca_file)
    return curl
