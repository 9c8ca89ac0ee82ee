"""A zygote's forks leave the standard library's hooks out; a child's own forks have them."""

import subprocess
import sys
import textwrap

SCRIPT = """
    import os, signal, sys
    assert not {"logging", "random", "threading"} & set(sys.modules)
    from penstock.backends.local import fork_hooks
    fork_hooks.defer()
    import logging, random, threading

    def in_a_fork(work):
        pid = os.fork()
        if pid == 0:
            signal.alarm(5)
            work()
            os._exit(0)
        return os.waitpid(pid, 0)[1]

    state = random.getstate()
    assert in_a_fork(lambda: random.getstate() == state or os._exit(1)) == 0, "deferred"

    fork_hooks.restore()
    held, done = threading.Event(), threading.Event()

    def hold():
        with logging.getLogger().handlers[0].lock:
            held.set()
            done.wait()

    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    # Without its hook a fork's child has a lock that nobody will let go of.
    assert in_a_fork(lambda: logging.error("said")) == 0
    assert in_a_fork(lambda: threading.active_count() == 1 or os._exit(1)) == 0
    assert in_a_fork(lambda: random.getstate() != state or os._exit(1)) == 0
    done.set()
    holder.join()
    print("restored")
"""


def test_hooks_are_kept_until_they_are_restored():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["said", "restored"]
