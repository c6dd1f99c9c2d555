"""Models that cannot be sharded are refused at the start, with the way out."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from torch import nn

from hftrain.distributed import check_sharing, give_dimensions, single_numbers

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


def test_single_numbers_get_a_dimension_and_are_exported_without_it():
    model = nn.Sequential(Scaled())
    before = model[0].alpha
    give_dimensions(model)
    assert model[0].alpha.shape == (1,) and model[0].alpha.item() == before.item()
    assert single_numbers(model) == {"0.alpha"}
    assert all(parameter.ndim for parameter in model.parameters())
