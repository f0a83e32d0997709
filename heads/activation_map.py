"""Where in an image a head sees its findings: its logits, position by position.

An embedding that is the average of a map lets a linear head be taken apart without any loss: the
logit is the average of the kernel times the map, plus a bias (class activation map: Zhou et al.,
CVPR 2016, arXiv:1512.04150). A head with hidden layers is replaced, for each film, by the linear
function that touches it at the film's embedding: its gradient times the map (HiResCAM: Draelos and
Carin, arXiv:2011.08891). Its layers are piecewise linear, so that function gives the film's own
logit, too.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from .network import HeadNetwork, Variables
from .saved import Saved


def activation_map(
    saved: Saved, features: Float32[np.ndarray, "row column channel"]
) -> tuple[Float32[np.ndarray, "row column finding"], Float32[np.ndarray, " finding"]]:
    """The share of each position in the logits of a film.

    Args:
        saved: a head on the averages of such maps as `features`.
        features: the network's map of the film, before its average.

    Returns:
        Maps and biases: a map's average plus its bias is the logit divided by the temperature of
        the finding, whose logistic function is the probability. The standardisation of the
        embedding is part of both. Of linear heads the bias is the same for all films.
    """
    trained, card = saved.trained, saved.card
    temperature = np.array([card["temperatures"][name] for name in card["findings"]])
    layer = trained.variables["params"]["logit"]
    slope, rest = np.float64(layer["kernel"]).T, np.float64(layer["bias"])
    if trained.head.hidden:
        standard = (features.mean((0, 1), np.float64) - trained.mean) / trained.scale
        touching = _slope_and_logits(trained.head, trained.variables, np.float32(standard))
        slope, logits = (np.float64(one) for one in touching)
        rest = logits - slope @ standard
    weight = slope / trained.scale / temperature[:, None]
    bias = rest / temperature - weight @ trained.mean
    return (features @ weight.T).astype(np.float32), bias.astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def _slope_and_logits(
    head: HeadNetwork, variables: Variables, standard: Float[Array, " channel"]
) -> tuple[Float32[Array, "finding channel"], Float32[Array, " finding"]]:
    """The gradient of each logit by the standardised embedding, and the logits."""

    def logits(embedding: Float[Array, " channel"]) -> tuple[Array, Array]:
        found = head.apply(variables, embedding[None])[0]
        return found, found

    with jax.default_matmul_precision("highest"):
        return jax.jacrev(logits, has_aux=True)(jnp.asarray(standard))
