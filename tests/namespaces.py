"""Hosts of their own on one machine: network namespaces, each with one line to the database and one to the receivers.

Needs root and a kernel that has namespaces and `veth`. The addresses are of the range for measurements between networks
(RFC 2544), which leave no machine.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from programs import program

DATABASE, RECEIVERS = "198.18.0.1", "198.18.1.1"
"""What all hosts reach, each through its own line."""
NOBODY = "02:00:00:00:00:01"
"""A hardware address that nobody has."""


class NoNamespaces(Exception):
    """This machine, or this user, cannot have network namespaces."""


class Host:
    """One namespace. `through`: what runs a command in it."""

    def __init__(self, number: int) -> None:
        self.name = f"mh{os.getpid()}-{number}"
        self.through = (program("ip", package="iproute2"), "netns", "exec", self.name)
        self._lines = [(f"{self.name}{kind}", f"198.18.{2 * number + place}") for place, kind in enumerate("dr")]

    @property
    def address(self) -> str:
        """As receivers see it."""
        return f"{self._lines[1][1]}.2"

    def begin(self) -> None:
        ip("netns", "add", self.name)
        for (device, network), reached in zip(self._lines, (DATABASE, RECEIVERS), strict=True):
            ip("link", "add", device, "type", "veth", "peer", "name", "there", "netns", self.name)
            ip("address", "add", f"{network}.1/30", "dev", device)
            ip("link", "set", device, "up")
            self._ip("link", "set", "there", "name", device, "up")
            self._ip("address", "add", f"{network}.2/30", "dev", device)
            if reached != f"{network}.1":
                self._ip("route", "add", reached, "via", f"{network}.1")

    def end(self) -> None:
        # Its lines go with it.
        ip("netns", "delete", self.name)

    def cut_off(self) -> None:
        """From the database. Packets get lost on their way in both directions, and nobody is told."""
        device, network = self._lines[0]
        ip("neighbour", "replace", f"{network}.2", "lladdr", NOBODY, "dev", device, "nud", "permanent")
        self._ip("neighbour", "replace", f"{network}.1", "lladdr", NOBODY, "dev", device, "nud", "permanent")

    def join(self) -> None:
        """The line works again."""
        device, network = self._lines[0]
        ip("neighbour", "delete", f"{network}.2", "dev", device)
        self._ip("neighbour", "delete", f"{network}.1", "dev", device)

    def _ip(self, *arguments: str) -> None:
        ip("-n", self.name, *arguments)


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """So many, while the block runs. Raises NoNamespaces, which says why."""
    made = [Host(number) for number in range(count)]
    with ExitStack() as stack:
        for host in made:
            try:
                host.begin()
            except subprocess.CalledProcessError as error:
                raise NoNamespaces(
                    f"no network namespaces here ({error.stderr.strip()}); they need root, and a kernel with veth"
                ) from error
            stack.callback(host.end)
        yield made


def ip(*arguments: str) -> None:
    subprocess.run(
        [program("ip", package="iproute2"), *arguments], check=True, capture_output=True, text=True, timeout=30
    )
