"""The page at /docs: Scalar over the schema of this API, its script served from here. It knows no route of the API.

The script is dist/browser/standalone.js of npm's @scalar/api-reference 1.46.4 (MIT), packed by gzip. The page's policy
lets it load nothing from elsewhere and tell nobody what is tried on it: neither fonts, nor a proxy, nor telemetry.
"""

import gzip
import html
import json
from functools import cache
from importlib import resources
from typing import Any

from litestar import Request, Response, Router, get
from litestar.openapi.plugins import OpenAPIRenderPlugin

_SCRIPT = "scalar-1.46.4.js"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; base-uri 'none'; form-action 'none'"
)
_OPTIONS = {
    "withDefaultFonts": False,
    "telemetry": False,
    "agent": {"disabled": True},
    "hideClientButton": True,
    "showDeveloperTools": "never",
}
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
</head>
<body>
<noscript>This page needs JavaScript. The same in JSON: <a href="{schema}">{schema}</a></noscript>
<script id="api-reference" data-url="{schema}" data-configuration="{options}"></script>
<script src="{script}"></script>
</body>
</html>
"""


class DocumentationPage(OpenAPIRenderPlugin):
    """The page, and the script beside it."""

    def __init__(self) -> None:
        super().__init__(path="/")

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The page; the schema is loaded by its script."""
        schema = self.get_openapi_json_route(request)
        page = _PAGE.format(
            policy=html.escape(_POLICY),
            title=html.escape(openapi_schema["info"]["title"]),
            schema=html.escape(schema),
            options=html.escape(json.dumps(_OPTIONS)),
            script=html.escape(f"{schema.rpartition('/')[0]}/{_SCRIPT}"),
        )
        return page.encode()

    def receive_router(self, router: Router) -> None:
        """Put the script beside the page."""
        router.register(script)


@get(f"/{_SCRIPT}", include_in_schema=False, sync_to_thread=True)
def script(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Scalar's script as it lies in the package, unless whoever asks cannot unpack it."""
    headers = {"cache-control": "public, max-age=31536000, immutable", "vary": "accept-encoding"}
    packed = _packed_script()
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return Response(gzip.decompress(packed), media_type="text/javascript", headers=headers)
    return Response(packed, media_type="text/javascript", headers={"content-encoding": "gzip", **headers})


@cache
def _packed_script() -> bytes:
    return (resources.files("brie_server") / "scalar" / f"{_SCRIPT}.gz").read_bytes()
