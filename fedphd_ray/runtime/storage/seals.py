"""What a checkpoint knows of the books that were written before it: what is missing or damaged in them is found."""

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt

from fedphd_ray.errors import UserError
from fedphd_ray.system.files import read_book


class FileSeal(BaseModel):
    """The first bytes of a file that grows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_bytes: NonNegativeInt
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "FileSeal":
        """Of the file as it is; of none it is that of an empty one; `UserError` if something else is there."""
        data = read_book(path)
        return cls(num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    def sealed_part(self, path: Path) -> bytes:
        """The bytes that were there when it was sealed; what came after is left out.

        Raises:
            UserError: they are not there any more.
        """
        data = read_book(path)[: self.num_bytes]
        if len(data) < self.num_bytes or hashlib.sha256(data).hexdigest() != self.sha256:
            found = f"{len(data):,} of them" if len(data) < self.num_bytes else "other bytes"
            raise UserError(
                str(path),
                expected=f"the {self.num_bytes:,} bytes that the run wrote before its checkpoint",
                found=found,
                remedy="restore the file from a copy; without it figures of the run would be missing",
            )
        return data


class PartsSeal(BaseModel):
    """The parts of a table: how many, and a hash over their names and contents."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_parts: NonNegativeInt
    sha256: str


class Seal(BaseModel):
    """All books at the moment of a checkpoint, and the seconds that the run had taken."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metrics: FileSeal
    quality: FileSeal
    ledger: PartsSeal
    clients: PartsSeal
    wall_seconds: NonNegativeFloat
