"""The network's form for NVIDIA GPUs, on this CPU, against its usual form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from parity import TOLERANCE, calibrate, compiled, difference, random_images

from cxr_embeddings.encoder import gpu_form, inference, sharding
from cxr_embeddings.encoder.efficientnet import EfficientNet, MBConv
from cxr_embeddings.encoder.random_weights import random_variables
from cxr_embeddings.encoder.weights import abstract_variables


@pytest.fixture(scope="module")
def live():
    """A network with weights through which a signal passes, and its form for GPUs."""
    with pytest.MonkeyPatch.context() as patch:
        tiny.two_stages(patch)
        model = EfficientNet("tiny")
        variables = calibrate(model, random_variables(model), random_images(32, 4, 1))
        yield model, gpu_form.for_gpu(model), variables


@pytest.mark.parametrize("size", [33, 8])
def test_the_network_in_its_form_for_gpus_gives_the_same(live, size):
    """Of 8 px the last maps have fewer pixels than channels: there the gate scales the images."""
    model, fast, variables = live
    contrasts = jnp.asarray([0.3, 2.0]).reshape(2, 1, 1, 1)
    images = contrasts * random_images(size, 2, 2)
    expected = compiled(model)(variables, images)
    found = compiled(fast)(variables, images)
    assert found.keys() == expected.keys()
    for name in expected:
        assert difference(found[name], expected[name]) < TOLERANCE, name
    assert difference(expected["head"][0], expected["head"][1]) > 0.1


def test_each_device_computes_its_own_films(live):
    _, fast, variables = live
    grey = np.random.default_rng(3).uniform(size=(8, 32, 32, 1)).astype(np.float32)

    def run(mesh):
        forward = inference.make_forward(fast, variables, mesh, "stage2", (0.5,) * 3, (0.25,) * 3)
        program = forward.lower(variables, grey).compile()
        assert "all-gather" not in program.as_text()
        return np.asarray(program(variables, sharding.put_rows(mesh, grey)))

    alone = run(sharding.make_mesh(devices=jax.devices()[:1]))
    assert difference(run(sharding.make_mesh()), alone) < TOLERANCE


def test_a_lite_network_keeps_its_blocks():
    """They have neither the swish nor the gate that is computed otherwise."""
    model = gpu_form.for_gpu(EfficientNet("lite0"))
    assert model.block is MBConv


def test_training_by_it_is_refused(live):
    model, fast, variables = live
    assert abstract_variables(fast) == abstract_variables(model)
    train = functools.partial(fast.apply, train=True, mutable="batch_stats")
    with pytest.raises(ValueError, match="for inference only"):
        jax.eval_shape(train, variables, jnp.zeros((2, 32, 32, 3)))
