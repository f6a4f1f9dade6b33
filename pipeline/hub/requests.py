"""Requests to the Hub: repeated if they fail for a moment, never waiting for ever, explained in one line if they fail.

The clients repeat some requests themselves (uploads, listings), but not `whoami`, the creation of a repository, the
check of a model card, and the commit. `persistently` repeats these.
"""

import contextlib
import functools
import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from httpx2 import Client, ConnectError, ConnectTimeout, HTTPError, ProxyError, Timeout
from huggingface_hub import constants, set_client_factory
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._http import default_client_factory, get_session

from pipeline.config import names
from pipeline.errors import PipelineError

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

UNAUTHORIZED, FORBIDDEN, TOO_MANY_REQUESTS = 401, 403, 429
_TRANSIENT = (408, TOO_MANY_REQUESTS, 500, 502, 503, 504)
_MAX_TRIES = 5
_PATIENCE = 60.0  # seconds; the clients wait 23 s themselves in the requests that they repeat
_CONNECT_SECONDS = 3.0
_READ_SECONDS = 120.0  # without an answer; by default, the clients wait for ever


def _client_with_time_limits() -> Client:
    """Return a session that gives up on a connection that does not answer."""
    client = default_client_factory()
    client.timeout = Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS)
    return client


set_client_factory(_client_with_time_limits)


def persistently(call: Callable[[], _T]) -> _T:
    """Return the result of a call that can be repeated, and repeat it if the Hub or the network fails for a moment.

    Waits are doubled from one second on, or as long as the Hub asks for (`Retry-After`). The last error is raised after
    five tries or a minute.
    """
    start, tries = time.monotonic(), 0
    while True:
        tries += 1
        try:
            return call()
        except (HTTPError, OSError, RuntimeError, json.JSONDecodeError) as error:
            wait = _wait_before_repeating(error, tries)
            if wait is None or tries == _MAX_TRIES or time.monotonic() - start + wait > _PATIENCE:
                raise
            logger.warning("the Hub failed (%s); trying again in %g s", _reason(error), wait)
            time.sleep(wait)


def _wait_before_repeating(error: BaseException, tries: int) -> float | None:
    """Return how many seconds to wait before a failed call is repeated, or None if it would fail again."""
    error = _cause(error)
    if constants.HF_HUB_OFFLINE:
        return None
    if isinstance(error, HfHubHTTPError):
        if error.response.status_code not in _TRANSIENT:
            return None
        asked = error.response.headers.get("Retry-After", "")
        return float(asked) if asked.isdecimal() else 2.0 ** (tries - 1)
    # A local entry is missing if a download failed and the file is not cached.
    is_transient = isinstance(error, HTTPError | ConnectionError | LocalEntryNotFoundError | json.JSONDecodeError)
    return 2.0 ** (tries - 1) if is_transient else None


def _cause(error: BaseException) -> BaseException:
    """Return the error of the request: the client hides that of an upload in a RuntimeError."""
    while type(error) is RuntimeError and error.__cause__ is not None:
        error = error.__cause__
    return error


def _reason(error: BaseException) -> str:
    error = _cause(error)
    if isinstance(error, HfHubHTTPError):
        return f"status {error.response.status_code}"
    return " ".join((str(error) or type(error).__name__).split())[:200]


def is_reachable() -> bool:
    """Return whether the Hub accepts a connection within seconds. The answer is remembered for half a minute."""
    return not constants.HF_HUB_OFFLINE and _is_reachable_in(int(time.monotonic() // 30))


@functools.lru_cache(maxsize=1)
def _is_reachable_in(_half_minute: int) -> bool:
    connected = queue.SimpleQueue[bool]()
    # In a thread, because the time to look up a name cannot be limited.
    threading.Thread(target=lambda: connected.put(_connects()), daemon=True).start()
    try:
        return connected.get(timeout=_CONNECT_SECONDS + 1)
    except queue.Empty:
        return False


def _connects() -> bool:
    try:
        get_session().head(constants.ENDPOINT, timeout=_CONNECT_SECONDS)
    except (ConnectError, ConnectTimeout, ProxyError):
        return False
    except (HTTPError, OSError):
        return True  # for example a slow answer; the request that follows shows whether it works
    return True


@contextlib.contextmanager
def cached_without_network(name: str) -> Iterator[None]:
    """Let the clients read from the cache at once if the Hub cannot be reached, where they would repeat requests.

    Args:
        name: What is read, for the log.
    """
    if constants.HF_HUB_OFFLINE or is_reachable():
        yield
        return
    logger.warning("the Hub cannot be reached; looking for %s in the cache", name)
    import datasets.config

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    try:
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def errors_explained(kind: str, name: str, revision: str) -> Iterator[None]:
    """Convert errors of the Hub clients into a `PipelineError` of one line."""
    try:
        yield
    except PipelineError:
        raise
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        if (text := _explain(_cause(error), kind, name, revision)) is None:
            raise
        raise PipelineError(text) from error


_REMEDIES: tuple[tuple[type[BaseException], str], ...] = (
    (GatedRepoError, "{kind} {name} is gated: accept its terms on the Hub and run `hf auth login`"),
    (LocalTokenNotFoundError, "pushing to {name} needs a token: run `hf auth login`, or set HF_TOKEN"),
    (HFValidationError, "{name!r} is not a local folder and not a Hub id: pass a folder, or OWNER/NAME"),
    (json.JSONDecodeError, "the Hub answered {name} with something else than JSON: check the network and its proxy"),
)


def _explain(error: BaseException, kind: str, name: str, revision: str) -> str | None:
    """Return what is wrong and what to do, or None if the error may be a bug."""
    for error_class, text in _REMEDIES:
        if isinstance(error, error_class):
            return text.format(kind=kind, name=name)
    if isinstance(error, RepositoryNotFoundError | RevisionNotFoundError):
        return not_found(kind, name, revision)
    if isinstance(error, HfHubHTTPError):
        return _explain_status(error, name)
    is_lost = isinstance(error, LocalEntryNotFoundError | ConnectionError | HTTPError)
    if kind == "repository" and is_lost:
        return f"the Hub cannot be reached for {name} ({_reason(error)}): check the network and HF_HUB_OFFLINE"
    if kind == "repository" and isinstance(error, RuntimeError | ValueError):
        return f"the push to {name} failed ({_reason(error)}): repeat the `push` command"
    return names.not_cached(kind, name) if is_lost else None


def _explain_status(error: HfHubHTTPError, name: str) -> str:
    status = error.response.status_code
    reason = " ".join((error.server_message or "it gave no reason").split())[:200]
    if status == UNAUTHORIZED:
        return f"the Hub rejected your token for {name}: run `hf auth login` with a token that has write access"
    if status == FORBIDDEN:
        return f"the Hub does not allow this for {name} ({reason}): run `hf auth login` with another token"
    if status in _TRANSIENT:
        return f"the Hub returned status {status} for {name}, also when asked again: repeat the command later"
    return f"the Hub rejected a request for {name} with status {status} ({reason}): check the name and the files"


def not_found(kind: str, name: str, revision: str) -> str:
    """Return the problem of a repository or a revision that does not exist."""
    at = "" if revision == "main" else f" at revision {revision}"
    local = "" if kind == "repository" else ", and there is no such local folder"
    return f"{kind} {name}{at} not found on the Hub{local}: check the name, or run `hf auth login` if it is private"
