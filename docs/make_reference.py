"""Write docs/reference/ from the code: `make reference`. A test fails when page and code differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import click
import typer.main

from penstock import dialects
from penstock.cli.app import app
from penstock.repositories import bentoml, mlserver, triton, triton_ensembles
from penstock.runtimes import find, names

HERE = Path(__file__).resolve().parent / "reference"
MADE = "<!-- made from the code by `make reference`; do not edit -->"


def _grouped(paths: Iterable[str]) -> list[str]:
    """`parent.{a,b}` for fields of one parent; parents with the same fields share a line."""
    children: dict[str, list[str]] = {}
    for path in paths:
        parent, _, name = path.rpartition(".")
        children.setdefault(parent, []).append(name)
    parents: dict[tuple[str, ...], list[str]] = {}
    for parent, names_ in children.items():
        parents.setdefault(tuple(names_), []).append(parent)
    lines = []
    for names_, where in parents.items():
        shown = ", ".join(f"`{name}`" for name in names_)
        lines.append(
            f"- {', '.join(f'`{w}`' for w in where)}: {shown}" if where != [""] else f"- {shown}"
        )
    return lines


def manifests() -> str:
    """Every kind, and what becomes of every field of it."""
    out = [
        "# Manifests",
        MADE,
        "",
        "Every field of every kind, below its parent. A manifest with a *refused* field is not taken;",
        "one with a field that has *no effect here* is, and a warning says so. A field that is not",
        "listed is unknown, and refused.",
    ]
    for dialect in dialects.all_dialects():
        out += ["", f"## {dialect.api_version} {dialect.kind}"]
        fields = dialect.supported()
        out += ["", "Supported:", "", *_grouped(f.path for f in fields if f.effect is None)]
        fates: dict[tuple[str, str], list[str]] = {}
        for field in fields:
            if field.effect is not None:
                where = " (where replicas are processes)" if field.only_processes else ""
                fates.setdefault((field.effect.value, field.message + where), []).append(field.path)
        for (effect, message), paths in fates.items():
            out += ["", f"*{effect}*, {message}:", "", *_grouped(paths)]
    return "\n".join(out) + "\n"


def _commands(group: click.Group, prefix: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        # Typer's groups are of a click of its own.
        if hasattr(command, "list_commands"):
            yield from _commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def commands() -> str:
    """Every command with its arguments and options."""
    out = ["# Commands", MADE]
    for name, command in _commands(typer.main.get_group(app), "penstock"):
        context = click.Context(command, info_name=name)
        out += ["", f"## {name}", "", (command.help or "").strip(), "", "```"]
        out += [" ".join([name, *command.collect_usage_pieces(context)]), "```", ""]
        rows = [p.get_help_record(context) for p in command.get_params(context)]
        listed = [row for row in rows if row is not None]
        if listed:
            out += ["| option | |", "|---|---|"]
            for option, text in listed:
                out.append(f"| `{option}` | {' '.join(text.split()).replace('|', chr(92) + '|')} |")
    out += [
        "", "## Exit codes", "",
        "| code | meaning |", "|---|---|",
        "| 0 | done |", "| 1 | an error |", "| 2 | wrong usage |",
        "| 3 | refused: a conflict, or a second `penstock serve` on a data folder |",
        "| 4 | not found |", "| 5 | timed out waiting |", "| 6 | the server cannot be reached |",
        "| 130 | interrupted |",
    ]  # fmt: skip
    return "\n".join(out) + "\n"


def frameworks() -> str:
    """Every framework and the model formats it serves."""
    out = ["# Frameworks", MADE, "", "| framework | model formats | extra |", "|---|---|---|"]
    for name in names():
        framework = find(name)
        formats = ", ".join(f"`{f}`" for f in framework.formats)
        extra = f"`penstock[{framework.extra}]`" if framework.extra else "none needed"
        out.append(f"| {name} | {formats} | {extra} |")
    return "\n".join(out) + "\n"


def repositories() -> str:
    """What becomes of the fields of other servers' configurations."""
    out = [
        "# Model repositories of other servers",
        MADE,
        "",
        "Fields that are not listed are read, or unknown: an unknown field of Triton's is refused, one of",
        "MLServer's is said (MLServer itself ignores it).",
    ]
    for title, table in (
        ("Triton's config.pbtxt", triton.TABLE),
        ("MLServer's model-settings.json", mlserver.TABLE),
    ):
        out += ["", f"## {title}", "", "| field | | why |", "|---|---|---|"]
        out += [f"| `{name}` | {effect} | {why} |" for name, (effect, why) in table.items()]
    out += ["", "## What runs a model", "", "| configuration | framework |", "|---|---|"]
    out += [f"| Triton, backend `{n}` | {b.framework} |" for n, b in triton.BACKENDS.items()]
    out += [f"| Triton, platform `{triton_ensembles.PLATFORM}` | {triton_ensembles.FRAMEWORK} |"]
    out += [
        f"| Triton, platform `{n}` | {triton.BACKENDS[b].framework} |"
        for n, b in triton.PLATFORMS.items()
    ]
    out += [f"| MLServer, `{n}` | {f} |" for n, f in mlserver.IMPLEMENTATIONS.items()]
    out += [f"| MLServer, any other class | {mlserver.CUSTOM} |"]
    out += [f"| BentoML, `{n}` | {m.framework} |" for n, m in bentoml.MODULES.items()]
    return "\n".join(out) + "\n"


def pages() -> dict[str, str]:
    """File name in docs/reference/ to content."""
    return {
        "manifests.md": manifests(),
        "commands.md": commands(),
        "frameworks.md": frameworks(),
        "repositories.md": repositories(),
    }


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for name, text in pages().items():
        (HERE / name).write_text(text)
