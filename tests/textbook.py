"""Full gradients of ordinary networks written out (Srinivas and Fleuret, NeurIPS 2019): the textbook that tests trust.

It knows modules and parameters only, and takes torch's own gradients: nothing of ``coda_cli.core.piecewise`` is used.
One input at a time.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor, nn

# A small one of every family of torchvision's classifiers that is piecewise linear, and the side of its input.
PIECEWISE_LINEAR = {
    "alexnet": 64, "densenet121": 32, "googlenet": 32, "inception_v3": 75, "mobilenet_v2": 32, "regnet_x_400mf": 32,
    "resnet18": 32, "shufflenet_v2_x0_5": 32, "squeezenet1_1": 32, "vgg11_bn": 32,
}  # fmt: skip
# The same of families with gates: squeeze-and-excite, GELU, SiLU, attention, layer norms.
WITH_GATES = {
    "convnext_tiny": 32, "efficientnet_b0": 32, "mobilenet_v3_small": 32,
    "regnet_y_400mf": 32, "swin_t": 32, "swin_v2_t": 32, "vit_b_32": 224,
}  # fmt: skip


class Layer(NamedTuple):
    """What the textbook says about one module: its output times the gradient there."""

    name: str
    products: Tensor  # [C, h, w] or any other shape, without the batch


def classifier(name: str, classes: int = 5) -> nn.Module:
    """A classifier of torchvision in float64 with weights, biases and statistics that are all drawn at random."""
    more: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    more |= {"aux_logits": False} if more else {}
    wide = name in ("alexnet", "vgg11_bn")
    with torch.device("meta" if wide else "cpu"):
        model = torchvision.models.get_model(name, num_classes=classes, **more)
    if wide:
        _narrow_head(model)
    model.double().eval()
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2, generator=generator)  # type: ignore[union-attr]
    for key, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
        if key.startswith(("heads.head", "classifier.")) and not parameter.any():  # transformers begin with zeros
            parameter.data.normal_(0, 0.1, generator=generator)
    return model


def _narrow_head(model: nn.Module) -> None:
    """Give a head 32 where it has 4,096, which would be nearly all numbers of the network, and draw all of them."""
    head = model.classifier
    assert isinstance(head, nn.Sequential)
    linear = [n for n, layer in enumerate(head) if isinstance(layer, nn.Linear)]
    sides = [head[linear[0]].in_features, *[32] * (len(linear) - 1), head[linear[-1]].out_features]
    for n, (inputs, outputs) in zip(linear, pairwise(sides), strict=True):
        head[n] = nn.Linear(inputs, outputs, device="meta")
    model.to_empty(device="cpu")
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()  # type: ignore[operator]


def layers_and_constants(model: nn.Module, x: Tensor, target: int) -> tuple[list[Layer], dict[tuple[str, str], float]]:
    """Of one input [1, C, H, W]: the input and every module's output times its gradient, and the shares of constants.

    Shares are those of biases and batch norms by parameter, and of ReLU6 by module.
    """
    model.requires_grad_(True)
    outputs: list[tuple[str, nn.Module, Tensor, Tensor]] = []  # with the values at that moment: some change in place
    x = x.clone().requires_grad_()

    def note(name: str) -> Any:
        def hook(module: nn.Module, given: tuple[Tensor, ...], y: Tensor) -> Tensor:
            y = y.clone()  # what follows may change it in place
            outputs.append((name, module, given[0].detach().clone() if isinstance(module, nn.ReLU6) else y, y))
            return y

        return hook

    not_in_place = [m for m in model.modules() if getattr(m, "inplace", False)]
    for module in not_in_place:
        module.inplace = False  # type: ignore[assignment]
    hooks = [module.register_forward_hook(note(name)) for name, module in model.named_modules() if name]
    try:
        logit = model(x)[0, target]
    finally:
        for hook in hooks:
            hook.remove()
        for module in not_in_place:
            module.inplace = True  # type: ignore[assignment]
    parameters = dict(model.named_parameters())
    leaves = [x, *(y for *_, y in outputs), *parameters.values()]
    gradients = torch.autograd.grad(logit, leaves, allow_unused=True)
    of_outputs = gradients[1 : len(outputs) + 1]
    of_parameters = dict(zip(parameters, gradients[len(outputs) + 1 :], strict=True))
    layers = [Layer("input", (x * gradients[0])[0].detach())]
    constants: dict[tuple[str, str], float] = {}
    for (name, module, given, y), g in zip(outputs, of_outputs, strict=True):
        if g is None:
            continue
        layers.append(Layer(name, (y * g)[0].detach()))
        if isinstance(module, nn.ReLU6):
            constants[name, "saturation"] = float((6 * g * (given >= 6)).sum())
    for name, module in model.named_modules():
        g = of_parameters.get(f"{name}.bias")
        if g is None:
            continue
        if isinstance(module, nn.BatchNorm2d):
            scale = module.weight / (module.running_var + module.eps).sqrt()  # type: ignore[operator]
            shift = module.bias - scale * module.running_mean  # type: ignore[operator]
            constants[name, "batch norm"] = float((shift * g).sum().detach())
        else:
            constants[name, "bias"] = float((module.bias * g).sum().detach())  # type: ignore[operator]
    return layers, constants
