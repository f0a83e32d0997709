"""Training heads: against the toolkit's Keras head, and against scikit-learn's logistic regression.

20,000 films of 4,096 numbers are drawn, not embedded: 256 factors whose sizes fall as 1 / k, which
is how fast the spectrum of real embeddings falls, in noise; 14 findings depend on the factors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import numpy as np

from benchmarks import timing
from cxr_embeddings.configs.schema import TrainingConfig
from cxr_embeddings.heads import logistic, sgd
from cxr_embeddings.heads.features import Features, select
from cxr_embeddings.heads.network import HeadNetwork
from cxr_embeddings.heads.statistics import discrimination

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

FILMS, TUNE, DIM, FINDINGS, SEEDS = 20_000, 4_000, 4_096, 14, 5
PENALTY = 1e-3
TOLERANCE = 1e-4  # scikit-learn's own


def draw(films: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings [films dim] with mean 0 and deviation near 1, and labels [films finding]."""
    world, generator = np.random.default_rng(1), np.random.default_rng(seed)
    factors = generator.standard_normal((films, 256), np.float32)
    sizes = np.float32(1 / np.arange(1, 257))
    loading = world.standard_normal((256, DIM)).astype(np.float32) * sizes[:, None]
    embedding = factors @ loading
    embedding += 0.5 * generator.standard_normal(embedding.shape, np.float32)
    embedding /= np.sqrt(np.square(sizes).sum() + 0.25, dtype=np.float32)
    odds = factors[:, :64] @ world.standard_normal((64, FINDINGS)).astype(np.float32) * 0.3 - 2
    return embedding, np.float32(generator.random(odds.shape) < 1 / (1 + np.exp(-odds)))


def in_memory(embedding: np.ndarray) -> Features:
    zero = np.zeros(DIM, np.float32)
    return select(embedding, np.arange(len(embedding)), zero, zero + 1)


def keras_head() -> keras.Model:
    """The toolkit's network and optimiser, for one finding."""
    import keras
    import tensorflow as tf

    class LARS(keras.optimizers.Optimizer):
        """As in TensorFlow's model garden, which the toolkit takes it from."""

        def build(self, variables: list[keras.Variable]) -> None:
            super().build(variables)
            self.momenta = [self.add_variable_from_reference(v, "momentum") for v in variables]

        def update_step(
            self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor
        ) -> None:
            momentum = self.momenta[self._get_variable_index(variable)]
            value = tf.convert_to_tensor(variable)
            size, slope = tf.norm(value), tf.norm(gradient)
            trust = tf.where((size > 0) & (slope > 0), 0.001 * size / slope, 1.0)
            step = 0.9 * tf.convert_to_tensor(momentum) + learning_rate * trust * gradient
            momentum.assign(step)
            variable.assign(value - step)

    network = keras.Sequential([keras.Input((DIM,))])
    for width in (512, 256):
        network.add(keras.layers.Dense(width, "relu", kernel_initializer="he_uniform"))
        network.add(keras.layers.BatchNormalization())
        network.add(keras.layers.Dropout(0.0))
    network.add(keras.layers.Dense(1, "sigmoid", kernel_initializer="he_uniform"))
    network.compile(LARS(learning_rate=0.1), "binary_crossentropy")
    return network


def run(repeats: int = 10) -> None:
    """Prints two tables: equal epochs, and logistic regression."""
    embedding, label = draw(FILMS)
    print(f"{FILMS:,} films x {DIM:,} numbers, float32, in memory; batches of 512\n")
    equal_epochs(embedding, label, repeats)
    logistic_regression(embedding, label, repeats)


def equal_epochs(embedding: np.ndarray, label: np.ndarray, repeats: int) -> None:
    """An epoch of the toolkit's training, without validation."""
    films, network = in_memory(embedding), keras_head()

    def ours(findings: int, seeds: int) -> Callable[[], object]:
        some, head = label[:, :findings], HeadNetwork(findings, (512, 256))
        settings = TrainingConfig(
            optimizer="lars",
            learning_rate=0.1,
            weight_decays=(0.0,),
            seeds=tuple(range(seeds)),
            batch_size=512,
            epochs=2,
            patience=0,
            shuffle=False,
        )
        weight = np.ones_like(some)
        return lambda: jax.block_until_ready(
            sgd.fit(head, films, some, weight, settings, lambda variables: np.zeros(seeds))
        )

    seconds = timing.interleave(
        {
            "Keras, 1 finding": lambda: network.fit(
                embedding, label[:, :1], 512, epochs=2, verbose=0, shuffle=False
            ),
            "ours, 1 finding": ours(1, 1),
            f"ours, {FINDINGS} findings": ours(FINDINGS, 1),
            f"ours, {FINDINGS} x {SEEDS} seeds": ours(FINDINGS, SEEDS),
        },
        repeats,
    )
    print("two epochs of the toolkit's settings")
    print(timing.report(seconds, baseline="Keras, 1 finding"))
    keras, many = seconds["Keras, 1 finding"], seconds[f"ours, {FINDINGS} x {SEEDS} seeds"]
    heads = FINDINGS * SEEDS
    ratio = np.median([heads * k / m for k, m in zip(keras, many, strict=True)])
    print(f"{heads} Keras heads, one after the other, take {ratio:.1f} times as long\n")


def logistic_regression(embedding: np.ndarray, label: np.ndarray, repeats: int) -> None:
    """Each to its own usual tolerance; scikit-learn trains one finding at a time."""
    from sklearn.linear_model import LogisticRegression

    tuned, truth = draw(TUNE, seed=1)
    films = in_memory(embedding)
    weight = np.ones_like(label)
    model = LogisticRegression(C=1 / (PENALTY * FILMS), tol=TOLERANCE, max_iter=logistic.MAX_STEPS)
    found: dict = {}

    def scikit_learn(findings: int) -> None:
        fitted = [model.fit(embedding, label[:, j]) for j in range(findings)]
        found["theirs"] = model.coef_[0], model.intercept_[0], fitted[-1].n_iter_[0]

    def ours(findings: int) -> None:
        found[findings] = logistic.fit(films, label[:, :findings], weight[:, :findings], [PENALTY])

    for findings, rounds in ((1, repeats), (FINDINGS, max(1, repeats // 5))):
        logistic.fit(  # compiles
            films, label[:, :findings], weight[:, :findings], [PENALTY], max_steps=1
        )
        seconds = timing.interleave(
            {
                f"scikit-learn, {findings} findings": lambda n=findings: scikit_learn(n),
                f"ours, {findings} findings": lambda n=findings: ours(n),
            },
            rounds,
            warmup=0,
        )
        print(f"logistic regression, penalty {PENALTY}")
        print(timing.report(seconds, baseline=f"scikit-learn, {findings} findings"))
    kernel, bias, steps = found["theirs"]
    last = FINDINGS - 1

    def judge(kernel: np.ndarray, bias: float | np.ndarray) -> tuple[float, float]:
        logit = embedding.astype(np.float64) @ kernel + bias
        loss = np.mean(np.logaddexp(0, logit) - label[:, last] * logit)
        auroc = discrimination.auroc(tuned @ np.float32(kernel), truth[:, last])
        return float(loss + PENALTY / 2 * np.square(kernel).sum()), float(auroc)

    probe = found[FINDINGS]
    mine = judge(np.asarray(probe.kernel[0, last], np.float64), float(probe.bias[0, last]))
    theirs = judge(kernel.astype(np.float64), bias)
    print(f"objective {mine[0]:.6f}, scikit-learn's {theirs[0]:.6f}", end="; ")
    print(f"AUROC {mine[1]:.4f} and {theirs[1]:.4f}", end="; ")
    print(f"{probe.steps} steps for all findings, {steps} of scikit-learn for the last")
