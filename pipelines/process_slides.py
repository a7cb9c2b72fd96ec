"""The slide job as `ray job submit` runs it: python pipelines/process_slides.py --config run.yaml SLIDES --run RUN.

Inside a Ray job the cluster is the one the job was submitted to; elsewhere a private Ray is started.
"""

from __future__ import annotations

import os
import sys

from fossilray.cli.main import main

if __name__ == "__main__":
    inside_a_ray_job = "RAY_ADDRESS" in os.environ
    sys.argv[1:1] = ["process", *(["--address", "auto"] if inside_a_ray_job else [])]
    main()
