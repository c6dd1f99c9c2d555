"""What a resume refuses, and what it lets through aloud."""

import json
from dataclasses import replace

import pytest
import torch
import transformers
from accelerate import Accelerator

from hftrain.data.examples import Examples
from hftrain.models import TransformerConfig
from hftrain.train import checkpoint
from hftrain.train.contract import run_contract
from tests.train.resume_worker import WorkerConfig, train
from tests.train.test_resume import BrokenOff, break_off


# ------------------------------------------------------------------------------------------------- the contract
@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped") / "out"
    with pytest.raises(BrokenOff):
        train(WorkerConfig(output_dir=folder), break_off(5))
    return folder


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"learning_rate": 0.02}, "learning_rate: 0.01 when saved, 0.02 now"),
        ({"seed": 4}, "seed: 3 when saved, 4 now"),
        ({"global_batch_size": 4}, "global_batch_size: 8 when saved, 4 now"),
        (
            {"train_sampling_strategy": "group_by_length"},
            'train_sampling_strategy: "random" when saved, "group_by_length" now',
        ),
        ({"max_steps": 13}, "total_steps: 12 when saved, 13 now"),
        ({"examples": 21}, "examples: 20 when saved, 21 now"),
        ({"optim": "muon"}, 'optim: "adamw_torch" when saved, "muon" now'),
        ({"dropout": 0.2}, "model.dropout: 0.1 when saved, 0.2 now"),
        ({"ema_decay": 0.9}, "ema_decay: null when saved, 0.9 now"),
    ],
)
def test_another_run_is_refused_with_both_values(stopped, setting, message):
    with pytest.raises(ValueError, match="--resume_allow") as refused:
        train(replace(WorkerConfig(output_dir=stopped, resume_from_checkpoint="auto"), **setting))
    assert message in str(refused.value)


def test_the_number_format_of_the_weights_is_part_of_the_contract(tmp_path):
    contracts = []
    for dtype in (torch.float32, torch.bfloat16):
        shape = TransformerConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_attention_heads=2)
        model = transformers.AutoModelForSeq2SeqLM.from_config(shape, dtype=dtype)
        contracts.append(run_contract(Accelerator(), model, Examples.of([1, 2]), 1, WorkerConfig()))
    with pytest.raises(ValueError, match=r'model.dtype: "float32" when saved, "bfloat16" now'):
        checkpoint.check_contract(*contracts, [])


def test_what_is_allowed_is_let_through_aloud(stopped, tmp_path, capsys):
    config = WorkerConfig(output_dir=tmp_path, resume_from_checkpoint=str(stopped / "checkpoint-4"))
    config = replace(config, learning_rate=0.02, resume_allow=["learning_rate"])
    _, results = train(config)
    assert "--resume_allow accepts learning_rate: 0.01 when saved, 0.02 now" in capsys.readouterr().out
    assert results["total_steps"] == 12
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [6, 8, 10, 12]
    assert rows[0]["learning_rate"] == pytest.approx(2 * 0.007077, rel=1e-4)
