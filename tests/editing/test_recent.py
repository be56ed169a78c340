"""The cache of what was asked for last, and what keeps itself in one."""

from retouch.editing.recent import Recent


def test_the_last_keys_are_kept():
    made, cache = [], Recent(2)
    for key in "abacab":
        cache.get(key, lambda key=key: made.append(key))
    assert made == ["a", "b", "c", "b"]
    assert len(cache) == 2


def test_what_cannot_be_made_is_not_kept():
    cache = Recent(2)
    for _ in range(2):
        try:
            cache.get("a", lambda: 1 // 0)
        except ZeroDivisionError:
            continue
        raise AssertionError
    assert cache.get("a", lambda: 3) == 3
