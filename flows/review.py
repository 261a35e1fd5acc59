"""Review: what batches leave to people -> a page on loopback to accept, correct or reject it, with few keys, in Chinese or English.

Behind that come accepted answers that were drawn for an audit, marked as such.
Every address begins with a secret that is drawn at each start and printed once; whoever has not got it finds nothing here, other pages
in the same browser neither. Nothing changes without a POST from this very page. It loads nothing from anywhere.
"""

import hmac
import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from jinja2 import Environment, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from flows.review_page import PAGE, WORDS
from infra.store import Conflict, Store
from tasks.process import Column, Process, digest_of
from tasks.records import as_text
from tasks.reviewing import Queue
from tasks.reviews import AUDIT, Word
from tasks.waiting import Item, View

logger = logging.getLogger(__name__)

LARGEST = 1_000_000  # bytes of a form
UNSURE = 0.9  # a field below it is marked
ACTIONS: Mapping[str, Word] = {"accept": "accepted", "correct": "corrected", "reject": "rejected"}

Fields = Mapping[str, str]  # of a form


def app_of(store: Store, process: Process, reviewer: str, token: str) -> Starlette:
    """The page of one process and one person.

    Args:
        token: the first part of every address.
    """
    desk = Desk(Queue(store, process), reviewer, token)

    async def answer(request: Request) -> Response:
        if not hmac.compare_digest(request.path_params["token"].encode(), token.encode()):
            return Response(status_code=404)
        if request.method != "POST":
            return await run_in_threadpool(desk.show, request)
        if not _is_ours(request):
            return Response(status_code=403)
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > LARGEST:
                return Response(status_code=413)
        fields = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
        return await run_in_threadpool(desk.decide, request, fields)

    routes = [Route("/{token}/", answer, methods=["GET"]), Route("/{token}/{id}", answer, methods=["GET", "POST"])]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])  # else a name made to lead here would do
    return Starlette(routes=routes, middleware=[hosts], exception_handlers={OSError: away})


async def away(request: Request, error: Exception) -> Response:
    """What a person is told when the store does not answer, or a disk is full."""
    logger.warning("review: %s", error)
    text = f"{WORDS[_language(request)]['away']} {error}"
    return Response(text, 503, {"Cache-Control": "no-store"}, "text/plain; charset=utf-8")


def _is_ours(request: Request) -> bool:
    """Whether a form was sent from this page, as far as the browser tells."""
    origin = request.headers.get("origin")
    return request.headers.get("sec-fetch-site", "same-origin") == "same-origin" and origin in (None, f"http://{request.headers['host']}")


class Desk:
    """What one person sees and decides."""

    def __init__(self, queue: Queue, reviewer: str, token: str) -> None:
        self.queue, self.reviewer, self.token = queue, reviewer, token
        queue.waiting()  # what is void by this declaration now may be said over, what comes later may be of a newer one; much takes minutes
        self.template = Environment(autoescape=True, undefined=StrictUndefined).from_string(PAGE)

    def show(self, request: Request) -> Response:
        """A record; without one in the address, the first that waits."""
        id = request.path_params.get("id", "")
        view = self.queue.seen_from(id)
        if view.item or not view.count:
            return self._page(request, view, view.item, said=request.query_params.get("said", ""))
        return self._to(request, view.first, "gone" if id else "")

    def decide(self, request: Request, fields: Fields) -> Response:
        """Keep a person's word and go on to the next record; 422 for what cannot be kept, 409 when somebody or a newer batch was faster."""
        word = ACTIONS.get(fields.get("action", ""))
        if word is None:
            return Response(status_code=400)
        id = request.path_params["id"]
        view = self.queue.seen_from(id)
        item = view.item or self.queue.known(id)
        if item is None:
            return Response(status_code=404)
        if view.item and fields.get("shown", shown_of(item)) != shown_of(item):
            return self._page(request, view, item, said="changed", status=409)
        try:
            self.queue.decide(item, word, self.reviewer, self._output(fields), fields.get("reason", ""))
        except Conflict as error:
            return self._page(request, view, None, said="taken", detail=str(error), status=409)
        except ValueError as error:
            return self._page(request, view, item, said="refused", detail=str(error), status=422, typed=fields)
        return self._to(request, view.following, word)

    def _output(self, fields: Fields) -> Any:
        declared = self.queue.process.output.fields
        return fields.get("output", "") if declared is None else {name: fields.get(f"field.{name}", "") for name in declared}

    def _to(self, request: Request, id: str, said: str = "") -> Response:
        return RedirectResponse(self._address(id, _language(request), said), 303, {"Cache-Control": "no-store"})

    def _address(self, id: str, language: str, said: str = "") -> str:
        return f"/{self.token}/{id}?lang={language}" + (f"&said={said}" if said else "")

    def _page(
        self,
        request: Request,
        view: View,
        item: Item | None,
        said: str = "",
        detail: str = "",
        status: int = 200,
        typed: Fields | None = None,
    ) -> Response:
        language, nonce = _language(request), secrets.token_urlsafe(16)
        words = WORDS[language]
        here = item.id if item else ""
        other = "en" if language == "zh" else "zh"
        text = self.template.render(
            words=words,
            language=language,
            other=(other, WORDS[other]["name"], self._address(here, other)),
            nonce=nonce,
            process=self.queue.process.name,
            reviewer=self.reviewer,
            said=words.get(f"said_{said}", ""),
            fault=said in ("taken", "refused", "changed"),
            detail=detail,
            place=view.place + 1,
            count=view.count,
            before=self._address(view.before, language) if view.before else "",
            after=self._address(view.after, language) if view.after else "",
            first=self._address("", language),
            action=self._address(here, language),
            item=item and self._shown(item, words, typed or {}),
        )
        return HTMLResponse(text, status, headers_of(nonce))

    def _shown(self, item: Item, words: Mapping[str, str], typed: Fields) -> dict[str, Any]:
        """A record as the page needs it, all as text."""
        process, proposed = self.queue.process, item.proposed
        outputs = process.output_columns
        inputs = [(path, as_text(value)) for path, value in proposed.inputs.items() if path not in outputs]
        return {
            "shown": shown_of(item),
            "id": proposed.record_id,
            "batch": item.batch,
            "line": proposed.line,
            "version": proposed.model_version,
            "why": words[proposed.reason],
            "audited": proposed.reason == AUDIT,
            "confidence": f"{proposed.confidence:.1%}",
            "threshold": "" if proposed.threshold is None else f"{proposed.threshold:.1%}",
            "similarity": "" if proposed.similarity is None else f"{proposed.similarity:.1%}",
            "inputs": sorted(inputs, key=lambda pair: pair[0] not in process.input_columns),
            "fields": self._fields(proposed.output, proposed.fields or {}, typed),
            "reason": typed.get("reason", ""),
            "edited": bool(typed),
        }

    def _fields(self, output: Any, sure: Mapping[str, float], typed: Fields) -> list[dict[str, Any]]:
        """What can be corrected: each field, or the one label or text."""
        process = self.queue.process
        if process.output.fields is None:
            ((path, column),) = process.output_columns.items()
            choices = process.labels or column.values or ()
            return [_field("output", path, column, output, None, typed) | {"choices": choices, "long": process.output.kind == "text"}]
        given = output if isinstance(output, Mapping) else {}  # a model of another declaration may have proposed no fields
        return [
            _field(f"field.{name}", name, field, given.get(name), sure.get(name), typed) for name, field in process.output.fields.items()
        ]


def _field(key: str, name: str, column: Column, value: Any, sure: float | None, typed: Fields) -> dict[str, Any]:
    text = "; ".join(map(as_text, value)) if isinstance(value, list) else as_text(value)
    choices = ("yes", "no") if column.type == "boolean" else column.values or ()
    return {
        "key": key,
        "name": name,
        "value": typed.get(key, text),
        "proposed": text,
        "sure": "" if sure is None else f"{sure:.1%}",
        "doubtful": sure is not None and sure < UNSURE,
        "choices": () if column.list else choices,
        "optional": column.optional,
        "long": False,
    }


def shown_of(item: Item) -> str:
    """What a person who decides must have seen: a newer batch may propose something else while a page is open."""
    proposed = item.proposed
    return digest_of([proposed.model_version, proposed.reason, proposed.output])[:16]


def _language(request: Request) -> str:
    """The language asked for, else the browser's first of those there are, else English."""
    if (asked := request.query_params.get("lang")) in WORDS:
        return str(asked)
    weighed = []
    for part in request.headers.get("accept-language", "").split(","):
        name, _, weight = part.strip().partition(";q=")
        try:
            weighed.append((-float(weight or 1), name[:2].lower()))
        except ValueError:
            continue
    return next((name for weight, name in sorted(weighed, key=lambda pair: pair[0]) if name in WORDS and weight), "en")


def headers_of(nonce: str) -> dict[str, str]:
    """What the browser may do with the page: its own style and script, forms to itself, and nothing else."""
    allowed = f"style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    return {
        "Content-Security-Policy": f"default-src 'none'; {allowed}",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
        "Cache-Control": "no-store",
    }


def serve(store: Store, process: Process, reviewer: str, port: int, told: Callable[[str], None]) -> None:
    """Serve on loopback until stopped.

    Args:
        port: 0 for any that is free.
        told: is given the address, once it answers.

    Raises:
        OSError: the port is in use.
    """
    import socket

    import uvicorn

    token = secrets.token_urlsafe(24)
    with socket.create_server(("127.0.0.1", port)) as listening:
        app = app_of(store, process, reviewer, token)
        told(f"http://127.0.0.1:{listening.getsockname()[1]}/{token}/")
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")).run([listening])
