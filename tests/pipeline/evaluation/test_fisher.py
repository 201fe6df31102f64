"""The Fisher information of columns, held against the gradients of the weights themselves."""

from __future__ import annotations

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pipeline.evaluation.fisher import _SEED, Text, column_information


def tiny(*, tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config).eval()


def test_a_columns_information_is_the_squared_gradient_summed_over_its_rows() -> None:
    """With one token, a weight's gradient is the one product of an output's gradient and an input."""
    model = tiny(tied=False)
    texts = [Text((number,), (0,)) for number in (3, 17, 39)]
    expected = {name: np.zeros(value.shape[-1]) for name, value in model.named_parameters()}
    generator = torch.Generator().manual_seed(_SEED)
    for text in texts:
        model.zero_grad()
        log_p = torch.log_softmax(model(input_ids=torch.tensor([text.ids])).logits[0], -1)
        drawn = torch.multinomial(log_p.detach().exp(), 1, generator=generator)
        log_p.gather(1, drawn).sum().backward()
        for name, value in model.named_parameters():
            assert value.grad is not None
            expected[name] += value.grad.square().reshape(-1, value.shape[-1]).sum(0).numpy() / len(texts)
    done: list[int] = []
    linear, embedding = column_information(model, texts, done.append)
    assert done == [1, 2, 3]
    assert "lm_head" in linear and len(linear) == 2 * 7 + 1
    for name, found in {**linear, **embedding}.items():
        np.testing.assert_allclose(found, expected[f"{name}.weight"], rtol=1e-4, atol=1e-12)
    assert all(not value.requires_grad for value in model.parameters())


def test_it_predicts_the_divergence_that_small_errors_of_one_matrix_cause() -> None:
    model = tiny(tied=True).double()  # a divergence of 1e-8 is below what float32 resolves
    random = torch.Generator().manual_seed(1)
    ids = [torch.randint(0, 40, (12,), generator=random).tolist() for _ in range(40)]
    texts = [Text(tuple(one), tuple(range(4, 12))) for one in ids]
    linear, _ = column_information(model, texts, lambda done: None)
    layer = model.get_submodule("model.layers.1.mlp.down_proj")
    assert isinstance(layer, torch.nn.Linear)
    with torch.no_grad():
        before = torch.log_softmax(model(input_ids=torch.tensor(ids)).logits[:, 4:], -1)
        predicted, actual = [], []
        weight = layer.weight.clone()
        for _ in range(8):
            error = 0.003 * torch.randn(weight.shape, generator=random, dtype=weight.dtype)
            layer.weight.copy_(weight + error)
            after = torch.log_softmax(model(input_ids=torch.tensor(ids)).logits[:, 4:], -1)
            actual.append(float((before.exp() * (before - after)).sum(-1).mean()))
            predicted.append(
                float(error.square().mean(0).numpy() @ linear["model.layers.1.mlp.down_proj"]) / 2
            )
    assert 0.7 < np.mean(predicted) / np.mean(actual) < 1.4
