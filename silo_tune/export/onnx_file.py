"""A network as ONNX, checked with onnxruntime. The only user of both, which are an extra."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from silo_tune.errors import BadInput, RunFailed, one_line, words
from silo_tune.export.shrink import TOLERANCE
from silo_tune.tasks.outputs import call, logits_of

ONNX = "model.onnx"


def require_onnx() -> None:
    """Raises BadInput where a package is missing; all are named."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise BadInput(f"--format onnx needs {', '.join(missing)}: pip install 'silo-tune[onnx]'")


class _Logits(nn.Module):
    """A network whose inputs are tensors in order, and whose output is its logits."""

    def __init__(self, network: nn.Module, names: tuple[str, ...] | None, alone: bool) -> None:
        super().__init__()
        self.network, self.names, self.alone = network, names, alone

    def forward(self, *inputs: Tensor) -> Any:
        given = dict(zip(self.names, inputs, strict=True)) if self.names else inputs[0] if self.alone else inputs
        return logits_of(call(self.network, given))


def to_onnx(network: nn.Module, batch: Any) -> bytes:
    """The bytes of an ONNX model, whose first dimensions are a batch of any size.

    Args:
        network: in evaluation mode.
        batch: (inputs, targets) of two or more examples; inputs are a tensor, several, or tensors by name. The network
            is traced with two of them, and both are compared on all.

    Raises:
        BadInput: the network cannot be exported; an operator without a counterpart is named.
        RunFailed: onnxruntime gives other outputs.
    """
    inputs = _tensors(batch)
    given = batch[0]
    plain = _Logits(network, tuple(given) if isinstance(given, Mapping) else None, isinstance(given, Tensor)).eval()
    size = torch.export.Dim("batch")
    try:
        with _quiet():
            program = torch.onnx.export(
                plain,
                tuple(tensor[:2] for tensor in inputs.values()),
                dynamo=True,
                verbose=False,
                dynamic_shapes={"inputs": tuple({0: size} for _ in inputs)},
                input_names=list(inputs),
                output_names=["logits"],
            )
            assert program is not None
            data: bytes = program.model_proto.SerializeToString()
    except Exception as error:  # of torch.export and of the exporter, of many kinds
        raise BadInput(_why(error)) from error
    _check(data, plain, inputs)
    return data


def _tensors(batch: Any) -> dict[str, Tensor]:
    """The inputs of a batch by name."""
    inputs = batch[0] if isinstance(batch, tuple | list) and len(batch) == 2 else None
    named: Mapping[str, Any] = inputs if isinstance(inputs, Mapping) else {"input": inputs}
    if isinstance(inputs, tuple | list):
        named = {f"input_{number}": tensor for number, tensor in enumerate(inputs)}
    if not all(isinstance(tensor, Tensor) for tensor in named.values()):
        raise BadInput(
            "--format onnx: a batch of this data is not (inputs, targets) with tensors as inputs; take --format "
            "safetensors, and give torch.onnx.export what your network takes"
        )
    return {str(name): tensor for name, tensor in named.items()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints graphs and warnings of its own matters."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            torch.no_grad(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _why(error: BaseException) -> str:
    first = error
    while first.__cause__ is not None:
        first = first.__cause__
    operator = re.search(r"OpOverload\(op='([^']+)'", one_line(first))
    what = (
        f"ONNX has no counterpart of the operator {operator[1]}; take another in your network"
        if operator
        else f"torch.export cannot follow the network ({words(first)})"
    )
    return f"--format onnx: {what}, or take --format safetensors"


def _check(data: bytes, plain: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    """Raises RunFailed unless outputs are equal, to a share of the greatest one."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})[0])
    with torch.inference_mode():
        expected = plain(*inputs.values())
    difference, limit = float((found - expected).abs().max()), TOLERANCE * float(expected.abs().max())
    if not difference <= limit:
        raise RunFailed(
            f"--format onnx: outputs in onnxruntime differ by {difference:.3g}, more than {limit:.3g}; nothing is "
            f"written"
        )
