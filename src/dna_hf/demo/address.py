"""Whether the page can be served at an address, found out before models are loaded."""

import socket

from ..analysis.errors import AnalysisError


def check_address(host: str, port: int | None) -> None:
    """See that this machine can listen at an address.

    Args:
        host: name or address to listen on.
        port: number of the port to listen on; any if `None`.

    Raises:
        AnalysisError: if it cannot: there is no such host, it is another machine, or the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            # a page that was closed a moment ago does not keep its port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        where = f"{host!r}" if port is None else f"{host!r}, port {port}"
        raise AnalysisError(
            f"cannot listen on {where}: {reason}; choose --host 127.0.0.1 or another --port."
        ) from error
