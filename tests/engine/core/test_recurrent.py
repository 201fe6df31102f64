"""The state of a recurrent model cannot be shortened: it is reused whole or recomputed. Random weights."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from engine.config import SamplingParams
from engine.core.engine import Engine
from engine.llama.model import Model
from engine.llama.runner import Runner
from engine.probe.cpu_backend import load_cpu_backend
from tests.engine.helpers import run, text_of

WIDTH, INNER, STATE, CONV, RANK, LAYERS = 64, 128, 16, 4, 4, 2
SAMPLING = SamplingParams(temperature=0, repeat_penalty=1.0, max_tokens=12)


def _write_mamba(path: Path) -> Path:
    random = np.random.default_rng(3)
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(LAYERS)
    writer.add_ssm_conv_kernel(CONV)
    writer.add_ssm_inner_size(INNER)
    writer.add_ssm_state_size(STATE)
    writer.add_ssm_time_step_rank(RANK)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), *map(chr, range(97, 123))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * 26])
    shapes = {
        "attn_norm.weight": (WIDTH,),
        "ssm_in.weight": (2 * INNER, WIDTH),
        "ssm_conv1d.weight": (INNER, CONV),
        "ssm_conv1d.bias": (INNER,),
        "ssm_x.weight": (RANK + 2 * STATE, INNER),
        "ssm_dt.weight": (INNER, RANK),
        "ssm_dt.bias": (INNER,),
        "ssm_a": (INNER, STATE),
        "ssm_d": (INNER,),
        "ssm_out.weight": (WIDTH, INNER),
    }
    named = {f"blk.{n}.{name}": shape for n in range(LAYERS) for name, shape in shapes.items()}
    named |= {"token_embd.weight": (len(tokens), WIDTH), "output_norm.weight": (WIDTH,)}
    for name, shape in named.items():
        values = random.normal(0, 0.5, shape).astype(np.float32)
        writer.add_tensor(name, -np.abs(values) if name.endswith("ssm_a") else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def mamba(smollm2: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    load_cpu_backend(smollm2)
    return _write_mamba(tmp_path_factory.mktemp("mamba") / "mamba.gguf")


def _run_conversations(path: Path, *, cache_ram: int) -> tuple[list[str], int, int]:
    """Run three conversations through one slot, two turns each; return texts, restores and cached tokens."""
    model = Model(path)
    runner = Runner(model, slots=1, context=256, batch=64, threads=1)
    assert not runner.can_truncate
    engine = Engine(runner, slots=1, context=256, queue=4, batch=64, cache_ram=cache_ram)
    texts, number, chats = [], 0, [[259 + n] * 3 + list(range(262, 283)) * 3 for n in range(3)]
    for _ in range(2):
        for chat in chats:
            number += 1
            events = run(engine, engine.add(number, list(chat), SAMPLING))[number]
            texts.append(text_of(events))
            chat += [*engine._scheduler.slots[0].tokens[len(chat) :], 265, 266, 267]
    stats = engine.stats()
    engine.close()
    model.close()
    return texts, stats.restores, stats.cached_tokens


def test_saved_states_are_whole_or_not_used(mamba: Path) -> None:
    kept, restores, cached = _run_conversations(mamba, cache_ram=64 << 20)
    bare, none, nothing = _run_conversations(mamba, cache_ram=0)
    assert kept == bare and any(kept)
    assert restores >= 3 and cached > 100 and none == nothing == 0
