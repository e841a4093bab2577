"""`dfc` in the process of the tests."""

from typer.testing import CliRunner

from dfc_numba import cli


def invoked(*arguments):
    """Run `dfc` with these arguments; the result has exit_code, stdout and stderr. An error without a message is raised."""
    result = CliRunner().invoke(cli.app, list(map(str, arguments)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result
