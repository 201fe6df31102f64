"""A DeciLM, of which transformers has no class: merged, converted, run by llama.cpp and certified."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import llama_cpp as llama
import numpy as np
import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file
from transformers import AutoTokenizer

from common.certificate import Finding
from common.dataclass_json import to_json
from engine.llama.model import Model
from engine.probe.cpu_backend import load_cpu_backend
from pipeline.certificate.checks.logits import check_logits
from pipeline.certificate.checks.weights import check_weights
from pipeline.certificate.runner import worker
from pipeline.certificate.runner.registry import Check
from pipeline.certificate.subject import Subject
from pipeline.convert.job import ConvertJob
from pipeline.convert.toolchain import ensure_toolchain
from pipeline.progress import NoProgress
from pipeline.sources.adapter import Adapter, read_adapter
from pipeline.sources.model_source import adapter_source, base_source
from pipeline.tokenizers.own_code import NeedsCode, load_without_code
from tests.pipeline import deci
from tests.pipeline.chatml import CHATML

pytestmark = pytest.mark.slow

TOKENS = list(range(3, 300, 7))
FIRST = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "lm_head"]
OWN_TOKENIZER = {
    "tokenizer_class": "OwnTokenizer",
    "auto_map": {"AutoTokenizer": ["code.OwnTokenizer", None]},
}
_CONVERT_ALL = """
import json, sys
from pipeline.convert.worker import convert
from pipeline.errors import InputError
for request in json.load(open(sys.argv[1])):
    try:
        convert(request)
    except InputError as error:
        print(error, file=sys.stderr)
"""


def adapter_of(folder: Path, weight: float = 1.0) -> Adapter:
    return read_adapter(adapter_source(str(folder)), weight)


def with_own_tokenizer(folder: Path) -> Path:
    """Make a model whose tokenizer is code too; llama.cpp's converter asks for its code to be run."""
    deci.make_deci(folder, architectures=["DreamModel"], model_type="Dream")
    (folder / "tokenizer.model").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps(OWN_TOKENIZER))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, python: str) -> SimpleNamespace:
    """Convert three bases in one process; `errors` are its refusals, one a line."""
    folder = tmp_path_factory.mktemp("deci")
    base = deci.make_deci(folder / "base")
    (base / "chat_template.jinja").write_text(CHATML)  # the engine loads no model without one
    weights = load_file(base / "model.safetensors")
    first = adapter_of(
        deci.make_lora(folder / "first", weights, FIRST, alpha_pattern={"lm_head": 2}, use_rslora=True)
    )
    second = adapter_of(deci.make_lora(folder / "second", weights, ["up_proj", "q_proj"], seed=2), 0.5)
    unknown = deci.make_deci(folder / "unheard", architectures=["UnheardForCausalLM"], model_type="unheard")
    own = with_own_tokenizer(folder / "dream")
    toolchain = ensure_toolchain()
    jobs = [
        ConvertJob(base_source(str(one)), given, "f32", folder / f"{one.name}.gguf", "tiny", toolchain, 2)
        for one, given in ((base, (first, second)), (unknown, (first,)), (own, ()))
    ]
    requests = folder / "requests.json"
    requests.write_text(json.dumps([to_json(job) for job in jobs]))
    command = [python, "-c", _CONVERT_ALL, requests]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if "base model" in line or "tokenizer in" in line]
    return SimpleNamespace(
        base=base,
        weights=weights,
        adapters=(first, second),
        gguf=folder / "base.gguf",
        errors=errors,
        own=own,
    )


def merged(made: SimpleNamespace) -> deci.State:
    """Return the tuned model's weights in float32, by the formula of LoRA."""
    weights = {name: value.float() for name, value in made.weights.items()}
    for adapter, usual in zip(made.adapters, (8 / 2, 0.5 * 8 / 4), strict=True):
        tensors = load_file(adapter.weights_file)
        for name in [name for name in tensors if ".lora_A." in name]:
            path = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            scale = 2 / 2 if path == "lm_head" else usual
            weights[f"{path}.weight"] += scale * tensors[name.replace("_A.", "_B.")] @ tensors[name]
    return weights


def llama_cpp_logits(gguf: Path) -> Iterator[Any]:
    load_cpu_backend(gguf, threads=2)
    model = Model(gguf)
    params = llama.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = 256, 256, 256
    params.type_k = params.type_v = llama.GGML_TYPE_F32
    params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it rounds to f16
    context = llama.llama_init_from_model(model.handle, params)
    batch = llama.llama_batch_init(len(TOKENS), 0, 1)
    batch.n_tokens = len(TOKENS)
    for place, token in enumerate(TOKENS):
        batch.token[place], batch.pos[place], batch.logits[place] = token, place, 1
        batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
    assert llama.llama_decode(context, batch) == 0
    for place in range(len(TOKENS)):
        yield np.ctypeslib.as_array(llama.llama_get_logits_ith(context, place), (deci.VOCABULARY,)).copy()
    llama.llama_batch_free(batch)
    llama.llama_free(context)
    model.close()


def test_llama_cpp_computes_the_tuned_model(made: SimpleNamespace) -> None:
    reader = GGUFReader(made.gguf)
    assert len(reader.tensors) == len(made.weights) == 25
    assert reader.fields["deci.attention.head_count_kv"].contents() == [2, 0, 0, 1]
    assert reader.fields["deci.feed_forward_length"].contents() == [256, 0, 256, 512]
    found = torch.from_numpy(np.stack(list(llama_cpp_logits(made.gguf))))
    expected = deci.logits(merged(made), TOKENS)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    untuned = deci.logits({name: value.float() for name, value in made.weights.items()}, TOKENS)
    assert (found - untuned).abs().max() > 0.1 * expected.abs().max()


def findings(
    made: SimpleNamespace, adapters: tuple[Adapter, ...], check: Check, tmp_path: Path
) -> dict[str, Finding]:
    subject = Subject(
        reference=made.base,
        full=made.gguf,
        scratch=tmp_path,
        threads=1,
        base=base_source(str(made.base)),
        adapters=adapters,
        depth="full",
    )
    return {finding.name: finding for finding in check(subject, NoProgress())}


def test_the_certificate_says_what_it_cannot_check(made: SimpleNamespace, tmp_path: Path) -> None:
    found = findings(made, made.adapters, check_weights, tmp_path)
    assert {name: finding.status for name, finding in found.items()} == {
        "weights.head": "pass",
        "weights.values": "pass",
    }
    assert found["weights.values"].figures["compared"] == 25
    assert found["weights.values"].figures["share_of_change"] == 1
    logits = findings(made, made.adapters, check_logits, tmp_path)["logits"]
    assert logits.status == "skipped"
    assert logits.summary.startswith("transformers has no class for nemotron-nas to compare with")


def test_a_file_of_another_adapter_fails(made: SimpleNamespace, tmp_path: Path) -> None:
    other = adapter_of(deci.make_lora(tmp_path / "other", made.weights, FIRST, seed=3, use_rslora=True))
    values = findings(made, (other, made.adapters[1]), check_weights, tmp_path)["weights.values"]
    assert values.status == "fail"
    assert values.figures["differ"] == 15  # layers 0, 2 and 3, and the output
    assert findings(made, made.adapters[:1], check_weights, tmp_path)["weights.values"].status == "fail"


def test_what_the_converter_cannot_do_is_one_line(made: SimpleNamespace) -> None:
    unknown, own = made.errors
    assert "has the architecture UnheardForCausalLM, which llama.cpp's converter does not know" in unknown
    assert own.startswith(
        f"the tokenizer in {made.own} needs the code that it brings (code.OwnTokenizer), which"
    )


def test_a_tokenizer_that_is_code_is_skipped(
    made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NeedsCode, match=r"tokenizer in .*dream needs the code that it brings"):
        load_without_code(AutoTokenizer.from_pretrained, made.own)
    subject = Subject(reference=made.own, full=made.gguf, scratch=tmp_path, threads=1)
    sent: list[Any] = []
    monkeypatch.setattr(worker, "send", sent.append)
    worker.check({"subject": to_json(subject), "checks": ["tokenizer"]})
    [finding] = [message["finding"] for message in sent if "finding" in message]
    assert (finding["name"], finding["status"]) == ("tokenizer", "skipped")
    assert finding["summary"].startswith("The tokenizer in dream needs the code that it brings")
