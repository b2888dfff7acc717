"""One frozen object from the environment: units in the names, one line for a wrong value.

Each field is the environment variable of the same name in upper case; the README's table and
`.env.example` list them all.  What is only known by looking at several fields is a property.
"""

import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.errors import ConfigurationError

_RATE = re.compile(r"^[1-9][0-9]*/(second|minute|hour|day)$")
# Names of yt-dlp's extractors, such as `archive.org` and `bbc.co.uk:article`, with wildcards.
_EXTRACTORS = re.compile(r"[\w*?][\w*?.:+ -]*")

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

MIB = 1024 * 1024
WEEK = 7 * 24 * 3600.0


def _split(value: Any) -> Any:
    """Turn ``"a, b"`` into ``("a", "b")``; leave anything but text alone."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _with_sound_ports(url: str | None) -> str | None:
    """Return the URL, or raise `ValueError` where a port in it is none."""
    for host in urlsplit(url or "").netloc.rpartition("@")[2].split(","):
        port = host.rpartition("]")[2].partition(":")[2]
        if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError("has a port that is none")
    return url


def checked_storage_url(value: str) -> str:
    """Return the URL, or raise `ValueError` where it names no storage."""
    parts = urlsplit(value)
    if parts.scheme == "file" and parts.path.startswith("/") and not parts.netloc:
        return value
    if parts.scheme == "s3" and parts.netloc:
        return value
    raise ValueError("must be file:///directory or s3://bucket/prefix")


class Settings(BaseSettings):
    """What the deployment chose.  Built by :func:`load_settings` alone."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True
    )

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    data_dir: Path = Path(".data")
    environment: Literal["development", "production"] = "development"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    database_url: str | None = None
    redis_url: str | None = None

    storage_url: str | None = None
    s3_endpoint_url: str | None = None
    s3_region: str | None = None
    s3_access_key_id: str | None = None
    s3_secret_access_key: str | None = Field(default=None, repr=False)
    s3_virtual_hosted: bool = False
    file_delivery: Literal["proxy", "redirect"] = "proxy"

    auth_issuer: str | None = None
    auth_jwks_url: str | None = None
    auth_authorized_parties: Annotated[tuple[str, ...], NoDecode] = ()
    admin_user_ids: Annotated[tuple[UUID, ...], NoDecode] = ()
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = ()
    graphiql: bool | None = None
    introspection: bool | None = None
    secret_key: str | None = Field(default=None, min_length=16, repr=False)
    metrics_token: str | None = Field(default=None, repr=False)
    socket_grace_seconds: float = Field(default=300, ge=0, le=WEEK)
    persisted_documents: Path | None = None
    persisted_only: bool = False

    max_upload_bytes: int = Field(default=500 * MIB, gt=0)
    max_source_bytes: int = Field(default=10 * 1024 * MIB, gt=0)
    download_timeout_seconds: float = Field(default=7200, gt=0, le=WEEK)
    worker_concurrency: int = Field(default=5, ge=1, le=64)
    fetch_allowed_private_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    panopto_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    sources: Annotated[tuple[str, ...], NoDecode] = ("youtube", "vimeo", "googledrive")
    captions: bool = True
    whisper_models: Annotated[tuple[tuple[str, Path], ...] | None, NoDecode] = None
    whisper_device: Literal["cpu", "cuda", "auto"] = "cpu"
    whisper_compute_type: str | None = None
    whisper_threads: int = Field(default=1, ge=1, le=256)
    whisper_batch_size: int | None = Field(default=None, ge=1, le=64)
    transcribe_concurrency: int = Field(default=1, ge=1, le=64)
    transcribe_timeout_seconds: float = Field(default=6 * 3600, gt=0, le=WEEK)
    max_user_transcriptions: int = Field(default=3, ge=1, le=1000)
    llm_base_url: str | None = None
    llm_model: str | None = None
    llm_api_key: str | None = Field(default=None, pattern=r"^[!-~]+$", repr=False)
    llm_timeout_seconds: float = Field(default=120, gt=0, le=3600)
    llm_max_tokens: int = Field(default=60_000, ge=4000)
    auto_transcribe: bool = False
    rate_limit_transcriptions: str | None = None
    rate_limit_previews: str | None = "30/minute"
    embedder: Literal["off"] | Path | None = None
    topic_threshold: float = Field(default=0.6, ge=0, le=1)
    audio_retention: Literal["keep", "until-transcribed"] = "keep"
    rate_limit_downloads: str | None = None
    rate_limit_uploads: str | None = None
    max_user_bytes: int | None = Field(default=None, gt=0)
    sweep_grace_seconds: float = Field(default=1800, ge=0, le=WEEK)

    @field_validator(
        "auth_authorized_parties",
        "admin_user_ids",
        "allowed_origins",
        "fetch_allowed_private_hosts",
        "panopto_hosts",
        "sources",
        mode="before",
    )
    @classmethod
    def _comma_separated(cls, value: Any) -> Any:
        return _split(value)

    @field_validator("whisper_models", mode="before")
    @classmethod
    def _named_folders(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value.strip().lower() == "off":
            return ()
        pairs = [entry.partition("=") for entry in _split(value)]
        if not all(_MODEL.fullmatch(name) and folder for name, _, folder in pairs):
            raise ValueError("must be name=folder pairs, comma-separated, or off")
        if len({name for name, _, _ in pairs}) < len(pairs):
            raise ValueError("names a model twice")
        return tuple((name, Path(folder).expanduser().absolute()) for name, _, folder in pairs)

    @field_validator("embedder", mode="before")
    @classmethod
    def _folder_or_off(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        is_off = value.strip().lower() == "off"
        return "off" if is_off else Path(value.strip()).expanduser().absolute()

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("database_url")
    @classmethod
    def _postgres(cls, value: str | None) -> str | None:
        schemes = {"postgres", "postgresql", "postgresql+asyncpg"}
        if value and urlsplit(value).scheme not in schemes:
            raise ValueError("must start with postgresql:// or postgresql+asyncpg://")
        return _with_sound_ports(value)

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: str | None) -> str | None:
        if value and urlsplit(value).scheme not in {"redis", "rediss", "unix"}:
            raise ValueError("must start with redis://, rediss:// or unix://")
        return _with_sound_ports(value)

    @field_validator("storage_url")
    @classmethod
    def _storage(cls, value: str | None) -> str | None:
        return checked_storage_url(value) if value else value

    @field_validator("auth_issuer", "auth_jwks_url", "s3_endpoint_url", "llm_base_url")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "")
        if value and (parts.scheme not in {"http", "https"} or not parts.netloc):
            raise ValueError("must be an http or https URL")
        return _with_sound_ports(value)

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            parts = urlsplit(origin)
            if parts.scheme not in {"http", "https"} or not parts.netloc or parts.path.strip("/"):
                raise ValueError("each must be an origin such as https://app.example.org")
            _with_sound_ports(origin)
        return tuple(origin.rstrip("/").lower() for origin in value)

    @field_validator("fetch_allowed_private_hosts")
    @classmethod
    def _host_and_port(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            host, _, port = entry.rpartition(":")
            if not host or not port.isdigit() or not 0 < int(port) < 65536:
                raise ValueError("each must be host:port")
        return tuple(entry.lower() for entry in value)

    @field_validator("panopto_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            if "/" in entry or not urlsplit(f"//{entry}").hostname:
                raise ValueError("each must be host or host:port")
            _with_sound_ports(f"//{entry}")
        return tuple(entry.lower() for entry in value)

    @field_validator("sources")
    @classmethod
    def _extractors(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(entry.lower() for entry in value))
        if "none" in names and len(names) > 1:
            raise ValueError("none stands alone")
        if not all(map(_EXTRACTORS.fullmatch, names)):
            raise ValueError("each must be an extractor's name such as youtube, or *, or none")
        return () if names == ("none",) else names

    @field_validator(
        "rate_limit_downloads",
        "rate_limit_uploads",
        "rate_limit_transcriptions",
        "rate_limit_previews",
    )
    @classmethod
    def _rate(cls, value: str | None) -> str | None:
        if value and not _RATE.match(value):
            raise ValueError("must be like 60/hour (second, minute, hour or day)")
        return value

    @model_validator(mode="after")
    def _production_needs(self) -> "Settings":
        if self.environment != "production":
            return self
        for name in ("database_url", "redis_url", "auth_issuer", "secret_key"):
            if not getattr(self, name):
                raise ValueError(f"{name.upper()} is required where ENVIRONMENT is production")
        return self

    @model_validator(mode="after")
    def _persisted_needs(self) -> "Settings":
        if self.persisted_only and self.persisted_documents is None:
            raise ValueError("PERSISTED_ONLY: needs PERSISTED_DOCUMENTS")
        return self

    @model_validator(mode="after")
    def _llm_needs(self) -> "Settings":
        if self.llm_base_url and not self.llm_model:
            raise ValueError("LLM_MODEL: must be named where LLM_BASE_URL is")
        return self

    @model_validator(mode="after")
    def _redirect_needs(self) -> "Settings":
        in_bucket = (self.storage_url or "").startswith("s3:")
        if self.file_delivery == "redirect" and in_bucket and not self.has_s3_keys:
            needed = "S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY"
            raise ValueError(f"FILE_DELIVERY: redirect signs URLs, which needs {needed}")
        return self

    @property
    def production(self) -> bool:
        """Whether this is a deployment that strangers reach."""
        return self.environment == "production"

    @property
    def graphiql_enabled(self) -> bool:
        """GRAPHIQL where given, else on in development alone."""
        return not self.production if self.graphiql is None else self.graphiql

    @property
    def introspection_enabled(self) -> bool:
        """INTROSPECTION where given, else on in development alone."""
        return not self.production if self.introspection is None else self.introspection

    @cached_property
    def data_path(self) -> Path:
        """DATA_DIR, absolute."""
        return self.data_dir.expanduser().absolute()

    @property
    def resolved_storage_url(self) -> str:
        """STORAGE_URL, or the folder `storage` under DATA_DIR."""
        return self.storage_url or (self.data_path / "storage").as_uri()

    @property
    def has_s3_keys(self) -> bool:
        """Whether the bucket's keys are settings, rather than found by the client library."""
        return bool(self.s3_access_key_id and self.s3_secret_access_key)

    @property
    def uses_development_issuer(self) -> bool:
        """Whether tokens are signed by ourselves: in development, with no AUTH_ISSUER."""
        return not self.production and self.auth_issuer is None


def load_settings(**overrides: Any) -> Settings:
    """Read the environment (overrides win) or raise `ConfigurationError` with one line."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        first = error.errors()[0]
        reason = first["msg"].removeprefix("Value error, ")
        name = str(first["loc"][0]).upper() + ": " if first["loc"] else ""
        raise ConfigurationError(f"{name}{reason}") from None
