"""What an installed wheel must do, in an environment with PyTorch and nothing else: `python tests/wheel.py`."""

from importlib.metadata import files

import torch

import retouch
from retouch.kernels import cpu

NEEDED = ("_cpu", ".safetensors", "index.html", "studio.js", "published.json", "assumptions.txt")

net = torch.nn.Sequential(
    torch.nn.Conv2d(3, 16, 3, padding=1),
    torch.nn.GroupNorm(4, 16),
    torch.nn.SiLU(),
    torch.nn.Conv2d(16, 3, 3, padding=1),
).eval()
image = torch.randn(1, 3, 32, 32)
edited = image.clone()
edited[..., 8:12, 8:12] = 1
mask = (edited != image).any(1)[0]

compiled = retouch.compile(net, (image,), policy="exact")
_, recording = compiled.record(image)
with torch.no_grad():
    error = (compiled.update(recording, retouch.Region.from_mask(mask), edited) - net(edited)).abs().max().item()
assert error < 1e-4, f"an update differs by {error} from the dense network"

shipped = [str(file) for file in files("retouch") or ()]
missing = [name for name in NEEDED if not any(name in file for file in shipped)]
assert not missing, f"the wheel lacks {missing}"
sources = [file for file in shipped if file.endswith((".cpp", ".h", ".inc"))]
assert not sources, f"the wheel holds sources: {sources[:3]}"
print(f"retouch {retouch.__version__}: {compiled.backend.name} kernels for {cpu.isa()}, error {error:.1e}")
