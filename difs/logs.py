"""How a line of the log looks: for people, or one JSON object. What is logged is said elsewhere."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

Form = Literal["human", "json"]

IDS = ("request_id", "attempt", "actor", "epoch")
"""What a line may be about; given as `extra` to the logging call."""


class JsonLines(logging.Formatter):
    """One object a line: time (UTC), process, level, message, and the ids that are known."""

    def __init__(self, who: str) -> None:
        """`who` logs."""
        super().__init__()
        self._who = who

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        facts: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "process": self._who,
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        facts |= {name: found for name in IDS if (found := getattr(record, name, None))}
        if record.exc_info:
            facts["traceback"] = self.formatException(record.exc_info)
        return json.dumps(facts)


def to_stderr(who: str, level: str, form: Form = "human") -> None:
    """Log to standard error; lines for people look like `12:00:00 broker INFO: ...`. Never a prompt."""
    handler = logging.StreamHandler(sys.stderr)
    if form == "json":
        handler.setFormatter(JsonLines(who))
    else:
        words = f"%(asctime)s {who} %(levelname)s: %(message)s"
        handler.setFormatter(logging.Formatter(words, datefmt="%H:%M:%S"))
    logging.basicConfig(handlers=[handler], level=level.upper())
