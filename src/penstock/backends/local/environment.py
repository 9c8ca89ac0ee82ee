"""What model processes see of the environment that `penstock serve` was started in.

Whoever starts the platform has credentials in the environment (AWS_*, HF_TOKEN, a proxy's password), and
models are other people's code. So a zygote, and with it every replica, gets only what programs and numeric
libraries need to run; a model's own variables come from its manifest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_NAMES: Final = frozenset(
    {
        "HOME", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "KERAS_HOME", "LANG", "LANGUAGE",
        "LD_LIBRARY_PATH", "LD_PRELOAD", "LOGNAME", "MALLOC_ARENA_MAX", "MPLCONFIGDIR", "PATH",
        "PENSTOCK_LOG_LEVEL", "SHELL", "SSL_CERT_DIR", "SSL_CERT_FILE", "TERM", "TMPDIR",
        "TRANSFORMERS_OFFLINE", "TZ", "USER", "VIRTUAL_ENV",
    }
)  # fmt: skip
#: Settings of interpreters, numeric libraries and devices; none of these families holds credentials.
_FAMILIES: Final = (
    "CUDA_", "KMP_", "LC_", "MKL_", "NCCL_", "NUMEXPR_", "NVIDIA_", "OMP_", "OPENBLAS_", "PYTHON", "PYTORCH_",
    "TF_", "TORCH_", "XDG_", "XLA_",
)  # fmt: skip


def for_models(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of `environment` that model processes get."""
    return {
        name: value
        for name, value in environment.items()
        if name in _NAMES or name.startswith(_FAMILIES)
    }
