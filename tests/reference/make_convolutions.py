"""Makes small convolutional image towers, as torch exports them, and their outputs.

    python make_convolutions.py --out tests/golden/convolutions

Versions: requirements.txt beside this file. Weights are random, batch norms have statistics.

OUT/NAME.onnx            one image of SIZES[NAME] to features, by the older exporter; BatchNormalization is left in bottleneck.onnx
OUT/goldens.safetensors  NAME.pixels, and NAME.features as torch computes them
"""

import argparse
import pathlib

import onnx
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn


def conv(inputs, outputs, kernel=1, stride=1, act=None, groups=1):
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([act] if act else []))


class Residual(nn.Module):
    """`after(body(x) + shortcut(x))`."""

    def __init__(self, body, shortcut=None, after=None):
        super().__init__()
        self.body, self.shortcut, self.after = body, shortcut or nn.Identity(), after or nn.Identity()

    def forward(self, x):
        return self.after(self.body(x) + self.shortcut(x))


class Squeeze(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels, act, gate):
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, 8, 1), nn.Conv2d(8, channels, 1)
        self.act, self.gate = act, gate

    def forward(self, x):
        return x * self.gate(self.expand(self.act(self.reduce(x.mean((2, 3), keepdim=True)))))


class Same(nn.Module):
    """A convolution whose zeros are added before it, more of them below and on the right."""

    def __init__(self, inputs, outputs, kernel, stride, groups=1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x):
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        missing = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in map(int, x.shape[-2:])]
        rows, columns = missing
        return self.norm(self.conv(F.pad(x, (columns // 2, -(-columns // 2), rows // 2, -(-rows // 2)))))


class Scaled(nn.Module):
    """One factor for each channel."""

    def __init__(self, channels):
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(channels, 1, 1) + 0.5)

    def forward(self, x):
        return x * self.gamma


def pooled(*layers):
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def bottleneck():
    """ResNet: 7 x 7 and strided convolutions, largest values of windows, sums before activations."""
    relu = nn.ReLU

    def block(inputs, inner, outputs, stride):
        body = [conv(inputs, inner, act=relu()), conv(inner, inner, 3, stride, relu()), conv(inner, outputs)]
        shortcut = conv(inputs, outputs, 1, stride) if inputs != outputs or stride != 1 else None
        return Residual(nn.Sequential(*body), shortcut, relu())

    return pooled(
        conv(3, 20, 7, 2, relu()),
        nn.MaxPool2d(3, 2, 1),
        block(20, 12, 32, 1),
        block(32, 12, 32, 1),
        block(32, 16, 40, 2),
    )


def inverted():
    """MobileNetV2: depthwise convolutions between pointwise ones, ReLU6; a matrix product at the end."""
    act = nn.ReLU6

    def block(inputs, inner, outputs, kernel, stride):
        body = [conv(inputs, inner, act=act()), conv(inner, inner, kernel, stride, act(), inner), conv(inner, outputs)]
        return Residual(nn.Sequential(*body)) if inputs == outputs and stride == 1 else nn.Sequential(*body)

    return nn.Sequential(
        pooled(
            conv(3, 16, 3, 2, act()),
            conv(16, 16, 3, 1, act(), 16),
            conv(16, 12),
            block(12, 40, 12, 3, 1),
            block(12, 40, 20, 5, 2),
            block(20, 60, 20, 3, 1),
            block(20, 36, 22, 3, 2),
            conv(22, 64, act=act()),
        ),
        nn.Linear(64, 24),
    )


def squeezed():
    """MobileNetV3 and EfficientNet: squeeze and excitation, hard swish, SiLU, uneven padding."""
    hard = [conv(16, 40, act=nn.Hardswish()), conv(40, 40, 5, 1, nn.Hardswish(), 40)]
    hard += [Squeeze(40, nn.ReLU(), nn.Hardsigmoid()), conv(40, 16)]
    soft = [conv(16, 48, act=nn.SiLU()), Same(48, 48, 3, 2, 48), nn.SiLU()]
    soft += [Squeeze(48, nn.SiLU(), nn.Sigmoid()), conv(48, 24)]
    return pooled(Same(3, 16, 3, 2), nn.Hardswish(), Residual(nn.Sequential(*hard)), *soft, conv(24, 72, act=nn.SiLU()))


def mixed():
    """ConvMixer, MobileOne, FastViT: patches, large depthwise windows, GELU, means of windows, factors of channels."""
    mix = [conv(24, 24, 7, 1, None, 24), conv(24, 48, act=nn.GELU()), conv(48, 24), Scaled(24)]
    return pooled(
        nn.Conv2d(3, 24, 4, 4),
        nn.GELU(),
        Residual(nn.Sequential(*mix)),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        conv(24, 33, 3, 1, nn.LeakyReLU()),
        nn.AvgPool2d(2),
    )


TOWERS = [bottleneck, inverted, squeezed, mixed]
SIZES = {"bottleneck": (70, 61), "inverted": (64, 48), "squeezed": (45, 52), "mixed": (64, 72)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    goldens = {}
    for seed, make in enumerate(TOWERS):
        torch.manual_seed(seed)
        name, model = make.__name__, make().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                nn.init.uniform_(module.weight, 0.7, 1.3)
                nn.init.normal_(module.bias, 0, 0.1)
        pixels = torch.randn(2, 3, *SIZES[name])
        with torch.no_grad():
            goldens[f"{name}.pixels"], goldens[f"{name}.features"] = pixels, model(pixels)
        # Training mode keeps batch norms as nodes; the model itself stays as it is for use.
        mode = torch.onnx.TrainingMode.PRESERVE if name == "bottleneck" else torch.onnx.TrainingMode.EVAL
        path = out / f"{name}.onnx"
        names = {"input_names": ["pixel_values"], "output_names": ["pooler_output"]}
        folding = name != "bottleneck"
        torch.onnx.export(
            model, (pixels[:1],), str(path), **names, opset_version=17, dynamo=False, training=mode,
            do_constant_folding=folding,
        )  # fmt: skip
        graph = onnx.load(path)
        for node in graph.graph.node:
            node.doc_string = ""
        onnx.save(graph, path)
    save_file({name: tensor.contiguous() for name, tensor in goldens.items()}, out / "goldens.safetensors")


if __name__ == "__main__":
    main()
