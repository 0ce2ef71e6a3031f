from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.evals.grids.attention_grid import EPS, Layout, Probes, train
from core.types import generator_for

WIDTH, HEADS, NUM_CLASSES = 12, 3, 4


def random_tokens(batch=5, num=7) -> Tensor:
    return torch.randn(batch, num, WIDTH, generator=generator_for(0, "tokens"))


def probes_of(layout, num_probes=2, *, scatter=0.3, depth=1) -> Probes:
    """Probes whose every parameter is away from its start, and from its neighbours'."""
    probes = Probes(layout, WIDTH, HEADS, NUM_CLASSES, num_probes, generator_for(1), depth=depth)
    noise = torch.randn(probes.flat.shape, generator=generator_for(2))
    probes.flat = probes.flat + scatter * noise
    return probes


def torchs_own(parts: dict[str, Tensor]) -> nn.MultiheadAttention:
    """nn.MultiheadAttention with one probe's weights; its projection after the attention does nothing."""
    attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    with torch.no_grad():
        query = parts.get("query.weight", torch.eye(WIDTH))
        attention.in_proj_weight.copy_(torch.cat([query, parts["key.weight"], parts["value.weight"]]))
        zero = torch.zeros(WIDTH)
        attention.in_proj_bias.copy_(torch.cat([parts.get("query.bias", zero), zero, parts.get("value.bias", zero)]))
        attention.out_proj.weight.copy_(torch.eye(WIDTH))
        attention.out_proj.bias.zero_()
    return attention


def expected_logits(probes: Probes, index: int, tokens: Tensor) -> Tensor:
    """One probe written with torch's modules, nothing folded."""
    p = {name: values[index] for name, values in probes.parts().items()}
    query = p["query"].expand(len(tokens), 1, -1)
    if probes.layout is Layout.plain:
        pooled, _ = torchs_own(p)(query, tokens, tokens)
        return F.linear(pooled[:, 0], p["head.weight"], p["head.bias"])
    x = query
    for block in ["", "block2."][: probes.depth]:
        p |= {name.removeprefix(block): value for name, value in p.items() if name.startswith(block)}
        keys = F.layer_norm(tokens, (WIDTH,), p["norm1.scale"], p["norm1.shift"], EPS)
        x = x + torchs_own(p)(x, keys, keys)[0]
        normed = F.layer_norm(x, (WIDTH,), p["norm2.scale"], p["norm2.shift"], EPS)
        hidden = F.gelu(F.linear(normed, p["up.weight"], p["up.bias"]))
        x = x + F.linear(hidden, p["down.weight"], p["down.bias"])
    return F.linear(x[:, 0], p["head.weight"], p["head.bias"])


@pytest.mark.parametrize("layout", Layout)
def test_each_probe_equals_torchs_multihead_attention_with_the_same_weights(layout):
    probes, tokens = probes_of(layout, 3), random_tokens()
    logits = probes(tokens)
    assert logits.shape == (3, 5, NUM_CLASSES)
    for index in range(3):
        assert torch.allclose(logits[index], expected_logits(probes, index, tokens), atol=1e-5)


def test_a_probe_of_two_blocks_equals_torchs_attention_asked_twice():
    probes, tokens = probes_of(Layout.vjepa, 3, depth=2), random_tokens()
    logits = probes(tokens)
    for index in range(3):
        assert torch.allclose(logits[index], expected_logits(probes, index, tokens), atol=1e-5)


@pytest.mark.parametrize("layout", Layout)
def test_a_bias_of_the_keys_would_change_nothing(layout):
    probes, tokens = probes_of(layout, 1), random_tokens()
    attention = torchs_own({name: values[0] for name, values in probes.parts().items()})
    query = probes.parts()["query"][0].expand(5, 1, -1)
    before = attention(query, tokens, tokens)[0]
    with torch.no_grad():
        attention.in_proj_bias[WIDTH : 2 * WIDTH] = torch.randn(WIDTH, generator=generator_for(3))
    assert torch.allclose(attention(query, tokens, tokens)[0], before, atol=1e-6)


@pytest.mark.parametrize("layout", Layout)
def test_the_order_of_the_tokens_does_not_matter(layout):
    probes, tokens = probes_of(layout), random_tokens()
    assert torch.allclose(probes(tokens.flip(1)), probes(tokens), atol=1e-5)


@pytest.mark.parametrize("layout", Layout)
def test_bfloat16_tokens_give_nearly_the_same(layout):
    probes, tokens = probes_of(layout), random_tokens()
    half = probes(tokens.bfloat16())
    assert half.dtype == torch.float32
    assert torch.allclose(half, probes(tokens), atol=0.1, rtol=0.05)


def batches(num_steps=6, *, size=16):
    generator = generator_for(4)
    for _ in range(num_steps):
        labels = torch.randint(NUM_CLASSES, (size,), generator=generator)
        tokens = torch.randn(size, 7, WIDTH, generator=generator)
        tokens[:, 0, :NUM_CLASSES] += 2 * F.one_hot(labels, NUM_CLASSES)
        yield tokens, labels


def trained(layout, settings, *, clip: float | None = 1.0) -> Probes:
    probes = Probes(layout, WIDTH, HEADS, NUM_CLASSES, len(settings), generator_for(1))
    train(probes, batches(), settings=settings, num_steps=6, clip=clip)
    return probes


SETTINGS = list(itertools.product([0.001, 0.01, 0.03], [0.0, 0.5]))


@pytest.mark.parametrize("layout", Layout)
def test_a_probe_trained_in_a_grid_of_six_equals_itself_trained_alone(layout):
    grid = trained(layout, SETTINGS)
    for index, setting in enumerate(SETTINGS):
        alone = trained(layout, [setting])
        assert torch.allclose(grid.only(index).flat, alone.flat, atol=1e-5)
    assert not torch.allclose(grid.flat[0], grid.flat[2], atol=1e-3)  # another rate
    assert not torch.allclose(grid.flat[4], grid.flat[5], atol=1e-3)  # another decay


@pytest.mark.parametrize("layout", Layout)
def test_training_equals_torchs_adamw_clipping_and_cosine_on_the_unfolded_modules(layout):
    lr, weight_decay, clip = 0.01, 0.1, 0.5
    start = Probes(layout, WIDTH, HEADS, NUM_CLASSES, 1, generator_for(1))
    parameters = {name: nn.Parameter(values[0].clone()) for name, values in start.parts().items()}
    reference = _Named(start, parameters)
    is_decayed = {name: parameter.is_decayed for name, parameter in start.table.items()}
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for name, p in parameters.items() if is_decayed[name]], "weight_decay": weight_decay},
            {"params": [p for name, p in parameters.items() if not is_decayed[name]], "weight_decay": 0.0},
        ],
        lr=lr,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
    for tokens, labels in batches():
        optimizer.zero_grad()
        F.cross_entropy(reference(tokens), labels).backward()
        nn.utils.clip_grad_norm_(parameters.values(), clip)
        optimizer.step()
        schedule.step()
    ours = trained(layout, [(lr, weight_decay)], clip=clip)
    for name, values in ours.parts().items():
        assert torch.allclose(values[0], parameters[name], atol=1e-5), name


class _Named:
    """One probe computed from given parameters by `expected`, through autograd."""

    def __init__(self, probes: Probes, parameters: dict[str, nn.Parameter]) -> None:
        self.layout, self.parameters = probes.layout, parameters

    def __call__(self, tokens: Tensor) -> Tensor:
        p, size = self.parameters, WIDTH // HEADS
        query, keys = p["query"], tokens
        if self.layout is Layout.vjepa:
            keys = F.layer_norm(tokens, (WIDTH,), p["norm1.scale"], p["norm1.shift"], EPS)
            query = F.linear(query, p["query.weight"], p["query.bias"])
        k = F.linear(keys, p["key.weight"]).unflatten(-1, (HEADS, size)).transpose(1, 2)
        v = F.linear(keys, p["value.weight"], p.get("value.bias")).unflatten(-1, (HEADS, size)).transpose(1, 2)
        q = query.view(1, HEADS, 1, size).expand(len(tokens), -1, -1, -1)
        x = F.scaled_dot_product_attention(q, k, v).flatten(1)
        if self.layout is Layout.vjepa:
            x = x + p["query"]
            normed = F.layer_norm(x, (WIDTH,), p["norm2.scale"], p["norm2.shift"], EPS)
            hidden = F.gelu(F.linear(normed, p["up.weight"], p["up.bias"]))
            x = x + F.linear(hidden, p["down.weight"], p["down.bias"])
        return F.linear(x, p["head.weight"], p["head.bias"])


@pytest.mark.parametrize("layout", Layout)
def test_a_probe_that_diverges_leaves_its_neighbours_alone(layout):
    settings = [(0.001, 0.0), (1e30, 0.0)]
    grid = trained(layout, settings, clip=None)
    assert not grid.flat[1].isfinite().all() or grid.flat[1].abs().max() > 1e20
    assert torch.allclose(grid.flat[0], trained(layout, settings[:1], clip=None).flat[0], atol=1e-5)


def test_weights_and_query_are_decayed_and_biases_and_norms_are_not():
    probes = Probes(Layout.vjepa, WIDTH, HEADS, NUM_CLASSES, 1, generator_for(1))
    undecayed = {name for name, parameter in probes.table.items() if not parameter.is_decayed}
    assert undecayed == {name for name in probes.table if ".bias" in name or "norm" in name}
    assert sum(part.stop - part.start for part, _ in probes.decayed_columns()) == probes.flat.shape[1]
