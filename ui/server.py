"""What a server checks before it opens: who may reach it, its port, its folder, its host names."""

import ipaddress
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from chats.errors import UserError

LOGIN_VARIABLE = "CHATS_LOGIN"


def check_login(host: str, login: str, *, is_public: bool = False) -> tuple[str, str] | None:
    """Return name and password; insist on them where other machines can reach the page.

    Args:
        host: address that is listened on.
        login: `name:password`, or empty.
        is_public: whether everybody is meant to reach the page, as on a Space.

    Raises:
        UserError: the page would be open to others, or the login is not `name:password`.
    """
    name, _, password = login.partition(":")
    if login and not (name and password):
        raise UserError(f"{LOGIN_VARIABLE} must be name:password.")
    if not login and not is_public and not _is_loopback(host):
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


def access(host: str, login: tuple[str, str] | None, *, page_host: str = "") -> dict[str, Any]:
    """Return what `launch` takes so that only those get in who may.

    Gradio asks for the login wherever something is read, uploaded or done. Without one, the host
    is this machine's own: names of other hosts are refused, and so are pages of other origins,
    which the visitor's browser would let in where they only want something done.

    Args:
        host: address that is listened on.
        login: name and password.
        page_host: the page's own host name, where what stands before the server renames it.
    """
    names = [host.strip("[]"), "localhost", "127.0.0.1", "[::1]"] if _is_loopback(host) else ["*"]
    own_hosts = Middleware(TrustedHostMiddleware, allowed_hosts=names, www_redirect=False)
    own_pages = Middleware(OwnPagesOnly, page_host=page_host)
    return {"auth": login, "app_kwargs": {"middleware": [own_hosts, own_pages]}}


class OwnPagesOnly:
    """Refuses what pages of other origins send; programs name no origin and pass."""

    def __init__(self, app: ASGIApp, *, page_host: str = ""):
        self._app, self._page_host = app, page_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] == "http" and not _is_from_own_page(scope, self._page_host):
            refusal = PlainTextResponse("Pages of other origins may do nothing here.", 403)
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _is_from_own_page(scope: Scope, page_host: str) -> bool:
    headers = Headers(scope=scope)
    origin = headers.get("origin")
    if scope["method"] in ("GET", "HEAD", "OPTIONS") or origin is None:
        return True
    # What stands before the server may rename the host. X-Forwarded-Host would say so, but gradio
    # lets other pages write it; Sec-Fetch-Site is written by browsers alone, over https.
    is_own = headers.get("sec-fetch-site") == "same-origin"
    return is_own or urlsplit(origin).netloc in (headers.get("host"), page_host or None)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
