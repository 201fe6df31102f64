"""The container's health check: exit code 0 while the default model can answer, else 1 and the reason."""

from __future__ import annotations

import os
import sys
from http.client import HTTPConnection, HTTPException

PORT = 7860
SECONDS = 4


def problem(port: int) -> str | None:
    """Return why the chat on this port of this machine is not healthy, or None."""
    connection = HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", "/health")
        answer = connection.getresponse()
        text = answer.read(1000).decode("utf-8", "replace")
    except (OSError, HTTPException) as error:
        return f"/health on port {port} does not answer: {error or type(error).__name__}"
    finally:
        connection.close()
    return None if answer.status == 200 else f"/health says {answer.status}: {text}"


if __name__ == "__main__":
    sys.exit(problem(int(os.environ.get("GGUF_CHAT_PORT") or PORT)))
