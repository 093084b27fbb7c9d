"""A finding of a check, and the only exception that refuses a run. No torch."""

from dataclasses import asdict, dataclass
from typing import Literal

# Exit statuses of every command and stage (docs/exit-statuses in the README).
DONE, FAILED, REFUSED, GATE_FAILED, STOPPED = 0, 1, 2, 3, 4


@dataclass(frozen=True)
class Finding:
    """One thing a check found.

    code: short kebab-case name, unique to the failure (`unknown-key`).
    message: what is wrong, in one line. fix: what to change, in one line.
    where: `file:line`, `file, row N` or a directory; empty if there is no such place.
    """

    code: str
    severity: Literal["error", "warning"]
    message: str
    fix: str = ""
    where: str = ""

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        fix = f"\n    fix: {self.fix}" if self.fix else ""
        return f"{self.severity} [{self.code}] {place}{self.message}{fix}"

    @classmethod
    def error(cls, code: str, message: str, fix: str = "", where: str = "") -> "Finding":
        return cls(code, "error", message, fix, where)

    @classmethod
    def warning(cls, code: str, message: str, fix: str = "", where: str = "") -> "Finding":
        return cls(code, "warning", message, fix, where)

    def as_json(self) -> dict[str, str]:
        """For run.json and `--json`."""
        return asdict(self)


class Refusal(Exception):
    """Raised if a run must not start or continue; contains all findings so far.

    Stages and the CLI print the findings without a traceback and exit with `status`.
    """

    def __init__(self, *findings: Finding, status: int = REFUSED):
        self.findings = list(findings)
        self.status = status
        super().__init__("\n".join(str(f) for f in findings))


def refuse(code: str, message: str, fix: str = "", where: str = "", status: int = REFUSED) -> Refusal:
    """A Refusal with one error finding: `raise refuse("missing-file", ...)`. status: FAILED during a run."""
    return Refusal(Finding.error(code, message, fix, where), status=status)
