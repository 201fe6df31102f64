"""Download a GGUF from the Hugging Face Hub, by a repository's name or the address of its page."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from common.certificate import NAME as CERTIFICATE
from common.certificate import Certificate, Reason, Recommendation, load_certificate, type_in_name
from common.errors import InputError
from common.files import read_json_input
from common.hub_errors import hub_refusal
from common.shard_names import model_sizes, whole_name
from engine.errors import ModelError
from engine.types import ProgressCallback, no_progress
from ggufio import shards
from ui.models.download import download_large_files, progress_bar

MANIFEST = "manifest.json"
_NAME = r"[A-Za-z0-9][\w.-]*"
_REVISION = r"refs/(?:pr|convert)/[\w.-]+|[\w.-]+"
_SPEC = re.compile(
    rf"(?P<repository>{_NAME}/{_NAME})(?:@(?P<revision>{_REVISION}))?"
    rf"(?::(?P<quant>[\w.-]+)|(?:/(?:blob|resolve)/(?P<branch>{_REVISION}))?/(?P<file>.+?\.gguf)"
    rf"|/tree/(?P<tree>{_REVISION}))?/?(?:\?download=true)?"
)
_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_SHOWN_FILE = "show_file_info"
"""The parameter with a file's name in the address that a repository's page has once a file was clicked."""
Choose = Callable[[Mapping[str, int], Certificate | None], Recommendation | None]
"""Picks one of a repository's GGUF files, given their sizes by name and its certificate; or None."""


@dataclass(frozen=True)
class HubName:
    """A repository on the Hub, at a revision or on its main branch; `file` or `quant` name a model of it."""

    repository: str
    revision: str | None = None
    file: str | None = None
    quant: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the model is still to be chosen."""
        return self.file is None and self.quant is None

    def with_file(self, file: str) -> str:
        """Return the text that names a file of the repository."""
        at = f"@{self.revision}" if self.revision else ""
        return f"{self.repository}{at}/{file}"


def parse_hub_name(spec: str) -> HubName | None:
    """Parse `owner/name`, also with `@revision`, `:Q4_K_M` or `/file.gguf`, and addresses of the Hub's pages.

    None for a text of another form.
    """
    spec, shown = _without_host(spec)
    match = _SPEC.fullmatch(spec)
    if match is None:
        return None
    revision = match["revision"] or match["branch"] or match["tree"]
    file = match["file"] or (shown if shown.endswith(".gguf") and not match["quant"] else None)
    return HubName(match["repository"], revision, file, match["quant"])


def _without_host(spec: str) -> tuple[str, str]:
    """Return the path in an address of the Hub, or of the mirror in HF_ENDPOINT, and the file that it shows.

    Any other text is returned as it is, with "".
    """
    hosts = (*_HOSTS, urlsplit(os.environ.get("HF_ENDPOINT", "")).netloc)
    either = "|".join(re.escape(host) for host in hosts if host)
    # A Path has a single slash after the scheme.
    match = re.match(rf"(?:(?:https?:/{{1,2}})?(?:{either})/|hf:/{{1,2}})", spec, re.IGNORECASE)
    if match is None:
        return spec, ""
    path, _, query = spec[match.end() :].partition("#")[0].partition("?")
    return unquote(path), parse_qs(query).get(_SHOWN_FILE, [""])[0]


@dataclass(frozen=True)
class HubFiles:
    """The GGUF files of a repository: the models' sizes in bytes by their first files, and its certificate.

    `loras` are the adapters that an export wrote for its base's files, by the names of those.
    """

    models: Mapping[str, int]
    certificate: Certificate | None
    loras: Mapping[str, str]


def fetch_gguf(
    spec: str, choose: Choose, progress: ProgressCallback = no_progress
) -> tuple[Path, Reason | None]:
    """Return the file's path in the Hub's cache (its first shard's), after downloading what is missing.

    The reason is that of the choice; None where the file was named. With a chosen file comes the adapter that
    the repository has for it.

    Raises ModelError, and EngineStopped when `progress` returns False; the partial download is kept.
    """
    name = parse_hub_name(spec)
    assert name is not None, spec
    if name.file and ".." in PurePosixPath(name.file).parts:
        raise ModelError(f"model {spec!r} names a file outside of its repository")
    import huggingface_hub

    reason: Reason | None = None
    file, more = name.file, list[str]()
    try:
        if file is None:
            listed = _list_files_or_cached(name)
            best = _chosen(name, listed, choose)
            file, reason = best.name, None if name.quant else best.reason
            if lora := listed.loras.get(whole_name(file)):
                more = [lora, MANIFEST]
        wanted = (*shards.names(file), *more)
        download_large_files(name.repository, name.revision, wanted, progress)
        folder = huggingface_hub.snapshot_download(
            name.repository,
            revision=name.revision,
            allow_patterns=[glob.escape(one) for one in wanted],
            tqdm_class=progress_bar(progress),
        )
    except _failures() as error:
        raise _refused(spec, name, error) from error
    path = Path(folder) / shards.names(file)[0]
    if path.is_file():
        return path, reason
    raise ModelError(f"model {spec!r}: the Hub's {name.repository} has no file {file}")


def list_ggufs(spec: str) -> HubFiles:
    """Return the GGUF files of the repository that a text names. Raises ModelError."""
    name = parse_hub_name(spec)
    assert name is not None, spec
    try:
        return _list_files_or_cached(name)
    except _failures() as error:
        raise _refused(spec, name, error) from error


def _failures() -> tuple[type[Exception], ...]:
    """Return what the Hub's client raises for a request that failed."""
    from huggingface_hub import errors

    httpx_error: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]
    return httpx_error, errors.HFValidationError, OSError, RuntimeError  # the last is hf_xet's


def _refused(spec: str, name: HubName, error: Exception) -> ModelError:
    unreachable = f"there is no such path here, and the Hub cannot be reached ({type(error).__name__})"
    return ModelError(f"model {spec!r}: {hub_refusal(error, 'path', name.revision) or unreachable}")


def _list_files_or_cached(name: HubName) -> HubFiles:
    """List a repository; without a way to the Hub, what was downloaded of it. Raises as `_list_files`."""
    from huggingface_hub import errors

    try:
        return _list_files(name)
    except (errors.OfflineModeIsEnabled, errors.HTTPError) as error:  # type: ignore[attr-defined] # httpx's
        if isinstance(error, errors.HfHubHTTPError) or (listed := _list_cached(name)) is None:
            raise
        return listed


def _list_files(name: HubName) -> HubFiles:
    """List a repository. Raises ModelError, and the Hub's errors."""
    import huggingface_hub

    info = huggingface_hub.model_info(name.repository, revision=name.revision, files_metadata=True)
    sizes = {item.rfilename: item.size or 0 for item in info.siblings or []}

    def read(file: str) -> Path:
        return Path(huggingface_hub.hf_hub_download(name.repository, file, revision=name.revision))

    return _hub_files(name, sizes, read)


def _list_cached(name: HubName) -> HubFiles | None:
    """List the models in the Hub's cache with all their shards; None without one of the wanted type."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        cached = huggingface_hub.snapshot_download(
            name.repository, revision=name.revision, local_files_only=True
        )
    except errors.IncompleteSnapshotError as error:
        cached = error.snapshot_path
    except errors.LocalEntryNotFoundError:
        return None
    folder = Path(cached)
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    whole = [file for file in files if all(shard in files for shard in shards.names(file))]
    listed = _hub_files(name, {file: files[file].stat().st_size for file in whole}, folder.joinpath)
    wanted = name.quant.upper() if name.quant else None
    is_there = any(wanted in (None, type_in_name(file)) for file in listed.models)
    return listed if is_there else None


def _hub_files(name: HubName, sizes: Mapping[str, int], read: Callable[[str], Path]) -> HubFiles:
    """Describe the files of a repository, given how to get one. Raises ModelError."""
    certificate, loras = None, dict[str, str]()
    if CERTIFICATE in sizes:
        try:
            certificate = load_certificate(read(CERTIFICATE), strict=False)
        except InputError as error:
            raise ModelError(f"the repository {name.repository!r}: {error}, or name a file of it") from None
    if MANIFEST in sizes:
        loras = {base: lora for base, lora in recorded_loras(read(MANIFEST)).items() if lora in sizes}
    ggufs = {file: size for file, size in sizes.items() if file.endswith(".gguf")}
    return HubFiles(model_sizes(ggufs), certificate, loras)


def recorded_loras(manifest: Path) -> dict[str, str]:
    """Return the adapters in an export's manifest, by the base's files that they are for; {} without any."""
    try:
        found = read_json_input(manifest)["options"]["loras"]
        return {str(base): str(lora) for base, lora in found.items() if Path(str(lora)).name == lora and lora}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _chosen(name: HubName, listed: HubFiles, choose: Choose) -> Recommendation:
    """Return the choice out of a repository's files. Raises ModelError."""
    models = listed.models
    if name.quant:
        wanted = name.quant.upper()
        of_type = {file: size for file, size in models.items() if type_in_name(file) == wanted}
        if not of_type:
            types = sorted({kind for file in models if (kind := type_in_name(file))})
            raise ModelError(
                f"the repository {name.repository!r} has no GGUF of type {name.quant}: "
                + (f"it has {', '.join(types)}" if types else "name a file of it")
            )
        models = of_type
    best = choose(models, listed.certificate)
    if best is None:
        raise ModelError(f"the repository {name.repository!r} holds no GGUF model: name one that does")
    return best


def stem_of(path: Path) -> str:
    """Return a file's name without its extension and without a shard's number."""
    return Path(shards.whole_name(path.name)).stem
