"""Where the page is served: the address is taken before anything slow happens. Never imports gradio."""

from __future__ import annotations

import errno
import ipaddress
import socket


class ServeError(Exception):
    """The page cannot be served: the address is in use or is not this machine's."""


def bind(host: str, port: int) -> socket.socket:
    """Take the address, before anything slow happens; port 0 takes any free one. Raises ServeError."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family, kind, proto)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except (OSError, OverflowError) as error:
        raise ServeError(f"cannot serve at {host}:{port} ({error}): {_fix(error, port)}") from error
    return taken


def _fix(error: Exception, port: int) -> str:
    """What to do about an address that cannot be taken."""
    if isinstance(error, PermissionError):
        return "choose a port above 1023, such as --port 7860"
    if isinstance(error, socket.gaierror) or getattr(error, "errno", None) == errno.EADDRNOTAVAIL:
        return "use --host 127.0.0.1, or 0.0.0.0 to let other machines in"
    return f"choose another one, such as --port {port + 1 if 0 < port < 65535 else 7861}"


def address_of(bound: socket.socket) -> str:
    """The address to type into a browser on this machine."""
    host, port = bound.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{host}:{port}"


def is_local(bound: socket.socket) -> bool:
    """Whether this machine alone can reach the address."""
    return ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback
