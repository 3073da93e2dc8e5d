"""Random initial weights of networks."""

from torch import nn

from models.vgg import convolutions

OUTPUT_DEVIATION = 0.01  # of an output layer's weights: the first maps are near their bias


def init_normal(network: nn.Module) -> None:
    """Sets convolutions to normal(0, 0.01), bias 0: a teacher's, except its ImageNet trunk."""
    for convolution in convolutions(network).values():
        nn.init.normal_(convolution.weight, std=0.01)
        _zero_bias(convolution)


def init_kaiming(network: nn.Module) -> None:
    """Sets convolutions to Kaiming normal, fan-out, bias 0: a student's initial weights."""
    for convolution in convolutions(network).values():
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        _zero_bias(convolution)


def _zero_bias(convolution: nn.Conv2d) -> None:
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)


def init_output(network: nn.Module) -> None:
    """Sets the last convolution to normal(0, 0.01), bias 0, and leaves the others as they are."""
    *_, output = convolutions(network).values()
    nn.init.normal_(output.weight, std=OUTPUT_DEVIATION)
    _zero_bias(output)
