"""Before a model is wrapped: those that cannot be sharded are refused, and memory is not left in pieces."""

import os
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from torch import nn

from hftrain.distributed import check_sharing, give_dimensions, single_numbers
from hftrain.distributed.groups import Groups, fsdp_groups
from hftrain.distributed.start import expand_segments
from tests import tiny

pytestmark = pytest.mark.unit


class Scaled(nn.Linear):
    """A layer with a single number as a parameter, as SpeechT5's positions have it."""

    def __init__(self):
        super().__init__(2, 2)
        self.alpha = nn.Parameter(torch.tensor(1.0))


@pytest.mark.parametrize("kind", [DistributedType.DEEPSPEED, DistributedType.FSDP])
def test_a_parameter_without_a_dimension_is_refused(kind):
    accelerator = SimpleNamespace(distributed_type=kind)
    with pytest.raises(ValueError, match=r"its parameter alpha is a single number.*use DDP"):
        check_sharing(accelerator, Scaled())


def test_it_trains_without_sharding():
    check_sharing(SimpleNamespace(distributed_type=DistributedType.MULTI_CPU, state=SimpleNamespace()), Scaled())


@pytest.mark.parametrize(
    ("gpu", "given", "value"),
    [
        (True, {}, "expandable_segments:True"),
        (True, {"PYTORCH_ALLOC_CONF": "backend:native"}, "backend:native"),
        (True, {"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}, None),
        (False, {}, None),
    ],
)
def test_segments_expand_on_a_gpu_unless_the_allocator_is_set(monkeypatch, gpu, given, value):
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    for name, setting in given.items():
        monkeypatch.setenv(name, setting)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    expand_segments()
    assert os.environ.get("PYTORCH_ALLOC_CONF") == value


def test_single_numbers_get_a_dimension_and_are_exported_without_it():
    model = nn.Sequential(Scaled())
    before = model[0].alpha
    give_dimensions(model)
    assert model[0].alpha.shape == (1,) and model[0].alpha.item() == before.item()
    assert single_numbers(model) == {"0.alpha"}
    assert all(parameter.ndim for parameter in model.parameters())


def test_groups_of_fsdp2_have_no_parameter_in_common():
    assert fsdp_groups(tiny.model("LlamaForCausalLM"), None) == Groups(["LlamaDecoderLayer"], True)
    in_a_layer = tiny.model("BertForSequenceClassification")
    assert "BertEmbeddings" in in_a_layer._no_split_modules
    assert fsdp_groups(in_a_layer, None) == Groups(["BertLayer"], True)
    shared = tiny.model("T5ForConditionalGeneration", d_kv=8)
    assert fsdp_groups(shared, None) == Groups(["T5Block"], False)
    without = fsdp_groups(tiny.model("ConvNextForImageClassification", hidden_sizes=[8] * 4, depths=[1] * 4), None)
    assert without == Groups(["ConvNextLayer", "ConvNextStage"], True)


def test_layers_that_share_a_weight_are_refused():
    model = tiny.model("LlamaForCausalLM", num_hidden_layers=2)
    first, second = model.model.layers
    second.mlp.up_proj.weight = first.mlp.up_proj.weight
    with pytest.raises(ValueError, match=r"layers\.0\.mlp\.up_proj\.weight = .* would be in two groups.*zero3\.yaml"):
        fsdp_groups(model, None)
