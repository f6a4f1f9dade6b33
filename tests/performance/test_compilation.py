"""When compiled steps pay, the graph of a compiled network, incomplete batches, and what happens if compiling fails."""

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

from pipeline.performance.compilation import CompiledNetwork, Steps, choose, compile_network, store

CPU = torch.device("cpu")
STEPS = Steps("ViTForImageClassification", 35_200_000_000, 128, "bf16", "H200")
RATE = 755e12


@pytest.fixture(autouse=True)
def cache_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    return tmp_path / "datasets"


def small_vit() -> Any:
    shape: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "num_labels": 3}
    return ViTForImageClassification(ViTConfig(intermediate_size=32, image_size=32, patch_size=8, **shape))


def compiled(network: Any, *, batch: int, backend: Any) -> CompiledNetwork | None:
    return compile_network(network, (32, 32), batch=batch, device=CPU, backend=backend, mode=None)


@pytest.mark.parametrize(
    ("measured", "images", "pays"),
    [
        ({}, 102_000, False),  # the recipe flowers102: 100 epochs of 1,020 images
        ({}, 1_020_000, True),
        ({"compile_seconds": 5.0}, 102_000, True),
        ({"images_per_second": 2600.0, "compiled_images_per_second": 2500.0}, 10**9, False),
        ({"images_per_second": 2600.0, "compiled_images_per_second": 3300.0, "compile_seconds": 8.0}, 102_000, True),
    ],
)
def test_compiling_pays_if_it_saves_more_than_it_takes(measured: dict[str, float], images: int, pays: bool) -> None:
    store(STEPS, measured)
    store(Steps("Other", 1, 128, "bf16", "H200"), {"compile_seconds": 1e-3})
    choice = choose(STEPS, images=images, rate=RATE)
    assert choice.pays is pays, choice.reason
    assert ("estimated" in choice.reason) is (not measured)


def test_what_was_measured_is_merged_and_a_damaged_file_is_empty(cache_root: Path) -> None:
    store(STEPS, {"images_per_second": 2600.0})
    store(STEPS, {"compile_seconds": 8.0})
    assert "2 of 3 numbers were measured" in choose(STEPS, images=10, rate=RATE).reason
    file = cache_root / "vit-pipeline" / "compile.json"
    for damage in ("{", "[]", '{"a": 3}', file.read_text().replace("8.0", '"8"'), file.read_text().replace("8.0", "0")):
        file.write_text(damage)
        assert "estimated" in choose(STEPS, images=10, rate=RATE).reason


def test_a_compiler_that_raises_leaves_the_network_and_the_random_state_as_they_were() -> None:
    def fail(graph: Any, inputs: Any) -> Any:
        raise AssertionError(f"{len(graph.graph.nodes)} nodes,\n{len(inputs)} inputs")

    network, state = small_vit(), torch.get_rng_state()
    assert compiled(network, batch=2, backend=fail) is None
    assert torch.equal(torch.get_rng_state(), state)
    assert network(pixel_values=torch.zeros(2, 3, 32, 32)).logits.shape == (2, 3)
    assert all(weight.grad is None for weight in network.parameters())


def test_a_compiled_vit_is_one_graph_with_attention_that_has_no_mask() -> None:
    """With a mask, or in pieces, a GPU would not use its fused kernels."""
    graphs: list[Any] = []

    def keep(graph: Any, inputs: Any) -> Any:
        del inputs
        graphs.append(graph)
        return graph.forward

    network = small_vit()
    network.set_attn_implementation("sdpa")
    assert compiled(network, batch=4, backend=keep) is not None
    (graph,) = graphs
    calls = [node for node in graph.graph.nodes if node.target is nn.functional.scaled_dot_product_attention]
    assert len(calls) == 3
    assert all(node.kwargs.get("attn_mask") is None and len(node.args) == 3 for node in calls)


def test_a_batch_is_filled_up_with_its_own_images_but_not_for_batch_norm() -> None:
    batch = torch.arange(5).float().view(5, 1, 1, 1)
    network = CompiledNetwork(small_vit(), batch=8)
    assert network.fill(batch).flatten().tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert network.fill(batch[:1]).flatten().tolist() == [0] * 8
    shape: dict[str, Any] = {"hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic", "num_labels": 3}
    resnet: Any = ResNetForImageClassification(ResNetConfig(embedding_size=8, **shape))
    calls: list[int] = []

    def count(graph: Any, inputs: Any) -> Any:
        del inputs
        calls.append(1)
        return graph.forward

    found = compiled(resnet, batch=8, backend=count)
    assert found is not None
    assert found.fill(batch) is batch
    before = len(calls)
    with found.mode(batch):
        assert resnet(pixel_values=torch.zeros(5, 3, 32, 32)).logits.shape == (5, 3)
    assert len(calls) == before
