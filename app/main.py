"""The API process, put together.  Its lifespan opens and closes everything, here and only here."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from uuid import UUID

from fastapi import FastAPI
from starlette.requests import Request
from starlette.routing import Route, WebSocketRoute

from app.auth.issuer import ADMIN_SUBJECT, DEVELOPMENT_ISSUER
from app.auth.links import LinkSigner, load_secret
from app.auth.tokens import TokenVerifier
from app.auth.viewer import Viewer, user_id
from app.backends import open_backends
from app.context import AppState, GraphQLContext
from app.http.edge.health import Dependencies, health_routes
from app.http.edge.security import install_middleware
from app.http.files.routes import FileAccess, file_routes
from app.http.graphiql.page import graphiql_routes, make_graphiql_page
from app.http.graphql.endpoint import GraphQLEndpoint
from app.http.graphql.persisted import PersistedDocuments
from app.observability import configure_logging
from app.schema.root import schema
from app.services.documents.read import get_file_grant
from app.services.kernel.file_grants import DOCUMENT_FILE, LECTURE_AUDIO, FileGrant, Reader
from app.services.kernel.quotas import Allowance
from app.services.lectures.read import get_audio_grant
from app.settings import Settings


def create_app(settings: Settings) -> FastAPI:
    """Return the application; nothing is opened before its lifespan starts."""
    configure_logging(settings)
    verifier = TokenVerifier.from_settings(settings)
    documents = PersistedDocuments.from_settings(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(verifier.close)
            stack.push_async_callback(documents.close)
            links = LinkSigner(load_secret(settings))
            backends = await stack.enter_async_context(open_backends(settings))
            app.state.studybuddy = AppState(settings, backends, links)
            yield

    # A redirect would lead to whatever host the request named.
    app = FastAPI(title="StudyBuddy", lifespan=lifespan, openapi_url=None, redirect_slashes=False)

    def context(viewer: Viewer, request_id: str) -> GraphQLContext:
        state: AppState = app.state.studybuddy
        allowance = Allowance(state.backends.requests, viewer.id, settings.max_user_bytes)
        return GraphQLContext(state, viewer, request_id, allowance)

    page = make_graphiql_page(settings)
    endpoint = GraphQLEndpoint(schema, settings, verifier, documents, context, page)
    app.router.routes += [Route("/graphql", endpoint), WebSocketRoute("/graphql", endpoint)]
    app.router.routes += graphiql_routes(settings)
    app.router.routes += file_routes(_file_access)

    def dependencies(request: Request) -> Dependencies:
        backends = _state(request).backends
        has_embedder = backends.embedder is not None
        return Dependencies(backends.engine, backends.storage, backends.redis, has_embedder)

    app.router.routes += health_routes(dependencies, settings)
    install_middleware(app, settings, verifier)
    return app


def admin_ids(settings: Settings) -> frozenset[UUID]:
    """Return the ids of all admins, the development issuer's own included."""
    ids = frozenset(settings.admin_user_ids)
    if settings.uses_development_issuer:
        ids |= {user_id(DEVELOPMENT_ISSUER, ADMIN_SUBJECT)}
    return ids


def _state(request: Request) -> AppState:
    state: AppState = request.app.state.studybuddy
    return state


_GRANTS = {DOCUMENT_FILE: get_file_grant, LECTURE_AUDIO: get_audio_grant}


def _file_access(request: Request) -> FileAccess:
    state = _state(request)
    admins = admin_ids(state.settings)

    async def look_up(kind: str, reader: Reader, item_id: UUID) -> FileGrant | None:
        async with state.backends.sessions() as session:
            return await _GRANTS[kind](session, reader, item_id, admins)

    delivery = state.settings.file_delivery
    return FileAccess(look_up, state.backends.storage, state.links, delivery)
