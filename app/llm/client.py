"""A client of any OpenAI-compatible server: data and what to do with it in, one checked answer out.

Format: OpenAI's "Create chat completion" (``POST {base}/chat/completions``), as Ollama, llama.cpp,
vLLM and others speak it too.
"""

import asyncio
import ssl
from typing import Any, TypeVar

import httpx
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.ingest.failures import retry_after_seconds
from app.settings import Settings

ANSWER_TOKENS = 2048
MAX_ANSWER_BYTES = 1024 * 1024

_FORMS = (("max_tokens", True), ("max_completion_tokens", True), ("max_tokens", False))
"""How the answer's length is limited, and whether its schema is demanded: servers differ."""
_UNKNOWN_FORM = {400, 422}
_TRANSIENT = {408, 425, 429}
# What a model that thinks aloud has thought; and where others put what they say.
_END_OF_THOUGHT = "</think>"
_FENCE = "```"


class LanguageModelFailed(Exception):
    """There is no usable answer.  The message names neither the server nor what it said."""

    def __init__(
        self, message: str, *, transient: bool = False, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.transient = transient
        self.retry_after_seconds = retry_after_seconds


class Answer(BaseModel):
    """What is demanded of the model: its fields and no others, each of its type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


AnswerT = TypeVar("AnswerT", bound=Answer)


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)


class LanguageModel:
    """One model of one server, which is the operator's own choice: any host will do."""

    def __init__(
        self, base_url: str, name: str, api_key: str | None, timeout_seconds: float
    ) -> None:
        self.name = name
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        # Uncompressed, so that the limit counts what arrives.
        self._headers = {"accept": "application/json", "accept-encoding": "identity"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._timeout_seconds = timeout_seconds
        self._forms = list(_FORMS)
        self._tls: ssl.SSLContext | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> "LanguageModel | None":
        """Return the model that the service is configured for, or None."""
        if settings.llm_base_url is None:
            return None
        return cls(
            settings.llm_base_url,
            settings.llm_model or "",
            settings.llm_api_key,
            settings.llm_timeout_seconds,
        )

    async def ask(self, prompt: str, data: object, answer: type[AnswerT]) -> AnswerT:
        """Return what the model says to the data, or raise `LanguageModelFailed`.

        ``data`` is sent as JSON, so that nothing in it can end it.  A server that refuses one form
        of request is asked in the next, and in that one from then on.
        """
        schema = answer.model_json_schema()
        wanted = f"{prompt}\nAnswer with one JSON object of this schema and nothing else:\n"
        messages = [
            {"role": "system", "content": wanted + orjson.dumps(schema).decode()},
            {"role": "user", "content": orjson.dumps(data).decode()},
        ]
        for form in list(self._forms):
            limit, is_schema_demanded = form
            body: dict[str, Any] = {"model": self.name, "messages": messages, limit: ANSWER_TOKENS}
            if is_schema_demanded:
                named = {"name": "answer", "strict": True, "schema": schema}
                body["response_format"] = {"type": "json_schema", "json_schema": named}
            status, content = await self._post(orjson.dumps(body))
            if status not in _UNKNOWN_FORM:
                self._forms = [form]
                return _read(content, answer)
        raise LanguageModelFailed("The language model's server does not take the request.")

    async def _post(self, body: bytes) -> tuple[int, bytes]:
        """Return the status, of success or of an unknown form, and the bytes of the answer."""
        if self._tls is None:
            self._tls = await asyncio.to_thread(httpx.create_ssl_context)
        headers = self._headers | {"content-type": "application/json"}
        content = bytearray()
        try:
            async with (
                asyncio.timeout(self._timeout_seconds),
                httpx.AsyncClient(verify=self._tls, timeout=self._timeout_seconds) as client,
                client.stream("POST", self._url, content=body, headers=headers) as response,
            ):
                status = response.status_code
                if status in _UNKNOWN_FORM:
                    return status, b""
                if status != httpx.codes.OK:
                    raise LanguageModelFailed(
                        f"The language model's server answered with status {status}.",
                        transient=status in _TRANSIENT or status >= 500,
                        retry_after_seconds=retry_after_seconds(
                            response.headers.get("retry-after")
                        ),
                    )
                async for chunk in response.aiter_raw():
                    content += chunk
                    if len(content) > MAX_ANSWER_BYTES:
                        raise LanguageModelFailed("The language model's answer does not end.")
        except (TimeoutError, httpx.TimeoutException):
            message = "The language model did not answer in time."
            raise LanguageModelFailed(message, transient=True) from None
        except (httpx.HTTPError, httpx.InvalidURL):
            message = "The language model's server cannot be reached."
            raise LanguageModelFailed(message, transient=True) from None
        return status, bytes(content)


def _read(content: bytes, answer: type[AnswerT]) -> AnswerT:
    try:
        choice = _Completion.model_validate_json(content).choices[0]
        text = choice.message.content
        if choice.message.refusal or choice.finish_reason == "content_filter" or text is None:
            raise LanguageModelFailed("The language model refused to answer.")
        text = text.rpartition(_END_OF_THOUGHT)[2].strip()
        if text.startswith(_FENCE):
            text = text.removeprefix(_FENCE).removeprefix("json").removesuffix(_FENCE)
        return answer.model_validate_json(text)
    except ValidationError:
        message = "The language model's answer is not what was asked for."
        raise LanguageModelFailed(message) from None
