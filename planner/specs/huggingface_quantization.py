"""In which format a model's weights are published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.specs.config_fields import Fields


def quantization(fields: Fields) -> str | None:
    """What ``quantization_config`` says, as a datatype: ``fp8``, ``mxfp4``, ``int4``.

    ``fp8_block`` has a scale for every block of weights.  A second datatype for the experts
    follows a plus sign; None for unquantized weights.
    """
    key, found = fields.first("quantization_config")
    if found is None:
        return None
    if not isinstance(found, Mapping):
        raise fields.wrong(key, found, "an object")
    datatype = _datatype(found)
    if datatype is None:
        raise fields.wrong(key, dict(found), "a quant_method, with the bits of the weights")
    experts = fields.text("expert_dtype")
    return f"{datatype}+{experts} experts" if experts and experts != datatype else datatype


def _datatype(found: Mapping[str, Any]) -> str | None:
    method = str(found.get("quant_method", "")).lower()
    if method in ("fp8", "fbgemm_fp8"):
        return "fp8_block" if found.get("weight_block_size") else "fp8"
    if method in ("mxfp4", "nvfp4", "mxfp8"):
        return method
    groups = found.get("config_groups")
    if isinstance(groups, Mapping):
        return next((_group(group, found) for group in groups.values()), None)
    bits = found.get("bits")
    return f"int{bits}" if isinstance(bits, int) else (method or None)


def _group(group: Any, found: Mapping[str, Any]) -> str | None:
    if not isinstance(group, Mapping):
        return None
    layout = str(group.get("format") or found.get("format") or "")
    for known in ("mxfp4", "nvfp4", "mxfp8"):
        if layout.startswith(known):
            return known
    weights = group.get("weights")
    if not isinstance(weights, Mapping) or "num_bits" not in weights:
        return None
    return ("fp" if weights.get("type") == "float" else "int") + str(weights["num_bits"])
