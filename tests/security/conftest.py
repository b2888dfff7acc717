"""The whole service, with the fixtures of its acceptance tests."""

from tests.acceptance.conftest import (  # noqa: F401
    ada,
    admin,
    bob,
    media,
    recording,
    service,
    service_settings,
    simulator,
)
