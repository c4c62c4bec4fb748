"""Style sheet, scripts and the icon: read and packed at start, and kept by browsers for as long as they do not change."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

FOLDER: Final = Path(__file__).with_name("static")
_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Assets:
    """Every file of the folder, in memory (some 30 KB)."""

    def __init__(self) -> None:
        files = {path.name: path.read_bytes() for path in sorted(FOLDER.iterdir()) if path.suffix in _TYPES}
        # One version for all: scripts import each other by plain names, so they change together.
        self._version = hashlib.sha256(b"".join(files.values())).hexdigest()[:12]
        self._files = {name: (data, gzip.compress(data, mtime=0)) for name, data in files.items()}

    def url(self, name: str) -> str:
        """The file's address, which changes with what is in it."""
        assert name in self._files, name
        return f"/static/{name}?{self._version}"

    async def serve(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._files:
            raise HTTPException(404)
        plain, packed = self._files[name]
        headers = {
            "ETag": f'"{self._version}"',
            "X-Content-Type-Options": "nosniff",
            "Vary": "Accept-Encoding",
            # What is asked for by its version never changes; the imports of scripts, without one, are asked about again.
            "Cache-Control": "public, max-age=31536000, immutable"
            if request.url.query == self._version
            else "public, no-cache",
        }
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(packed, headers=headers | {"Content-Encoding": "gzip"}, media_type=_type(name))
        return Response(plain, headers=headers, media_type=_type(name))


def _type(name: str) -> str:
    return _TYPES[Path(name).suffix]
