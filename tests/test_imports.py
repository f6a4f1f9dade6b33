"""Imports without the garbage collector."""

import gc

import pytest

from pipeline.imports import fast_imports


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_suspended_in_the_block_and_then_as_before(enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()
    try:
        with fast_imports():
            assert not gc.isenabled()
        assert gc.isenabled() == enabled
        with pytest.raises(ImportError), fast_imports():
            raise ImportError
        assert gc.isenabled() == enabled
    finally:
        gc.enable()
