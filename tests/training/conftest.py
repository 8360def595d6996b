"""What the tests of training share."""

import pytest

from tests.helpers.runs.trainings import few_prompts


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """The benchmark `few`."""
    with few_prompts(tmp_path_factory.mktemp("few")):
        yield
