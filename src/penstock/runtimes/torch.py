"""PyTorch: TorchScript, exported programs (`.pt2`), and a class with a state dict.

The three are told apart by what the file holds. A state dict needs its class: the options `modelClassName`,
`modelClassFile` and `modelClassKwargs` name it as KFServing's did. State dicts are read with
`weights_only`, so a file that is a whole pickled module is refused. What comes of each is a `TorchRuntime`.
"""

from __future__ import annotations

import inspect
import io
import logging
import sys
import zipfile
from collections.abc import Mapping, Sequence
from importlib import util
from pathlib import Path
from typing import Any, Final

from penstock.errors import LoadError
from penstock.runtimes import accelerators
from penstock.runtimes import inputs as given
from penstock.runtimes.base import Framework, LoadOptions, Runtime, TensorSpec
from penstock.runtimes.loading import (
    first_line,
    known_options,
    model_file,
    opening,
    option,
    require,
)
from penstock.runtimes.torch_module import TorchRuntime

log = logging.getLogger(__name__)

SUFFIXES: Final = (".pt", ".pt2", ".pth", ".ts")
OPTIONS: Final = (
    "file",
    "device",
    "inputs",
    "outputs",
    "batchable",
    "modelClassName",
    "modelClassFile",
    "modelClassKwargs",
)
#: Containers that people save instead of the bare state dict.
_WRAPPERS: Final = ("state_dict", "model_state_dict", "model")


def load(path: Path, options: LoadOptions) -> Runtime:
    """The module in the one file at `path`. See OPTIONS for the options."""
    known_options(options, OPTIONS)
    file = model_file(path, SUFFIXES, options)
    require(framework)
    import torch

    device = accelerators.torch_device(torch, options, option(options, "device", str))
    kind = _kind(file)
    if kind != "state dict" and "modelClassName" in options.options:
        log.warning("%s is a %s, which needs no class: modelClassName is not used", file.name, kind)
    with opening(file, f"a PyTorch model ({kind})"):
        try:
            torch.device(device)
        except RuntimeError as e:
            raise LoadError(f"The option 'device' cannot be {device!r}: {first_line(e)}") from e
        if kind == "exported program":
            runtime = _exported(torch, file, device, options)
        elif kind == "TorchScript":
            runtime = _scripted(torch, file, device, options)
        else:
            runtime = _from_class(torch, path, file, device, options)
        runtime.learn_outputs()
    return runtime


def _kind(file: Path) -> str:
    if not zipfile.is_zipfile(file):
        with file.open("rb") as f:
            head = f.read(265)
        if head.startswith(b"PK"):
            raise LoadError(f"{file.name} is cut short: it begins as a zip file and has no end.")
        # What torch.save wrote before it wrote zip files: a pickle, or a tar file.
        if file.suffix.lower() in (".pt2", ".ts") or not (
            head.startswith(b"\x80") or head[257:262] == b"ustar"
        ):
            raise LoadError(f"{file.name} is no PyTorch file.")
        return "state dict"
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
    if any(n.endswith(("models/model.json", "serialized_exported_program.json")) for n in names):
        return "exported program"
    if any("/code/" in n for n in names):
        return "TorchScript"
    return "state dict"


def _exported(torch: Any, file: Path, device: str, options: LoadOptions) -> TorchRuntime:
    program = torch.export.load(file)
    if device != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    positional, keyword = program.call_spec.in_spec.children()
    if (
        positional.num_leaves != positional.num_children
        or keyword.num_leaves != keyword.num_children
    ):
        raise LoadError(f"{file.name} takes nested inputs, which no request can carry.")
    names = [str(n) for n in program.graph_signature.user_inputs]
    values = {n.name: n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder"}
    specs = [_spec(torch, n, values.get(n)) for n in names]
    outputs = [v for n in program.graph.nodes if n.op == "output" for v in n.args[0]]
    firsts = {_first(v) for v in values.values() if v is not None and _is_user(values, names, v)}
    firsts |= {
        _first(v.meta["val"])
        for v in outputs
        if getattr(v, "name", None) in program.graph_signature.user_outputs
    }
    parameters = [p for p in program.state_dict.values() if torch.is_tensor(p)]
    return TorchRuntime(
        program.module(),
        platform="pytorch_exported",
        device=device,
        floats=_float_dtype(torch, parameters),
        keywords=list(keyword.context or ()),
        specs=specs,
        output_names=option(options, "outputs", list, []),
        # One symbol for the rows of all inputs and outputs: then they are independent.
        batchable=len(firsts) == 1 and not next(iter(firsts)).isdigit(),
    )


def _is_user(values: Mapping[str, Any], names: Sequence[str], value: Any) -> bool:
    return any(values.get(n) is value for n in names)


def _first(value: Any) -> str:
    """The size of axis 0 as text: digits, or the symbol of an open one; "0-d" for a scalar."""
    return str(value.shape[0]) if len(value.shape) else "0"


def _spec(torch: Any, name: str, value: Any) -> TensorSpec:
    datatype = _DATATYPES.get(str(value.dtype)) if isinstance(value, torch.Tensor) else None
    if datatype is None:
        raise LoadError(f"Input {name!r} of the model is no tensor that a request can carry.")
    shape = tuple(int(n) if str(n).isdigit() else -1 for n in value.shape)
    return TensorSpec(name, datatype, shape)


def _scripted(torch: Any, file: Path, device: str, options: LoadOptions) -> TorchRuntime:
    module = torch.jit.load(file, map_location=device)
    module.eval()
    names, optional = [], []
    for argument in module.forward.schema.arguments[1:]:
        if str(argument.type) not in ("Tensor", "Optional[Tensor]"):
            if not argument.has_default_value():
                raise LoadError(
                    f"Argument {argument.name!r} of forward is a {argument.type}; requests carry tensors."
                )
            continue
        names.append(argument.name)
        if argument.has_default_value():
            optional.append(argument.name)
    return TorchRuntime(
        module,
        platform="pytorch_torchscript",
        device=device,
        floats=_float_dtype(torch, list(module.parameters())),
        names=names,
        optional=optional,
        specs=_declared(options),
        output_names=option(options, "outputs", list, []),
        batchable=option(options, "batchable", bool, True),
    )


def _from_class(
    torch: Any, path: Path, file: Path, device: str, options: LoadOptions
) -> TorchRuntime:
    cls = _class(torch, path if path.is_dir() else path.parent, options, file)
    kwargs = option(options, "modelClassKwargs", dict, {})
    try:
        module = cls(**kwargs)
    except TypeError as e:
        raise LoadError(
            f"{cls.__name__} cannot be made with modelClassKwargs {sorted(kwargs)}: {first_line(e)}"
        ) from e
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as e:
        if "eights only load failed" not in str(e):
            raise
        raise LoadError(
            f"{file.name} holds more than weights: a whole pickled module runs code when it is read.",
            hint="Save model.state_dict(), or export the model with torch.export.save.",
        ) from e
    for wrapper in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
            break
    if not isinstance(state, dict):
        raise LoadError(f"{file.name} holds a {type(state).__name__}, not a state dict.")
    try:
        module.load_state_dict(state)
    except RuntimeError as e:
        # The first thing that does not fit; the log has all of them.
        lines = [line.strip() for line in str(e).splitlines() if line.strip()]
        first = (lines[1] if len(lines) > 1 else lines[0]).rstrip(".")
        raise LoadError(
            f"The weights in {file.name} do not fit the class {type(module).__name__}: {first}.",
            hint="Its keyword arguments come from modelClassKwargs." if "size mis" in first else "",
        ) from e
    module.eval().to(device)
    names, optional, keywords = _arguments(module)
    return TorchRuntime(
        module,
        platform="pytorch_state_dict",
        device=device,
        floats=_float_dtype(torch, list(module.parameters())),
        names=names,
        optional=optional,
        keywords=keywords,
        specs=_declared(options),
        output_names=option(options, "outputs", list, []),
        batchable=option(options, "batchable", bool, True),
    )


def _class(torch: Any, folder: Path, options: LoadOptions, weights: Path) -> Any:
    """The module class of a state dict: by name, or the only one in the folder's only `.py` file."""
    name = option(options, "modelClassName", str)
    wanted = option(options, "modelClassFile", str)
    if wanted is not None:
        source = folder / wanted
        if not source.resolve().is_relative_to(folder.resolve()) or not source.is_file():
            raise LoadError(
                f"The option modelClassFile names {wanted!r}, which is not in the folder."
            )
    else:
        sources = sorted(folder.glob("*.py"))
        if len(sources) != 1:
            found = given.listed(s.name for s in sources) if sources else "none"
            raise LoadError(
                f"{weights.name} is a state dict and needs its class in one .py file; found: {found}.",
                hint="Add it to the folder, name it with the option 'modelClassFile', or export the "
                "model with torch.export.save.",
            )
        source = sources[0]
    # What the class imports from beside itself is found, now and while it answers.
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    spec = util.spec_from_file_location(f"penstock_model_{source.stem}_{id(options):x}", source)
    if spec is None or spec.loader is None:
        raise LoadError(f"{source.name} cannot be imported.")
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as e:
        raise LoadError(f"{source.name} cannot be imported: {first_line(e)}") from e
    own = {
        n: c
        for n, c in vars(module).items()
        if isinstance(c, type) and issubclass(c, torch.nn.Module) and c.__module__ == spec.name
    }
    if name is not None:
        if name not in own:
            raise LoadError(
                f"{source.name} has no module class {name!r}; it has {given.listed(own)}."
            )
        return own[name]
    if len(own) > 1 and "PyTorchModel" in own:  # KFServing's default
        return own["PyTorchModel"]
    if len(own) != 1:
        raise LoadError(
            f"{source.name} has {len(own)} module classes: {given.listed(own) or 'none'}.",
            hint="Name the model's with the option 'modelClassName'.",
        )
    return next(iter(own.values()))


def _arguments(module: Any) -> tuple[list[str], list[str], list[str]]:
    names, optional, keywords = [], [], []
    for p in inspect.signature(module.forward).parameters.values():
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            continue
        names.append(p.name)
        if p.default is not p.empty:
            optional.append(p.name)
        if p.kind is p.KEYWORD_ONLY:
            keywords.append(p.name)
    return names, optional, keywords


def _declared(options: LoadOptions) -> list[TensorSpec]:
    """The option `inputs`: a list of {name, datatype, shape}, for files that declare nothing."""
    specs = []
    for i, item in enumerate(option(options, "inputs", list, [])):
        try:
            name, datatype, shape = item["name"], item["datatype"], tuple(map(int, item["shape"]))
        except (KeyError, TypeError, ValueError):
            raise LoadError(f"The option inputs[{i}] needs name, datatype and shape.") from None
        if datatype not in given.DTYPES:
            raise LoadError(
                f"The option inputs[{i}] has an unknown datatype {datatype!r}; known are "
                f"{given.listed(given.DTYPES, 20)}."
            )
        specs.append(TensorSpec(str(name), datatype, shape))
    return specs


def _float_dtype(torch: Any, parameters: Sequence[Any]) -> Any:
    return next((p.dtype for p in parameters if p.is_floating_point()), torch.float32)


_DATATYPES: Final = {
    "torch.bool": "BOOL",
    "torch.uint8": "UINT8",
    "torch.uint16": "UINT16",
    "torch.uint32": "UINT32",
    "torch.uint64": "UINT64",
    "torch.int8": "INT8",
    "torch.int16": "INT16",
    "torch.int32": "INT32",
    "torch.int64": "INT64",
    "torch.float16": "FP16",
    "torch.float32": "FP32",
    "torch.float64": "FP64",
    "torch.bfloat16": "BF16",
}


def set_threads(threads: int) -> None:
    """PyTorch's own pools: `threads` inside an operator, none beside it."""
    import torch

    torch.set_num_threads(max(1, threads))
    try:
        torch.set_num_interop_threads(1)
    except RuntimeError:
        return  # it has started already, and stays as it is


def warm() -> None:
    """Export, load and ask a small module: what that imports and builds (35 MB) is then shared."""
    import torch

    module = torch.nn.Linear(2, 2).eval()
    shapes = ({0: torch.export.Dim("rows")},)
    program = torch.export.export(module, (torch.zeros(2, 2),), dynamic_shapes=shapes)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    with torch.inference_mode():
        loaded(torch.zeros(1, 2))


framework = Framework(
    name="torch",
    extra="torch",
    preload=("torch", "torch.export"),
    load=load,
    formats=("pytorch", "torch", "torchscript"),
    uses_devices=True,
    set_threads=set_threads,
    warm=warm,
    env=accelerators.TORCH_ENV,
)
