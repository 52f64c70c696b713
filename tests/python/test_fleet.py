"""Names of nodes that are planned, requested, observed; no I/O."""

from herdsman._fleet import Fleet


def nodes(**states):
    return [{"name": n, "role": "worker", "state": s} for n, s in states.items()]


def test_names_are_the_same_in_all_sets():
    fleet = Fleet("c")
    fleet.target = 3
    fleet.update(nodes(a="ready", b="starting"), 0)
    assert fleet.requested == {"a", "b"}
    assert fleet.plan > fleet.requested and len(fleet.plan) == 3
    fleet.wish(["d"], 0)
    assert fleet.plan == fleet.requested == {"a", "b", "d"}
    assert fleet.observed(["a"]) == {"a"}
    assert fleet.missing == 0


def test_what_is_wished_becomes_what_there_is():
    fleet = Fleet("c")
    fleet.target = 2
    fleet.wish(["a", "b"], 0)
    fleet.update(nodes(a="expected"), 1)
    assert fleet.requested == {"a", "b"}
    fleet.update(nodes(a="ready", b="ready"), 2)
    assert fleet.target == 2
    fleet.wish(["c"], 3)
    fleet.update(nodes(a="ready", b="ready"), 200)
    assert fleet.requested == {"a", "b"}, "nobody has ever seen it"


def test_lost_nodes_are_missing_and_given_up_ones_are_not():
    fleet = Fleet("c")
    fleet.target = 3
    fleet.update(nodes(a="ready", b="ready", d="ready"), 0)
    assert fleet.update(nodes(a="lost", b="ready", d="ready"), 1) == {"a"}
    assert fleet.missing == 1
    fleet.wish(["e"], 2)
    fleet.update(nodes(b="ready", d="ready", e="ready"), 3)
    assert (fleet.missing, fleet.target) == (0, 3)
    # Somebody else scales down, then up.
    assert fleet.update(nodes(b="ready", d="draining", e="ready"), 4) == set()
    assert (fleet.missing, fleet.target) == (0, 2)
    fleet.update(nodes(b="ready", d="ready", e="ready", f="expected"), 5)
    assert (fleet.missing, fleet.target) == (0, 4)


def test_preempted_nodes_are_replaced():
    fleet = Fleet("c")
    fleet.target = 1
    fleet.update(nodes(a="ready"), 0)
    going = nodes(a="draining")
    going[0]["report"] = {"notice": {"kind": "preempted", "text": "spot"}}
    assert fleet.update(going, 1) == {"a"}
    assert fleet.missing == 1


def test_leaving_nodes_are_nobodys_any_more():
    fleet = Fleet("c")
    fleet.target = 2
    fleet.update(nodes(a="ready", b="ready"), 0)
    fleet.target = 1
    fleet.leave(["b"])
    assert fleet.plan == fleet.requested == {"a"}
    fleet.update(nodes(a="ready", b="draining"), 1)
    fleet.update(nodes(a="ready", b="stopped"), 2)
    fleet.update(nodes(a="ready"), 3)
    assert (fleet.target, fleet.missing) == (1, 0)
    fleet.leave(["a"])
    fleet.stay(["a"])
    assert fleet.requested == {"a"}


def test_late_ones():
    fleet = Fleet("c")
    fleet.target = 2
    fleet.wish(["a"], 0)
    fleet.update(nodes(a="starting", b="ready"), 10)
    assert fleet.late(299, 300) == set()
    assert fleet.late(301, 300) == {"a"}
    fleet.update(nodes(a="starting", b="failed"), 400)
    assert fleet.late(401, 300) == {"a"}
    assert fleet.late(701, 300) == {"a", "b"}


def test_several_workers_of_a_node_are_one():
    fleet = Fleet("c")
    node = {"name": "a", "role": "worker", "state": "ready", "workers": [{"name": "a-0"}, {"name": "a-1"}]}
    fleet.update([node], 0)
    assert fleet.observed(["a-0", "a-1"]) == {"a"}
    assert fleet.observed(["a-7"]) == {"a"}
    assert fleet.observed(["else"]) == {"else"}


def test_old_news_is_no_news():
    fleet = Fleet("c")
    fleet.target = 1
    fleet.update(nodes(a="ready"), 0, seq=5)
    fleet.busy = True
    fleet.target = 2
    fleet.update(nodes(a="ready", b="expected"), 1, seq=7)
    fleet.busy = False
    fleet.update(nodes(a="ready"), 1.1, seq=6)
    assert fleet.requested == {"a", "b"} and fleet.target == 2
    fleet.update(nodes(a="ready"), 60, seq=2)
    assert fleet.requested == {"a"}, "the hub counts anew"
