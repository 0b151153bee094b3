"""Checks of sidecar messages: codes, texts, order, limits."""

from __future__ import annotations

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from callboard.core.barrier_records import HostOperation, SidecarReport
from callboard.core.membership import host_problem
from callboard.core.records import HostRecord
from callboard.core.sidecar_protocol import (
    Refusal,
    SidecarMessage,
    SpiffeIdentity,
    check_message,
    first_message_problem,
    parse_spiffe_id,
    report_of,
    trust_domain_problem,
)

GOOD = SidecarMessage(
    name="10.0.0.1:50002",
    app_id="shop",
    namespace="prod",
    actor_types=("Cart", "Order"),
    operation=HostOperation.REPORT,
)
OWN = SpiffeIdentity("cluster.local", "prod", "shop")


def refused(message: SidecarMessage, *, tls: bool = False, identity: SpiffeIdentity | None = None) -> tuple[str, str]:
    refusal = check_message(message, tls=tls, identity=identity)
    assert refusal is not None
    return refusal.status, refusal.text


def test_good_messages_pass() -> None:
    assert check_message(GOOD, tls=False, identity=None) is None
    assert check_message(GOOD, tls=True, identity=OWN) is None
    assert first_message_problem(GOOD) is None
    acknowledgement = SidecarMessage(app_id="shop", namespace="prod", operation=HostOperation.LOCK, version=3)
    assert check_message(acknowledgement, tls=True, identity=OWN) is None
    heartbeat = evolve(GOOD, operation=HostOperation.UNKNOWN)
    assert check_message(heartbeat, tls=False, identity=None) is None
    assert check_message(evolve(GOOD, version=3), tls=False, identity=None) is None
    assert check_message(evolve(GOOD, actor_types=()), tls=False, identity=None) is None


@pytest.mark.parametrize(
    ("message", "status", "text"),
    [
        (
            evolve(GOOD, operation=0, version=1),
            "INVALID_ARGUMENT",
            "both operation and version must be set or both must be unset",
        ),
        (evolve(GOOD, app_id=""), "INVALID_ARGUMENT", "host ID and namespace must be provided"),
        (evolve(GOOD, namespace=""), "INVALID_ARGUMENT", "host ID and namespace must be provided"),
        (evolve(GOOD, operation=5), "INVALID_ARGUMENT", "unknown host operation 5"),
        (evolve(GOOD, operation=-1), "INVALID_ARGUMENT", "unknown host operation -1"),
        (
            evolve(GOOD, operation=3),
            "INVALID_ARGUMENT",
            "operation UPDATE acknowledges an order and must have its version",
        ),
        (evolve(GOOD, name="n" * 256), "INVALID_ARGUMENT", "host name has 256 characters; the limit is 255"),
        (evolve(GOOD, app_id="i" * 256), "INVALID_ARGUMENT", "host ID has 256 characters; the limit is 255"),
        (evolve(GOOD, namespace="n" * 256), "INVALID_ARGUMENT", "namespace has 256 characters; the limit is 255"),
        (evolve(GOOD, port=-1), "INVALID_ARGUMENT", "port -1 is not between 0 and 65535"),
        (evolve(GOOD, port=65536), "INVALID_ARGUMENT", "port 65536 is not between 0 and 65535"),
        (
            evolve(GOOD, actor_types=tuple(f"T{number}" for number in range(10_000))),
            "INVALID_ARGUMENT",
            "host 10.0.0.1:50002 has 10000 actor types; the limit is 1000",
        ),
        (
            evolve(GOOD, actor_types=("t" * 256,)),
            "INVALID_ARGUMENT",
            "an actor type of host 10.0.0.1:50002 has 256 characters; it must have 1 to 255",
        ),
        (
            evolve(GOOD, actor_types=("",)),
            "INVALID_ARGUMENT",
            "an actor type of host 10.0.0.1:50002 has 0 characters; it must have 1 to 255",
        ),
        (
            evolve(GOOD, actor_types=tuple(f"{number}".rjust(250, "x") for number in range(200))),
            "INVALID_ARGUMENT",
            "host 10.0.0.1:50002 and its actor types take 50691 bytes; the limit is 32768",
        ),
    ],
)
def test_refused_messages(message: SidecarMessage, status: str, text: str) -> None:
    assert refused(message) == (status, text)


def test_identity_of_the_certificate() -> None:
    assert refused(GOOD, tls=True) == ("UNAUTHENTICATED", "failed to get client ID from context")
    assert refused(GOOD, tls=True, identity=evolve(OWN, app_id="till")) == (
        "PERMISSION_DENIED",
        "provided app ID shop doesn't match the one in the SPIFFE ID (till)",
    )
    assert refused(GOOD, tls=True, identity=evolve(OWN, namespace="test")) == (
        "PERMISSION_DENIED",
        "provided client namespace prod doesn't match the one in the SPIFFE ID (test)",
    )
    # Without TLS there is nobody to compare with.
    assert check_message(GOOD, tls=False, identity=evolve(OWN, app_id="till")) is None


def test_order_of_checks() -> None:
    everything = SidecarMessage(version=1, actor_types=("dapr.internal.x",))
    assert refused(everything, tls=True)[0] == "UNAUTHENTICATED"
    assert "both operation and version" in refused(everything, tls=True, identity=OWN)[1]
    assert "must be provided" in refused(evolve(everything, version=None), tls=True, identity=OWN)[1]
    other = evolve(everything, version=None, app_id="till", namespace="test")
    assert "app ID till" in refused(other, tls=True, identity=OWN)[1]
    assert "client namespace test" in refused(evolve(other, app_id="shop"), tls=True, identity=OWN)[1]
    assert (
        "entity dapr.internal.x" in refused(evolve(other, app_id="shop", namespace="prod"), tls=True, identity=OWN)[1]
    )


@pytest.mark.parametrize(
    "actor_type",
    ["dapr.internal.prod.shop", "dapr.internal.prod.shop.workflow", "dapr.internals", "dapr", "Dapr.internal"],
)
def test_own_internal_types_are_allowed(actor_type: str) -> None:
    assert check_message(evolve(GOOD, actor_types=("Cart", actor_type)), tls=False, identity=None) is None


@pytest.mark.parametrize(
    "actor_type",
    [
        "dapr.internal",
        "dapr.internal.",
        "dapr.internal.prod",
        "dapr.internal.prod.till",
        "dapr.internal.prod.shopping",
        "dapr.internal.test.shop.workflow",
    ],
)
def test_internal_types_of_others_are_refused(actor_type: str) -> None:
    assert refused(evolve(GOOD, actor_types=("Cart", actor_type))) == (
        "PERMISSION_DENIED",
        f"entity {actor_type} is not allowed for app ID shop in namespace prod",
    )


def test_texts_are_bounded() -> None:
    huge = "dapr.internal." + "x" * 1_000_000
    for message in (evolve(GOOD, actor_types=(huge,)), evolve(GOOD, app_id=huge), evolve(GOOD, namespace=huge)):
        for identity in (None, OWN):
            refusal = check_message(message, tls=identity is not None, identity=identity)
            assert refusal is not None
            assert len(refusal.text) < 1200


def test_first_messages() -> None:
    assert first_message_problem(evolve(GOOD, name="")) == Refusal("INVALID_ARGUMENT", "host name must be provided")
    assert first_message_problem(evolve(GOOD, operation=HostOperation.UNLOCK, version=1)) == Refusal(
        "INVALID_ARGUMENT", "the first message must be a report, not the acknowledgement UNLOCK"
    )


def test_reports_have_sorted_types() -> None:
    message = evolve(GOOD, actor_types=("b", "a", "b"), port=7, version=2)
    expected = SidecarReport("10.0.0.1:50002", "shop", ("a", "b"), 7, HostOperation.REPORT, 2)
    assert report_of(message) == expected


@pytest.mark.parametrize(
    ("uri", "identity"),
    [
        ("spiffe://cluster.local/ns/prod/shop", OWN),
        ("spiffe://cluster.local/ns/prod", None),
        ("spiffe://cluster.local/ns/prod/shop/more", None),
        ("spiffe://cluster.local/ns//shop", None),
        ("spiffe://cluster.local/sa/prod/shop", None),
        ("https://cluster.local/ns/prod/shop", None),
        ("spiffe:cluster.local/ns/prod/shop", None),
        ("", None),
    ],
)
def test_spiffe_ids(uri: str, identity: SpiffeIdentity | None) -> None:
    assert parse_spiffe_id(uri) == identity


@given(
    st.builds(
        SidecarMessage,
        name=st.text(min_size=1, max_size=300),
        app_id=st.text(max_size=300),
        namespace=st.text(max_size=300),
        actor_types=st.lists(st.text(max_size=300), max_size=5).map(tuple),
        port=st.integers(-(1 << 63), (1 << 63) - 1),
        operation=st.integers(-(1 << 31), (1 << 31) - 1) | st.integers(0, 4),
        version=st.none() | st.integers(0, (1 << 64) - 1),
    )
)
def test_whatever_passes_fits_the_log(message: SidecarMessage) -> None:
    """A report that passes can be committed: the replicated state machine never has to refuse it."""
    if check_message(message, tls=False, identity=None) is None:
        report = report_of(message)
        host = HostRecord(report.name, report.app_id, report.actor_types, report.port)
        assert not report.actor_types or host_problem(host) is None


@pytest.mark.parametrize(
    "message",
    [
        evolve(GOOD, name="n" * 255),
        evolve(GOOD, app_id="i" * 255, namespace="n" * 255),
        evolve(GOOD, port=0),
        evolve(GOOD, port=65535),
        evolve(GOOD, actor_types=tuple(f"T{number}" for number in range(1000))),
        evolve(GOOD, actor_types=("t" * 255, "t")),
        evolve(GOOD, actor_types=(*(f"{number}".rjust(250, "x") for number in range(128)), "x" * 250, "x" * 4)),
    ],
)
def test_messages_at_the_limits_pass(message: SidecarMessage) -> None:
    assert check_message(message, tls=False, identity=None) is None


def test_one_byte_beyond_the_largest_record_is_refused() -> None:
    types = tuple(f"{number}".rjust(250, "x") for number in range(129))
    size = 64 + (15 + 3) + (4 + 3) + 3 + 129 * 253
    fitting = evolve(GOOD, name="10.0.0.1:500021", actor_types=(*types, "y" * (32768 - size - 3)))
    assert check_message(fitting, tls=False, identity=None) is None
    beyond = evolve(fitting, name=fitting.name + "2")
    assert "take 32769 bytes; the limit is 32768" in refused(beyond)[1]


def test_other_trust_domains_are_refused_if_one_is_named() -> None:
    assert trust_domain_problem(OWN, None) is None
    assert trust_domain_problem(None, "cluster.local") is None
    assert trust_domain_problem(OWN, "cluster.local") is None
    text = "SPIFFE ID of trust domain cluster.local; only example.org is accepted"
    assert trust_domain_problem(OWN, "example.org") == Refusal("PERMISSION_DENIED", text)
    name = "n" * 255
    exact = trust_domain_problem(evolve(OWN, trust_domain=name), "x")
    longer = trust_domain_problem(evolve(OWN, trust_domain=name + "n"), "x")
    assert exact is not None
    assert longer is not None
    assert f"domain {name};" in exact.text
    assert f"domain {name}...;" in longer.text
