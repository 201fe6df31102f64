"""The web application over a fake backend: python -m tests.ui.fake_app, with the options of app.py."""

from __future__ import annotations

import sys

from tests.ui.fake_backend import FakeBackend
from ui.cli import address_of, bind, is_local, read_settings
from ui.models.registry import one_model
from ui.server.app import create_app, serve
from ui.server.launch import access_of

WORDS = 200  # of an answer, 50 a second

if __name__ == "__main__":
    settings = read_settings(sys.argv[1:])
    bound = bind(settings.host, settings.port)
    models = one_model(FakeBackend("word " * WORDS, 0.02))
    models.pool.load()
    local = is_local(bound)
    app = create_app(
        models,
        64,
        local=local,
        detached_seconds=settings.detached(own_machine=local and not settings.known_as),
        access=access_of(settings),
        hosts=settings.known_as,
        origins=settings.allow_origin,
    )
    ready = f"Ready: {address_of(bound)}"
    serve(
        app,
        bound,
        lambda: print(ready, flush=True),
        trusted_proxies=settings.trusted_proxy,
        root_path=settings.root_path,
    )
