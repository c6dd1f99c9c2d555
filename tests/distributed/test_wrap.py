"""Models that cannot be sharded are refused at the start, with the way out."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from torch import nn

from hftrain.distributed import check_sharing

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
