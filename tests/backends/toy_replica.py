"""A model process without a model: listens, says so, beats, and does as it is told.

`TOY` in the spec's environment says how it starts; what is written to its socket says what happens then.
"""

import json
import os
import random
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time

KEPT = []
tempfile.gettempdir()  # in the zygote, as imports of frameworks do: it is remembered


def say(fd, **event):
    os.write(fd, json.dumps(event, separators=(",", ":")).encode() + b"\n")


def main(spec, status_fd):
    mode, _, argument = os.environ.get("TOY", "serve").partition(":")
    print(f"toy {spec.service} starts", flush=True)
    if mode == "exit":
        print("the toy gives up", file=sys.stderr)
        return int(argument)
    if mode == "raise":
        raise RuntimeError("the toy raised")
    if mode == "failed":
        say(
            status_fd,
            event="failed",
            reason="ModelLoadFailed",
            message="no file model.joblib\nin it",
        )
        return 78
    if mode == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    if mode == "alloc":
        allocate(int(argument))
    if mode == "huge":
        bytearray(4 << 30)
    if mode == "load":  # until somebody has opened the pipe at its other end
        with open(argument, "rb"):
            pass
    if mode == "never-ready":
        signal.pause()
    if mode == "fail-once":
        with open(argument, "a") as f:
            f.write("x")
        if os.path.getsize(argument) == 1:
            return 9
    return serve(spec, status_fd, stubborn=mode == "stubborn")


def serve(spec, status_fd, *, stubborn):
    path = spec.listen.partition(":")[2]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    wake_r, wake_w = os.pipe()
    os.set_blocking(wake_w, False)
    signal.set_wakeup_fd(wake_w)
    stopping = []
    signal.signal(signal.SIGTERM, lambda *_: None if stubborn else stopping.append(1))
    say(status_fd, event="listening")
    say(status_fd, event="ready", probe="answered", load_s=0.0, models=[])
    beat_at = time.monotonic()
    silent = False
    while not stopping:
        if not silent and time.monotonic() >= beat_at:
            beat_at = time.monotonic() + 0.2
            os.write(status_fd, b'{"event":"beat"}\n')
        ready, _, _ = select.select([listener, wake_r], [], [], 0.2)
        if listener in ready:
            peer, _ = listener.accept()
            with peer:
                word, _, rest = peer.recv(4096).decode().partition(" ")
                if word in ("silent", "rest"):
                    silent = True
                peer.sendall(answer(word, rest, status_fd).encode())
    print("toy ends")
    os.unlink(path)
    return 0


def answer(word, rest, status_fd):
    match word:
        case "exit":
            os._exit(int(rest))
        case "hung":
            say(status_fd, event="hung", message="predict took too long")
            os._exit(79)
        case "alloc":
            allocate(int(rest))
        case "keep":
            KEPT.append(b"x" * int(rest))
        case "compute":  # seconds of processor time
            until = time.process_time() + float(rest)
            while time.process_time() < until:
                pass
        case "print":
            print(rest)
        case "rest":
            say(status_fd, event="rest", for_s=float(rest))
        case "env":
            return json.dumps(os.environ.get(rest))
        case "random":
            return repr(random.random())
        case "child":  # outside its process group, as a daemon would be
            return str(subprocess.Popen(["sleep", "600"], start_new_session=True).pid)
        case "temporary":  # a file and a folder with one, left behind
            folder = tempfile.mkdtemp()
            with open(os.path.join(folder, "part"), "w"):
                pass
            fd, path = tempfile.mkstemp()
            os.close(fd)
            return path
        case "facts":
            return json.dumps(facts())
    return "ok"


def facts():
    with open("/proc/self/oom_score_adj") as f, open("/proc/self/comm") as c:
        oom, comm = int(f.read()), c.read().strip()
    return {
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "sid": os.getsid(0),
        "fds": {
            n: os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if live(n)
        },
        "nofile": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "cpus": sorted(os.sched_getaffinity(0)),
        "oom_score_adj": oom,
        "scheduled_in_batch": os.sched_getscheduler(0) == os.SCHED_BATCH,
        "comm": comm,
        "umask": os.umask(0o077),
        "sigint_default": signal.getsignal(signal.SIGINT) == signal.SIG_DFL,
        "stdin": os.readlink("/proc/self/fd/0"),
    }


def live(number):
    return os.path.islink(f"/proc/self/fd/{number}")


def allocate(size):
    blocks = []
    step = 8 << 20
    while size > 0:
        blocks.append(b"x" * step)
        size -= step
        time.sleep(0.01)
    time.sleep(60)
