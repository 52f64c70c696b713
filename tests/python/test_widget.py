"""The widget of notebooks, where ipywidgets are installed."""

import pytest

ipywidgets = pytest.importorskip("ipywidgets")


def test_widget_scales_and_extends(shared):
    tab = shared._widget()
    assert shared._widget() is tab
    status, scaling = tab.children
    html, extend = status.children
    assert shared.name in html.value and extend.description == "Extend 1 h"
    before = shared._status_message["ending"]["lifetime_ends"]
    extend.click()
    from conftest import until

    until(lambda: shared._status_message["ending"]["lifetime_ends"] != before)
    request, scale = scaling.children[1].children[0].children
    request.value = 3
    scale.click()
    assert len(shared.plan) == 3
    request.value = 2
    scale.click()
    assert len(shared.plan) == 2
