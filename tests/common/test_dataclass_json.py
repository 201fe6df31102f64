from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from common.dataclass_json import from_json, to_json
from pipeline.convert.job import ConvertJob
from pipeline.quantize.job import Quantization, QuantizeJob
from pipeline.quantize.types import TensorTypes, quant_type
from pipeline.sources.adapter import Adapter
from pipeline.sources.model_source import Source, TensorInfo

BASE = Source("you/base", Path("/cache/abc"), "abc")
ADAPTER = Adapter(
    Source("lora", Path("/lora"), None),
    {"peft_type": "LORA", "r": 8, "rank_pattern": {"q_proj": 4}, "lora_dropout": 0.1, "bias": None},
    {"base_model.model.q_proj.lora_A.weight": TensorInfo((8, 64), "F32")},
    0.7,
)
TYPES = TensorTypes((("blk.*.attn_v", "Q6_K"),), "Q8_0", None, pure=True)
JOB = ConvertJob(BASE, (ADAPTER,), "f16", Path("/out/a.gguf"), "a", Path("/tools"), 2, types=TYPES)
QUANTIZE = QuantizeJob(
    Quantization(Path("/a.gguf"), quant_type("Q4_K_M"), TYPES, Path("/i.gguf")),
    Path("/b.gguf"),
    2,
    (Path("/c.gguf"),),
    10**9,
)


@pytest.mark.parametrize("job", [JOB, replace(JOB, evaluation=Path("/chats.jsonl")), QUANTIZE])
def test_a_request_crosses_a_process_whole(job: ConvertJob | QuantizeJob) -> None:
    assert from_json(type(job), json.loads(json.dumps(to_json(job)))) == job


def test_a_request_with_a_field_of_another_type_is_refused() -> None:
    with pytest.raises(ValidationError, match="threads"):
        from_json(ConvertJob, {**to_json(JOB), "threads": "many"})
