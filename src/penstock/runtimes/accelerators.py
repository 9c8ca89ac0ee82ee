"""Devices that a replica was given, as frameworks take them: used, held to their share, or refused aloud.

A replica sees only its own devices (`CUDA_VISIBLE_DEVICES`), so the first of them is always number 0. A
framework that cannot use what the replica holds fails to load: predictions that run on the processor instead
would keep a device from others and be slow for a reason that nobody sees.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

from penstock.domain.devices import NVIDIA, DeviceShare
from penstock.errors import LoadError
from penstock.runtimes.base import Framework, LoadOptions

_CUDA_LIBRARY: Final = "libcuda.so.1"
#: PyTorch then asks the driver's management library whether there is a device. Asked in the usual way, CUDA
#: is begun in the zygote, and is of no use in any process that is forked from it.
TORCH_ENV: Final = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}


def check(framework: Framework, options: LoadOptions) -> None:
    """LoadError when the replica holds devices and `framework` never uses any."""
    if options.devices and not framework.uses_devices:
        raise LoadError(
            f"Models of {framework.name} run on the processor, and the service asks for "
            f"{_named(options.devices)}.",
            hint="Take the accelerator out of its resources.",
        )


def unusable(options: LoadOptions, who: str) -> LoadError:
    """The refusal of a framework that finds no device."""
    return LoadError(
        f"The replica holds {_named(options.devices)}, and {who} cannot use it.",
        hint="Install the framework's build for this accelerator, or ask for none.",
    )


def torch_device(torch: Any, options: LoadOptions, asked: str | None) -> str:
    """The device for PyTorch; `asked` is the manifest's own word. Memory is held to the share."""
    if not options.devices or asked == "cpu":
        return asked or ("cuda" if torch.cuda.is_available() else "cpu")
    if not torch.cuda.is_available() or torch.cuda.device_count() < len(options.devices):
        raise unusable(options, f"PyTorch {torch.__version__}")
    for number, share in enumerate(options.devices):
        if share.memory_bytes is not None:
            total = torch.cuda.get_device_properties(number).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, share.memory_bytes / total), number)
    return asked or "cuda"


def tensorflow_devices(tf: Any, options: LoadOptions) -> None:
    """Hold TensorFlow to the share. Before its first operation; it places operations by itself."""
    if not options.devices:
        return
    found = tf.config.list_physical_devices("GPU")
    if len(found) < len(options.devices):
        raise unusable(options, f"TensorFlow {tf.__version__}")
    for device, share in zip(found, options.devices, strict=False):
        if share.memory_bytes is None:
            continue
        limit = tf.config.LogicalDeviceConfiguration(memory_limit=share.memory_bytes / 2**20)
        try:
            tf.config.set_logical_device_configuration(device, [limit])
        except RuntimeError:
            return  # another model of this process came first, with the same share


def onnx_providers(
    providers: list[str], options: LoadOptions
) -> list[str | tuple[str, dict[str, Any]]]:
    """ONNX Runtime's providers, those of devices with the share as their limit."""
    found: list[str | tuple[str, dict[str, Any]]] = []
    for provider in providers:
        share = options.devices[0] if options.devices else None
        if provider == "CUDAExecutionProvider" and share and share.memory_bytes is not None:
            # Doubling what it takes, as is its habit, would waste half of a small share.
            limit = {
                "gpu_mem_limit": str(share.memory_bytes),
                "arena_extend_strategy": "kSameAsRequested",
            }
            found.append((provider, limit))
        else:
            found.append(provider)
    return found


def cuda_devices() -> int:
    """How many devices this process's CUDA driver sees; 0 without one."""
    try:
        library = ctypes.CDLL(_CUDA_LIBRARY)
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if library.cuInit(0) or library.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def xgboost_device(xgboost: Any, options: LoadOptions) -> str:
    """The device for XGBoost. It has no limit of memory of its own."""
    if not options.devices:
        return "cpu"
    # Without a visible device it would go on on the processor.
    if not xgboost.build_info().get("USE_CUDA") or not cuda_devices():
        raise unusable(options, f"XGBoost {xgboost.__version__}")
    return "cuda"


def _named(devices: tuple[DeviceShare, ...]) -> str:
    resources = sorted({d.resource for d in devices}) or [NVIDIA]
    return f"{resources[0]} {', '.join(str(d.index) for d in devices)}"
