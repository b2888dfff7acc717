"""The GraphiQL page: served from this machine alone, and signed in where we issue the tokens."""

import json
from collections.abc import Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from app.auth.issuer import DevelopmentIssuer
from app.http.edge.errors import GRAPHQL_PATH
from app.http.graphiql.assets import ASSETS_DIRECTORY, are_installed
from app.settings import Settings

ASSETS_PATH = f"{GRAPHQL_PATH}/assets"
DEMO_USER = "demo"
DEMO_TOKEN_SECONDS = 12 * 3600

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page's policy: its own files and this service, nothing else.  The editor sets styles."""

_HERE = Path(__file__).parent
_EXAMPLE_HOST = "demo.hosted.panopto.com"
_EXAMPLE_SESSION = "11111111-2222-4333-8444-555555555555"

_MISSING = """<!doctype html><meta charset="utf-8"><title>GraphiQL</title>
<h1>GraphiQL is not installed</h1>
<p>Run <code>make install</code> or <code>python -m app.http.graphiql.assets</code>,
then start the service again.</p>
"""


def make_graphiql_page(
    settings: Settings, assets: Path = ASSETS_DIRECTORY
) -> Callable[[], str] | None:
    """Return what makes the page's HTML; None where GRAPHIQL is off.

    Where the development issuer is in use, each page carries a token of the user `demo` for 12 h.
    """
    if not settings.graphiql_enabled:
        return None
    if not are_installed(assets):
        return lambda: _MISSING
    template = (_HERE / "page.html").read_text(encoding="utf-8")
    tenants = settings.panopto_hosts
    host = f"http://{tenants[0]}" if tenants else f"https://{_EXAMPLE_HOST}"
    lecture_url = f"{host}/Panopto/Pages/Viewer.aspx?id={_EXAMPLE_SESSION}"
    issuer = None
    if settings.uses_development_issuer:
        issuer = DevelopmentIssuer.load(settings.data_path)

    def page() -> str:
        token = issuer.issue(DEMO_USER, DEMO_TOKEN_SECONDS) if issuer else None
        config = {"token": token, "lectureUrl": lecture_url}
        # A script element ends at its closing tag, whatever the JSON string around that is.
        return template.replace("{{config}}", json.dumps(config).replace("<", "\\u003c"))

    return page


def graphiql_routes(settings: Settings, assets: Path = ASSETS_DIRECTORY) -> list[BaseRoute]:
    """Return the way from ``/`` to the page, and its files' routes; none where GRAPHIQL is off."""
    if not settings.graphiql_enabled:
        return []

    async def home(_request: Request) -> Response:
        return RedirectResponse(GRAPHQL_PATH)

    async def script(_request: Request) -> Response:
        return FileResponse(_HERE / "page.js", media_type="text/javascript")

    if not are_installed(assets):
        return [Route("/", home)]
    files = Mount(ASSETS_PATH, StaticFiles(directory=assets))
    return [Route("/", home), Route(f"{ASSETS_PATH}/page.js", script), files]
