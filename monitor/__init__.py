"""Streaming sentiment of financial news: topics, trends and alerts with their evidence."""

from importlib.metadata import version

__version__ = version("sentiment-monitor")
