import contextlib
import io
from typing import Any

import pytest

from tubelet.viz import progress as module
from tubelet.viz.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch):
    """A terminal in place of stderr (pytest puts its own there after the fixtures, so tests switch it on)."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return Terminal()


def test_nothing_is_shown_where_no_one_watches(monkeypatch, capsys):
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    assert list(progress(range(5))) == [0, 1, 2, 3, 4]
    assert capsys.readouterr() == ("", "")


def test_nothing_is_shown_before_two_seconds(terminal):
    assert module.PATIENCE == 2.0
    with contextlib.redirect_stderr(terminal):
        assert list(progress(range(5))) == [0, 1, 2, 3, 4]
    assert terminal.getvalue() == ""


def test_the_bar(terminal, monkeypatch, capsys):
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    with contextlib.redirect_stderr(terminal):
        assert list(progress(range(5), unit="frames", description="chair")) == [0, 1, 2, 3, 4]
    shown = terminal.getvalue()
    assert "chair" in shown
    assert "5/5" in shown
    assert "frames/s" in shown
    assert capsys.readouterr().out == ""


def test_a_stream_without_length(terminal, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    with contextlib.redirect_stderr(terminal):
        assert list(progress(iter("ab"))) == ["a", "b"]
    assert "2/?" in terminal.getvalue()


def test_the_bar_closes_when_the_loop_breaks(terminal, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    stopped = []
    make = module._bar

    def watched(*args):
        bar = make(*args)
        stop = bar.stop
        monkeypatch.setattr(bar, "stop", lambda: (stopped.append(1), stop()))
        return bar

    monkeypatch.setattr(module, "_bar", watched)
    with contextlib.redirect_stderr(terminal):
        items: Any = progress(range(5))
        assert [next(items), next(items)] == [0, 1]
        items.close()
        assert stopped == [1]

        def broken():
            yield from (1, 2)
            raise ValueError("broken")

        with pytest.raises(ValueError, match="broken"):
            list(progress(broken()))
        assert stopped == [1, 1]


def test_the_iterable_is_read_lazily(terminal):
    drawn = []
    with contextlib.redirect_stderr(terminal):
        next(progress(drawn.append(k) or k for k in range(3)))
    assert drawn == [0]
