"""The service over HTTP: addresses, limits, who may ask, and what is counted."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hmac
import json
import logging
import pathlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, NamedTuple

import jinja2
import orjson
import prometheus_client
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from cxr_embeddings import __version__
from cxr_embeddings.heat_maps import HeatMap, film_features, heat_maps
from cxr_embeddings.service import answers, instances, openapi, sources
from cxr_embeddings.service.batching import Batcher, Embedded, Full, Unusable
from cxr_embeddings.service.instances import BadInstance, Form, Instance

if TYPE_CHECKING:
    from cxr_embeddings.prediction import Head

RETRY_AFTER = "1"  # seconds
PAGE = pathlib.Path(__file__).with_name("page.html")
_LOG = logging.getLogger("cxr_embeddings")


class Limits(NamedTuple):
    """What a request may have."""

    body: int  # bytes
    instances: int
    seconds: float


class Counters:
    """What Prometheus reads."""

    def __init__(self, batcher: Batcher) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        counter = functools.partial(prometheus_client.Counter, registry=self.registry)
        self.requests = counter("cxr_requests", "Requests for predictions", ["status"])
        self.films = counter("cxr_films", "Instances by what became of them", ["outcome"])
        self.seconds = prometheus_client.Histogram(
            "cxr_request_seconds", "Time from a request to its answer", registry=self.registry
        )
        sizes = [*batcher.sizes, float("inf")]
        batch = prometheus_client.Histogram(
            "cxr_batch_films", "Films in a batch", registry=self.registry, buckets=sizes
        )
        batcher.on_batch = batch.observe
        taken = prometheus_client.Gauge(
            "cxr_films_taken", "Films waiting or at work", registry=self.registry
        )
        taken.set_function(lambda: batcher.taken)


class Service:
    """What the addresses share.

    Attributes:
        batcher: computes; it is started when the application starts.
        heads: by name, those that score films.
        token: that a request must bear; "" for none.
        allowed: places from which films are fetched.
        ready: whether the programs are compiled.
    """

    def __init__(
        self,
        batcher: Batcher,
        heads: Mapping[str, Head],
        limits: Limits,
        token: str = "",
        allowed: Sequence[str] = (),
    ) -> None:
        self.batcher, self.heads, self.limits = batcher, heads, limits
        self.token, self.allowed, self.ready = token, allowed, False
        self.counters = Counters(batcher)
        self._mapping = threading.Lock()

    @property
    def identity(self) -> dict[str, object]:
        """Which weights and settings made the embeddings, as manifests say it."""
        return json.loads(json.dumps({"views": None} | self.batcher.encoder.identity))

    def submit(self, instance: Instance) -> Future[Embedded]:
        """Takes the film of an instance. Raises Full, or Unusable for an address."""
        content = instance.content
        if content is not None:
            return self.batcher.submit(lambda: content)
        sources.check_allowed(instance.address, self.allowed)
        return self.batcher.submit(lambda: sources.fetch(instance.address, instance.token))

    def answer(self, instance: Instance, done: Embedded) -> object:
        """The prediction of an instance whose film is embedded."""
        found = answers.embedding(instance.form, done.embedding)
        if isinstance(found, dict) and instance.heads:
            found["heads"] = {
                name: answers.scores(
                    head.saved,
                    done.embedding,
                    self._maps(head, done) if instance.heat_maps else None,
                )
                for name, head in self.heads.items()
            }
        return found

    def _maps(self, head: Head, done: Embedded) -> dict[str, HeatMap]:
        """The heat maps of a head, by a second pass of the network over one film."""
        encoder = self.batcher.encoder
        with self._mapping:
            try:
                features = film_features(encoder, done.film)
            except ValueError as error:
                raise Unusable(str(error)) from error
        found = heat_maps(encoder.card, head.saved, "film", done.film.place, features)
        return {one.finding: one for one in found}


def application(service: Service, predict_route: str, health_route: str) -> Starlette:
    """The web application; programs are compiled when it starts, and it ends gracefully."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        starting = asyncio.create_task(run_in_threadpool(_start, service))
        yield
        await starting
        await run_in_threadpool(service.batcher.close)

    def guarded(act: Callable[[Request], object]) -> Callable:
        async def endpoint(request: Request) -> Response:
            if service.token and not _bears(request, service.token):
                return _refused(401, "This service asks for a bearer token.")
            found = act(request)
            return await found if asyncio.iscoroutine(found) else found  # type: ignore[return-value]

        return endpoint

    async def predict(request: Request) -> Response:
        start = time.perf_counter()
        answer = await _predict(service, request)
        service.counters.requests.labels(str(answer.status_code)).inc()
        service.counters.seconds.observe(time.perf_counter() - start)
        return answer

    async def health(_: Request) -> Response:
        ready = service.ready and not service.batcher.failed
        return Response("ok" if ready else "not ok", 200 if ready else 503, media_type="text/plain")

    def metrics(_: Request) -> Response:
        text = prometheus_client.generate_latest(service.counters.registry)
        return Response(text, media_type="text/plain; version=0.0.4")

    def endpoint(request: Request) -> Response:
        place = request.path_params
        name = (
            f"projects/{place['project']}/locations/{place['location']}/endpoints/{place['name']}"
        )
        model = {"id": _model(service), "displayName": service.batcher.encoder.card.variant}
        return JSONResponse(
            {"name": name, "displayName": "cxr-embeddings", "deployedModels": [model]}
        )

    def model(request: Request) -> Response:
        state = "AVAILABLE" if service.ready else "LOADING"
        status = [{"version": "1", "state": state}]
        return JSONResponse({"model_version_status": status, "identity": service.identity})

    def page(request: Request) -> Response:
        made = jinja2.Template(PAGE.read_text(), autoescape=True).render(
            encoder=service.batcher.encoder.description,
            weights=service.batcher.encoder.card.source,
            heads=[*service.heads],
            address=str(request.base_url).rstrip("/"),
            route=predict_route,
            version=__version__,
        )
        headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return HTMLResponse(made, headers=headers)

    def description(_: Request) -> Response:
        return JSONResponse(openapi.describe(predict_route, service.limits.instances))

    place = "/v1/projects/{project}/locations/{location}/endpoints/{name}"
    gets = {
        "/": page, "/metrics": metrics, "/openapi.json": description,
        place: endpoint, "/v1/models/{name}": model,
    }  # fmt: skip
    posts = {*("/predict", predict_route, f"{place}:predict", "/v1/models/{name}:predict")}
    return Starlette(
        routes=[
            *(Route(path, health) for path in {"/health", health_route}),
            *(Route(path, guarded(predict), methods=["POST"]) for path in sorted(posts)),
            *(Route(path, guarded(act)) for path, act in gets.items()),
        ],
        lifespan=lifespan,
        exception_handlers={Exception: lambda *_: _refused(500, "Internal server error.")},
    )


def _start(service: Service) -> None:
    try:
        service.batcher.start()
        service.ready = True
    except Exception:
        _LOG.exception("the programs could not be compiled")


def _bears(request: Request, token: str) -> bool:
    kind, _, given = (request.headers.get("authorization") or "").partition(" ")
    return kind.lower() == "bearer" and hmac.compare_digest(given.encode(), token.encode())


def _model(service: Service) -> str:
    return str(service.batcher.encoder.card.digest or "random")[:16]


def _refused(status: int, text: str) -> Response:
    """An error in the form of Google's APIs: their clients read no other, and ask again by it."""
    headers = {"Retry-After": RETRY_AFTER} if status in (429, 503) else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": {"code": status, "message": text}}, status, headers)


async def _predict(service: Service, request: Request) -> Response:
    limits = service.limits
    if not service.ready:
        return _refused(503, "The service is starting.")
    body = bytearray()
    try:
        async with asyncio.timeout(limits.seconds):
            async for part in request.stream():
                body += part
                if len(body) > limits.body:
                    return _refused(413, f"The body has more than {limits.body:,} bytes.")
    except (TimeoutError, ClientDisconnect):
        return _refused(408, f"The request did not arrive within {limits.seconds:g} s.")
    try:
        given = await run_in_threadpool(_instances, bytes(body), limits.instances)
    except ValueError as error:
        return _refused(400, str(error))
    work = asyncio.create_task(_embed(service, given))
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({work, gone}, timeout=limits.seconds, return_when="FIRST_COMPLETED")
        if work.done():
            return work.result()
        return _refused(499 if gone.done() else 504, f"No answer within {limits.seconds:g} s.")
    finally:
        work.cancel()
        gone.cancel()


def _instances(body: bytes, most: int) -> list[object]:
    """The instances of a request. Raises ValueError."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise ValueError("No JSON body.") from None
    given = said.get("instances") if isinstance(said, dict) else None
    if not isinstance(given, list) or not given:
        raise ValueError('expected {"instances": [...]} with at least one instance')
    if len(given) > most:
        raise ValueError(f"{len(given)} instances; expected at most {most}")
    return given


async def _gone(request: Request) -> None:
    """Returns when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _embed(service: Service, given: Sequence[object]) -> Response:
    """Takes all films of a request or none, and answers when all are done."""
    taken: list[tuple[Instance, Future[Embedded]] | Exception] = []
    try:
        for one in given:
            try:
                instance = await run_in_threadpool(instances.read, one)
                taken.append((instance, service.submit(instance)))
            except (BadInstance, Unusable) as error:
                taken.append(error)
        pairs = zip(given, taken, strict=True)
        predictions = [await _prediction(service, instances.form(one), work) for one, work in pairs]
    except Full:
        return _refused(429, "Too many films are waiting. Try again later.")
    finally:
        for work in taken:
            if not isinstance(work, Exception):
                work[1].cancel()
    model = {"deployedModelId": _model(service), "modelVersionId": "1"}
    answer = {"predictions": predictions, **model}
    body = await run_in_threadpool(orjson.dumps, answer, None, orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, media_type="application/json")


async def _prediction(
    service: Service, form: Form, work: tuple[Instance, Future[Embedded]] | Exception
) -> object:
    """The prediction of an instance: what heads say of it too, or why there is none."""
    try:
        if isinstance(work, Exception):
            raise work
        instance, future = work
        done = await asyncio.wrap_future(future)
        found = await run_in_threadpool(service.answer, instance, done)
        service.counters.films.labels("embedded").inc()
        return found
    except (BadInstance, Unusable) as error:
        code = error.code if isinstance(error, BadInstance) else "IMAGE_ERROR"
        text = str(error)
        service.counters.films.labels("refused").inc()
    except Exception:
        _LOG.exception("an instance failed")
        code, text = "INTERNAL_ERROR", "this film failed in the service, whose log says why"
        service.counters.films.labels("failed").inc()
    return answers.error(form, text, code)
