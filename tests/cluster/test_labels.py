"""Servers take labels in turn, and any node where the last one with theirs has died."""

from fedphd_ray.runtime.on_ray.nodes import ANY_NODE, labelled


def test_servers_take_labels_in_turn() -> None:
    sites = ({"site": "a"}, {"site": "b", "tier": "gpu"})
    assert labelled("edge/0", ()) == {}
    found = [labelled(f"edge/{number}", sites) for number in range(3)]
    assert [one["label_selector"] for one in found] == [sites[0], sites[1], sites[0]]
    assert all(one["fallback_strategy"] == [{"label_selector": ANY_NODE}] for one in found)
