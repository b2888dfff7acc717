"""A wrong setting stops the start with one line that names the variable."""

from pathlib import Path

import pytest

from app.errors import ConfigurationError
from app.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]

WRONG = [
    ("PORT", "eighty"),
    ("PORT", "70000"),
    ("ENVIRONMENT", "staging"),
    ("LOG_LEVEL", "loud"),
    ("DATABASE_URL", "mysql://localhost/x"),
    ("DATABASE_URL", "postgresql://a@b:xx/y"),
    ("REDIS_URL", "http://localhost"),
    ("REDIS_URL", "redis://host:1x"),
    ("STORAGE_URL", "relative/folder"),
    ("STORAGE_URL", "s3://"),
    ("STORAGE_URL", "file://host/dir"),
    ("S3_ENDPOINT_URL", "minio:9000"),
    ("S3_VIRTUAL_HOSTED", "perhaps"),
    ("AUTH_ISSUER", "clerk"),
    ("AUTH_JWKS_URL", "ftp://example.org/jwks"),
    ("ADMIN_USER_IDS", "not-a-uuid"),
    ("ALLOWED_ORIGINS", "https://app.example.org/path"),
    ("ALLOWED_ORIGINS", "app.example.org"),
    ("GRAPHIQL", "perhaps"),
    ("SECRET_KEY", "short"),
    ("SOCKET_GRACE_SECONDS", "-1"),
    ("MAX_UPLOAD_BYTES", "0"),
    ("MAX_SOURCE_BYTES", "lots"),
    ("DOWNLOAD_TIMEOUT_SECONDS", "0"),
    ("DOWNLOAD_TIMEOUT_SECONDS", "inf"),
    ("SWEEP_GRACE_SECONDS", "nan"),
    ("PANOPTO_HOSTS", "a:b:c"),
    ("ALLOWED_ORIGINS", "https://a.b:99999"),
    ("WORKER_CONCURRENCY", "0"),
    ("FETCH_ALLOWED_PRIVATE_HOSTS", "127.0.0.1"),
    ("FETCH_ALLOWED_PRIVATE_HOSTS", "127.0.0.1:99999"),
    ("PANOPTO_HOSTS", "https://panopto.example.org/"),
    ("RATE_LIMIT_DOWNLOADS", "60"),
    ("RATE_LIMIT_UPLOADS", "0/hour"),
    ("LLM_BASE_URL", "localhost:11434"),
    ("LLM_API_KEY", "two\nlines"),
    ("LLM_TIMEOUT_SECONDS", "0"),
    ("LLM_MAX_TOKENS", "10"),
]

PRODUCTION = {
    "ENVIRONMENT": "production",
    "DATABASE_URL": "postgresql://db/studybuddy",
    "REDIS_URL": "redis://redis:6379",
    "AUTH_ISSUER": "https://clerk.example.org",
    "SECRET_KEY": "0123456789abcdef",
}


@pytest.mark.parametrize(("name", "value"), WRONG, ids=[f"{n}={v}" for n, v in WRONG])
def test_a_wrong_value_is_one_line_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert caught.value.message.startswith(f"{name}: ")
    assert "\n" not in caught.value.message


def test_a_wrong_secret_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "hush")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert "hush" not in caught.value.message


def test_a_language_model_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_BASE_URL", "http://localhost:11434/v1")
    with pytest.raises(ConfigurationError, match=r"^LLM_MODEL"):
        load_settings()
    monkeypatch.setenv("LLM_MODEL", "qwen3:8b")
    monkeypatch.setenv("LLM_API_KEY", "sk-secret")
    settings = load_settings()
    assert (settings.llm_model, settings.llm_api_key) == ("qwen3:8b", "sk-secret")
    assert "sk-secret" not in repr(settings)


def test_an_empty_value_is_the_same_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "PORT", "ADMIN_USER_IDS", "SECRET_KEY"):
        monkeypatch.setenv(name, "")
    settings = load_settings()
    assert (settings.database_url, settings.port, settings.admin_user_ids) == (None, 8000, ())


@pytest.mark.parametrize("missing", ["DATABASE_URL", "REDIS_URL", "AUTH_ISSUER", "SECRET_KEY"])
def test_production_names_what_it_lacks(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    for name, value in PRODUCTION.items():
        if name != missing:
            monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=rf"^{missing}"):
        load_settings()


def test_production_turns_the_tools_of_development_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PRODUCTION.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert not settings.graphiql_enabled
    assert not settings.introspection_enabled
    assert not settings.uses_development_issuer


def test_development_needs_nothing() -> None:
    settings = load_settings()
    assert settings.graphiql_enabled
    assert settings.introspection_enabled
    assert settings.uses_development_issuer
    assert settings.data_path.is_absolute()


def test_an_issuer_of_ones_own_replaces_the_development_one() -> None:
    assert not load_settings(auth_issuer="https://clerk.example.org").uses_development_issuer


def test_lists_are_split_at_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLOWED_ORIGINS", "https://A.example.org/, http://localhost:3000")
    monkeypatch.setenv("PANOPTO_HOSTS", "video.example.org,[::1]:8443")
    settings = load_settings()
    assert settings.allowed_origins == ("https://a.example.org", "http://localhost:3000")
    assert settings.panopto_hosts == ("video.example.org", "[::1]:8443")


def test_the_example_names_every_setting_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert set(example) == {name.upper() for name in Settings.model_fields}
    for name, value in example.items():
        monkeypatch.setenv(name, value)
    assert load_settings() == Settings.model_construct()


def test_compose_passes_every_setting_on() -> None:
    text = (ROOT / "compose.yaml").read_text()
    assert [n for n in Settings.model_fields if f"    {n.upper()}: " not in text] == []
