"""Networks of transformers, from a folder or the Hub. They keep their own parameter names; no code of others is run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from silo_tune.errors import BadInput, one_line, unknown
from silo_tune.study.hf_folder import MISSING
from silo_tune.study.registry import HEADS

_OURS = ("head", "pretrained", "pad", "content", "revision", "vocabulary", "padding")


def hf_model(folder: str | None, shape: tuple[int, ...], classes: int, args: Mapping[str, Any]) -> nn.Module:
    """The network of a folder's config.json, with drawn weights or the folder's own.

    Args:
        folder: a folder, or a name of the Hub.
        shape: of an example: (length,) of token ids, (H, W, C) of an image, or () where only the network knows.
        classes: numbers that it gives of an example; of a language model the number of different tokens.
        args: head, pretrained, pad, revision, and of texts vocabulary and padding; all others are keys of the config.

    Raises:
        BadInput: transformers is not installed, the config or the weights do not fit, or the data is of another kind.
    """
    try:
        import transformers.utils.logging
    except ImportError:
        raise BadInput(f"model: {MISSING}") from None
    if folder is None:
        raise BadInput("model: an hf: model is made from its folder, which is not named here")
    quiet: Any = transformers.utils.logging
    quiet.set_verbosity_error()
    head = str(args["head"])
    if len(shape) not in (0, 3 if head == "image-classification" else 1):
        wanted = "images (H, W, C)" if head == "image-classification" else "sequences of token ids (length,)"
        raise BadInput(f"model.head: {head!r} takes {wanted}, and these examples are {shape}; choose another head")
    pretrained = bool(args.get("pretrained"))
    auto = getattr(transformers, HEADS[head][0])
    try:
        config = _config(transformers, folder, args, _fitting(head, shape, classes, args))
        able = [
            name for name, (maker, _) in HEADS.items() if type(config) in getattr(transformers, maker)._model_mapping
        ]
        if head not in able:
            raise BadInput(f"model.head: {unknown(f'head of a {config.model_type}', head, able)}")
        made = _read(auto, folder, config, args) if pretrained else auto.from_config(config, dtype=torch.float32)
    except BadInput:
        raise
    except Exception as error:  # transformers raises many kinds
        raise BadInput(f"model: transformers cannot build {folder!r} with head {head!r}: {one_line(error)}") from error
    if head != "image-classification":
        hook = _Tokens.of(config, head, args.get("pad", args.get("padding")), classes)
        made.register_forward_pre_hook(hook, with_kwargs=True)
    return made.float()


def _fitting(head: str, shape: tuple[int, ...], classes: int, args: Mapping[str, Any]) -> dict[str, Any]:
    """What the data says of a config; what stands in read weights stays."""
    own: dict[str, Any] = {"use_cache": False}
    pretrained = bool(args.get("pretrained"))
    if "vocabulary" in args and not pretrained:
        own |= {"vocab_size": args["vocabulary"], "pad_token_id": args["padding"]}
    if head.endswith("classification"):
        own |= {"num_labels": classes}
        if head == "image-classification" and not pretrained and len(shape) == 3:
            own |= {"image_size": shape[0] if shape[0] == shape[1] else list(shape[:2]), "num_channels": shape[2]}
        return own
    return own | {"is_decoder": head == "causal-lm"} | ({} if pretrained else {"vocab_size": classes})


def _config(transformers: Any, folder: str, args: Mapping[str, Any], fitting: Mapping[str, Any]) -> Any:
    config = transformers.AutoConfig.from_pretrained(folder, revision=args.get("revision") or "main")
    known = set(config.to_dict())
    given = {key: value for key, value in args.items() if key not in _OURS}
    for key in given:
        if key not in known and not hasattr(config, key):
            raise BadInput(f"model.{key}: {unknown(f'key of a {config.model_type} config', key, known)}")
    for key, value in {**fitting, **given}.items():
        if key in known or hasattr(config, key):
            setattr(config, key, value)
    return type(config).from_dict(json.loads(config.to_json_string(use_diff=False)))  # checked as a whole


def _read(auto: Any, folder: str, config: Any, args: Mapping[str, Any]) -> nn.Module:
    """Pretrained weights; a head that is missing, or for another number of classes, is drawn."""
    made, info = auto.from_pretrained(
        folder,
        config=config,
        revision=args.get("revision") or "main",
        dtype=torch.float32,
        use_safetensors=True,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    inside = f"{made.base_model_prefix}."
    body = [name for name in made.state_dict() if name.startswith(inside)]
    # Names, or with their shapes: transformers has had both.
    misfits = [entry if isinstance(entry, str) else entry[0] for entry in info["mismatched_keys"]]
    lost = {*misfits, *info["missing_keys"]}
    other = [name for name in misfits if name.startswith(inside)]
    if other or (body and lost.issuperset(body)):
        told = f"{', '.join(other[:3])} have another shape" if other else "they are of another network"
        raise BadInput(f"model: the weights of {folder!r} do not fit its config: {told}; leave keys of the config out")
    return made  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Tokens:
    """Looks at the token ids that a network is called with, and adds the mask of those that are no padding.

    Attributes:
        pad: id of padding; None adds no mask. To one that looks back only, padding at the end is nothing.
        known: number of different tokens.
        longest: most tokens of a sequence, where the config says it.
    """

    pad: int | None
    known: int
    longest: int | None

    @classmethod
    def of(cls, config: Any, head: str, pad: int | None, classes: int) -> _Tokens:
        text = config.get_text_config()
        if head in ("causal-lm", "masked-lm") and text.vocab_size != classes:
            raise BadInput(
                f"model: the network knows {text.vocab_size} tokens, and the data has {classes}; take the tokenizer "
                f"that its weights are made for, or leave pretrained out"
            )
        if pad is None:
            found = getattr(text, "pad_token_id", None)
            pad = 0 if found is None else int(found)
        if head == "causal-lm":
            return cls(None, text.vocab_size, getattr(text, "max_position_embeddings", None))
        config.pad_token_id = text.pad_token_id = pad  # a classifier that reads the last token looks for it
        return cls(pad, text.vocab_size, getattr(text, "max_position_embeddings", None))

    def __call__(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        ids = args[0] if args else kwargs.get("input_ids")
        if not isinstance(ids, Tensor):
            return args, kwargs
        if ids.is_floating_point() or ids.ndim != 2:
            raise BadInput(
                f"model: takes token ids, whole numbers (batch, length); these are {tuple(ids.shape)} of {ids.dtype}"
            )
        if self.longest is not None and ids.shape[1] > self.longest:
            raise BadInput(
                f"model: a sequence of {ids.shape[1]} tokens, and the network takes {self.longest}; shorten it "
                f"(data.block, or data's length), or set model.max_position_embeddings where weights are drawn"
            )
        if (
            ids.device.type == "cpu" and ids.numel() and int(ids.max()) >= self.known
        ):  # elsewhere it would be waited for
            raise BadInput(
                f"model: the data has token {int(ids.max())}, and the network knows {self.known}; set "
                f"model.vocab_size, or take the tokenizer that its weights are made for"
            )
        if self.pad is not None and "attention_mask" not in kwargs and len(args) < 2:
            kwargs = {**kwargs, "attention_mask": (ids != self.pad).long()}
        return args, kwargs
