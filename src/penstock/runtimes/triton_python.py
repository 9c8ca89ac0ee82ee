"""Triton's Python models, as they are: a class `TritonPythonModel` in `model.py`.

The model gets what Triton's Python backend gives it: `initialize(args)`, then `execute(requests)` with a list
of requests of one batch, then `finalize()`; `import triton_python_backend_utils as pb_utils` finds the module
of that name here (`triton_backend_utils`). Requests stay requests: they are gathered as the configuration
allows, work-conserving as everywhere, and never joined into one array, so ids, parameters and correlation
ids are each request's own.

A decoupled model answers through `request.get_response_sender()`, as often as it likes, over
`ModelStreamInfer`. Over V2 and unary gRPC a request has one answer, so exactly one is expected there.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import logging
import sys
from pathlib import Path
from typing import Any, Final

from penstock.errors import LoadError
from penstock.runtimes import triton_backend_utils as pb_utils
from penstock.runtimes.base import Framework, LoadOptions, PayloadRuntime
from penstock.runtimes.loading import first_line, known_options, option
from penstock.runtimes.triton_execution import TritonPython
from penstock.sdk.discovery import enter

log = logging.getLogger(__name__)

CLASS: Final = "TritonPythonModel"
_MODULE: Final = "triton_python_backend_utils"


def load(path: Path, options: LoadOptions) -> PayloadRuntime:
    """The class in `path`/model.py. Options: `config` (the configuration as JSON has it), `file`.

    Raises LoadError; the user's traceback goes to the log.
    """
    known_options(options, ("config", "file"))
    config: dict[str, Any] = dict(option(options, "config", dict, {}))
    filename = option(options, "file", str, "model.py")
    file = path / filename if path.is_dir() else path
    if not file.is_file():
        raise LoadError(f"There is no {filename} in {path.name}/.")
    cls = _class(file)
    folder = file.parent
    repository = folder.parent if folder.name.isdigit() else folder
    try:
        config = _completed(cls, config)
        instance = cls()
        _initialize(
            instance,
            {
                "model_config": json.dumps(config),
                "model_instance_kind": "CPU",
                "model_instance_name": f"{options.name}_0",
                "model_instance_device_id": "0",
                "model_repository": str(repository),
                "model_version": options.version or "1",
                "model_name": options.name,
            },
        )
    except LoadError:
        raise
    except (Exception, SystemExit) as error:
        log.error("model %s: initialize raised", options.name, exc_info=error)
        raise LoadError(
            f"{CLASS} in {file.name} cannot be initialized: {first_line(error)}"
        ) from error
    if not callable(getattr(instance, "execute", None)):
        raise LoadError(f"{CLASS} in {file.name} has no execute.")
    if inspect.iscoroutinefunction(instance.execute):
        raise LoadError(
            f"{CLASS}.execute in {file.name} is a coroutine; those call other models, which is not "
            "supported."
        )
    return TritonPython(instance, options.name, config)


def _class(file: Path) -> Any:
    """The user's class, imported with its folder on the path and `pb_utils` where it looks for it."""
    sys.modules.setdefault(_MODULE, pb_utils)
    enter(file.parent)
    name = f"penstock_triton_{file.parent.parent.name}_{file.parent.name}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise LoadError(f"{file.name} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        log.exception("importing %s", file)
        raise LoadError(
            f"{file.name} needs the Python package {error.name!r}, which is not installed here."
        ) from error
    except (Exception, SystemExit) as error:
        log.error("importing %s", file, exc_info=error)
        raise LoadError(f"{file.name} cannot be imported: {first_line(error)}") from error
    cls = getattr(module, CLASS, None)
    if not isinstance(cls, type):
        raise LoadError(f"There is no class {CLASS} in {file.name}.")
    return cls


def _completed(cls: Any, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration as the model itself completes it."""
    complete = getattr(cls, "auto_complete_config", None)
    if complete is None:
        return config
    answer = complete(pb_utils.ModelConfig(config))
    if not isinstance(answer, pb_utils.ModelConfig):
        raise LoadError(f"{CLASS}.auto_complete_config returned no ModelConfig.")
    return answer.as_dict()


def _initialize(instance: Any, args: dict[str, str]) -> None:
    initialize = getattr(instance, "initialize", None)
    if initialize is not None:
        initialize(args)


framework = Framework(
    name="triton_python",
    extra="",
    preload=(),
    load=load,
    formats=(),
)
