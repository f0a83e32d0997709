"""What made a folder, compared: a run with another, embeddings with embeddings or with a head."""

from collections.abc import Iterable, Mapping

Facts = Mapping[str, object]  # plain JSON values by name: an identity, or details of a run

# What it means where an older version says none
UNSAID: dict[str, object] = {"preset_version": 1, "chest_only": False}


def differences(
    one: Facts, other: Facts, places: tuple[str, str], keys: Iterable[str] | None = None
) -> list[str]:
    """A line for each fact in which two identities differ, or for those of `keys`.

    `places` says where each is said, such as ("in the first", "in the second").
    """
    one, other = UNSAID | {**one}, UNSAID | {**other}
    return [
        f"  {key}: {one.get(key)!r} {places[0]}, {other.get(key)!r} {places[1]}"
        for key in (sorted(one.keys() | other.keys()) if keys is None else keys)
        if one.get(key) != other.get(key)
    ]
