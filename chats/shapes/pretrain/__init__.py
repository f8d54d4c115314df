"""Makes the embedded Shapes model from nothing: `python -m chats.shapes.pretrain --help`."""
