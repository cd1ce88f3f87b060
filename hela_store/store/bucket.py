"""Arrays in an S3 bucket, through obstore: an object is wholly there or not at all, and durable once acknowledged.

Requests that fail or take too long are repeated with exponential backoff by obstore. Credentials, region and endpoint
come from the usual chain of the AWS tools (botocore); they are asked for again before they expire, and never end up in
a file or a message: of what a server answers only its error code is shown.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from zarr.abc.store import Store as ZarrStore
from zarr.storage import ObjectStore

from hela_store.base.extras import needs
from hela_store.base.files import write_atomic
from hela_store.errors import BucketError, StoreError

from .read_cache import ReadCache
from .shard import Index, find, index_bytes, parse_index

with needs("s3"):
    import boto3
    import obstore
    from botocore.exceptions import BotoCoreError
    from obstore.auth.boto3 import Boto3CredentialProvider
    from obstore.exceptions import BaseError, NotFoundError
    from obstore.store import S3Store

ATTEMPTS = 8
ATTEMPT_SECONDS = 30.0
"""After so long without the whole answer a request is given up and repeated."""
GIVE_UP_SECONDS = 120.0
CREDENTIALS_SECONDS = 300.0
"""How long credentials are kept before the chain is asked again; botocore renews them ten minutes ahead."""
OWNER = "hela-store.json"
AGAIN = "run the same command again: it resumes"
EXPIRED = ("the credentials have expired", "renew them, for example with `aws sso login`")
UNKNOWN_KEY = ("the server does not know these credentials", "correct them with `aws configure`")
NO_RIGHT = ("these credentials do not allow it", "have this user given the right")
NO_BUCKET = ("there is no such bucket", "make it, or correct arrays.data in store.toml")
OTHER_REGION = ("the bucket is in another region", "set AWS_DEFAULT_REGION to the region of the bucket")
REFUSALS = {
    "ExpiredToken": EXPIRED,
    "ExpiredTokenException": EXPIRED,
    "TokenRefreshRequired": EXPIRED,
    "InvalidAccessKeyId": UNKNOWN_KEY,
    "InvalidToken": UNKNOWN_KEY,
    "SignatureDoesNotMatch": UNKNOWN_KEY,
    "AccessDenied": NO_RIGHT,
    "AllAccessDisabled": NO_RIGHT,
    "401": NO_RIGHT,
    "403": NO_RIGHT,
    "RequestTimeTooSkewed": ("the clock of this machine is wrong", "set it"),
    "NoSuchBucket": NO_BUCKET,
    "PermanentRedirect": OTHER_REGION,
    "AuthorizationHeaderMalformed": OTHER_REGION,
    "IllegalLocationConstraintException": OTHER_REGION,
}
"""What is wrong and what to do, by the code of an answer that stays the same however often it is asked for.

The codes are in https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html.
"""
NO_ANSWER = {
    "Connection refused": "connection refused",
    "dns error": "there is no host of this name",
    "Connection reset": "connection reset",
    "operation timed out": "no answer in time",
    "TimedOut": "no answer in time",
    "IncompleteBody": "the answer was cut short",
    "kind: Timeout": "no answer in time",
    "certificate": "its certificate is not valid",
}
"""What is said of a request without an answer, by what is found in the words of obstore."""
_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status(?: code)?:? (\d{3})|\b(\d{3}) [A-Z][a-z]+")
_RETRIES = re.compile(r"\bretries: (\d+),")


class Bucket:
    """Arrays below a prefix of a bucket.

    Parameters
    ----------
    url : str
        ``"s3://bucket/prefix"``.
    claim : Path
        File beside the recipe that says under which name this store owns the prefix.
    cache : ReadCache
        Keeps copies of chunks that are read.
    """

    def __init__(self, url: str, claim: Path, cache: ReadCache) -> None:
        self.root = url
        self._claim, self._cache = claim, cache
        self._indexes: dict[str, Index] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "_claim": self._claim, "_cache": self._cache, "_indexes": {}}

    @cached_property
    def _store(self) -> S3Store:
        name, _, prefix = self.root.removeprefix("s3://").partition("/")
        session = boto3.Session()
        try:
            endpoint = session.client("s3", region_name=session.region_name or "us-east-1").meta.endpoint_url
            credentials = Boto3CredentialProvider(session, ttl=timedelta(seconds=CREDENTIALS_SECONDS))
        except ValueError:
            raise BucketError(
                f"no credentials for {self.root}: there are none in the environment, in ~/.aws or from this machine's "
                "role; run `aws configure`"
            ) from None
        except BotoCoreError as error:
            raise BucketError(f"{self.root} cannot be opened: {error}") from None
        config: Any = {"endpoint": endpoint, "region": session.region_name or "us-east-1"}
        return S3Store(
            name,
            prefix=prefix or None,
            config=config,
            client_options={"allow_http": endpoint.startswith("http:"), "timeout": f"{ATTEMPT_SECONDS * 1000:.0f}ms"},
            retry_config={"max_retries": ATTEMPTS, "retry_timeout": timedelta(seconds=GIVE_UP_SECONDS)},
            credential_provider=credentials,
        )

    def zarr(self, *, read_only: bool) -> ZarrStore:
        """See :class:`hela_store.store.storage.Storage`."""
        if not read_only:
            self._own()
        return ObjectStore(self._store, read_only=read_only)

    @contextmanager
    def explain(self, what: str) -> Iterator[None]:
        """See :class:`hela_store.store.storage.Storage`."""
        try:
            yield
        except (BaseError, BotoCoreError) as error:
            raise self._told(error, what) from None
        except FileNotFoundError as error:
            if "NoSuchBucket" not in str(error):
                raise
            raise self._told(error, what) from None

    def read(self, name: str) -> bytes | None:
        """See :class:`hela_store.store.storage.Storage`."""
        if not name.rpartition("/")[2].startswith("c."):
            return self._get(name)
        data = self._cache.get(name)
        if data is None:
            data = self._get(name)
            if data is not None:
                self._cache.put(name, data)
        return data

    def _get(self, name: str) -> bytes | None:
        with self.explain(f"reading {self.root}/{name}"):
            try:
                return bytes(obstore.get(self._store, name).bytes())
            except (NotFoundError, FileNotFoundError) as error:
                if "NoSuchBucket" in str(error):
                    raise
                return None

    def part(self, name: str, start: int, stop: int) -> bytes | None:
        """See :class:`hela_store.store.storage.Storage`."""
        with self.explain(f"reading {self.root}/{name}"):
            try:
                return bytes(obstore.get_range(self._store, name, start=start, end=stop))
            except (NotFoundError, FileNotFoundError) as error:
                if "NoSuchBucket" in str(error):
                    raise
                return None

    def inner(self, name: str, number: int, rows: int) -> bytes | None:
        """See :class:`hela_store.store.storage.Storage`; the index of each shard is asked for once."""
        copy = f"{name}/{number}"
        data = self._cache.get(copy)
        if data is not None:
            return data
        place = find(self._indexes[name], number) if name in self._indexes else None
        if place is None:  # the shard may have been written again since
            index = self.index(name, rows)
            place = None if index is None else find(index, number)
        if place is None:
            return None
        data = self.part(name, *place)
        if data is not None:
            self._cache.put(copy, data)
        return data

    def index(self, name: str, rows: int) -> Index | None:
        """See :class:`hela_store.store.storage.Storage`."""
        with self.explain(f"reading {self.root}/{name}"):
            try:
                found = obstore.get(self._store, name, options={"range": {"suffix": index_bytes(rows)}})
                data = bytes(found.bytes())
            except (NotFoundError, FileNotFoundError) as error:
                if "NoSuchBucket" in str(error):
                    raise
                return None
        index = self._indexes[name] = parse_index(data, rows, found.meta["size"])
        return index

    def write(self, name: str, data: bytes) -> None:
        """See :class:`hela_store.store.storage.Storage`."""
        with self.explain(f"writing {self.root}/{name}"):
            obstore.put(self._store, name, data)

    def size(self, name: str) -> int | None:
        """See :class:`hela_store.store.storage.Storage`."""
        with self.explain(f"reading {self.root}/{name}"):
            try:
                return int(obstore.head(self._store, name)["size"])
            except (BaseError, FileNotFoundError) as error:
                if not _word(error).startswith("4"):
                    raise
                # the answer to a HEAD has no body that says what is not there, or what is refused
                data = self._get(name)
                return None if data is None else len(data)

    def below(self, name: str) -> list[str]:
        """See :class:`hela_store.store.storage.Storage`."""
        with self.explain(f"listing {self.root}/{name}"):
            found = obstore.list_with_delimiter(self._store, name)
        paths = [*found["common_prefixes"], *(each["path"] for each in found["objects"])]
        return sorted(path.rstrip("/").rpartition("/")[2] for path in paths)

    def documents(self) -> list[str]:
        """See :class:`hela_store.store.storage.Storage`."""
        return sorted(name for name in self._all("") if name.rpartition("/")[2] == "zarr.json")

    def remove(self, name: str) -> None:
        """See :class:`hela_store.store.storage.Storage`."""
        self.changed(name)
        below = self._all(f"{name}/")
        with self.explain(f"removing {self.root}/{name}"):
            obstore.delete(self._store, below or [name])

    def created(self, name: str) -> None:
        """See :class:`hela_store.store.storage.Storage`; what a bucket acknowledged is durable."""

    def changed(self, name: str) -> None:
        """See :class:`hela_store.store.storage.Storage`."""
        self._cache.forget(name)
        for number in range(len(self._indexes.pop(name, ()))):
            self._cache.forget(f"{name}/{number}")

    def doubt(self, name: str) -> bool:
        """See :class:`hela_store.store.storage.Storage`."""
        self.changed(name)
        return True

    def _all(self, prefix: str) -> list[str]:
        with self.explain(f"listing {self.root}/{prefix}"):
            return [each["path"] for part in obstore.list(self._store, prefix or None) for each in part]

    def _own(self) -> None:
        """Make the prefix this store's, once; two stores would overwrite each other's rows.

        Raises
        ------
        StoreError
            Another store's arrays are there.
        """
        there = self.read(OWNER)
        mine = self._claim.read_bytes() if self._claim.exists() else None
        if mine is None and there is None:
            mine = json.dumps({"store": uuid.uuid4().hex}).encode()
            write_atomic(self._claim, mine)
        if there is None:
            assert mine is not None
            with self.explain(f"writing {self.root}/{OWNER}"):
                obstore.put(self._store, OWNER, mine)
        elif there != mine:
            raise StoreError(
                f"{self.root} holds the arrays of another store; give arrays.data in store.toml another prefix, or "
                f"work in that store's folder"
            )

    def _told(self, error: Exception, what: str) -> BucketError:
        """Return what went wrong as a line that says what to do."""
        text, word = str(error), _word(error)
        if word in REFUSALS:
            reason, way_out = REFUSALS[word]
            return BucketError(f"{self.root} refused ({word}: {reason}) while {what}; {way_out}, and {AGAIN}")
        reason = word or next((words for sign, words in NO_ANSWER.items() if sign in text), type(error).__name__)
        retries = _RETRIES.search(text)
        if retries is None or retries[1] == "0":
            failed = "refused a request" if word else "did not answer in full"
            return BucketError(f"{self.root} {failed} ({reason}) while {what}; {AGAIN}")
        attempts = int(retries[1]) + 1
        return BucketError(f"{self.root} does not answer ({reason}; {attempts} attempts) while {what}; {AGAIN}")


def _word(error: Exception) -> str:
    """Return the code in a server's answer, else its status; empty where there was no answer."""
    text = str(error)
    code = _CODE.search(text)
    if code:
        return code[1]
    if "redirect without LOCATION" in text:
        return "PermanentRedirect"
    status = _STATUS.search(text)
    return next(number for number in status.groups() if number) if status else ""
