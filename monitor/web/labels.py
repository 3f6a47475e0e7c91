"""`POST /api/labels`: labels from people's tools, for who holds the token."""

import hmac
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from monitor.labelling import Receipt
from monitor.records import MonitorError
from monitor.store import StoreUnavailable
from monitor.wire import MAX_RECORD_BYTES

log = logging.getLogger(__name__)

TakeLabels = Callable[[Sequence[bytes]], Receipt]
"""Stores records of labels; raises StoreUnavailable while the database is away."""

MAX_BYTES: Final = MAX_RECORD_BYTES
"""Of a request's body."""
MAX_RECORDS: Final = 10_000
"""In a list, so that the answer has an end where all of them are wrong."""


def labels_route(token: str | None, take: TakeLabels) -> Route:
    """The route that takes one record of labels, or a list of them, as JSON.

    It answers 200 where every record was right, 404 where some item is not known, and 422 where something else is
    wrong with a record; records that are right are stored whatever the others are, and can be sent again. 401: no
    token, or a wrong one. 403: no token is set. 413: the body is too long. 503: the database is away; nothing is
    stored.
    """

    async def receive(request: Request) -> JSONResponse:
        try:
            _authorize(request, token)
            records = _records(await _body(request))
            return _answer(await run_in_threadpool(_taken, take, records))
        except _RefusedError as refused:
            return JSONResponse({"error": str(refused)}, refused.status, refused.headers)

    return Route("/api/labels", receive, methods=["POST"])


class _RefusedError(Exception):
    """A request that is not served, with the status and the headers to say so."""

    def __init__(self, status: int, why: str, **headers: str) -> None:
        super().__init__(why)
        self.status = status
        self.headers = headers


def _authorize(request: Request, token: str | None) -> None:
    if token is None:
        raise _RefusedError(
            403,
            "labels are not taken: set http.token, or SENTIMENT_HTTP__TOKEN, to a secret, and send it as "
            "'Authorization: Bearer TOKEN'",
        )
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    # In constant time, so that how long it takes does not tell how much of a guess is right.
    same = hmac.compare_digest(given.encode("latin-1").strip(), token.encode())
    if scheme.lower() != "bearer" or not same:
        wrong = "wrong" if "authorization" in request.headers else "missing"
        why = f"the token is {wrong}: send what http.token is set to as 'Authorization: Bearer TOKEN'"
        raise _RefusedError(401, why, **{"www-authenticate": "Bearer"})


def _taken(take: TakeLabels, records: Sequence[bytes]) -> Receipt:
    try:
        return take(records)
    except StoreUnavailable as error:
        log.warning("labels could not be stored: %s", error)
        raise _RefusedError(503, "the database cannot be used just now: send the labels again later") from error
    except MonitorError as error:
        log.exception("labels could not be stored")
        raise _RefusedError(500, "the labels could not be stored; the monitor's log says why") from error


async def _body(request: Request) -> bytes:
    """The request's body; of one that is too long, no more is read than shows it."""
    declared = request.headers.get("content-length", "")
    body = bytearray()
    if not declared.isdecimal() or int(declared) <= MAX_BYTES:
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BYTES:
                    break
            else:
                return bytes(body)
        except ClientDisconnect as gone:  # nobody is left to read the answer
            raise _RefusedError(400, "the connection ended before the body did: send the labels again") from gone
    raise _RefusedError(413, f"the body is longer than {MAX_BYTES:,} bytes: send fewer labels at a time")


def _records(body: bytes) -> list[bytes]:
    """Each record of the body, as it would be written alone."""
    try:
        data = json.loads(body.decode("utf-8"))
        if not isinstance(data, list):
            return [body]
        if len(data) > MAX_RECORDS:
            raise ValueError(f"a list of {len(data):,}, at most {MAX_RECORDS:,} are taken at a time")
        return [json.dumps(one).encode() for one in data]
    except (ValueError, RecursionError) as error:
        why = f"the body cannot be read: {error}; send a JSON object, or a list of them"
        raise _RefusedError(422, why) from error


def _answer(receipt: Receipt) -> JSONResponse:
    said: dict[str, Any] = {
        "stored": len(receipt.stored),
        "repeated": len(receipt.repeated),
        "blank": receipt.blank,
        "rejected": [
            {"index": place, "reason": error.reason, "error": str(error)} for place, error in receipt.rejected.items()
        ],
    }
    reasons = {error.reason for error in receipt.rejected.values()}
    status = 404 if reasons == {"unknown_item"} else 422 if reasons else 200
    return JSONResponse(said, status)
