"""Placement on accelerators: a table of what goes where, and what holds for any of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.domain.devices import (
    AMD,
    NVIDIA,
    WHOLE,
    Device,
    DeviceRequest,
    DeviceShare,
    place,
    request_of,
    visible,
    why_not,
)

GIB = 2**30
A = Device(0, "GPU-a", "T4", memory_bytes=16 * GIB)
B = Device(1, "GPU-b", "T4", memory_bytes=16 * GIB)
BIG = Device(2, "GPU-c", "A100", memory_bytes=80 * GIB)
HALF = DeviceRequest(milli=500)


def _indices(shares: tuple[DeviceShare, ...] | None) -> list[int] | None:
    return None if shares is None else [s.index for s in shares]


def test_whole_devices_go_to_untouched_ones_and_the_smallest_first() -> None:
    half = place([A, B, BIG], (), HALF)
    assert half is not None
    assert _indices(half) == [0]
    assert _indices(place([A, B, BIG], half, DeviceRequest())) == [1]
    assert _indices(place([A, B, BIG], half, DeviceRequest(milli=2000))) == [1, 2]
    assert place([A, B, BIG], half, DeviceRequest(milli=3000)) is None


def test_fractions_fill_a_device_before_they_touch_another() -> None:
    held: list[DeviceShare] = []
    for expected in (0, 0, 1, 1):
        shares = place([A, B], held, HALF)
        assert _indices(shares) == [expected]
        held += shares or ()
    assert place([A, B], held, DeviceRequest(milli=1)) is None


def test_a_fraction_has_its_share_of_the_memory() -> None:
    shares = place([A], (), HALF)
    assert shares is not None
    assert (shares[0].milli, shares[0].memory_bytes) == (500, 8 * GIB)


def test_memory_alone_takes_the_part_of_the_device_that_it_is() -> None:
    shares = place([A, B], (), DeviceRequest(milli=0, memory_bytes=4 * GIB))
    assert shares is not None
    assert (shares[0].milli, shares[0].memory_bytes) == (250, 4 * GIB)


def test_memory_that_others_use_is_not_given_out() -> None:
    used = Device(0, "GPU-a", memory_bytes=16 * GIB, reserved_bytes=10 * GIB)
    assert place([used], (), HALF) is None
    assert place([used], (), DeviceRequest(milli=0, memory_bytes=6 * GIB)) is not None


def test_a_request_for_memory_goes_where_there_is_as_much() -> None:
    request = DeviceRequest(milli=1000, memory_bytes=40 * GIB)
    assert _indices(place([A, BIG], (), request)) == [2]
    assert place([A, B], (), request) is None


def test_another_resource_is_another_device() -> None:
    amd = Device(0, "0", resource=AMD, memory_bytes=16 * GIB)
    assert place([amd], (), DeviceRequest()) is None
    assert place([amd], (), DeviceRequest(AMD)) is not None


def test_a_replica_sees_its_devices_and_no_other() -> None:
    shares = place([A, B], (), DeviceRequest())
    assert shares is not None
    assert visible([A, B], shares)["CUDA_VISIBLE_DEVICES"] == "GPU-a"
    assert visible([A, B], ())["CUDA_VISIBLE_DEVICES"] == ""
    assert visible((), ()) == {}, "without devices nothing is hidden"


@pytest.mark.parametrize(
    ("devices", "held", "request_", "words"),
    [
        ((), {}, DeviceRequest(), ("asks for 1 nvidia.com/gpu", "no accelerator")),
        ((A,), {}, DeviceRequest(milli=2000), ("asks for 2", "more than there is", "16 GiB")),
        (
            (A,),
            {"a-0": (DeviceShare(0, "GPU-a"),)},
            HALF,
            ("asks for 0.5", "a-0 has 1 of 0"),
        ),
    ],
)
def test_who_waits_is_told_what_is_asked_what_there_is_and_who_has_it(
    devices: tuple[Device, ...],
    held: dict[str, tuple[DeviceShare, ...]],
    request_: DeviceRequest,
    words: tuple[str, ...],
) -> None:
    said = why_not(devices, held, request_)
    assert all(w in said for w in words), said


def test_no_request_is_none() -> None:
    assert request_of(None, None, None) is None
    assert request_of(0.5, NVIDIA, None) == HALF
    assert request_of(None, None, GIB) == DeviceRequest(milli=0, memory_bytes=GIB)


devices_ = st.lists(st.tuples(st.integers(0, 80), st.integers(0, 20)), max_size=5).map(
    lambda sizes: [
        Device(i, f"GPU-{i}", memory_bytes=total * GIB, reserved_bytes=min(total, used) * GIB)
        for i, (total, used) in enumerate(sizes)
    ]
)
requests_ = st.one_of(
    st.builds(
        DeviceRequest,
        st.just(NVIDIA),
        st.integers(1, WHOLE - 1),
        st.none() | st.integers(1, 40 * GIB),
    ),
    st.builds(
        DeviceRequest,
        st.just(NVIDIA),
        st.integers(1, 3).map(lambda n: n * WHOLE),
        st.none() | st.integers(1, 40 * GIB),
    ),
    st.builds(DeviceRequest, st.just(NVIDIA), st.just(0), st.integers(1, 40 * GIB)),
)
#: True: ask; False: the oldest goes.
steps_ = st.lists(st.tuples(st.booleans(), requests_), max_size=30)


@given(devices_, steps_)
def test_nothing_is_ever_given_out_twice(
    devices: list[Device], steps: list[tuple[bool, DeviceRequest]]
) -> None:
    """After any coming and going: no device over one, no memory over what it has, whole means alone."""
    by_id = {d.id: d for d in devices}
    holders: list[tuple[DeviceShare, ...]] = []
    for asks, request in steps:
        if not asks:
            holders = holders[1:]
            continue
        held = [s for shares in holders for s in shares]
        shares = place(devices, held, request)
        assert shares == place(devices, held, request), "the same question, the same answer"
        if shares is None:
            continue
        holders.append(shares)
        if request.milli >= WHOLE:
            assert len(shares) == request.milli // WHOLE
        else:
            assert len(shares) == 1
            if request.memory_bytes is not None:
                assert shares[0].memory_bytes == request.memory_bytes
        everyone = [s for shares in holders for s in shares]
        for id_, device in by_id.items():
            here = [s for s in everyone if s.id == id_]
            assert sum(s.milli for s in here) <= WHOLE
            assert all(s.milli > 0 for s in here)
            if any(s.milli < WHOLE for s in here):
                assert sum(s.memory_bytes or 0 for s in here) <= device.usable_bytes


@given(devices_, st.lists(requests_, max_size=10), requests_)
def test_what_fits_beside_others_fits_alone(
    devices: list[Device], before: list[DeviceRequest], request: DeviceRequest
) -> None:
    """So that a replica which is told `more than there is` is told the truth."""
    held: list[DeviceShare] = []
    for r in before:
        held += place(devices, held, r) or ()
    if place(devices, held, request) is not None:
        assert place(devices, (), request) is not None
