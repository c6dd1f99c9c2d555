"""Kernels of other libraries are refused where they cannot run; what they reach, `bench/gpu.py` shows."""

from importlib.util import find_spec

import pytest
import torch

from hftrain import TrainConfig, start
from hftrain.models.kernels import LIBRARIES, check_kernels

pytestmark = pytest.mark.unit


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("name", LIBRARIES)
def test_a_cpu_refuses_them(name, tmp_path):
    with pytest.raises(ValueError, match=f"{name}: its kernels are written for GPUs .* set it false"):
        start(TrainConfig(output_dir=str(tmp_path), **{name: True}))


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_missing_library_is_named(name, tmp_path):
    if find_spec(LIBRARIES[name]):
        pytest.skip(f"{LIBRARIES[name]} is installed")
    with pytest.raises(ValueError, match=rf"{name} needs the package .*: pip install 'hftrain\[kernels\]'"):
        check_kernels(TrainConfig(output_dir=str(tmp_path), **{name: True}), "cuda")
    check_kernels(TrainConfig(output_dir=str(tmp_path)), "cpu")
