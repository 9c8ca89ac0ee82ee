"""Lock, folders, ports and arguments: what a node settles before it starts anything."""

import asyncio
import os
import socket
import stat

import pytest

from penstock.backends.local.backoff import Endings, Schedule
from penstock.backends.local.client import LocalBackend
from penstock.backends.local.config import NodeConfig
from penstock.backends.local.lock import AlreadyRunning, NodeLock, find_layout, read_holder
from penstock.backends.local.node import run_node
from penstock.backends.local.paths import Layout, choose_run_dir
from penstock.backends.local.ports import PortTaken, is_loopback, probe, reserve, url
from penstock.errors import Internal, InvalidInput


def test_the_lock_is_free_again_after_release(data_dir):
    """Second is refused with the pid of the first; then it is free."""
    lock = NodeLock.acquire(data_dir)
    with pytest.raises(AlreadyRunning, match=f"process {os.getpid()} already") as refused:
        NodeLock.acquire(data_dir)
    assert refused.value.pid == os.getpid()
    lock.release()
    lock.release()
    NodeLock.acquire(data_dir).release()


@pytest.mark.parametrize("text", ["", "{", "null", '{"pid": "x"}', "\x00" * 50])
def test_a_torn_lock_file_holds_nobody_up(data_dir, text):
    """The kernel's lock decides, the text only informs."""
    (data_dir / "penstock.lock").write_text(text)
    assert read_holder(data_dir) is None
    assert find_layout(data_dir).run == data_dir / "run"
    lock = NodeLock.acquire(data_dir)
    assert read_holder(data_dir).pid == os.getpid()
    lock.release()


def test_old_sockets_are_removed(data_dir):
    """What a killed node left would make clients wait for nobody."""
    (data_dir / "run" / "r").mkdir(parents=True)
    for name in ("node.sock", "gateway-0.sock", "r/abc.sock"):
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(str(data_dir / "run" / name))
    lock = NodeLock.acquire(data_dir)
    assert not list((data_dir / "run").rglob("*.sock"))
    lock.release()


def test_long_data_folders_get_a_short_place_for_sockets(data_dir, monkeypatch, tmp_path):
    """Private, recorded in the lock file, used again by the next node, and short enough to bind."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    deep = data_dir / ("x" * 60) / ("y" * 60)
    lock = NodeLock.acquire(deep)
    run = lock.layout.run
    assert run != deep / "run"
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    assert find_layout(deep).run == run
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(lock.layout.replica_socket("a" * 200)))
    lock.release()
    again = NodeLock.acquire(deep)
    assert again.layout.run == run
    again.release()
    # A folder that others can enter is not taken again.
    run.chmod(0o755)
    other = choose_run_dir(deep, run)
    assert other != run
    for folder in (run, other):
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(data_dir))
    assert choose_run_dir(deep).parent == data_dir


def test_replica_sockets_are_stable_and_distinct(data_dir):
    """By the id alone."""
    layout = Layout(data_dir, data_dir / "run")
    assert layout.replica_socket("a") == layout.replica_socket("a")
    assert layout.replica_socket("a") != layout.replica_socket("b")


def test_a_data_folder_that_cannot_be_used(data_dir):
    """A sentence, no traceback."""
    (data_dir / "file").write_text("")
    with pytest.raises(Internal, match="cannot be used"):
        NodeLock.acquire(data_dir / "file")


@pytest.mark.parametrize("reuse", [False, True])
def test_a_port_that_is_taken_is_found(reuse):
    """Also one that would share it: two platforms must not answer in turn."""
    with socket.socket() as s:
        if reuse:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        with pytest.raises(PortTaken, match="--http-port"):
            probe(f"127.0.0.1:{port}", "--http-port")
    assert probe(f"127.0.0.1:{port}", "--http-port") == f"127.0.0.1:{port}"


def test_a_port_is_kept_for_the_gateways_of_one_node():
    """Before a gateway listens, while one does, and between two: another node's look at it fails."""
    listen, held = reserve("127.0.0.1:0", "--http-port")
    with held:
        for _ in range(2):
            with pytest.raises(PortTaken):
                reserve(listen, "--http-port")
            with socket.socket() as gateway, socket.socket() as client:
                for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                    gateway.setsockopt(socket.SOL_SOCKET, option, 1)
                gateway.bind(("127.0.0.1", int(listen.rpartition(":")[2])))
                gateway.listen()
                with pytest.raises(PortTaken):
                    reserve(listen, "--http-port")
                client.connect(gateway.getsockname())
                gateway.settimeout(5)
                gateway.accept()[0].close()
    assert probe(listen, "--http-port") == listen


def test_addresses():
    """Port 0 is chosen; loopback is known in all its spellings; URLs can be clicked on."""
    host, _, port = probe("127.0.0.1:0", "x").rpartition(":")
    assert host == "127.0.0.1"
    assert int(port) > 0
    assert [
        is_loopback(x) for x in ("127.0.0.1:1", "localhost:1", "[::1]:1", "0.0.0.0:1", "host:1")
    ] == [True, True, True, False, False]
    assert url("0.0.0.0:8080") == "http://127.0.0.1:8080"
    assert url("[::]:8080") == "http://[::1]:8080"
    for wrong in ("8080", "host:port", "127.0.0.1:99999", ":80"):
        with pytest.raises(InvalidInput, match="HOST:PORT"):
            probe(wrong, "x")


async def test_a_port_for_everybody_needs_a_token_or_consent(data_dir):
    """Refused before anything is touched."""
    config = NodeConfig(data_dir=data_dir, listen_http="0.0.0.0:0")
    with pytest.raises(InvalidInput, match="--insecure"):
        await run_node(config)
    assert not list(data_dir.iterdir())


async def test_a_cgroup_that_cannot_be_used_is_refused(data_dir):
    """Limits that were asked for are held or the node does not start; the folder is free again."""
    config = NodeConfig(
        data_dir=data_dir, cgroup="/nowhere", listen_http="127.0.0.1:0", listen_api="127.0.0.1:0"
    )
    with pytest.raises(InvalidInput, match="cgroup"):
        await run_node(config)
    NodeLock.acquire(data_dir).release()


def test_commands_of_the_children(data_dir):
    """As `penstock.api` and `penstock.gateway` take them."""
    from penstock.api.process import arguments as control_arguments
    from penstock.gateway.process import arguments as gateway_arguments

    config = NodeConfig(
        data_dir=data_dir,
        model_dir=data_dir / "models",
        gateways=2,
        insecure=True,
        token_file=data_dir / "token",
        control_options=("--cache-gib=3",),
        gateway_options=("--max-body=7",),
    )
    layout = Layout(data_dir, data_dir / "run")
    command = config.control_command(layout, "127.0.0.1:8090", "127.0.0.1:8080")
    control = control_arguments().parse_args([*command[3:], "--status-fd=5"])
    assert control.data_dir == data_dir
    assert control.listen == "127.0.0.1:8090"
    assert control.model_dir == data_dir / "models"
    assert control.inference_url == "http://127.0.0.1:8080"
    assert (control.gateways, control.insecure, control.cache_gib) == (2, True, 3)
    assert control.token_file == data_dir / "token"
    assert control.status_fd == 5
    command = config.gateway_command(layout, "127.0.0.1:8080", 1)
    gateway = gateway_arguments().parse_args([*command[3:], "--status-fd=5"])
    assert gateway.control == str(layout.routes_socket)
    assert gateway.snapshot == str(layout.routes_file)
    assert gateway.admin == str(layout.run / "gateway-1.sock")
    assert (gateway.listen, gateway.max_body, gateway.status_fd) == ("127.0.0.1:8080", 7, 5)


def test_schedules():
    """At once, then doubling to the most; a healthy run or a wish starts anew."""
    schedule = Schedule(0, 1, 60)
    assert [schedule.delay_s(n) for n in (1, 2, 3, 4, 8, 9, 1000)] == [0, 1, 2, 4, 60, 60, 60]
    endings = Endings(healthy_s=300)
    assert [endings.next_delay_s(failed=False, healthy_for_s=299) for _ in range(3)] == [0, 1, 2]
    assert endings.next_delay_s(failed=False, healthy_for_s=300) == 0
    assert endings.next_delay_s(failed=True, healthy_for_s=0) == 60
    endings.reset()
    assert endings.next_delay_s(failed=False, healthy_for_s=0) == 0


async def test_no_node_no_listing(data_dir):
    """A lock file of a node that is gone is no node."""
    NodeLock.acquire(data_dir).release()
    with pytest.raises(Exception, match="No node serves"):
        await asyncio.wait_for(LocalBackend(data_dir).list(), 10)
