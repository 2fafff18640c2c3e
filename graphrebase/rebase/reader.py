"""Reading the roles of a model, also under the names of a model of another size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from graphrebase.align.body import FloatArray
from graphrebase.errors import VerificationError
from graphrebase.structure import Structure


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads roles of one model as float64.

    Attributes:
        structure: the model.
        names: its roles by the names of the body, where the body is of a model of another size;
            it has no others. None: the names are its own.
    """

    structure: Structure
    names: Mapping[str, str] | None = None

    def __call__(self, role: str) -> FloatArray | None:
        """Return a role's array, None where the model lacks it.

        Raises:
            VerificationError: it is not finite.
        """
        if self.names is not None:
            role = self.names.get(role, "")
        if role not in self.structure.roles:
            return None
        values = np.asarray(self.structure.read(role), np.float64)
        if not np.isfinite(values).all():
            raise VerificationError(
                f"{role} holds NaN or infinite values",
                where=f"{self.structure.model.path}, "
                f"tensor '{self.structure.roles[role].view.tensor}'",
                hint="export the model again from a healthy checkpoint",
            )
        return values
