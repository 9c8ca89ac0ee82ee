"""Devices that a replica holds, in frameworks: used within their share, or refused - never quietly not used.

No accelerator is here, so the frameworks' own device interfaces are stood in for; what they are told is the
subject. That the builds here cannot use a device is real.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from penstock import runtimes
from penstock.domain.devices import DeviceShare
from penstock.errors import LoadError
from penstock.runtimes import accelerators
from penstock.runtimes.base import LoadOptions

GIB = 2**30
WHOLE = DeviceShare(3, "GPU-3")
HALF = DeviceShare(3, "GPU-3", milli=500, memory_bytes=8 * GIB)


def options(*devices: DeviceShare, **more: Any) -> LoadOptions:
    return LoadOptions("m", devices=devices, options=more)


class Torch:
    """PyTorch with some devices of 16 GiB."""

    __version__ = "2"

    def __init__(self, count: int) -> None:
        self.fractions: dict[int, float] = {}
        self.cuda = SimpleNamespace(
            is_available=lambda: count > 0,
            device_count=lambda: count,
            get_device_properties=lambda n: SimpleNamespace(total_memory=16 * GIB),
            set_per_process_memory_fraction=lambda f, n: self.fractions.update({n: f}),
        )


def test_pytorch_is_held_to_its_share() -> None:
    torch = Torch(1)
    assert accelerators.torch_device(torch, options(HALF), None) == "cuda"
    assert torch.fractions == {0: 0.5}


def test_pytorch_has_the_whole_of_a_whole_device() -> None:
    torch = Torch(1)
    assert accelerators.torch_device(torch, options(WHOLE), "cuda:0") == "cuda:0"
    assert torch.fractions == {}


@pytest.mark.parametrize("count", [0, 1])
def test_pytorch_that_sees_fewer_devices_than_it_holds_is_refused(count: int) -> None:
    with pytest.raises(LoadError, match=r"holds nvidia.com/gpu 3, 3, and PyTorch 2 cannot use it"):
        accelerators.torch_device(Torch(count), options(WHOLE, WHOLE), None)


def test_without_a_device_pytorch_is_as_ever() -> None:
    assert accelerators.torch_device(Torch(1), options(), None) == "cuda"
    assert accelerators.torch_device(Torch(0), options(), None) == "cpu"


class Tensorflow:
    __version__ = "2"

    def __init__(self, count: int, fails: bool = False) -> None:
        self.limits: dict[str, float] = {}
        self.fails = fails
        self.config = SimpleNamespace(
            list_physical_devices=lambda kind: [f"{kind}:{i}" for i in range(count)],
            LogicalDeviceConfiguration=lambda memory_limit: memory_limit,
            set_logical_device_configuration=self.set,
        )

    def set(self, device: str, limits: list[float]) -> None:
        if self.fails:
            raise RuntimeError("Virtual devices cannot be modified after being initialized")
        self.limits[device] = limits[0]


def test_tensorflow_is_held_to_its_share_in_mib() -> None:
    tf = Tensorflow(1)
    accelerators.tensorflow_devices(tf, options(HALF))
    assert tf.limits == {"GPU:0": 8192}
    accelerators.tensorflow_devices(Tensorflow(1, fails=True), options(HALF))


def test_tensorflow_without_the_device_is_refused() -> None:
    with pytest.raises(LoadError, match="TensorFlow 2 cannot use it"):
        accelerators.tensorflow_devices(Tensorflow(0), options(HALF))


def test_onnx_runtimes_provider_gets_the_limit() -> None:
    found = accelerators.onnx_providers(
        ["CUDAExecutionProvider", "CPUExecutionProvider"], options(HALF)
    )
    (name, told), last = found
    assert name == "CUDAExecutionProvider"
    assert told["gpu_mem_limit"] == str(8 * GIB)
    assert last == "CPUExecutionProvider"
    assert accelerators.onnx_providers(["CUDAExecutionProvider"], options(WHOLE)) == [
        "CUDAExecutionProvider"
    ]


def test_xgboost_goes_to_the_device_only_if_it_sees_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With none in sight XGBoost would go on on the processor with a warning."""
    built = SimpleNamespace(__version__="3", build_info=lambda: {"USE_CUDA": True})
    monkeypatch.setattr(accelerators, "cuda_devices", lambda: 1)
    assert accelerators.xgboost_device(built, options(WHOLE)) == "cuda"
    assert accelerators.xgboost_device(built, options()) == "cpu"
    monkeypatch.setattr(accelerators, "cuda_devices", lambda: 0)
    with pytest.raises(LoadError, match="XGBoost 3 cannot use it"):
        accelerators.xgboost_device(built, options(WHOLE))


@pytest.mark.parametrize("name", ["torch", "huggingface"])
def test_a_zygote_looks_for_devices_without_beginning_cuda(name: str) -> None:
    """PyTorch's word for it, which has to be there before it is imported."""
    assert runtimes.find(name).env["PYTORCH_NVML_BASED_CUDA_CHECK"] == "1"


@pytest.mark.parametrize("name", ["sklearn", "lightgbm", "catboost"])
def test_a_framework_that_uses_no_device_is_refused_one(name: str) -> None:
    with pytest.raises(LoadError, match=f"Models of {name} run on the processor") as told:
        accelerators.check(runtimes.find(name), options(WHOLE))
    assert "out of its resources" in str(told.value)
    accelerators.check(runtimes.find(name), options())


@pytest.mark.skipif(accelerators.cuda_devices() > 0, reason="this machine has a device")
def test_the_builds_here_refuse_a_device_that_is_not_there(tmp_path: Path) -> None:
    """Real PyTorch and ONNX Runtime, on a machine without a device."""
    import onnx
    from onnx import TensorProto, helper

    (tmp_path / "model.pt").write_bytes(b"never read")
    with pytest.raises(LoadError, match="cannot use it"):
        runtimes.find("torch").load(tmp_path / "model.pt", options(WHOLE))

    node = helper.make_node("Identity", ["x"], ["y"])
    tensors = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 2]) for n in "xy"]
    graph = helper.make_graph([node], "g", tensors[:1], tensors[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    find = runtimes.find("onnx")
    with pytest.raises(LoadError, match=r"ONNX Runtime .* cannot use it"):
        find.load(tmp_path / "model.onnx", options(WHOLE))
    assert find.load(tmp_path / "model.onnx", options()) is not None
