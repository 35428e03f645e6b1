"""The command line: arguments in, client calls and readable text out. No decisions about requests.

Exit codes (sysexits.h where there is one):
    0   done
    1   the service ended on its own account
    2   bad arguments
    64  the request is invalid, or names something that is not there
    69  no service, no ready device, or no capacity now: try again later
    70  an error of the service
    73  another service runs in this run directory
    74  a file cannot be written
    75  the request was accepted and ended without a picture (expired, cancelled, infeasible)
    77  the service does not accept the key, or the key may not do that
    78  the configuration is wrong or does not fit the machine
    130 interrupted
"""

# Each adds its commands; their order is that of `difs --help`.
# isort: off
from difs.cli import serve, generate, questions, plot, registration, profiling, simulate  # noqa: F401
from difs.cli import bench, admin, batch, keys, tokens, watching  # noqa: F401
from difs.cli import cluster  # noqa: F401
from difs.cli.app import app
# isort: on


def main() -> None:
    """Run the command line."""
    app()
