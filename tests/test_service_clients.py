"""Clients of CXR Foundation against the service, by Google's library as they ask by it."""

import base64
import dataclasses
import io

import numpy as np
import pytest
from PIL import Image
from services import near, serving

import cxr_embeddings as cxr
from cxr_embeddings.input_pipeline import tfrecord

pytestmark = pytest.mark.slow  # a server is started


@pytest.fixture(scope="module")
def films(save_bundle):
    """Drawn PNG files, of 16 bits as the toolkit makes them; and their embeddings."""
    random, files = np.random.default_rng(0), []
    for _ in range(3):
        stream = io.BytesIO()
        grey = random.integers(0, 2**16, (9, 8), np.uint16).repeat(9, 0).repeat(9, 1)
        Image.fromarray(grey).save(stream, "PNG")
        files.append(stream.getvalue())
    encoder = cxr.load_encoder(save_bundle(), engine="jax")
    return files, encoder.embed(files, progress=False).embedding


@pytest.fixture(scope="module")
def url(save_bundle, environment):
    options = (f"--weights={save_bundle()}", "--queue=6")
    with serving(*options, environment=environment) as (url, _):
        yield url


@pytest.fixture
def google(url):
    """Google's library, set to ask this service."""
    aiplatform = pytest.importorskip(
        "google.cloud.aiplatform",
        reason="google-cloud-aiplatform is missing, which '.[dev]' has",
    )
    from google.auth.credentials import AnonymousCredentials

    place = {"project": "p", "location": "us-central1"}
    aiplatform.init(
        **place, api_endpoint=url, api_transport="rest", credentials=AnonymousCredentials()
    )
    return aiplatform


def text(data):
    return base64.b64encode(data).decode()


def example(png):
    """What the toolkit sends of a film."""
    made = tfrecord.encode_example({"image/encoded": png, "image/format": b"png"})
    return {"b64": text(made)}


@dataclasses.dataclass
class ImageEmbedding:
    """What version 2's client makes of a prediction; other names than these are an error there."""

    general_img_emb: list | None = None
    contrastive_img_emb: list | None = None
    error: object = None


def test_the_toolkits_call_by_googles_client(url, google, films):
    from google.api_core import exceptions, retry
    from google.api_core.client_options import ClientOptions
    from google.auth.credentials import AnonymousCredentials

    client = google.gapic.PredictionServiceClient(
        transport="rest",
        credentials=AnonymousCredentials(),
        client_options=ClientOptions(api_endpoint=url),
    )
    endpoint = client.endpoint_path(project="p", location="us-central1", endpoint="7")
    again = retry.Retry(predicate=lambda error: isinstance(error, exceptions.TooManyRequests))
    for png, expected in zip(*films, strict=True):
        answer = client.predict(
            endpoint=endpoint, instances=[example(png)], retry=again, timeout=60
        )
        kept = np.array(answer.predictions, dtype="float32").flatten()
        assert kept.shape == expected.shape and near(kept, expected)
        assert answer.deployed_model_id
    with pytest.raises(exceptions.BadRequest, match="at least one instance"):
        client.predict(endpoint=endpoint, instances=[])
    with pytest.raises(exceptions.TooManyRequests, match="are waiting"):  # what it tries again
        client.predict(endpoint=endpoint, instances=[example(films[0][0])] * 7)


def test_version_2s_calls_by_googles_endpoint(google, films):
    endpoint = google.Endpoint("7")
    images = [{"input_bytes": text(png)} for png in films[0]]
    archive = "https://pacs/studies/1.2/series/1.3/instances/1.4"
    others = [
        {"dicomweb_uri": archive, "bearer_token": "x"},
        {"gcs_uri": "gs://bucket/film.png", "bearer_token": "x"},
        {"prompt_query": "effusion"},
    ]
    answer = endpoint.predict(instances=[*images, *others]).predictions
    found = [ImageEmbedding(**prediction) for prediction in answer]
    assert near([one.general_img_emb for one in found[:3]], films[1][:, None])
    said = [one.error["description"] for one in found[3:]]
    assert "list of places" in said[0] and "list of places" in said[1] and "not text" in said[2]
