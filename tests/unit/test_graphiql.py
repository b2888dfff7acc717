"""The GraphiQL page: who gets one, what it carries, and where its files come from."""

import json
import re
from pathlib import Path

import pytest
from starlette.applications import Starlette

from app.auth.tokens import TokenVerifier
from app.http.graphiql import assets as graphiql_assets
from app.http.graphiql.page import graphiql_routes, make_graphiql_page
from app.settings import load_settings
from tests.support.serving import new_client, serving


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    """A directory that counts as installed."""
    directory = tmp_path / "assets"
    directory.mkdir()
    (directory / "installed").write_text(graphiql_assets._wanted())
    return directory


def _config(page: str) -> dict[str, str | None]:
    found = re.search(r'<script id="config" type="application/json">(.*?)</script>', page)
    assert found
    config = json.loads(found[1])
    assert isinstance(config, dict)
    return config


async def test_the_page_is_signed_in_where_the_development_issuer_is_in_use(
    tmp_path: Path, assets: Path
) -> None:
    settings = load_settings(data_dir=tmp_path)
    page = make_graphiql_page(settings, assets)
    assert page is not None
    token = _config(page())["token"]

    assert token is not None
    viewer = await TokenVerifier.from_settings(settings).verify(token)
    assert viewer.subject == "demo"
    assert not viewer.is_admin


def test_the_page_carries_no_token_where_others_issue_them(tmp_path: Path, assets: Path) -> None:
    settings = load_settings(data_dir=tmp_path, auth_issuer="https://clerk.example.org")
    page = make_graphiql_page(settings, assets)
    assert page is not None

    assert _config(page())["token"] is None
    assert list(tmp_path.iterdir()) == [assets]


def test_the_page_takes_nothing_from_elsewhere(tmp_path: Path, assets: Path) -> None:
    page = make_graphiql_page(load_settings(data_dir=tmp_path), assets)
    assert page is not None
    sources = re.findall(r'(?:src|href)="([^"]*)"', page())

    served = {f"/graphql/assets/{name}" for name in (*graphiql_assets.FILES, "page.js")}
    assert set(sources) == served | {"data:,"}


def test_a_setting_cannot_break_out_of_the_page(tmp_path: Path, assets: Path) -> None:
    settings = load_settings(data_dir=tmp_path, panopto_hosts="x<script>alert(1)<script>")
    page = make_graphiql_page(settings, assets)
    assert page is not None

    assert "<script>alert" not in page()


def test_without_its_files_the_page_says_what_to_do(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path)
    page = make_graphiql_page(settings, tmp_path / "nothing")
    assert page is not None

    assert "make install" in page()
    (home,) = graphiql_routes(settings, tmp_path / "nothing")
    assert home.path == "/"


async def test_the_root_leads_to_the_page_and_to_no_other_host(
    tmp_path: Path, assets: Path
) -> None:
    app = Starlette(routes=graphiql_routes(load_settings(data_dir=tmp_path), assets))
    async with serving(app) as address, new_client(address.url) as client:
        response = await client.get("/?next=//evil.test", headers={"Host": "evil.test"})
    assert (response.status_code, response.headers["location"]) == (307, "/graphql")


def test_there_is_none_where_it_is_off(tmp_path: Path, assets: Path) -> None:
    settings = load_settings(data_dir=tmp_path, graphiql=False)

    assert make_graphiql_page(settings, assets) is None
    assert graphiql_routes(settings, assets) == []


def test_a_finished_installation_is_left_alone(
    assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")

    assert graphiql_assets.main([str(assets)]) == 0
    assert [file.name for file in assets.iterdir()] == ["installed"]


def test_an_installation_that_fails_says_so_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "npm"
    broken.write_text("#!/bin/sh\necho it broke >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    assert graphiql_assets.main([str(tmp_path / "assets")]) == 1
    assert "it broke" in capsys.readouterr().err
    assert not (tmp_path / "assets").exists()


def test_the_lock_file_names_no_registry() -> None:
    lock = (graphiql_assets._PACKAGES / "package-lock.json").read_text()

    assert '"resolved"' not in lock
    assert lock.count('"integrity"') > 5
