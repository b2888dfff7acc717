"""Which of PostgreSQL's full-text configurations a text is looked at with."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

_NAMES = {
    "ar": "arabic", "ca": "catalan", "da": "danish", "de": "german", "el": "greek",
    "en": "english", "es": "spanish", "et": "estonian", "eu": "basque", "fi": "finnish",
    "fr": "french", "ga": "irish", "hi": "hindi", "hu": "hungarian", "hy": "armenian",
    "id": "indonesian", "it": "italian", "lt": "lithuanian", "ne": "nepali", "nl": "dutch",
    "no": "norwegian", "nb": "norwegian", "nn": "norwegian", "pt": "portuguese", "ro": "romanian",
    "ru": "russian", "sr": "serbian", "sv": "swedish", "ta": "tamil", "tr": "turkish",
    "yi": "yiddish",
}  # fmt: skip
"""By BCP 47's primary subtags."""

_BUILT_IN = "cfgnamespace = 'pg_catalog'::regnamespace"
_OF_NAME = text(f"SELECT cfgname FROM pg_ts_config WHERE {_BUILT_IN} AND cfgname = :name")  # noqa: S608
# The stop words of the language that a text is in are far more of it than those of any other.
_GUESS = text(
    f"""
    SELECT cfgname FROM (
        SELECT cfgname, (SELECT coalesce(sum(cardinality(positions)), 0)
                         FROM unnest(to_tsvector(pg_ts_config.oid, :sample))) AS kept
        FROM pg_ts_config WHERE {_BUILT_IN}
    ) AS looked_at
    WHERE kept < 0.8 * (SELECT sum(cardinality(positions))
                        FROM unnest(to_tsvector('simple', :sample)))
    ORDER BY kept, cfgname LIMIT 1
    """  # noqa: S608 - its parts are the module's own
)
_SAMPLE_CHARACTERS = 4000
SIMPLE = "simple"


async def config_of_language(session: AsyncSession, language: str | None) -> str:
    """Return the configuration of a BCP 47 tag; ``simple``, which stems nothing, without one."""
    name = _NAMES.get((language or "").split("-")[0].lower(), SIMPLE)
    return await session.scalar(_OF_NAME, {"name": name}) or SIMPLE


async def config_of_text(session: AsyncSession, sample: str) -> str:
    """Return the configuration that fits a text whose language nobody has told."""
    return await session.scalar(_GUESS, {"sample": sample[:_SAMPLE_CHARACTERS]}) or SIMPLE
