"""The words of the command line are the library's, with its defaults, in five panels."""

import dataclasses
import inspect

import pytest
import typer
from rich.text import Text

import girsanov as gv
from girsanov.cli.app import app
from girsanov.runs import BridgeConfig, EvaluationConfig, read_ends

PANELS = {"Data", "Model", "Training", "Evaluation", "Output"}
#: words for what is a kind of settings in the library, see CONFIGS
KINDS = {"model": gv.Config.model}
#: of the command itself
OWN = {"data", "source", "target", "out", "limit", "seed", "threads", "device", "json", "quiet", "time_budget"}


def options(command):
    return {option.name: option for option in typer.main.get_command(app).commands[command].params}


def fields(*kinds):
    return {field.name: field.default for kind in kinds for field in dataclasses.fields(kind)}


def parameters(function):
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


@pytest.mark.parametrize("command", typer.main.get_command(app).commands)
def test_every_option_is_in_a_panel(command):
    for option in options(command).values():
        if (
            option.param_type_name == "option"
            and option.name != "help"
            and command not in ("report", "doctor", "datasets")
        ):
            assert option.rich_help_panel in PANELS, option.name


@pytest.mark.parametrize(
    ("command", "known"),
    [
        (
            "fit",
            KINDS | fields(gv.Config, gv.networks.ConvConfig, EvaluationConfig) | parameters(gv.datasets.Schema.infer),
        ),
        ("bridge", fields(BridgeConfig) | parameters(read_ends)),
    ],
)
def test_options_are_the_words_and_defaults_of_the_library(command, known):
    for name, option in options(command).items():
        if name in OWN or name.endswith("_classes"):
            continue
        assert name in known, name
        if option.default is not None:
            assert option.default == known[name], name


def test_the_help_shows_the_panels(girsanov, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")  # a narrow terminal cuts long words
    # a terminal's colours stand between the letters where the environment forces them
    shown = Text.from_ansi(girsanov("fit", "--help").out).plain
    assert [shown.index(f" {panel} ") for panel in ("Data", "Model", "Training", "Evaluation", "Output")]
    assert "--dequantise" in shown
    assert "--noise" not in shown
