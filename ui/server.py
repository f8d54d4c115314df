"""What a server checks before it opens: who may reach it, its port, its folder, its host names."""

import ipaddress
import os
import socket
from pathlib import Path

from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from chats.errors import UserError

LOGIN_VARIABLE = "CHATS_LOGIN"


def check_login(host: str, login: str) -> tuple[str, str] | None:
    """Return name and password; insist on them where other machines can reach the page.

    Raises:
        UserError: the page would be open to others, or the login is not `name:password`.
    """
    name, _, password = login.partition(":")
    if login and not (name and password):
        raise UserError(f"{LOGIN_VARIABLE} must be name:password.")
    if not login and not _is_loopback(host):
        raise UserError(
            f"{host} can be reached by other machines, and no login is set. Set "
            f"{LOGIN_VARIABLE}=name:password in the environment, or use --host 127.0.0.1."
        )
    return (name, password) if login else None


def check_port(host: str, port: int) -> None:
    """Refuse a port that cannot be listened on, before anything slow is imported.

    Raises:
        UserError: the port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"{host}:{port} cannot be used: {error.strerror}. Choose another with --port."
            ) from None


def prepare_environment(workspace: Path) -> None:
    """Make the workspace, and keep gradio's files there and its requests at home.

    Raises:
        UserError: the workspace cannot be written to.
    """
    cache = workspace.expanduser().resolve() / "cache"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The workspace {workspace} cannot be written to: {error.strerror}. "
            "Choose another with --workspace."
        ) from None
    os.environ["GRADIO_TEMP_DIR"] = str(cache)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # numbers as nvidia-smi gives them


def own_hosts_only(host: str) -> Middleware:
    """Refuse requests that name another host: a page elsewhere must not reach a local server."""
    names = [host.strip("[]"), "localhost", "127.0.0.1", "[::1]"] if _is_loopback(host) else ["*"]
    return Middleware(TrustedHostMiddleware, allowed_hosts=names, www_redirect=False)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
