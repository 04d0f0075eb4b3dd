"""A campaign for each test that asks for one, and a process of its own for those that damage files."""

from pathlib import Path

import pytest

from campaign import Campaign, isolated


@pytest.fixture
def campaign(request) -> Campaign:
    option = request.config.getoption
    figures = option("--figures")
    file = request.path.relative_to(request.config.rootpath / "tests").as_posix()
    return Campaign(request.node.name, file, option("--cases"), option("--seconds"), Path(figures) if figures else None)


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    with isolated.worker(tmp_path_factory.mktemp("worker")) as worker:
        yield worker
