"""The name that gunicorn and flask are given: `gunicorn wsgi:app`."""

import sys

from app import create_app
from captioning.settings import SettingsError

try:
    app = create_app()
except SettingsError as error:
    sys.exit(str(error))
