"""The page: gradio only; the models reach it as plain callables (see `ui.services`)."""
