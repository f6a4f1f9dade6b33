import time
from typing import Any

from pipeline.models.inference import forward_seconds
from tests.evaluation.explanations.planting import new_network


def test_the_seconds_of_a_forward_pass_are_those_of_the_second_one() -> None:
    model: Any = new_network("vit").model
    waits, shapes, modes = [0.5, 0.05], list[tuple[int, ...]](), list[bool]()

    def wait(module: Any, _: object, values: dict[str, Any], __: object) -> None:
        shapes.append(tuple(values["pixel_values"].shape))
        modes.append(module.training)
        time.sleep(waits[len(shapes) - 1])

    model.train()
    model.register_forward_hook(wait, with_kwargs=True)
    assert 0.05 <= forward_seconds(model, (32, 32)) < 0.5
    assert shapes == [(1, 3, 32, 32)] * 2
    assert modes == [False, False]
    assert model.training
