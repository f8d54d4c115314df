"""Mistakes that a person can mend, as gradio shows errors."""

from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from chats.errors import UserError


@contextmanager
def told(*, title: str = "Error") -> Iterator[None]:
    """Show a UserError within as it is; other errors are bugs and stay what they are."""
    try:
        yield
    except UserError as error:
        raise gr.Error(str(error), print_exception=False, title=title) from None
