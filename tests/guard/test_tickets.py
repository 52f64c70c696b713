"""Session tickets: stock Dask hands them out, and they outlive the certificate; guarded Dask does not."""

import contextlib
import socket
import ssl
import subprocess

import pytest
from pki import replace
from rig import Probe, Rig, tls_client, wait_until

LISTENERS = ("scheduler", "worker", "nanny")


@pytest.fixture(scope="module")
def stock(pki, folder):
    """The control: a scheduler as Dask ships it."""
    rig = Rig(pki, folder)
    rig.scheduler("stock", guard=False)
    yield rig
    rig.stop()


def s_client(address, pki, cert, out, *more):
    """openssl s_client up to Dask's first message; returns what it printed."""
    args = ["-connect", address.removeprefix("tls://"), "-cert", cert, "-key", cert]
    args += ["-cert_chain", cert, "-CAfile", pki.ca, "-sess_out", str(out), *more]
    child = subprocess.Popen(
        ["openssl", "s_client", *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    printed = b""
    try:
        while b"pickle-protocol" not in printed:
            chunk = child.stdout.read1()
            assert chunk, f"refused: {printed.decode(errors='replace')}"
            printed += chunk
    finally:
        child.kill()
        child.wait()
    return printed.decode(errors="replace")


def test_openssl_gets_a_ticket_from_stock_dask(stock, pki, folder):
    cert, out = pki.client()[1], folder / "stock.session"
    s_client(stock.address, pki, cert, out)
    assert out.stat().st_size > 0
    assert "Reused, TLSv1.3" in s_client(stock.address, pki, cert, out, "-sess_in", str(out))


@pytest.mark.parametrize("listener", LISTENERS)
def test_openssl_gets_no_ticket_from_guarded_dask(base, pki, folder, listener):
    out = folder / f"{listener}.session"
    printed = s_client(base.listeners[listener], pki, pki.client()[1], out)
    assert "New, TLSv1.3" in printed
    assert "New Session Ticket" not in printed
    assert not out.exists()


def test_expired_certificate_comes_back_by_ticket_in_stock_dask_only(stock, base, pki):
    targets = {"stock": stock.address, **base.listeners}
    cert = pki.client("short", life=5)[1]
    probes = {name: Probe(address, pki.ca, cert) for name, address in targets.items()}
    assert {n: (p.served, p.ticket) for n, p in probes.items()} == {
        "stock": (True, True),
        **dict.fromkeys(LISTENERS, (True, False)),
    }
    wait_until(lambda: not Probe(stock.address, pki.ca, cert).served, "the certificate expires")
    later = {name: probe.again(targets[name]) for name, probe in probes.items()}
    assert {n: (p.served, p.reused) for n, p in later.items()} == {
        "stock": (True, True),
        **dict.fromkeys(LISTENERS, (False, False)),
    }
    assert all("expired" in later[name].error for name in LISTENERS)


def test_tls_1_2_is_refused(base, pki):
    context = Probe(base.address, pki.ca, pki.client()[1]).context
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    for address in base.listeners.values():
        assert "protocol version" in Probe(address, None, context=context).error.lower()


def test_resumption_is_refused_where_tls_1_2_is_configured(make_rig, pki):
    """TLS 1.2 can resume by session id while the first connection lives; no option turns that off."""
    only = {"DASK_DISTRIBUTED__COMM__TLS__MAX_VERSION": "1.2"}
    outcome = {}
    for guard in (False, True):
        rig = make_rig()
        rig.scheduler(guard=guard, config=only)
        context = tls_client(pki.ca, pki.client()[1])
        host, port = rig.address.removeprefix("tls://").rsplit(":", 1)
        with context.wrap_socket(socket.create_connection((host, int(port)), 10)) as first:
            assert first.recv(1)
            again = Probe(rig.address, None, context=context, session=first.session)
        outcome[guard] = (again.reused, again.served)
    assert outcome == {False: (True, True), True: (True, False)}


def test_revoked_certificate_cannot_come_back(base, pki):
    """Last in this file: from here on the cluster of this file has a CRL."""
    doomed, cert = pki.client("doomed")
    good = pki.client("good")[1]
    probes = {n: Probe(address, pki.ca, cert) for n, address in base.listeners.items()}
    assert all(p.served and not p.ticket for p in probes.values())
    replace(base.settings["CRL"], pki.crl([doomed]))
    for kind in LISTENERS:
        assert base.agent.peer(kind).ok("reload")["problems"] == {}
    for name, address in base.listeners.items():
        again = probes[name].again(address)
        assert not again.served and not again.reused
        assert "revoked" in again.error
        assert Probe(address, pki.ca, good).served


def test_without_a_certificate_nobody_is_served(base, pki):
    for address in base.listeners.values():
        assert not Probe(address, pki.ca).served
        host, port = address.removeprefix("tls://").rsplit(":", 1)
        with socket.create_connection((host, int(port)), 10) as plain:
            plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                assert b"HTTP/" not in plain.recv(100)
