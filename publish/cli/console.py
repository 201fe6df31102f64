"""What the commands of `publish` share: errors of one line without the token, and quiet libraries."""

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
        on_terminal = sys.stderr.isatty()
        if not on_terminal:
            quiet_libraries()
        from huggingface_hub import get_token
        from huggingface_hub.utils import logging
        from huggingface_hub.utils.tqdm import disable_progress_bars

        logging.set_verbosity(40)  # errors: its warnings repeat what our messages say, over several lines
        if not on_terminal:
            disable_progress_bars()
        token = get_token() or ""
        try:
            yield
        except UserError as error:
            if on_terminal:
                print(file=sys.stderr)  # an unfinished bar is left as it is
            if token and token in str(error):
                raise PublishError(str(error).replace(token, "***")) from None
            raise
