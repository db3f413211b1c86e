"""How much accuracy may be lost."""

from dataclasses import dataclass

from lepton_runtime.errors import InputError


@dataclass(frozen=True)
class Budget:
    """How much accuracy an artifact may lose.

    Attributes:
        text: As it was given: ``0.5pp`` (percentage points) or ``1%`` (of the source model's accuracy).
        value: The number in it, as a share.
        is_relative: Whether it is of the source model's accuracy.
    """

    text: str
    value: float
    is_relative: bool

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """The budget that ``text`` says.

        Raises:
            InputError: It is neither a percentage nor percentage points.

        >>> Budget.parse("0.5pp")
        Budget(text='0.5pp', value=0.005, is_relative=False)
        """
        number, is_relative = (text.removesuffix("%"), True) if text.endswith("%") else (text.removesuffix("pp"), False)
        try:
            value = float(number) / 100
        except ValueError:
            value = -1.0
        if number == text or not 0 <= value <= 1:
            raise InputError(f"a budget is in percentage points such as 0.5pp, or relative such as 1%, found {text!r}")
        return cls(text, value, is_relative)

    def allows(self, accuracy: float, *, source_accuracy: float) -> bool:
        """Whether that accuracy is near enough to the source model's."""
        limit = self.value * (source_accuracy if self.is_relative else 1)
        return source_accuracy - accuracy <= limit + 1e-12  # so that 1pp allows 0.80 against 0.81
