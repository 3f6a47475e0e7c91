"""For every test: no model hub."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
