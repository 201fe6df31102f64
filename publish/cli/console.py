"""What the commands of `publish` share: errors of one line without the token, quiet libraries."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from common.errors import UserError
from pipeline.cli.console import quiet_libraries, report_errors
from publish.refusals import PublishError

GO_ON_HINT = "run the same command again to go on with what was sent"


@contextmanager
def publishing() -> Iterator[None]:
    """Report errors as one line, without the token wherever it came from; bars only on a terminal."""
    with report_errors(GO_ON_HINT):
        if not sys.stderr.isatty():
            quiet_libraries()
        from huggingface_hub import get_token
        from huggingface_hub.utils import logging

        logging.set_verbosity(40)  # it repeats what an error says, over several lines
        token = get_token() or ""
        try:
            yield
        except UserError as error:
            if token and token in str(error):
                raise PublishError(str(error).replace(token, "***")) from None
            raise
