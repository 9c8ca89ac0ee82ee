"""What a repository's reader answers: the models in a folder, as a model process is told of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from penstock.domain.process import ServedModel
from penstock.errors import LoadError

#: Configuration files are text that people write; a larger one is a model's file with the wrong name.
MAX_CONFIG_BYTES = 1 << 20


def has(path: Path, file: str) -> bool:
    """Whether `path` is a folder with such a file, or with folders that have one."""
    if not path.is_dir():
        return False
    if (path / file).is_file():
        return True
    return any((p / file).is_file() for p in path.iterdir() if p.is_dir())


@dataclass(frozen=True, slots=True)
class Found:
    """The models of a repository, by name, and what of their configuration has no effect here."""

    models: tuple[ServedModel, ...]
    warnings: tuple[str, ...] = ()

    @property
    def framework(self) -> str:
        """Whose zygote the process is forked from: the first model's."""
        return self.models[0].framework


@dataclass(slots=True)
class Notes:
    """What is wrong, and what has no effect, as it is found; all of it is told together."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def refuse(self, where: str, why: str) -> None:
        self.problems.append(f"{where}: {why}")

    def warn(self, where: str, why: str) -> None:
        self.warnings.append(f"{where}: {why}")

    def found(self, models: list[ServedModel]) -> Found:
        """LoadError with every problem, when there is one."""
        if self.problems:
            raise LoadError("; ".join(self.problems))
        return Found(tuple(models), tuple(self.warnings))


def read_config(file: Path, shown: str, most_bytes: int = MAX_CONFIG_BYTES) -> str:
    """The text of a configuration file. LoadError names it by `shown`."""
    try:
        with file.open("rb") as f:
            data = f.read(most_bytes + 1)
        if len(data) > most_bytes:
            raise LoadError(f"{shown} has more than {most_bytes} bytes.")
        return data.decode()
    except UnicodeDecodeError:
        raise LoadError(f"{shown} is not UTF-8 text.") from None
    except OSError as error:
        raise LoadError(f"{shown} cannot be read: {error.strerror}.") from error


def versions_in(folder: Path) -> list[Path]:
    """Numbered sub-folders, oldest first."""
    found = [p for p in folder.iterdir() if p.name.isascii() and p.name.isdigit() and p.is_dir()]
    return sorted(found, key=lambda p: int(p.name))


def inside(folder: Path, path: Path) -> bool:
    """Whether `path`, symbolic links followed, is in `folder`."""
    return path.resolve().is_relative_to(folder.resolve())
