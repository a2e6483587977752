"""The installed command `smartscan-caption`."""

from __future__ import annotations

import sys

from captioning.cli.command import caption_command
from captioning.cli.run import WRONG_USAGE
from captioning.observe.logs import configure_logging
from captioning.settings import SettingsError, load_settings
from model_loader import load_engine


def main() -> None:
    """Run the command under the settings of the environment."""
    try:
        settings = load_settings()
    except SettingsError as error:
        print(error, file=sys.stderr)
        sys.exit(WRONG_USAGE)
    configure_logging(settings)
    caption_command(settings, load_engine).main(prog_name="smartscan-caption")
