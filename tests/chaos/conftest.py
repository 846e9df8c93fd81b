"""A site per test, cleaned up whatever happens."""

from collections.abc import Iterator

import pytest

from tests.hubs import HubSite


@pytest.fixture
def site() -> Iterator[HubSite]:
    made = HubSite(load_s=0.1)
    try:
        yield made
    finally:
        made.close()
