"""A studio with tiny models in a process of its own, which a test may kill: `serve.py PORT HOME [MEMORY]`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import uvicorn

sys.path.insert(0, str(Path(__file__).parents[2]))

from retouch.server.app import application
from retouch.server.limits import Limits
from retouch.server.models import Models
from retouch.server.security import Access
from retouch.server.studio import Studio
from studios import TOKENS, editor

if __name__ == "__main__":
    torch.set_num_threads(1)
    port, home = int(sys.argv[1]), Path(sys.argv[2])
    models = Models({name: editor(name) for name in ("sd", "ddpm")})
    limits = Limits(memory=int(sys.argv[3])) if len(sys.argv) > 3 else None
    studio = Studio(models, home, Access(port, tokens=TOKENS), limits)
    uvicorn.run(application(studio), port=port, log_level="warning", access_log=False)
