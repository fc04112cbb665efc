"""Networks for images. Weights keep their names; masks live outside (see `pruning`).

Each network is a function `(shape, classes, …)` → `nn.Module` in a module of its own, and a line in `names.MODELS`.
Some are registered with timm by `import silo_tune.timm_models`.
"""

from silo_tune.models.build import build_model, init_seed, laid_out
from silo_tune.models.cifar_resnet import BasicBlock, CifarResNet, resnet8, resnet20, resnet32, resnet56
from silo_tune.models.lenet import LeNet300100, lenet_300_100

__all__ = [
    "BasicBlock",
    "CifarResNet",
    "LeNet300100",
    "build_model",
    "init_seed",
    "laid_out",
    "lenet_300_100",
    "resnet8",
    "resnet20",
    "resnet32",
    "resnet56",
]
