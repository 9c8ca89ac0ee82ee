"""Accelerators in manifests: whole ones by Kubernetes' resource names, fractions in the spellings there are.

Kubernetes itself counts devices in whole numbers. Who shares them does so by an annotation (Run:ai's
`gpu-fraction` and `gpu-memory`, so that a manifest stays valid on a cluster), by a resource of memory (HAMi's
`nvidia.com/gpumem`, MiB), or here also by a fraction in the resource itself (`nvidia.com/gpu: 0.5`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

from penstock.dialects.schema import path
from penstock.domain.devices import NVIDIA, WHOLE
from penstock.domain.quantity import parse_bytes, parse_quantity
from penstock.domain.service import Resources
from penstock.errors import FieldProblem

At = tuple[int | str, ...]

_MIB = 2**20
#: Memory of a device, as a resource of its own.
MEMORY = {"nvidia.com/gpumem": NVIDIA}
#: KFServing's first manifests.
_SAME = {"gpu": NVIDIA}
FRACTION = ("penstock.dev/gpu-fraction", "gpu-fraction")
SHARE_MEMORY = ("penstock.dev/gpu-memory", "gpu-memory")


_NAMES = re.compile(r".*/(?:.*gpu.*|mig-.*|tpu|gaudi|neuron.*)|gpu")


def is_accelerator(resource: str) -> bool:
    """`nvidia.com/gpu`, `amd.com/gpu`, `nvidia.com/mig-1g.5gb`, `google.com/tpu`, ..."""
    return _NAMES.fullmatch(resource) is not None


class Asked:
    """What `resources` say of accelerators, collected entry by entry."""

    def __init__(self) -> None:
        self._counts: dict[str, Fraction] = {}
        self._memory: dict[str, int] = {}

    def add(self, resource: str, quantity: Any) -> None:
        """One entry of requests or limits. ValueError."""
        if resource in MEMORY:
            amount = parse_quantity(quantity)
            if amount < 0 or amount.denominator != 1:
                raise ValueError(f"{quantity} is no whole number of MiB")
            size = int(amount) * _MIB
            if self._memory.setdefault(MEMORY[resource], size) != size:
                raise ValueError("requests and limits of an accelerator must be the same")
            return
        count = devices(quantity)
        if self._counts.setdefault(_SAME.get(resource, resource), count) != count:
            raise ValueError("requests and limits of an accelerator must be the same")

    def into(self, resources: Resources) -> Resources:
        """`resources` with what was collected. ValueError when it is for several kinds of device."""
        wanted = {r: n for r, n in self._counts.items() if n}
        memory = {r: n for r, n in self._memory.items() if n}
        kinds = wanted.keys() | memory.keys()
        if len(kinds) > 1:
            names = ", ".join(sorted(kinds))
            raise ValueError(f"only one kind of accelerator may be asked for, not {names}")
        name = next(iter(kinds), None)
        if name is None:
            return resources
        return replace(
            resources,
            gpu=float(wanted[name]) if name in wanted else None,
            gpu_resource=name,
            gpu_memory_bytes=memory.get(name),
        )


def devices(quantity: Any) -> Fraction:
    """Whole devices, or a fraction of one in thousandths. ValueError."""
    amount = parse_quantity(quantity)
    whole = amount.denominator == 1
    if amount < 0 or not (whole or (amount < 1 and (amount * WHOLE).denominator == 1)):
        raise ValueError(
            f"{quantity} is neither a whole number of devices nor a fraction of one, in thousandths"
        )
    return amount


def shared(
    resources: Resources, annotations: Mapping[str, str], at: At
) -> tuple[Resources, list[FieldProblem]]:
    """`resources` with the share of a device that annotations below `at` ask for."""
    fraction = next((k for k in FRACTION if k in annotations), None)
    memory = next((k for k in SHARE_MEMORY if k in annotations), None)
    if fraction is None and memory is None:
        return resources, []
    key = fraction or memory or ""
    try:
        if fraction is not None and memory is not None:
            raise ValueError(f"may not be given together with {memory}")
        if (resources.gpu or 1) != 1 or resources.gpu_memory_bytes:
            raise ValueError("is for one device; resources ask for something else")
        if fraction is not None:
            part = devices(annotations[fraction])
            if not 0 < part <= 1:
                raise ValueError("must be more than 0 and at most 1")
            found = replace(resources, gpu=float(part))
        else:
            text = annotations[key]
            # Run:ai's is a number of MiB.
            size = (
                int(text) * _MIB if key == SHARE_MEMORY[1] and text.isdigit() else parse_bytes(text)
            )
            if not size:
                raise ValueError("must be more than 0")
            found = replace(resources, gpu=None, gpu_memory_bytes=size)
    except ValueError as e:
        return resources, [FieldProblem(path((*at, key)), str(e))]
    return replace(found, gpu_resource=resources.gpu_resource or NVIDIA), []
