"""The preference pair: on disk, on the Hub, and in its roles on a denoiser."""
