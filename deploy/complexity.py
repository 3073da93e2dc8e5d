"""Counts the cost of a network from the operations that it really runs."""

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
RELUS = (aten.relu, aten.relu_, aten.hardtanh, aten.hardtanh_)  # ReLU6 runs as hardtanh


@dataclass(frozen=True)
class Cost:
    parameters: int
    macs: int  # multiply-accumulates of the convolutions
    flops: int  # the paper's count, see `measure_cost`


class _Counter(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.macs = self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keeps PyTorch from importing its compiler, which takes seconds."""
        return False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        operation = func.overloadpacket
        if operation is aten.convolution:
            kernel, bias = args[1], args[2]
            macs = output.numel() * kernel[0].numel()
            self.macs += macs
            self.flops += macs + (output.numel() if bias is not None else 0)
        elif operation in RELUS:
            self.flops += output.numel()
        elif operation is aten.max_pool2d_with_indices:
            self.flops += 4 * output[0].numel()
        return output


def measure_cost(network: nn.Module, size: tuple[int, int]) -> Cost:
    """Returns a network's parameters, and its cost for one RGB image of (height, width).

    `flops` follows the SKT paper: the convolutions' multiply-accumulates + 1 for each of
    their biased outputs + 1 for each ReLU output + 4 for each output of a 2x2 max-pool. Upsampling
    and abs are not counted. Nothing is computed: the network is traced with shapes alone.
    """
    parameters = sum(p.numel() for p in network.parameters())
    shapes = copy.deepcopy(network).to("meta")  # torch.func would import it, too
    with torch.no_grad(), _Counter() as counter:
        shapes(torch.empty(1, 3, *size, device="meta"))
    return Cost(parameters, counter.macs, counter.flops)
