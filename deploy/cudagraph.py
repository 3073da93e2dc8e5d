"""Captures a network's passes as CUDA graphs, which avoid launching every kernel by itself."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

MOST_CAPTURES = 8  # image sizes whose graph is kept
WARM_UP = 3  # passes before a capture, in which cuDNN chooses its algorithms


class CapturedPass:
    """A network's pass over images of one shape and type on a CUDA device."""

    def __init__(self, network: nn.Module, images: Tensor):
        self._images = images.clone()
        # Warm up on a separate stream, as the capture does, after all work queued so far.
        current, stream = torch.cuda.current_stream(), torch.cuda.Stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                network(self._images)
        current.wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._density = network(self._images)

    def __call__(self, images: Tensor) -> Tensor:
        self._images.copy_(images)
        self._graph.replay()
        return self._density.clone()  # the next pass overwrites it


class CapturedNetwork:
    """Maps (B, 3, H, W) float32 images to the network's float32 density, one graph per shape.

    Images and density are converted from and to float32 if `dtype` is another type. The most recent
    shapes keep their graphs, each with memory of its own.

    Args:
        network: on a CUDA device, its weights of `dtype`; nothing may change them afterwards.
        dtype: of weights and features.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype):
        self._network, self._dtype = network, dtype
        self._device = next(network.parameters()).device
        self._passes: OrderedDict[torch.Size, CapturedPass] = OrderedDict()

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        images = images.to(self._device, self._dtype).to(memory_format=torch.channels_last)
        with torch.cuda.device(self._device):
            if images.shape not in self._passes:
                while len(self._passes) >= MOST_CAPTURES:
                    self._passes.popitem(last=False)
                self._passes[images.shape] = CapturedPass(self._network, images)
            self._passes.move_to_end(images.shape)
            return self._passes[images.shape](images).float()
