import json
from importlib import metadata

import girsanov
from girsanov.environment import PACKAGES, versions


def test_versions_are_those_that_are_installed():
    found = versions()
    assert found["girsanov"] == girsanov.__version__
    assert found["torch"] == metadata.version("torch")
    assert set(PACKAGES) < set(found)
    json.dumps(found)


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr("girsanov.environment.PACKAGES", ("no-such-package",))
    assert versions()["no-such-package"] == "not installed"
