"""Borrowed GPUs, against a lender of our own that pickles and hides errors as PyPI's `spaces` does.

As that package documents and does: generators work; arguments and results are pickled, for the
work runs in another process; an error comes back as `gr.Error` with the name of its class; closing
the generator ends the work at its next result; `duration` is called with the arguments.
"""

import pickle
import sys
import threading
from dataclasses import replace
from types import ModuleType

import gradio as gr
import pytest

from chats.config import GenerationConfig, Row
from chats.errors import UserError
from chats.generation.events import ImagesEvent, StepEvent
from tests.page_fakes import MODEL, FakeStudio
from ui.zerogpu import MAX_SECONDS, find_lender, is_zerogpu, lent, seconds_needed

LARGE = replace(MODEL, num_steps=50, width=1024, height=1024)


class FakeLender:
    """The part of `spaces` that is used."""

    def __init__(self, *, refusal=None):
        self.durations: list[int] = []
        self.num_closed = 0
        self._refusal = refusal

    def GPU(self, *, duration):
        return lambda task: self._lent(task, duration)

    def _lent(self, task, duration):
        def borrowed(*arguments):
            self.durations.append(duration(*arguments))
            if self._refusal:
                raise self._refusal
            work = task(*pickle.loads(pickle.dumps(arguments)))
            try:
                for result in work:
                    yield pickle.loads(pickle.dumps(result))
            except GeneratorExit:
                raise
            except Exception as error:
                raise gr.Error(type(error).__name__, print_exception=False) from None
            finally:
                self.num_closed += 1
                work.close()

        return borrowed


def config(**settings) -> GenerationConfig:
    rows = (Row(method="standard"), Row(method="cfg"), Row(method="chats"))
    return GenerationConfig(**{"prompt": "a star", "rows": rows, **settings})


def borrowed(studio: FakeStudio, lender: FakeLender):
    return lent(studio.generate, lender=lender, model=studio.model)


def test_pictures_made_on_a_borrowed_gpu_come_step_by_step():
    studio, lender = FakeStudio(), FakeLender()
    events = list(borrowed(studio, lender)(config(), threading.Event()))
    assert [event.step for event in events[:-1]] == [1, 2, 3]
    assert isinstance(events[-1], ImagesEvent)
    assert len(events[-1].images) == 3
    assert len(lender.durations) == lender.num_closed == 1


def test_a_stop_ends_the_work_within_one_step():
    studio, lender, cancel = FakeStudio(), FakeLender(), threading.Event()
    seen = []
    for event in borrowed(studio, lender)(config(), cancel):
        seen.append(event)
        cancel.set()
    assert len(seen) == 1
    assert isinstance(seen[0], StepEvent)
    assert lender.num_closed == studio.num_closed == 1


def test_what_was_refused_on_the_gpu_keeps_its_words():
    studio = FakeStudio(error=UserError("The size must be divisible by 8."))
    with pytest.raises(UserError, match=r"^The size must be divisible by 8\.$"):
        list(borrowed(studio, FakeLender())(config(), threading.Event()))


def test_any_other_error_there_is_told_by_its_name():
    studio = FakeStudio(error=ZeroDivisionError("secret detail"))
    with pytest.raises(UserError, match=r"^No GPU could be had: ZeroDivisionError$"):
        list(borrowed(studio, FakeLender())(config(), threading.Event()))


def test_a_visitor_whose_time_is_used_up_reads_why_without_markup():
    lender = FakeLender(refusal=gr.Error('Quota exceeded. <a href="/join">Sign up</a>'))
    with pytest.raises(UserError, match=r"^No GPU could be had: Quota exceeded\. Sign up$"):
        list(borrowed(FakeStudio(), lender)(config(), threading.Event()))


def test_the_time_follows_steps_forwards_and_size():
    """Standard, CFG and CHATS take 1 + 2 + 2 = 5 forwards a step; s = 0 takes one in each."""
    still = seconds_needed(config(num_steps=1, width=8, height=8), model=LARGE)

    def work(**settings) -> float:
        return seconds_needed(config(**settings), model=LARGE) - still

    whole = work()
    assert work(num_steps=100) == pytest.approx(2 * whole, rel=1e-3)
    assert work(width=512, height=512) == pytest.approx(whole / 4, rel=1e-3)
    alone = tuple(Row(method=name, scale=0) for name in ("standard", "cfg", "chats"))
    assert work(rows=alone) == pytest.approx(3 / 5 * whole, rel=1e-3)
    assert whole + still < MAX_SECONDS


def test_a_request_that_would_take_too_long_is_refused_before_a_gpu_is_asked_for():
    studio, lender = FakeStudio(model=LARGE), FakeLender()
    with pytest.raises(UserError, match=r"about \d+ seconds.* 120 at most\. Lower the steps"):
        list(borrowed(studio, lender)(config(num_steps=200, width=2048), threading.Event()))
    assert lender.durations == []
    assert studio.asked == []


# Finding the package


@pytest.fixture
def path(monkeypatch, tmp_path):
    """A search path with nothing but a folder of the test's."""
    monkeypatch.delitem(sys.modules, "spaces", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    yield tmp_path
    sys.modules.pop("spaces", None)


ZERO = {"SPACES_ZERO_GPU": "true"}


@pytest.mark.parametrize("environment", [{}, {"SPACES_ZERO_GPU": "false"}, {"SPACES_ZERO_GPU": ""}])
def test_elsewhere_the_package_is_not_even_imported(path, environment):
    (path / "spaces.py").write_text("raise RuntimeError('imported')")
    assert find_lender(environment) is None
    assert not is_zerogpu(environment)


def test_the_installed_package_wins_over_a_folder_of_its_name(path, monkeypatch):
    checkout, installed = path / "checkout", path / "installed"
    (checkout / "spaces").mkdir(parents=True)
    (installed / "spaces").mkdir(parents=True)
    (installed / "spaces" / "__init__.py").write_text("GPU = 'the real one'\n")
    monkeypatch.setattr(sys, "path", [str(checkout), str(installed)])
    lender = find_lender(ZERO)
    assert isinstance(lender, ModuleType)
    assert lender.GPU == "the real one"


def test_a_folder_alone_is_not_taken_for_the_package(path):
    (path / "spaces").mkdir()
    with pytest.raises(UserError, match="the package spaces is not installed"):
        find_lender(ZERO)


def test_no_package_and_broken_ones_are_clear_messages(path):
    with pytest.raises(UserError, match="the package spaces is not installed"):
        find_lender(ZERO)
    (path / "spaces.py").write_text("raise RuntimeError('CUDA has been initialized')")
    with pytest.raises(UserError, match="lends GPUs here, fails: CUDA has been initialized"):
        find_lender(ZERO)
    (path / "spaces.py").write_text("import there_is_no_such_module")
    with pytest.raises(UserError, match="fails: No module named 'there_is_no_such_module'"):
        find_lender(ZERO)
