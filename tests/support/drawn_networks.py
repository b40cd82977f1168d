"""Small networks as people write them, drawn from a seed: styles, orders of layers, flags, taps, skip connections."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexkern.ops.registry import alone

STYLES = ("sequential", "attributes", "functional", "methods", "mixed")
# Of a convolution, and of a linear layer; "activation" is a ReLU mostly.
BLOCKS = (
    ("conv", "activation"),
    ("conv", "activation", "pool"),
    ("conv", "norm", "activation"),
    ("conv", "norm", "activation", "pool"),
    ("conv", "activation", "norm", "pool"),
    ("conv", "activation", "lrn", "pool"),
    ("conv", "pool", "activation"),
    ("conv", "activation", "dropout"),
)
HEADS = (
    ("dropout", "linear", "activation"),
    ("linear", "activation", "dropout"),
    ("linear", "norm", "activation"),
    ("linear", "activation"),
)


def _pool(m: Any) -> tuple[Any, ...]:
    return m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode


def _norm(x: Tensor, m: Any) -> Tensor:
    return F.batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias, m.training, m.momentum, m.eps)


def _twice(x: Tensor, m: nn.ReLU) -> Tensor:
    """The in-place ReLU whose result nobody takes: x itself is it from now on."""
    F.relu_(x)
    return x


def _alone(kind: type[nn.Module]) -> dict[str, tuple[Callable[[Tensor, Any], Tensor], ...]]:
    """As the entry of the operator that such a layer is has it spelled."""
    operator = alone(kind)

    def spelled(function: Any) -> Callable[[Tensor, Any], Tensor]:
        return lambda x, m: function(x, **operator.arguments(m))

    return {"functional": tuple(map(spelled, operator.spellings))}


# How a forward can say what a module of a class says, the module's own settings and parameters taken.
SPELLINGS: dict[type[nn.Module], dict[str, tuple[Callable[[Tensor, Any], Tensor], ...]]] = {
    nn.Conv2d: {
        "functional": (
            lambda x, m: F.conv2d(x, m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups),
            lambda x, m: F.conv2d(x, m.weight * 1.25, m.bias, m.stride, m.padding, groups=m.groups),
        ),
        "methods": (
            lambda x, m: torch.conv2d(x, m.weight, m.bias, stride=m.stride, padding=m.padding, groups=m.groups),
        ),
    },
    nn.Linear: {
        "functional": (
            lambda x, m: F.linear(x, m.weight, m.bias),
            lambda x, m: F.linear(x, weight=m.weight + 0.01, bias=m.bias),
        )
    },
    nn.ReLU: {
        "functional": (lambda x, m: F.relu(x, inplace=m.inplace), lambda x, m: F.relu(x)),
        "methods": (lambda x, m: x.relu_() if m.inplace else x.relu(), lambda x, m: torch.relu(x), _twice),
    },
    nn.MaxPool2d: {
        "functional": (
            lambda x, m: F.max_pool2d(x, *_pool(m)),
            lambda x, m: F.max_pool2d(x, *_pool(m), return_indices=True)[0],
        ),
        "methods": (lambda x, m: torch.max_pool2d(x, *_pool(m)),),
    },
    nn.Dropout: _alone(nn.Dropout),
    nn.LocalResponseNorm: _alone(nn.LocalResponseNorm),
    nn.BatchNorm2d: {"functional": (_norm,)},
    nn.Flatten: {
        "functional": (lambda x, m: torch.flatten(x, 1),),
        "methods": (lambda x, m: x.view(x.shape[0], -1), lambda x, m: x.reshape(x.size(0), -1)),
    },
}


class Drawn(nn.Module):
    """The network of a seed; `written` says what it is.

    `image(batch)` is a batch for it; forward returns a tuple, the logits and what was tapped on the way. dropout is the
    probability of every Dropout: with 0 a training step has one right answer. style: one of STYLES, in turn by default.
    """

    def __init__(self, seed: int, dropout: float = 0.0, style: str | None = None):
        super().__init__()
        draw = random.Random(f"networks {seed}")
        torch.manual_seed(seed)
        self.style, self.dropout = style or STYLES[seed % len(STYLES)], dropout
        self.shape = (draw.choice((1, 3, 4)), draw.randint(15, 33), draw.randint(15, 33))
        self.calls: list[tuple[str, str, int]] = []  # module, spelling and which of those; or what is no call of one
        shape: tuple[int, ...] = self.shape
        for _ in range(draw.randint(1, 3)):
            shape = self._features(draw, shape)
        size = draw.choice((0, 0, 2))
        if size:  # which gives torch no layout to keep
            self._add(draw, [nn.AdaptiveAvgPool2d(size)])
            shape = (shape[0], size, size)
        self._add(draw, [nn.Flatten()])
        features = shape[0] * shape[1] * shape[2]
        for _ in range(draw.randint(0, 2)):
            width = draw.randint(3, 17)
            layers = {"dropout": nn.Dropout(dropout), "linear": nn.Linear(features, width, draw.random() < 0.8),
                      "norm": nn.BatchNorm1d(width), "activation": self._activation(draw)}  # fmt: skip
            self._add(draw, [layers[kind] for kind in draw.choice(HEADS)])
            features = width
        self._add(draw, [nn.Linear(features, 5)])
        for module in self.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.3, 2)  # type: ignore[union-attr]
                if module.affine:
                    nn.init.normal_(module.weight)
                    nn.init.normal_(module.bias)

    def _activation(self, draw: random.Random) -> nn.Module:
        inplace = draw.random() < 0.5
        return draw.choices((nn.ReLU(inplace), nn.LeakyReLU(0.1, inplace), nn.Tanh()), (8, 1, 1))[0]

    def _features(self, draw: random.Random, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A block of layers behind images of a shape (C, H, W); the shape behind it."""
        C, H, W = shape
        block, groups, width = draw.choice(BLOCKS), draw.choice((1, 1, C)), draw.randint(1, 3)
        kernel = draw.choice([size for size in (1, 3, 3, 5) if size <= min(H, W)])
        stride = draw.choice((1, 1, 2)) if min(H, W) > 9 else 1
        skips = stride == 1 and "pool" not in block and draw.random() < 0.5
        filters = C if skips else 4 * width * (groups if groups > 1 else 1)
        padding = kernel // 2 if skips else draw.choice((0, kernel // 2))
        conv = nn.Conv2d(C, filters, kernel, stride, padding, groups=groups, bias=draw.random() < 0.7)
        P, Q = ((size + 2 * padding - kernel) // stride + 1 for size in (H, W))
        pools = "pool" in block and min(P, Q) >= 3
        pool = draw.choice(
            [nn.MaxPool2d(3, 2), nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, ceil_mode=True)]
        )
        layers = {"conv": conv, "activation": self._activation(draw), "lrn": nn.LocalResponseNorm(3, 5e-2),
                  "norm": nn.BatchNorm2d(filters, affine=draw.random() < 0.8), "pool": pool,
                  "dropout": nn.Dropout(self.dropout)}  # fmt: skip
        words = [word for word in block if pools or word != "pool"]
        cut = draw.choice((None, None, None, None, 1, 2))  # where a value has another reader
        if skips:
            self.calls.append(("keep", "", 0))
        self._add(draw, [layers[word] for word in words[:cut]])
        if cut is not None:
            self.calls.append(("tap", "", 0))
            self._add(draw, [layers[word] for word in words[cut:]])
        if skips:
            self.calls.append(("add", "", 0))
        with torch.no_grad():  # torch's own rule for the size
            return tuple((pool if pools else nn.Identity())(torch.empty(1, filters, P, Q)).shape[1:])

    def _add(self, draw: random.Random, layers: list[nn.Module]) -> None:
        if not layers:
            return
        if self.style == "sequential":
            layers = [nn.Sequential(*layers)]
        for layer in layers:
            name = f"layer{len(self.calls)}"
            self.add_module(name, layer)
            style = draw.choice(("module", "functional", "methods")) if self.style == "mixed" else self.style
            ways = SPELLINGS.get(type(layer), {})
            found = ways.get(style) or ways.get("functional" if style == "methods" else "", ())
            self.calls.append((name, style, draw.randrange(len(found))) if found else (name, "module", 0))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        taps: list[Tensor] = []
        kept = value = image
        for name, style, which in self.calls:
            if name == "keep":
                kept = value
            elif name == "tap":
                taps.append(value)
            elif name == "add":
                value = value + kept
            elif style == "module":
                value = getattr(self, name)(value)
            else:
                layer = getattr(self, name)
                ways = next(SPELLINGS[kind] for kind in type(layer).__mro__ if kind in SPELLINGS)  # frozen or not
                value = (ways.get(style) or ways["functional"])[which](value, layer)
        return value, *taps

    def image(self, batch: int = 2) -> Tensor:
        return torch.randn(batch, *self.shape, generator=torch.Generator().manual_seed(batch))

    @property
    def written(self) -> str:
        """For the message of a test."""
        return f"{self.style}: {self.calls} of {self}"
