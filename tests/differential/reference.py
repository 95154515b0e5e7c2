"""Answers, for each line of arguments that comes in as JSON, whether the reference tool's command line accepts it."""

import json
import logging
import signal
import sys

from click.testing import CliRunner
from model_signing._cli import main

logging.disable(logging.CRITICAL)


class TookTooLong(BaseException):
    pass


def interrupt(_signal, _frame):
    raise TookTooLong


signal.signal(signal.SIGALRM, interrupt)
for line in sys.stdin:
    signal.alarm(20)
    try:
        result = CliRunner().invoke(main, json.loads(line))
        verdict = "accept" if result.exit_code == 0 else "reject"
    except TookTooLong:
        # A reader that waits for ever has accepted nothing.
        verdict = "reject"
    finally:
        signal.alarm(0)
    print(verdict, flush=True)
