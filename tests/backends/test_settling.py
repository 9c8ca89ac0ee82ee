"""What a zygote does to its memory before the first fork: same program, fewer pages written by children."""

import subprocess
import sys
import textwrap


def in_a_process(script):
    """Its output; what it does to the interpreter must not reach other tests."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_functions_behave_as_before_and_their_code_is_equal():
    """Defaults, closures, generators, nested functions, recursion: only where the code lies changes."""
    assert in_a_process("""
        from penstock.backends.local.settling import settle

        def outer(n, *, k=2):
            def inner(x):
                return [y * k for y in range(x)] if x < n else inner(n - 1)
            return inner

        def numbers(n):
            for i in range(n):
                yield i

        def cold():
            return "cold"

        old, untouched = outer.__code__, cold.__code__
        inner = outer(3)
        runs = []

        def rehearse():
            runs.append((outer(3)(5), inner(2), list(numbers(3))))

        settle(rehearse)
        assert outer.__code__ == old and outer.__code__ is not old
        assert cold.__code__ is untouched
        assert set(map(repr, runs)) == {"([0, 2], [0, 2], [0, 1, 2])"}, runs
        assert cold() == "cold" and len(runs) > 2
        print("same")
    """) == ["same"]


def test_a_child_writes_to_fewer_pages():
    """Private memory of a fork that imports, calls and allocates: less than without it."""
    script = """
        import asyncio, decimal, email.message, gc, json, logging, os, random, subprocess, threading
        from penstock.backends.local.memory import private_bytes
        from penstock.backends.local.settling import settle

        def life():
            async def main():
                await asyncio.gather(*(asyncio.sleep(0) for _ in range(10)))
            asyncio.run(main())
            message = email.message.EmailMessage()
            message["Subject"] = json.dumps({"a": [1.5, None]})
            message.set_content(str(decimal.Decimal(2).sqrt()))
            message.as_bytes()
            threading.Event().set()
            return [{"n": [i, (i,)]} for i in range(2000)]

        # Holes, as imports leave them.
        pieces = [[bytes(n % 400), {n: n}, (n,)] for n in range(60_000)]
        pieces = pieces[::3]
        life()
        SETTLE
        gc.collect()
        gc.freeze()
        ready, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            kept = life()
            os.write(write, b"x")
            os.read(ready, 0)
            threading.Event().wait()
        os.read(ready, 1)
        print(private_bytes(pid))
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    """
    (with_it,) = in_a_process(script.replace("SETTLE", "settle(life)"))
    (without,) = in_a_process(script.replace("SETTLE", ""))
    assert int(with_it) < 0.8 * int(without), (with_it, without)


def test_the_name_and_the_first_limits_are_rehearsed_without_effect():
    """The process keeps its name, its out-of-memory score and its signal handlers' defaults."""
    assert in_a_process("""
        import os
        from penstock.backends.local import forked
        look = lambda: (open("/proc/self/comm").read(), open("/proc/self/oom_score_adj").read(),
                        sorted(os.listdir("/proc/self/fd")))
        before = look()
        forked.rehearse()
        assert look() == before, (before, look())
        print("same")
    """) == ["same"]


def test_siblings_of_a_rehearsed_zygote_draw_different_numbers_from_numpy():
    """Uniform and normal deviates; the generator's kept half of a normal pair is not shared either."""
    out = in_a_process("""
        import os
        import numpy as np
        from penstock.backends.local import forked
        np.random.normal()  # leaves the other half of the pair behind
        forked.rehearse()
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                forked._new_randomness()
                print(np.random.random(), np.random.normal(), np.random.normal(), flush=True)
                os._exit(0)
            os.waitpid(pid, 0)
    """)
    assert len(set(out)) == 9
