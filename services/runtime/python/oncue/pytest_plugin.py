"""For pytest, which finds this by itself once the package is installed: functions can be imported in tests by the names of their
files, wherever pytest was started, and the fixture `oncue_app` makes apps that end with their test.

    from bill_order import bill_order

    def test_a_sale_is_counted(oncue_app):
        app = oncue_app(bill_order, count_sales)
        app.publish(OrderPlaced(order="o1", customer="ann", cents=1000))
        app.settle()
        assert app.row(Customer, "ann").orders == 1

Behind a test that fails stands what its apps did, step by step.
"""

from __future__ import annotations

import contextlib
import sys
import tomllib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from oncue import _contract
from oncue._app import App, AppError

_apps = pytest.StashKey[list[App]]()


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Finds the app: `oncue.toml` beside the first tests that pytest was given, where it was started, or in a folder above. One
    process has the events of one app."""
    here = early_config.invocation_params.dir
    named = early_config.known_args_namespace.file_or_dir or early_config.getini("testpaths")
    given = [here / argument.split("::", 1)[0] for argument in named]
    beside = [path if path.is_dir() else path.parent for path in given if path.exists()]
    for begin in [*beside, here, early_config.rootpath]:
        for folder in [begin, *begin.parents]:
            file = folder / "oncue.toml"
            if file.is_file():
                _contract.folder = str(folder)
                for functions in sorted(_folders(file)):
                    sys.path.insert(0, str(functions))
                return


def _folders(file: Path) -> set[Path]:
    """Folders with functions: those of `run = ["python", "-m", "oncue", "functions/x.py"]`."""
    try:
        functions = tomllib.loads(file.read_text()).get("functions", {})
    except tomllib.TOMLDecodeError as e:
        raise pytest.UsageError(f"{file}: {e}") from None
    folders = set()
    for function in functions.values() if isinstance(functions, dict) else []:
        run = function.get("run") if isinstance(function, dict) else None
        if isinstance(run, list) and run and str(run[-1]).endswith(".py"):
            folders.add((file.parent / str(run[-1])).parent.resolve())
    return folders


@pytest.fixture
def oncue_app(request: pytest.FixtureRequest) -> Iterator[Callable[..., App]]:
    """Makes an app of functions, `oncue_app(bill_order, count_sales)`: see `oncue.testing.App`."""
    apps = request.node.stash.setdefault(_apps, [])

    with contextlib.ExitStack() as ends:

        def of(*handlers: Callable[..., Any]) -> App:
            app = ends.enter_context(App(*handlers))
            apps.append(app)
            return app

        yield of


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Puts what the apps did behind the report of a test that has failed."""
    report = yield
    if report.when == "call" and report.failed:
        for app in item.stash.get(_apps, []):
            try:
                report.sections.append(("oncue: what the app did", "\n".join(app.journal())))
            except AppError:
                # Closed by the test, or gone: what it says of itself stands elsewhere.
                continue
    return report
