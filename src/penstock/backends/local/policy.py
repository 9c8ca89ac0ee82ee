"""What a node allows its replicas: how long things may take, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReplicaPolicy:
    """How long things may take, in seconds, and what replicas may do."""

    #: From the fork to the readiness probe's answer.
    startup_s: float = 300.0
    #: From the fork: one that still loads gives its place to the next one. What loads for long mostly waits
    #: for a disk or another machine; models of minutes must not hold up those of milliseconds.
    place_s: float = 5.0
    #: Without a heartbeat, once ready. A model process beats every two seconds from its event loop; at rest
    #: it says for how long it will be silent, and has this long after that.
    heartbeat_s: float = 10.0
    #: Longest rest that a process is believed.
    rest_s: float = 60.0
    #: Ready for this long: the next ending is a first one again.
    healthy_s: float = 300.0
    #: After SIGKILL, until the zygote is taken for stuck.
    kill_s: float = 10.0
    #: Replicas read and write regions of shared memory that clients have registered.
    shared_memory: bool = False
