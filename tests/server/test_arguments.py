"""No command takes a secret as an argument, which every user of the machine could read."""

import argparse

import click

import tickflight.cli
from tickflight_server.cli import cli
from tickflight_server.redact import is_sensitive

FILES = {"password_file"}  # the name of a file is no secret


def parameters(command, path=()):
    """Yield every parameter of a command and of those below it, with the command's name."""
    for parameter in command.params:
        yield " ".join(path), parameter
    for name, below in getattr(command, "commands", {}).items():
        yield from parameters(below, (*path, name))


def test_no_option_of_the_server_is_a_secret():
    found = list(parameters(cli))
    assert len(found) > 50
    for command, parameter in found:
        if isinstance(parameter, click.Option):
            name = parameter.name or ""
            assert name in FILES or not is_sensitive(name), f"{command} --{name}"
    # users and tokens are added by their names, and nothing else is said of them
    arguments = {c: p.name for c, p in found if isinstance(p, click.Argument) and c.startswith(("users", "tokens"))}
    assert set(arguments.values()) == {"name"}


def test_no_option_of_the_client_is_a_secret():
    parser = tickflight.cli._parser()
    options = list(actions(parser))
    assert len(options) > 20
    assert not [o for o in options if is_sensitive(o) and not o.endswith("-file")]


def actions(parser):
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from actions(below)
        yield from action.option_strings
