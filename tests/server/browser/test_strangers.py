"""Pages of others in the same browser: what they ask of the server is refused, over HTTP and WebSocket."""

from __future__ import annotations

import json

import pytest

from browsing import TOKEN, Real, Sheet, digest, noise
from studios import TOKENS

ASK = """async ([address, session]) => {
    const ours = { credentials: 'include' };
    const simple = { method: 'POST', mode: 'no-cors', body: '{"version": 0}' };
    const read = await fetch(`${address}api/sessions`, ours).then((r) => r.status, () => 'refused');
    await fetch(`${address}api/sessions/${session}/head`, { ...ours, ...simple }).catch(() => null);
    const socket = new WebSocket(`${address.replace('http', 'ws')}api/sessions/${session}/live`);
    const heard = await new Promise((done) => {
        socket.onmessage = () => done('heard');
        socket.onclose = ({ code }) => done(code);
    });
    return [read, heard];
}"""


@pytest.mark.parametrize(
    "stranger", ["http://stranger.example/", "data:text/html,<p>of no origin</p>"], ids=["foreign", "null"]
)
def test_pages_of_other_origins_learn_nothing(sheet, real, stranger):
    session = sheet.open(noise(64))
    sheet.set(size=6, refine=False)
    sheet.stroke((20, 20), (26, 20))
    sheet.until("live.head === 1")
    sheet.idle()
    other = sheet.page.context.new_page()
    other.route("http://stranger.example/", lambda route: route.fulfill(body="<p>somebody else</p>"))
    other.goto(stranger)
    read, heard = other.evaluate(ASK, [real.address, session])
    assert read == "refused"
    assert heard != "heard"
    assert sheet.ask("live.head") == 1
    other.close()


def test_the_token_is_asked_for_and_kept_out_of_the_address(page, real):
    page.goto(real.address)
    field = page.get_by_label("Token")
    box, edge = field.bounding_box(), page.locator("dialog").bounding_box()
    assert edge["x"] < box["x"]
    assert box["x"] + box["width"] < edge["x"] + edge["width"]
    field.fill("wrong")
    field.press("Enter")
    page.get_by_text("That was not it").wait_for()
    page.get_by_label("Token").fill(f"{real.link}&session={'0' * 32}")
    page.get_by_label("Token").press("Enter")
    page.locator(".drop").wait_for()
    assert TOKEN not in page.url
    assert TOKEN not in page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])")


@pytest.fixture
def tight(tmp_path):
    made = Real(tmp_path)
    yield made
    made.kill()


def test_of_two_users_over_the_budget_one_is_put_away_and_comes_back_intact(tight, browser):
    """The other one notices nothing."""
    people = {}
    for seed, name in enumerate(("anna", "ben")):
        people[name] = Sheet(browser.new_context().new_page())
        people[name].page.goto(f"{tight.address}#token={TOKENS[name]}")
        people[name].open(noise(64, seed))
        people[name].set(size=6, refine=False)
        people[name].stroke((20, 20), (28, 20))
        people[name].until("live.head === 1")
        people[name].idle()
    anna, ben = people.values()
    tight.memory = int(1.9 * json.loads(tight.get(f"api/sessions/{anna.ask('live.id')}"))["bytes"])
    tight.kill()
    tight.start()
    for each in people.values():
        each.until("live.connection === 'open'")
        before = each.hash()
        each.stroke((44, 40), (50, 44))
        each.until("live.head === 2")
        each.idle()
        assert each.hash() != before
    assert float(tight.figure("retouch_evictions_total")) >= 1
    assert float(tight.figure("retouch_open_sessions")) == 1
    anna.ask("(live.goto(1), null)")
    anna.until("live.seen === 1")
    anna.ask("(live.goto(2), null)")
    anna.until("live.seen === 2")
    assert anna.hash() == digest(tight.pixels(anna.ask("live.id"), 2))
    assert ben.ask("[live.seen, live.head]") == [2, 2]
    for each in people.values():
        each.errors = [error for error in each.errors if "ERR_CONNECTION" not in error]
        assert not each.errors
        each.page.context.close()
