"""The page: gradio only; the models reach it as plain callables (see `ui.services`).

Gradio imports PyPI's package `spaces` if it is there, and on a Space takes functions from it. Where
it is not installed, Python would give it the plain folder of that name that a checkout has, and no
page could be built: so that folder is kept from being imported.
"""

import sys
from importlib.util import find_spec

if "spaces" not in sys.modules and (_found := find_spec("spaces")) and _found.origin is None:
    sys.modules["spaces"] = None  # "there is no such module", as the import system has it
