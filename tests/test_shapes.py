"""The import hook of the tests is on in every sibling: a shape that does not fit raises."""

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from cxr_embeddings.encoder import supcon
from cxr_embeddings.heads.statistics import proportion
from cxr_embeddings.input_pipeline.films.film import Film
from cxr_embeddings.input_pipeline.films.presets import PRESETS, network_input

MODULE = """
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from decimal import Decimal

def first(rows: Float[np.ndarray, "n 2"], scale: "Decimal") -> Float[np.ndarray, "2"]:
    return rows[0]
"""


@pytest.mark.parametrize(
    "call",
    [
        lambda: supcon.alignment(jnp.zeros((2, 3)), jnp.zeros((2, 4))),
        lambda: proportion.interval(np.ones(2, bool), np.zeros(3, np.int64)),
        lambda: network_input(Film(np.zeros(4, np.uint16), 16), PRESETS["native"], 8),
    ],
    ids=["encoder", "heads", "input_pipeline"],
)
def test_a_wrong_shape_raises(call):
    with pytest.raises(jaxtyping.TypeCheckError):
        call()


def test_beside_types_that_only_type_checkers_import_shapes_are_checked(tmp_path, monkeypatch):
    (tmp_path / "canary.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    with jaxtyping.install_import_hook("canary", "beartype.beartype"):
        import canary
    assert canary.first(np.ones((3, 2)), "any").tolist() == [1, 1]
    with pytest.raises(jaxtyping.TypeCheckError):
        canary.first(np.ones((3, 3)), "any")
