"""The Inception v3 of FID, whose published weights only fit this network. See docs/decisions/019 for why it stands here.

Szegedy et al.: "Rethinking the Inception Architecture for Computer Vision", CVPR 2016 (arXiv 1512.00567), figures 5 to 7 and
table 1. The TensorFlow graph that Heusel et al. 2017 took differs: averages leave the padding out, the last block takes a maximum
where the one before it averages, and images are scaled without half-pixel centres. Parameters have the published file's names.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 299
NUM_CLASSES = 1008

Window = int | tuple[int, int]


class Convolution(nn.Module):
    """Convolution, batch norm, rectifier; the padding keeps the size where the stride is 1."""

    def __init__(self, inside: int, outside: int, window: Window = 1, stride: int = 1, *, padded: bool | None = None) -> None:
        super().__init__()
        sides = (window, window) if isinstance(window, int) else window
        padding = (sides[0] // 2, sides[1] // 2) if (padded if padded is not None else stride == 1) else (0, 0)
        self.conv = nn.Conv2d(inside, outside, sides, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outside, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """[B, outside, H', W'] of [B, inside, H, W]."""
        return F.relu(self.bn(self.conv(x)))


class Block35(nn.Module):
    """Three branches and a pooled one at 35 x 35."""

    def __init__(self, inside: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Convolution(inside, 64)
        self.branch5x5_1, self.branch5x5_2 = Convolution(inside, 48), Convolution(48, 64, 5)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Convolution(inside, 64), Convolution(64, 96, 3)
        self.branch3x3dbl_3 = Convolution(96, 96, 3)
        self.branch_pool = Convolution(inside, pooled)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 224 + pooled, 35, 35]."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), double, self.branch_pool(_average(x))], 1)


class To17(nn.Module):
    """From 35 x 35 to 17 x 17."""

    def __init__(self, inside: int) -> None:
        super().__init__()
        self.branch3x3 = Convolution(inside, 384, 3, 2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Convolution(inside, 64), Convolution(64, 96, 3)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 480 + inside, 17, 17]."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], 1)


class Block17(nn.Module):
    """Convolutions along rows and columns at 17 x 17; `narrow` channels inside."""

    def __init__(self, narrow: int) -> None:
        super().__init__()
        row, column = (1, 7), (7, 1)
        self.branch1x1 = Convolution(768, 192)
        self.branch7x7_1, self.branch7x7_2 = Convolution(768, narrow), Convolution(narrow, narrow, row)
        self.branch7x7_3 = Convolution(narrow, 192, column)
        self.branch7x7dbl_1, self.branch7x7dbl_2 = Convolution(768, narrow), Convolution(narrow, narrow, column)
        self.branch7x7dbl_3, self.branch7x7dbl_4 = Convolution(narrow, narrow, row), Convolution(narrow, narrow, column)
        self.branch7x7dbl_5 = Convolution(narrow, 192, row)
        self.branch_pool = Convolution(768, 192)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 768, 17, 17]."""
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(_average(x))], 1)


class To8(nn.Module):
    """From 17 x 17 to 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = Convolution(768, 192), Convolution(192, 320, 3, 2)
        self.branch7x7x3_1, self.branch7x7x3_2 = Convolution(768, 192), Convolution(192, 192, (1, 7))
        self.branch7x7x3_3, self.branch7x7x3_4 = Convolution(192, 192, (7, 1)), Convolution(192, 192, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1280, 8, 8]."""
        long = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), long, F.max_pool2d(x, 3, 2)], 1)


class Block8(nn.Module):
    """Branches that fork at 8 x 8; the pooled one averages, or takes the `maximum`."""

    def __init__(self, inside: int, *, maximum: bool) -> None:
        super().__init__()
        self.maximum = maximum
        self.branch1x1 = Convolution(inside, 320)
        self.branch3x3_1 = Convolution(inside, 384)
        self.branch3x3_2a, self.branch3x3_2b = Convolution(384, 384, (1, 3)), Convolution(384, 384, (3, 1))
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Convolution(inside, 448), Convolution(448, 384, 3)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = Convolution(384, 384, (1, 3)), Convolution(384, 384, (3, 1))
        self.branch_pool = Convolution(inside, 192)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 2048, 8, 8]."""
        single, double = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        forked = [
            self.branch3x3_2a(single),
            self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
        ]
        pooled = F.max_pool2d(x, 3, 1, 1) if self.maximum else _average(x)
        return torch.cat([self.branch1x1(x), *forked, self.branch_pool(pooled)], 1)


class InceptionV3(nn.Module):
    """Features of colour images."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3, self.Conv2d_2a_3x3 = Convolution(3, 32, 3, 2), Convolution(32, 32, 3, padded=False)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3)
        self.Conv2d_3b_1x1, self.Conv2d_4a_3x3 = Convolution(64, 80), Convolution(80, 192, 3, padded=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = Block35(192, 32), Block35(256, 64), Block35(288, 64)
        self.Mixed_6a = To17(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = Block17(128), Block17(160), Block17(160), Block17(192)
        self.Mixed_7a = To8()
        self.Mixed_7b, self.Mixed_7c = Block8(1280, maximum=False), Block8(2048, maximum=True)
        self.fc = nn.Linear(2048, NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Features [B, 2048] of images uint8 [B, 3, H, W]."""
        x = (_scaled(images.float()) - 128) / 128
        x = F.max_pool2d(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))), 3, 2)
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, 2)
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        last: Tensor = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return last.mean((2, 3))


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _scaled(images: Tensor) -> Tensor:
    """Bilinear to 299 x 299 as TensorFlow 1 does it: output pixel i takes its value from i * size / 299 of the input."""
    rows = _between(images, 2)
    return _between(rows, 3)


def _between(images: Tensor, axis: int) -> Tensor:
    size = images.shape[axis]
    places = torch.arange(SIDE, dtype=torch.float32, device=images.device) * (size / SIDE)
    before = places.floor().long()
    after = (before + 1).clamp(max=size - 1)
    share = (places - before).view([-1 if dim == axis else 1 for dim in range(4)])
    first, second = images.index_select(axis, before), images.index_select(axis, after)
    return torch.lerp(first, second, share)
