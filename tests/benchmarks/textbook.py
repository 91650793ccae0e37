"""The formulation to be faster than: the dynamic weights written out, as the original code does.

A 1x1 convolution makes all O d weights of every position, the patches are unfolded, multiplied, summed and divided by
the norm; the backward pass is autograd's, with weights and norms detached.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from coda_cli.core.dau_layer import DAUConv2d
from coda_cli.core.networks import CodaNet
from coda_cli.machine.precision import true_float32


class TextbookDAU(torch.nn.Module):
    """One layer with the parameters of a ``DAUConv2d``, in the original's layout (row n = patch entry * O + output)."""

    def __init__(self, layer: DAUConv2d) -> None:
        super().__init__()
        self.layer, O, r, d = layer, layer.out_channels, layer.rank, layer.V[0].numel()
        self.W1 = layer.dense_U().detach().reshape(O, r, d).permute(2, 0, 1).reshape(d * O, r, 1, 1).contiguous()
        self.b1 = layer.bias_or_zeros().detach().reshape(O, d).t().reshape(-1).contiguous()

    def forward(self, x: Tensor) -> Tensor:
        layer, O = self.layer, self.layer.out_channels
        with torch.no_grad():
            z = F.conv2d(x, layer.V, stride=layer.stride, padding=layer.padding)
            w = F.conv2d(z, self.W1, self.b1)
            B, _, H, W = w.shape
            w = w.view(B, -1, O, H, W)
            n = w.norm(dim=1)
            norm = (1 + n * n) / n if layer.norm == "SQ" else n
        patches = F.unfold(x, layer.kernel_size, padding=layer.padding, stride=layer.stride).view(B, -1, 1, H, W)
        return (patches * w).sum(1) / norm


def textbook(net: CodaNet) -> torch.nn.Module:
    """The layers of a network, written out; a fixed filter between them stays what it is."""
    return torch.nn.Sequential(*(TextbookDAU(m) if isinstance(m, DAUConv2d) else m for m in net.layers))


def decompose_textbook(net: CodaNet, layers: torch.nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [B, classes] and contributions [B, 6, h, w] of the predicted classes."""
    x = x.detach().requires_grad_()
    with true_float32():
        logits = layers(x).sum((2, 3)) / net.temperature + net.bias
        chosen = logits.gather(1, logits.argmax(1, keepdim=True)).sum()
        (gradient,) = torch.autograd.grad(chosen, x)
    return logits.detach(), x.detach() * gradient
