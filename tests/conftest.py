"""What holds for every test."""

from __future__ import annotations

import os

# Ray would write a token below the home folder, which turns authentication on for later clusters of this user.
os.environ["RAY_AUTH_MODE"] = "disabled"
# Fakes of S3 must not meet the credentials of whoever runs the tests.
os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull

pytest_plugins = ["fault_runs", "shared_ray"]
