"""The families' networks, made once."""

import copy
from collections.abc import Callable

import pytest
from transformers import PreTrainedModel

from tests.models.building import build
from tests.models.families import save

Make = Callable[[str], PreTrainedModel]


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A family's network for the three colours, a copy for each caller."""
    made: dict[str, PreTrainedModel] = {}

    def of(name: str) -> PreTrainedModel:
        if name not in made:
            folder = tmp_path_factory.mktemp("family")
            save(name, folder)
            made[name] = build(folder)
        return copy.deepcopy(made[name])

    return of
