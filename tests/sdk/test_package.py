"""What `import penstock` gives, and what it costs."""

import subprocess
import sys

import penstock


def test_the_public_names_are_these():
    assert sorted(penstock.__all__) == penstock.__all__
    assert dir(penstock) == penstock.__all__
    for name in penstock.__all__:
        assert getattr(penstock, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(penstock, "Modle")


def test_importing_penstock_imports_nothing_heavy():
    code = "import sys, penstock; print(*sorted(m for m in sys.modules if m in %r))"
    heavy = ("numpy", "msgspec", "typing", "asyncio", "pandas", "logging")
    out = subprocess.run(
        [
            sys.executable,
            "-S",
            "-c",
            f"import sys; sys.path[:0] = {sys.path!r}\n" + code % (heavy,),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.strip() == ""


def test_a_model_file_imports_no_server():
    code = "import sys, penstock; penstock.Model; print(*[m for m in sys.modules if 'server' in m])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "penstock" not in out.stdout


def test_each_module_can_be_the_first_one_imported():
    """Runtimes and protocols know each other's types: no import order may be the only one that works."""
    protocols = ("binary_tensors", "documents", "errors", "infer", "json_tensors", "v1", "v2")
    names = ["penstock.protocols." + n for n in protocols] + [
        "penstock.sdk",
        "penstock.runtimes",
        "penstock.runtimes.base",
        "penstock.runtimes.custom",
    ]
    code = """
import importlib, sys
for name in sys.argv[1:]:
    for known in [m for m in sys.modules if m.startswith("penstock")]:
        del sys.modules[known]
    importlib.import_module(name)
"""
    subprocess.run([sys.executable, "-c", code, *names], check=True)


def test_protocols_import_no_runtime():
    code = "import sys, penstock.protocols.v2; print('penstock.runtimes' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
