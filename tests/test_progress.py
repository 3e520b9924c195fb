"""What takes long says what it is: to whoever watches, from wherever it is done, and as text that can be read."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from contextlib import suppress

import pytest

from harness import progress
from harness.commands.watching import InPlace, Lines, text
from harness.progress import Work, counted, under_way, watched, working
from harness.sweeping.engines import in_fresh_process


def names() -> list[str]:
    return [work.what for work in under_way()]


# --- what is under way -----------------------------------------------------------------------------------------------


def test_work_is_under_way_until_it_ends_however_it_ends() -> None:
    with working("outer"):
        with suppress(ZeroDivisionError), working("inner", 3):
            assert names() == ["outer", "inner"]
            raise ZeroDivisionError
        assert names() == ["outer"]
    assert names() == []


@pytest.mark.parametrize(("items", "total", "known"), [([1, 2, 3], None, 3), (iter([1, 2, 3]), 3, 3), (iter([]), 0, 0)])
def test_items_are_counted_as_they_are_dealt_with(items: Sequence[int], total: int | None, known: int) -> None:
    seen = []
    for _ in counted(items, "count", "items", total):
        (work,) = under_way()
        seen.append((work.done, work.total))
    assert seen == [(place, known) for place in range(known)]
    assert names() == []


def test_a_loop_that_is_left_is_not_under_way_any_more() -> None:
    for item in counted(range(10), "count", "items"):
        if item == 2:
            break
    assert names() == []


def test_nobody_is_asked_to_look_at_what_was_not_shown() -> None:
    looks: list[list[str]] = []
    with watched(lambda works: looks.append([work.what for work in works])):
        for _ in range(1000):
            with working("short"):
                pass
        with working("long") as advance:
            advance(1)
            under_way()[0].shown = True
    assert looks[-3:] == [["long"], [], []]  # how far it has come, that it has ended, that nobody watches any more
    assert len(looks) < 100


def elsewhere(seconds: float) -> str:
    with working("far away", 5, "steps") as advance:
        advance(2)
        time.sleep(seconds)
    return "done"


def test_what_another_process_does_for_this_one_is_under_way_here() -> None:
    seen: list[tuple[str, int, int | None]] = []
    with watched(lambda works: seen.extend((work.what, work.done, work.total) for work in works)):
        assert in_fresh_process(elsewhere, 4 * progress.SECONDS) == "done"
    assert ("far away", 2, 5) in seen
    assert names() == []


# --- what a person sees ----------------------------------------------------------------------------------------------


def work(what: str, seconds: float, total: int | None = None, done: int = 0) -> Work:
    """Work that was begun so long ago."""
    return Work(what, total, "steps", 0, done, began=time.monotonic() - seconds)


def drawn(stream: io.StringIO) -> list[str]:
    """The lines of the last picture."""
    return stream.getvalue().split("\x1b[J")[-1].replace("\x1b[1A", "").strip().splitlines()


def test_what_is_over_soon_is_not_shown() -> None:
    for show in (InPlace(stream := io.StringIO()), Lines(stream)):
        show.look([work("soon over", 0.5), work("as soon", 0.2, 10)])
        show.look([])
        assert stream.getvalue() == ""


def test_bars_are_shown_and_of_what_has_no_length_that_which_is_going_on() -> None:
    display = InPlace(stream := io.StringIO())
    display.look([work("sweep", 60, 6, 2), work("warm up", 9), work("load a model", 8)])
    first, second = drawn(stream)
    assert first.startswith("sweep:  33%|")
    assert "2/6 [01:00, 2 steps/min, 02:00 left]" in first
    assert second == "load a model … 00:08"
    display.look([work("sweep", 60, 6, 2), work("warm up", 9), work("compute", 8, 4, 1)])
    assert [line.partition(":")[0] for line in drawn(stream)] == ["sweep", "compute"]


def test_short_pieces_of_work_one_after_the_other_are_not_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    show, now = InPlace(stream := io.StringIO()), time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for number in range(6):
        show.look([Work(f"piece {number}", began=now - 0.1)])
        now += 0.4
    assert "piece 2" not in stream.getvalue()
    assert drawn(stream) == ["piece 5 … 00:00"]
    assert "piece 4" in stream.getvalue()


def test_a_bar_that_is_full_stays_and_what_had_no_length_goes() -> None:
    display, bar, other = InPlace(stream := io.StringIO()), work("detect", 5, 10, 9), work("score", 5)
    display.look([bar, other])
    bar.advance(1)
    display.look([])
    assert [line.partition(":")[0] for line in drawn(stream)] == ["detect"]
    assert "100%" in drawn(stream)[0]
    assert stream.getvalue().endswith("\n")


def test_a_bar_within_another_leaves_nothing_behind() -> None:
    display, outer, inner = InPlace(stream := io.StringIO()), work("sweep", 5, 10, 9), work("detect", 5, 10, 10)
    display.look([outer, inner])
    display.look([outer])
    assert [line.partition(":")[0] for line in drawn(stream)] == ["sweep"]


def test_no_line_is_wider_than_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    InPlace(stream := io.StringIO()).look([work("a name that is long " * 5, 60, 6, 2), work("another " * 9, 8)])
    assert max(map(len, drawn(stream))) < 40


def test_where_nothing_can_be_drawn_in_place_a_line_is_written_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    display, bar = Lines(stream := io.StringIO()), work("detect", 2, 100, 10)
    for _ in range(50):
        display.look([bar])
        now += 1
    bar.done = 100
    display.look([bar])
    display.look([])
    lines = stream.getvalue().splitlines()
    assert [line.partition("%")[0] for line in lines] == ["detect:  10", "detect:  10", "detect: 100"]
    assert "\r" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_a_bar_counts_by_the_minute_what_was_done_this_time() -> None:
    resumed = Work("detect", 100, "samples", 40, 70, "3 failed", began=time.monotonic() - 60)
    assert "70/100 [01:00, 30 samples/min, 01:00 left, 3 failed]" in text(resumed, 100)


def test_what_was_found_done_is_no_speed() -> None:
    """Replies, images and rows of an earlier run come at once: millions a minute would be told."""
    bar = Work("ask", 100, "answers", began=time.monotonic() - 60)
    bar.advance(40, found=40)
    assert "40/100 [01:00, 0 answers/min" in text(bar, 100)
    bar.advance(30, "3 failed")
    assert "70/100 [01:00, 30 answers/min, 01:00 left, 3 failed]" in text(bar, 100)
