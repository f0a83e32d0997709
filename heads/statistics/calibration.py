"""Whether probabilities mean what they say: temperature, calibration error, slope, intercept."""

import warnings

import numpy as np
from jaxtyping import Float, Float64, Int64, Real
from scipy import optimize, special, stats
from scipy.linalg import LinAlgWarning
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from . import bootstrap

# A temperature beyond these is not a matter of calibration: tune is separated perfectly (the best
# one is 0) or ranked the wrong way round (it is infinite).
TEMPERATURES = (0.05, 20.0)
BINS = 15  # of equal width, as in Guo et al., On Calibration of Modern Neural Networks, ICML 2017
_NEWTON_STEPS, _TOLERANCE = 25, 1e-6  # from a start close by three steps are usual
_STEEPEST = 200.0  # slope per standard deviation of the logit: beyond it a resample is separated


def temperature(
    logit: Float[np.ndarray, " n"], label: Real[np.ndarray, " n"]
) -> tuple[float, str | None]:
    """The temperature T that minimises the log loss of sigmoid(logit / T) (Guo et al. 2017).

    Returns:
        T between 0.05 and 20 and None; or 1.0, which changes nothing, and why no T can be told: a
        class is missing, one threshold separates the classes (the more extreme, the better), or T
        reaches a bound.
    """
    if not 0 < np.count_nonzero(label) < len(label):
        return 1.0, "tune has films of one class only"
    if separated(logit, label):
        return 1.0, "one threshold separates the classes on tune: any scale would fit"
    # log(1 + exp(-x)) of the logit turned towards its label is the log loss, without overflow.
    towards = np.where(label > 0, -1.0, 1.0) * logit
    found = optimize.minimize_scalar(
        lambda log_t: np.mean(np.logaddexp(0.0, towards / np.exp(log_t))),
        bounds=np.log(TEMPERATURES),
        method="bounded",
        options={"xatol": 1e-6},
    )
    low, high = TEMPERATURES
    if not low * 1.01 < (scale := float(np.exp(found.x))) < high / 1.01:
        bound = low if scale < 1 else high
        return 1.0, f"the best temperature on tune is beyond {bound:g}: the films do not tell one"
    return scale, None


def columns(
    probability: Float64[np.ndarray, " n"], label: Real[np.ndarray, " n"]
) -> Float64[np.ndarray, "n 17"]:
    """What `measure` wants summed over films: 1, the squared error, and the excess in each bin.

    The excess is probability minus label, in the column of the film's bin; the other columns are 0.
    Bins are [0, 1/15], (1/15, 2/15] and so on: those of scikit-learn's `calibration_curve`. The
    probability is that of the finding, not that of the likelier class.
    """
    inner = np.linspace(0, 1, BINS + 1)[1:-1]
    excess = np.zeros((len(probability), BINS))
    excess[np.arange(len(label)), np.searchsorted(inner, probability)] = probability - label
    return np.column_stack([np.ones(len(label)), np.square(probability - label), excess])


def expected_error(sums: Float64[np.ndarray, "resample 17"]) -> Float64[np.ndarray, " resample"]:
    """The expected calibration error (ECE) from sums of `columns`.

    It is the mean over films of |mean probability - share of positives| of their bin. Chance alone
    makes it positive, the more so the fewer the films: it is not 0 for perfect probabilities.
    """
    return bootstrap.ratio(np.abs(sums[:, 2:]).sum(axis=1), sums[:, 0])


def measure(
    probability: Float64[np.ndarray, " n"],
    label: Real[np.ndarray, " n"],
    sums: Float64[np.ndarray, "resample 17"],
    patient: Int64[np.ndarray, " n"],
) -> dict[str, bootstrap.Measured]:
    """Brier score and expected calibration error; `sums` are those of `columns`, resampled."""
    brier = float(brier_score_loss(label, probability))
    error = debiased(columns(probability, label), patient)
    return {
        "brier": bootstrap.Measured(brier, bootstrap.ratio(sums[:, 1], sums[:, 0])),
        "ece": error._replace(of_resamples=expected_error(sums)),
    }


def debiased(
    films: Float64[np.ndarray, "n 17"], patient: Int64[np.ndarray, " n"]
) -> bootstrap.Measured:
    """The expected calibration error less what chance adds, with limits, by patient.

    The excess of a bin scatters normally, with the variance that its patients show. If the true
    excesses were k times those seen, the error would have a known mean and variance (of folded
    normal variables). The value is k times the error seen, for the k at which this mean is the
    error seen; the limits are those where the error seen lies 1.96 deviations above and below. So
    it is 0 where chance alone explains what is seen. It needs no resamples, whose own noise adds to
    the bias.

    `films` are their `columns`.
    """
    _, number = np.unique(patient, return_inverse=True)
    of_patients = np.zeros((number.max() + 1, films.shape[1] - 2))
    np.add.at(of_patients, number, films[:, 2:])
    excess = np.abs(films[:, 2:].sum(axis=0)) / len(films)
    deviation = np.sqrt(np.square(of_patients).sum(axis=0)) / len(films)
    seen, critical = float(excess.sum()), float(stats.norm.ppf((1 + bootstrap.CONFIDENCE) / 2))

    def beyond(times: float, deviations: float) -> float:
        mean, z = times * excess, bootstrap.ratio(times * excess, deviation)
        z = np.where(deviation > 0, z, np.inf)
        means = deviation * np.sqrt(2 / np.pi) * np.exp(-np.square(z) / 2)
        means += mean * (1 - 2 * special.ndtr(-z))
        scatter = np.square(mean) + np.square(deviation) - np.square(means)
        return float(means.sum() + deviations * np.sqrt(max(0.0, scatter.sum())) - seen)

    def solve(deviations: float) -> float:
        if not seen or beyond(0.0, deviations) >= 0:
            return 0.0
        top = 1.0
        while beyond(top, deviations) < 0:
            top *= 2
        return float(optimize.brentq(beyond, 0.0, top, args=(deviations,), xtol=1e-6)) * seen

    value, low, high = (solve(deviations) for deviations in (0.0, critical, -critical))
    return bootstrap.Measured(value, np.empty(0), (min(low, value), min(1.0, max(high, value))))


def line(
    draws: bootstrap.Draws,
    rows: Int64[np.ndarray, " k"],
    logit: Float64[np.ndarray, " k"],
    label: Real[np.ndarray, " k"],
) -> tuple[bootstrap.Measured, bootstrap.Measured]:
    """Calibration slope and intercept: the logistic regression of the label on the logit.

    1 and 0 are ideal. A slope below 1 says that the probabilities are too extreme. The intercept is
    that of the same regression, not that with a slope held at 1 (Van Calster et al., BMC Medicine
    2019;17:230). The resamples are fitted by Newton's method, all at once.

    Returns:
        Slope and intercept; None where one threshold separates the classes (then no finite line is
        the best) or the fit fails, NaN in resamples where it does.
    """
    found = np.full((len(draws.count), 2), np.nan)
    fitted = fit_line(logit, label)
    if fitted is None:
        return bootstrap.Measured(None, found[:, 1]), bootstrap.Measured(None, found[:, 0])
    centre, spread = logit.mean(), logit.std()  # logits of any size are then the same to the solver
    x = (logit - centre) / spread
    start = np.array([fitted[0] + fitted[1] * centre, fitted[1] * spread])
    target_columns = np.column_stack([label, label * x])
    first = 0
    for weight in bootstrap.weights(draws, rows):
        block = found[first : first + len(weight)]
        block[:] = _newton(start, weight, weight @ target_columns, x)
        # A resample much less steep than the whole may be overshot: the level line is safer then.
        failed = np.isnan(block[:, 0])
        if failed.any():
            weight = weight[failed]
            block[failed] = _newton(np.zeros(2), weight, weight @ target_columns, x)
        first += len(block)
    intercepts, slopes = found.T
    slopes = slopes / spread
    return (
        bootstrap.Measured(fitted[1], slopes),
        bootstrap.Measured(fitted[0], intercepts - slopes * centre),
    )


def fit_line(
    logit: Float[np.ndarray, " n"], label: Real[np.ndarray, " n"]
) -> tuple[float, float] | None:
    """Intercept and slope of the logistic regression of the label on the logit, of both classes.

    A head is recalibrated by it: intercept + slope * logit is its new logit (logistic
    recalibration: Steyerberg et al., Statistics in Medicine 2004;23:2567-2586). None as in `line`.
    """
    if separated(logit, label):
        return None
    centre, spread = logit.mean(), logit.std()
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            warnings.simplefilter("error", LinAlgWarning)
            model.fit(((logit - centre) / spread)[:, None], label)
    except (ConvergenceWarning, LinAlgWarning):  # one logit far beyond all others
        return None
    slope = float(model.coef_[0, 0] / spread)
    return float(model.intercept_[0] - slope * centre), slope


def moved(
    slope: bootstrap.Measured, intercept: bootstrap.Measured, by: tuple[float, float]
) -> tuple[bootstrap.Measured, bootstrap.Measured]:
    """Slope and intercept of `line` for the logits by[0] + by[1] * logit; by[1] is not 0."""
    slope = slope.times(1 / by[1])
    if slope.value is None or intercept.value is None:
        return slope, intercept
    value = intercept.value - by[0] * slope.value
    return slope, bootstrap.Measured(value, intercept.of_resamples - by[0] * slope.of_resamples)


def separated(logit: Float[np.ndarray, " n"], label: Real[np.ndarray, " n"]) -> bool:
    """Whether one threshold separates the classes (both must occur), up to films that lie on it."""
    negative, positive = logit[label == 0], logit[label == 1]
    return bool(positive.min() >= negative.max() or negative.min() >= positive.max())


def _newton(start: np.ndarray, weight: np.ndarray, target: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Intercept and slope of each resample from those of `start`, NaN where steps do not settle.

    `weight` is [resample film], and `target` [resample 2]: sums of the label and the label times x.
    """
    found = np.full((len(weight), 2), np.nan)
    powers = np.column_stack([np.ones_like(x), x, x * x])
    at, left = np.tile(start, (len(weight), 1)), np.arange(len(weight))
    for _ in range(_NEWTON_STEPS):
        probability = at[:, 1:] * x
        probability += at[:, :1]
        special.expit(probability, out=probability)
        weighted = weight * probability
        down, along = (target - weighted @ powers[:, :2]).T
        weighted *= 1 - probability
        h00, h01, h11 = (weighted @ powers).T  # the Hessian of two parameters, inverted by hand
        determinant = h00 * h11 - h01 * h01
        determinant = np.where(determinant > 1e-12 * h00 * h11, determinant, 0.0)
        by = np.column_stack([h11 * down - h01 * along, h00 * along - h01 * down])
        step = bootstrap.ratio(by, np.tile(determinant[:, None], 2))
        at = at + step
        moved = np.abs(step).max(axis=1)
        settled = moved < _TOLERANCE
        found[left[settled]] = at[settled]
        keep = ~settled & (np.abs(at[:, 1]) < _STEEPEST)
        if not keep.any():
            break
        if not keep.all():
            left, at, target, weight = left[keep], at[keep], target[keep], weight[keep]
    return found
