"""One way to turn what a damaged or foreign file leads to into a sentence that says what to do."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def explained(
    what: str,
    advice: str,
    errors: tuple[type[Exception], ...] = (Exception,),
    passed_on: tuple[type[Exception], ...] = (),
) -> Iterator[None]:
    """Raises ValueError, "`what` (the reason): `advice`", in place of the errors of damaged files.

    These are `errors` without those that are `passed_on`, which have another cause.
    """
    try:
        yield
    except passed_on:
        raise
    except errors as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{what} ({kind}{str(error)[:300]}): {advice}") from error
