"""Other engines as dense baselines."""

import pytest
import torch

from retouch import OptionError, models
from retouch.bench import dense
from retouch.bench.dense import PEERS, peer_runs

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def tiny(name, dtype=torch.float32):
    network = models.get(name)
    return network.build(True, dtype), network.inputs(True, dtype)


@pytest.mark.parametrize(("name", "peer"), [("ddpm-256", "openvino"), ("gaugan", "openvino"), ("dit", "onnxruntime")])
def test_peers_compute_what_pytorch_does(name, peer):
    module, inputs = tiny(name)
    run = peer_runs([peer], module, inputs)[peer]
    assert torch.equal(run(), run())
    with torch.no_grad():
        truth = models.tensor_of(module(*inputs.args, **inputs.kwargs))
    assert run().shape == truth.shape
    assert (run() - truth).norm() < 1e-3 * truth.norm()
    assert next(module.parameters()).dtype == torch.float32


def test_bfloat16():
    module, inputs = tiny("ddpm-256", torch.bfloat16)
    assert set(peer_runs(["openvino"], module, inputs)) == {"openvino"}
    assert next(module.parameters()).dtype == torch.bfloat16
    with pytest.raises(OptionError, match="onnxruntime computes in float32"):
        peer_runs(["onnxruntime"], module, inputs)


def test_a_peer_that_is_not_installed_or_wrong(monkeypatch):
    module, inputs = tiny("ddpm-256")
    monkeypatch.setattr(dense, "import_module", lambda name: __import__("no_such_engine"))
    with pytest.raises(OptionError, match=r"no_such_engine is not installed; pip install 'retouch\[peers\]'"):
        peer_runs(["openvino"], module, inputs)
    monkeypatch.setitem(PEERS, "openvino", lambda *_: lambda: torch.zeros_like(inputs.args[0]))
    with pytest.raises(OptionError, match="computes something else"):
        peer_runs(["openvino"], module, inputs)


def test_a_network_that_a_peer_cannot_read(monkeypatch):
    def refuse(*_):
        raise RuntimeError("no such operation\nsecond line")

    monkeypatch.setitem(PEERS, "openvino", refuse)
    with pytest.raises(OptionError, match=r"--peer openvino cannot compute this network: no such operation$"):
        peer_runs(["openvino"], *tiny("ddpm-256"))
