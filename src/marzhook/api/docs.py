"""`/docs`: the API's reference as a page of our own, from the OpenAPI schema; it needs no script and asks no other host."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from typing import Any, Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:0;overflow-wrap:anywhere}"
    "main{max-width:60rem;margin-inline:auto;padding:1rem}h2{font-size:1.1rem;margin-block:2rem 0}"
    "table{border-collapse:collapse}th,td{text-align:start;vertical-align:top;padding:.15rem .5rem;border:1px solid}"
    "th{overflow-wrap:break-word}"
)
# Told by its hash: no other style, and nothing inline, is allowed.
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS: Final = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}


def install(app: FastAPI) -> None:
    """Serve the page. After all routes are there."""

    async def shown(_request: Request) -> Response:
        return HTMLResponse(_page(app.openapi()), headers=HEADERS)

    app.add_route("/docs", shown, methods=["GET", "HEAD"])


def _page(schema: dict[str, Any]) -> str:
    info = schema["info"]
    about = "".join(f"<p>{escape(part)}</p>" for part in info["description"].split("\n\n"))
    operations = "".join(
        _operation(schema, path, method, one)
        for path, methods in schema["paths"].items()
        for method, one in methods.items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>{escape(info['title'])} API</title><style>{STYLE}</style></head><body><main>"
        f"<h1>{escape(info['title'])} {escape(info['version'])}: API</h1>{about}"
        f'<p>As a schema for tools: <a href="/openapi.json">/openapi.json</a>. <a href="/">To the dashboard</a>.</p>'
        f"{operations}</main></body></html>"
    )


def _operation(schema: dict[str, Any], path: str, method: str, one: dict[str, Any]) -> str:
    rows = [
        (field["name"], field["in"], _type(field.get("schema", {})), field.get("description", ""))
        for field in one.get("parameters", [])
    ]
    for content in one.get("requestBody", {}).get("content", {}).values():
        rows += [
            (name, "body", _type(field), field.get("description", ""))
            for name, field in _resolved(schema, content.get("schema", {})).get("properties", {}).items()
        ]
    table = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    head = "<thead><tr><th>Name</th><th>In</th><th>Type</th><th>Meaning</th></tr></thead>"
    return (
        f"<section><h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(one.get('summary', ''))}</p>"
        + f"<p>{escape(one.get('description', ''))}</p>"
        + (f"<table>{head}<tbody>{table}</tbody></table>" if table else "")
        + f"<p>Answers: {escape(', '.join(one.get('responses', {})))}</p></section>"
    )


def _resolved(schema: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """The part itself, or what it refers to ("#/components/schemas/Name")."""
    name = part.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = schema["components"]["schemas"][name] if name else part
    return found


def _type(field: dict[str, Any]) -> str:
    """In words: "integer", "string or null", the name of a schema."""
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if "anyOf" in field:
        return " or ".join(_type(one) for one in field["anyOf"])
    return f"array of {_type(field['items'])}" if "items" in field else str(field.get("type", "any"))
