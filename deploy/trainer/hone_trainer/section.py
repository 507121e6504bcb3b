"""A mapping of the spec whose keys are read with their types and bounds."""

import math

from hone_trainer.errors import SpecError


class Section:
    """A mapping of the spec with checked access to its keys."""

    def __init__(self, values: object, where: str) -> None:
        if not isinstance(values, dict):
            raise SpecError(f"{where or 'the spec'} must be a mapping")
        self._values = values
        self._where = where

    def _name(self, key: str) -> str:
        return f"{self._where}.{key}" if self._where else key

    def get(self, key: str) -> object:
        """The raw value, or None."""
        return self._values.get(key)

    def section(self, key: str) -> "Section":
        """A mapping below this one; absent means empty."""
        value = self._values.get(key)
        return Section({} if value is None else value, self._name(key))

    def text(self, key: str, default: str | None = None) -> str:
        """A string; without a default the key is required."""
        value = self._values.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise SpecError(f"{self._name(key)} must be a string")
        return value

    def choice(self, key: str, choices: tuple[str, ...], default: str | None = None) -> str:
        """One of a few strings."""
        value = self.text(key, default)
        if value not in choices:
            raise SpecError(f"{self._name(key)} must be one of {', '.join(choices)}, not {value!r}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise SpecError(f"{self._name(key)} must be true or false")
        return value

    def number(self, key: str, default: float | None, low: float, high: float) -> float | None:
        """A finite number within bounds; None stays None."""
        value = self._values.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise SpecError(f"{self._name(key)} must be a number")
        if not low <= value <= high:
            raise SpecError(f"{self._name(key)} must lie between {low:g} and {high:g}, not {value:g}")
        return float(value)

    def integer(self, key: str, default: int | None, low: int, high: int = 2**53) -> int | None:
        """A whole number within bounds; None stays None."""
        value = self.number(key, default, low, high)
        if value is None:
            return None
        if value != int(value):
            raise SpecError(f"{self._name(key)} must be a whole number, not {value:g}")
        return int(value)

    def names(self, key: str, what: str, word: str | None = None) -> tuple[str, ...] | None:
        """A list of at least one name; None where it is absent, or is `word`."""
        value = self._values.get(key)
        if value is None or (word is not None and value == word):
            return None
        if not isinstance(value, list) or not value or not all(isinstance(name, str) and name for name in value):
            raise SpecError(f"{self._name(key)} must be {what}")
        return tuple(value)
