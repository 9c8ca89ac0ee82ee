"""Names that model processes write to lie side by side, because the zygote makes them before all others."""

import subprocess
import sys


def test_later_modules_use_these_names_and_few_pages_hold_them():
    """Names that the interpreter itself had made before are where they are."""
    script = """if True:
        import sys
        before = set(sys.intern(k) for m in list(sys.modules.values()) for k in vars(m))
        from penstock.backends.local.written_names import NAMES
        import penstock.server.process
        used = {id(name): name for name in penstock.server.process.ModelProcess.__init__.__code__.co_names}
        shared = [name for name in NAMES if id(name) in used]
        made_here = [name for name in NAMES if name not in before]
        print(len(shared), len(made_here), len({id(name) >> 12 for name in made_here}))
    """
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    shared, made_here, pages = map(int, done.stdout.split())
    assert shared > 5
    assert made_here > 300
    assert pages < made_here / 4


def test_a_zygote_makes_them_first():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "penstock.backends.local.zygote_main", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    order = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines()]
    first = order.index("penstock.backends.local.written_names")
    for later in ("logging", "msgspec", "penstock.backends.local.zygote", "argparse"):
        assert first < order.index(later)
