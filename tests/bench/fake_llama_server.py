"""A llama-server of a few lines: its command line, its health check, its streaming protocol. No model.

Says `word ` for each token. Appends what it was asked to the file that $FAKE_SERVER_LOG names.
"""

from __future__ import annotations

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Handler(BaseHTTPRequestHandler):
    loading = True

    def do_GET(self) -> None:
        # Like the real one, it answers before it is ready.
        status = 503 if Handler.loading else 200
        Handler.loading = False
        self.send_response(status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        note({"path": self.path, "body": body})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.send({"choices": [{"delta": {"role": "assistant", "content": None}}]})
        if "fail" in body["messages"][-1]["content"]:
            self.send({"error": {"message": "the context is full"}})
            return
        for _ in range(body["max_tokens"]):
            self.send({"choices": [{"delta": {"content": "word "}}]})
        timings = {"cache_n": 3, "prompt_n": 7, "predicted_n": body["max_tokens"]}
        self.send({"choices": [{"delta": {}, "finish_reason": "length"}], "timings": timings})
        self.wfile.write(b"data: [DONE]\n\n")

    def send(self, chunk: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


def note(what: dict[str, Any]) -> None:
    with Path(os.environ["FAKE_SERVER_LOG"]).open("a") as log:
        log.write(json.dumps(what) + "\n")


if __name__ == "__main__":
    note({"arguments": sys.argv[1:], "spin": os.environ.get("GOMP_SPINCOUNT")})
    port = int(sys.argv[sys.argv.index("--port") + 1])
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
