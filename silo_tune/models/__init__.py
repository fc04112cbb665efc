"""Networks for images. Weights keep their names; masks live outside (see `pruning`).

Each network is a function `(shape, classes, …)` → `nn.Module` in a module of its own, and a line in `registry.MODELS`.
Some are registered with timm by `import silo_tune.models.timm_models`.
"""
