"""A campaign for each test that asks for one."""

from pathlib import Path

import pytest

from campaign import Campaign


@pytest.fixture
def campaign(request) -> Campaign:
    option = request.config.getoption
    figures = option("--figures")
    file = request.path.relative_to(request.config.rootpath / "tests").as_posix()
    return Campaign(request.node.name, file, option("--cases"), option("--seconds"), Path(figures) if figures else None)
