"""Fetch one file from several mirrors: resumable, checked, and never left half-written."""

import contextlib
import hashlib
import os
import queue
import stat
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from minidl.files.locks import folder_lock
from minidl.files.whole import replace

_BLOCK = 1 << 18  # bytes: large enough to hide Python's overhead, small for a smooth bar
_WINDOW, _SLOWEST = 60.0, 1000  # in each window of 60 s, a mirror must send 1000 bytes per second


class _MirrorError(Exception):
    """The reason why one mirror failed; the next one may work."""


class _RangeError(_MirrorError):
    """The mirror did not send the rest of a file, but may send all of it."""


def download(
    urls: Sequence[str],
    destination: str | Path,
    *,
    size: int,
    md5: str,
    progress: bool = True,
    timeout: float = 30.0,
) -> Path:
    """Fetch a file from the first mirror that delivers exactly the expected bytes.

    Bytes are collected in `<destination>.part` and renamed at the end, once size and md5 are
    right. After a broken connection, Ctrl-C or a full disk, the `.part` stays, and the next
    mirror or call resumes from it (HTTP Range, RFC 9110 section 14); a mirror that cannot resume is
    asked for the whole file. An existing file with the right size and md5 is not fetched again.
    If another process or thread is fetching the same file, wait for it and use its result. Give up
    on a mirror that sends less than 1 kB per second for a minute, whatever else it sends.

    Args:
        urls: mirrors of the identical file, tried in order; https only (http to 127.0.0.1).
        destination: path of the finished file; its folder is created.
        size: length of the file in bytes.
        md5: its md5 as 32 hexadecimal digits; guards against damage, not against an attacker.
        progress: show a progress bar on stderr.
        timeout: seconds without an answer after which to give up on a mirror.

    Returns:
        `destination` as a path.

    Raises:
        ValueError: `urls` is empty or one of them is not https.
        OSError: no mirror delivered (each is listed with its reason), or writing failed.
    """
    destination = Path(destination)
    who, lock = f"download of {destination.name}", f".{destination.name}.lock"
    if not urls:
        raise ValueError(f"{who}: got no URL, expected at least one mirror")
    for url in urls:
        _require_secure(url)
    if destination.is_file() and not _fault(destination, size, md5):
        return destination
    part = destination.with_name(destination.name + ".part")
    reasons = []
    with folder_lock(destination.parent, who, wait=-1, name=lock):
        if destination.is_file() and not _fault(destination, size, md5):
            return destination  # fetched by another process meanwhile
        for url in urls:
            try:
                _complete(url, part, size, md5, progress, timeout)
            except _MirrorError as error:
                reasons.append(f"{url}: {error}")
                continue
            replace(part, destination)
            return destination
    raise OSError(
        f"{who}: none of {len(urls)} mirrors delivered the file:\n  "
        + "\n  ".join(reasons)
        + f"\nCheck the connection and call again (it resumes), or fetch the file by other means "
        f"and put it at {destination}"
    )


def _require_secure(url: str) -> None:
    from urllib.parse import urlsplit

    parsed = urlsplit(url)
    if parsed.scheme == "https" or (parsed.scheme == "http" and parsed.hostname == "127.0.0.1"):
        return
    raise ValueError(f"download: got the URL {url!r}, expected https:// (http is insecure)")


def _opener() -> Any:
    """Return an opener of URLs that follows redirects only to secure URLs."""
    import urllib.request

    class SecureRedirects(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *request: Any) -> urllib.request.Request | None:
            try:
                _require_secure(request[-1])
            except ValueError:
                request[1].close()  # the response
                raise
            return super().redirect_request(*request)

    return urllib.request.build_opener(SecureRedirects)


def _complete(url: str, part: Path, size: int, md5: str, progress: bool, timeout: float) -> None:
    """Complete and check `part`, or raise _MirrorError."""
    while True:
        start = _saved(part)
        if start < size:
            try:
                _fetch_rest(url, part, start, size, progress, timeout)
            except _RangeError:  # otherwise, every later call would fail in the same way
                start = 0
                _fetch_rest(url, part, start, size, progress, timeout)
        fault = _fault(part, size, md5)
        if not fault:
            return
        part.unlink()
        if start == 0:
            raise _MirrorError(fault)
        # The damage may be in bytes saved by an earlier try: fetch all of them from this mirror.


def _saved(part: Path) -> int:
    """Return how much of a file an earlier call saved; remove a link, which may lead anywhere."""
    try:
        status = part.lstat()
    except FileNotFoundError:
        return 0
    if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
        return status.st_size
    part.unlink()
    return 0


def _fault(path: Path, size: int, md5: str) -> str:
    """Return what is wrong with a finished file, or an empty string."""
    length = path.stat().st_size
    if length != size:
        return f"got {length} bytes, expected {size}"
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    return "" if found == md5.lower() else f"got a file with md5 {found}, expected {md5}"


def _fetch_rest(
    url: str, part: Path, start: int, size: int, progress: bool, timeout: float
) -> None:
    """Append bytes from `start` on to `part`; rewrite it if the server ignores the range."""
    import urllib.request

    request = urllib.request.Request(url, headers={"User-Agent": "minidl"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    with contextlib.closing(_received(request, timeout)) as received:
        response = next(received)
        if response.status == 206:
            span = response.headers.get("Content-Range", "")
            if span not in [f"bytes {start}-{size - 1}/{total}" for total in (size, "*")]:
                raise _RangeError(f"asked for bytes {start} to {size - 1}, got {span!r}")
        else:
            start = 0
            announced = response.headers.get("Content-Length", str(size))
            if announced != str(size):
                raise _MirrorError(f"offers {announced} bytes, expected {size}: another file")
        got = _write(received, part, start, size, progress)
    if got < size:
        raise _MirrorError(f"connection ended after {got} of {size} bytes")


def _received(request: Any, timeout: float) -> Generator[Any, None, None]:
    """Yield the response to a request, then its blocks.

    Another thread waits for them: headers or trailers that never end would block this one forever,
    since a timeout limits only the time between two bytes.
    """
    import http.client
    import urllib.error

    results: queue.Queue[Any] = queue.Queue(maxsize=4)
    ended = threading.Event()

    def receive() -> None:
        try:
            with _opener().open(request, timeout=timeout) as response:
                results.put(response)
                while not ended.is_set() and (block := response.read1(_BLOCK)):
                    results.put(block)
            results.put(None)
        except urllib.error.HTTPError as error:
            error.close()
            results.put(error)
        except Exception as error:
            results.put(error)

    threading.Thread(target=receive, daemon=True).start()
    since, amount = time.monotonic(), 0
    try:
        while (result := results.get(timeout=_WINDOW)) is not None:
            if isinstance(result, Exception):
                raise result
            yield result
            amount += len(result) if isinstance(result, bytes) else 0
            if time.monotonic() - since >= _WINDOW:
                if amount < _WINDOW * _SLOWEST:
                    raise queue.Empty
                since, amount = time.monotonic(), 0
    except queue.Empty:
        reason = f"sent {amount} bytes in {_WINDOW:.0f} s, expected {_SLOWEST} bytes per second"
        raise _MirrorError(reason) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        kind = _RangeError if getattr(error, "code", 0) == 416 else _MirrorError
        raise kind(str(error) or type(error).__name__) from error
    finally:
        ended.set()
        while not results.empty():
            results.get_nowait()  # the thread may be waiting for space


def _write(received: Iterator[bytes], part: Path, start: int, size: int, progress: bool) -> int:
    """Copy blocks into `part` from byte `start` on; return the length reached."""
    from tqdm import tqdm

    position = start
    look: dict[str, Any] = {"unit": "B", "unit_scale": True, "disable": not progress}
    try:
        with (
            open(part, "ab" if start else "wb", opener=_open_file) as out,
            tqdm(desc=part.stem, total=size, initial=start, **look) as bar,
        ):
            # One block past the size is enough to detect a file that is too long.
            while position <= size and (block := next(received, b"")):
                out.write(block)
                position += len(block)
                bar.update(len(block))
    except OSError as error:
        reason = error.strerror or str(error)
        message = f"{reason}; the part that arrived is saved, and the next call resumes from it"
        raise OSError(error.errno, message, str(part)) from error
    return position


def _open_file(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
