"""From settings to pictures: the guided pipeline, the request, and what it tells."""
