"""Tensors without data, and the bytes that they would take on a GPU.

Under `FakeTensorMode` a model runs forward and backward without memory for weights or activations. `Alive` adds up what
is alive meanwhile; `Stack` lets two layers stand for many; `AsOnGpu` mends what a CPU would keep otherwise.
"""

import weakref

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary


def size(tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class FourBits(nn.Linear):
    """A linear layer with the bytes of nf4 with double quantization: half a byte a weight, one for each 64 weights and
    four for each 16,384. The weight is unpacked to bf16 where it is multiplied with."""

    def __init__(self, out_features, in_features):
        nn.Module.__init__(self)
        self.in_features, self.out_features = in_features, out_features
        numbers = out_features * in_features
        packed = torch.empty(numbers // 2 + numbers // 64 + numbers // 4096, dtype=torch.uint8)
        self.weight, self.bias = nn.Parameter(packed, requires_grad=False), None

    def forward(self, states):
        return Unpacked.apply(states.to(torch.bfloat16), self.weight, (self.out_features, self.in_features))


class Unpacked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states, packed, shape):
        ctx.shape = shape
        return states @ states.new_empty(shape).T

    @staticmethod
    def backward(ctx, gradient):
        return gradient @ gradient.new_empty(ctx.shape), None, None


def fake_weights(model):
    """Exchanges the weights on the meta device for fake ones that seem to be on the CPU; tied ones stay tied."""
    known = {}
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, value in table.items():
                if value is not None and value not in known:
                    known[value] = torch.empty(value.shape, dtype=value.dtype, device="cpu")
                    if isinstance(value, nn.Parameter):
                        known[value] = nn.Parameter(known[value], requires_grad=value.requires_grad)
                table[name] = known.get(value)


class AsOnGpu(TorchFunctionMode):
    """Fake tensors are on the CPU; autocast of GPUs leaves norms and softmax in fp32, dropout keeps a mask of a byte,
    and that of attention keeps none."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is F.dropout:
            return dropout(*args, **kwargs)
        if function is F.scaled_dot_product_attention:
            kwargs = kwargs | {"dropout_p": 0.0}
        if function in (F.layer_norm, F.softmax, torch.softmax, torch.Tensor.softmax) and args[0].is_floating_point():
            args = (args[0].float(), *args[1:])
        return function(*args, **kwargs)


def dropout(states, p=0.5, training=True, inplace=False):
    return torch.native_dropout(states, p, True)[0] if p and training else states


class Alive(TorchDispatchMode):
    """Adds up the bytes of all tensors that are made and not yet freed, and of layers that are not there (`Stack`)."""

    def __init__(self, existing):
        super().__init__()
        self.now = self.peak = self.of_more = 0
        self.known = WeakIdKeyDictionary()
        for tensor in existing:
            self.known[tensor.untyped_storage()] = True

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.index.Tensor and args[1][0].dtype == torch.bool:
            made = args[0].flatten(0, args[1][0].ndim - 1).clone()  # every position has a label
        elif function in (torch.ops.aten.nonzero.default, torch.ops.aten.nonzero_static.default):
            made = args[0].new_empty(args[0].numel(), args[0].ndim, dtype=torch.int64)  # likewise
        elif function is torch.ops.aten._local_scalar_dense.default and args[0].dtype == torch.int64:
            return 1  # how many have one, which is not asked further
        else:
            made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self.known:
                self.known[storage] = True
                self.change(storage.nbytes())
                weakref.finalize(storage, self.change, -storage.nbytes())
        return made

    def change(self, size):
        self.now += size
        self.peak = max(self.peak, self.now + self.of_more)


class Stack:
    """Two layers of a model, and `more` that are not there: each of these leaves behind what the second does, until the
    backward pass is through with it."""

    def __init__(self, layers, more, alive):
        self.more, self.alive, self.before, self.left = more, alive, None, None
        layers[0].register_forward_hook(self.first)
        layers[1].register_forward_hook(self.second)

    def first(self, layer, inputs, output):
        if self.before is None:
            self.before = self.alive.now
            output = output[0] if isinstance(output, tuple) else output
            if output.requires_grad:
                output.register_hook(self.through)

    def second(self, layer, inputs, output):
        if self.left is None:
            self.left = self.more * (self.alive.now - self.before)
            self.alive.of_more += self.left

    def through(self, gradient):
        self.alive.of_more -= self.left


def stacks_of(model):
    """The stacks of layers that text passes through."""
    lists = (module for name, module in model.named_modules() if "vision" not in name)
    return [layers for layers in lists if isinstance(layers, nn.ModuleList) and len(layers) == 2]
