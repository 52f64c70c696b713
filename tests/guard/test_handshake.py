"""Whoever connects and says nothing is hung up on; who has shaken hands is not."""

import socket
import time

from rig import Probe, wait_until
from tasks import inc

SECONDS = 2


def connect(address, opening=b""):
    host, port = address.removeprefix("tls://").rsplit(":", 1)
    plain = socket.create_connection((host, int(port)), 10)
    plain.sendall(opening)
    plain.setblocking(False)
    return plain


def hung_up(plain):
    try:
        return plain.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_silent_connections_are_closed_while_a_client_is_served(make_rig, pki):
    rig = make_rig(agent=True, HANDSHAKE=str(SECONDS))
    dask = rig.scheduler()
    rig.worker("w")
    with rig.client() as client:
        client.wait_for_workers(1, timeout=60)
        began = time.monotonic()
        silent = [connect(rig.address) for _ in range(60)]
        # A record header that promises more than ever comes.
        silent += [connect(rig.address, b"\x16\x03\x01\x02\x00\x01\x00") for _ in range(20)]
        silent += [connect(rig.agent.peer(k).hello["address"]) for k in ("worker", "nanny")]
        assert Probe(rig.address, pki.ca, pki.client()[1]).served
        early, served = [], 0
        while not all(map(hung_up, silent)):
            if time.monotonic() < began + 0.9 * SECONDS:
                early += [plain for plain in silent if hung_up(plain)]
            assert client.submit(inc, served).result(60) == served + 1
            served += 1
            assert time.monotonic() < began + 60, "silent connections are still open"
        assert not early
        assert served > 3
        assert client.submit(inc, 1, pure=False).result(60) == 2, "the old connection lives"
    assert f"no TLS handshake within {SECONDS} s" in dask.log


def test_without_the_guard_they_stay(make_rig):
    """The control; as long as the guard's deadline and half of it again."""
    rig = make_rig()
    rig.scheduler(guard=False)
    plain, end = connect(rig.address), time.monotonic() + 1.5 * SECONDS
    wait_until(lambda: hung_up(plain) or time.monotonic() > end, "time passes")
    assert not hung_up(plain)
