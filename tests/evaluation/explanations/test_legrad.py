"""LeGrad equals a slow computation: one image and one layer at a time, with the eager attention of transformers."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.evaluation.explanations.legrad import LeGrad
from pipeline.evaluation.explanations.methods import find_method
from pipeline.evaluation.explanations.recording import logits_after, record, record_prefix
from tests.evaluation.explanations.planting import LEGRAD, new_network


def slow_legrad(model: Any, image: Tensor, number: int, grid: tuple[int, int]) -> Tensor:
    """Return the map of one image: the graph of the complete network, cut by autograd only."""
    model.set_attn_implementation("eager")
    output = model(pixel_values=image[None], output_attentions=True, output_hidden_states=True)
    layers = output.hidden_states[1:]
    found = []
    for place, attention in enumerate(output.attentions):
        is_last = place + 1 == len(layers)
        logits = output.logits if is_last else logits_after(model, [layers[place]], image[None])[0]
        (gradient,) = torch.autograd.grad(logits[0, number], attention, retain_graph=True)
        found.append((gradient * attention).detach()[0].clamp(min=0).mean(dim=0).mean(dim=0))
    relevance = torch.stack(found).mean(dim=0)
    model.set_attn_implementation("sdpa")
    return relevance[-grid[0] * grid[1] :].reshape(grid)


@pytest.mark.parametrize("name", LEGRAD)
def test_maps_of_a_batch_equal_the_slow_computation(name: str) -> None:
    classifier = new_network(name)
    method = find_method(classifier)
    assert isinstance(method, LeGrad)
    torch.manual_seed(1)
    pixels, classes = torch.randn(3, 3, 32, 32), torch.tensor([0, 2, 1])
    maps = method.explain(pixels).relevance(classes)
    for image, number, relevance in zip(pixels, classes.tolist(), maps, strict=True):
        expected = slow_legrad(classifier.model, image, number, method.grid)
        torch.testing.assert_close(relevance, expected, rtol=1e-4, atol=1e-9)
        assert relevance.max() > 0


@pytest.mark.parametrize("name", LEGRAD)
def test_recording_leaves_the_network_as_it_was_and_agrees_with_it(name: str) -> None:
    classifier = new_network(name)
    model: Any = classifier.model
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = model(pixel_values=pixels).logits
    recorded = record(model, pixels)
    torch.testing.assert_close(recorded.logits, before, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits_after(model, recorded.hidden, pixels)[-1], before, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        assert torch.equal(model(pixel_values=pixels).logits, before)
    assert model.config._attn_implementation == "sdpa"
    assert all(weight.requires_grad for weight in model.parameters())
    assert not [module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks]
    model.set_attn_implementation("eager")
    attentions = model(pixel_values=pixels, output_attentions=True).attentions
    for ours, theirs in zip(recorded.attention, attentions, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_attention_of_the_class_token_is_that_of_the_first_token() -> None:
    classifier = new_network("vit")
    pixels = torch.randn(2, 3, 32, 32)
    attention = find_method(classifier).explain(pixels).attention
    assert attention is not None
    assert attention.shape == (2, 2, 2, 4, 4)  # layers, images, heads, rows, columns
    assert (attention.sum(dim=(-1, -2)) < 1).all()  # the rest goes to the class token
    assert find_method(new_network("siglip")).explain(pixels).attention is None


@pytest.mark.parametrize("name", LEGRAD)
def test_only_the_tokens_that_the_head_reads_are_differentiated(name: str) -> None:
    classifier = new_network(name)
    method = find_method(classifier)
    assert isinstance(method, LeGrad)
    assert method.reads_prefix == (name in ("vit", "deit", "deit distilled"))
    if not method.reads_prefix:
        return
    model, pixels = classifier.model, torch.randn(2, 3, 32, 32)
    recorded, full = record_prefix(model, pixels, method.num_prefix_tokens), record(model, pixels)
    torch.testing.assert_close(recorded.logits, full.logits, rtol=1e-5, atol=1e-6)
    for fewer, all_ in zip(recorded.hidden + recorded.attention, full.hidden + full.attention, strict=True):
        torch.testing.assert_close(fewer, all_[..., : method.num_prefix_tokens, :], rtol=1e-4, atol=1e-5)
    assert model.config._attn_implementation == "sdpa"
    assert all(weight.requires_grad for weight in model.parameters())
    assert not [module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks]
