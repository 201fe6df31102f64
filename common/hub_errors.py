"""Messages for failed downloads from the Hugging Face Hub."""

from __future__ import annotations


def hub_refusal(error: Exception, local: str, revision: str | None = None) -> str | None:
    """Return why the Hub refused a download; None for any other failure, such as a lost connection.

    `local` is what a name could also have been: "folder" or "path".
    """
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "the Hub wants you to accept its licence on its page and to log in (`hf auth login`)"
    if revision is not None and isinstance(error, errors.RevisionNotFoundError):
        return f"the Hub has it, but not the revision {revision!r}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no such {local} here and no such public repository on the Hub"
    return None
