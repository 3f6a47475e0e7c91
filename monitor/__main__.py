"""`python -m monitor`: the same as the command `sentiment-monitor`."""

from monitor.cli import main

main()
