"""The headers of an answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


class Headers(Mapping[str, str]):
    """The head of an answer; read only when somebody looks, because hardly anybody does after a success."""

    __slots__ = ("_lines", "_parsed")

    def __init__(self, lines: list[bytes]) -> None:
        self._lines = lines
        self._parsed: dict[str, str] | None = None

    def _all(self) -> dict[str, str]:
        if self._parsed is None:
            headers = self._parsed = {}
            for line in self._lines:
                if line.startswith(b"HTTP/"):
                    headers.clear()  # the head before was an interim one (100 Continue)
                    continue
                name, colon, value = line.decode("latin-1").partition(":")
                if colon:
                    headers[name.strip().lower()] = value.strip()
        return self._parsed

    def __getitem__(self, name: str) -> str:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())
