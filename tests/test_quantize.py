import numpy as np
import onnxruntime
import pytest
import torch
from onnx import load
from torch import nn

from monitor.model import checkpoint, quantize
from monitor.model.export import write_onnx
from monitor.model.quantize import Int8Linear
from tests import tiny_model

TEXTS = ["stock rises on strong earnings", "bank falls", "the collapse of a bank", "oil", "gold deal talks", ""]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> checkpoint.Checkpoint:
    folder = tmp_path_factory.mktemp("tiny")
    encoder = tiny_model.write_encoder(folder / "encoder")
    tiny_model.write_checkpoint(folder / "model", tiny_model.network(encoder), encoder)
    return checkpoint.read(folder / "model")


def test_ranges_are_the_extremes_of_each_input_of_each_linear_layer_of_the_encoder(tiny):
    network = checkpoint.load_network(tiny)

    ranges = quantize.observe(network, tiny, TEXTS)

    linear = {name: module for name, module in network.encoder.named_modules() if isinstance(module, nn.Linear)}
    assert ranges.keys() == linear.keys()
    for name, (low, high) in ranges.items():
        assert low.shape == high.shape == (linear[name].in_features,)
        assert (low <= high).all()
    # The layers of attention read the same inputs.
    first = "encoder.layer.0.attention.self."
    assert torch.equal(ranges[first + "query"][0], ranges[first + "value"][0])


def test_more_texts_only_widen_the_ranges(tiny):
    network = checkpoint.load_network(tiny)

    few, many = quantize.observe(network, tiny, TEXTS[:2]), quantize.observe(network, tiny, TEXTS)

    for layer, (low, high) in many.items():
        assert (low <= few[layer][0] + 1e-5).all()
        assert (high >= few[layer][1] - 1e-5).all()


def test_observing_leaves_the_network_as_it_was(tiny):
    network = checkpoint.load_network(tiny)
    quantize.observe(network, tiny, TEXTS)

    assert not any(module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize("weight_bits", [7, 8])
def test_a_layer_in_integers_errs_by_little_more_than_its_digits(weight_bits):
    torch.manual_seed(0)
    linear, inputs = nn.Linear(64, 32), torch.randn(200, 64)
    inputs[:, 3] *= 30  # an outlier, as encoders have them

    layer = Int8Linear(linear, inputs.amin(0), inputs.amax(0), weight_bits)

    error = (layer(inputs) - linear(inputs)).abs().max() / linear(inputs).abs().max()
    assert error.item() < 0.03
    assert layer.weight.abs().max() == 2 ** (weight_bits - 1) - 1


def test_division_by_the_root_of_the_range_halves_the_error_that_an_outlier_makes(monkeypatch):
    torch.manual_seed(0)
    linear, inputs = nn.Linear(64, 32), torch.randn(500, 64)
    inputs[:, 3] *= 30

    def error() -> float:
        layer = Int8Linear(linear, inputs.amin(0), inputs.amax(0), 8)
        return (layer(inputs) - linear(inputs)).pow(2).mean().item()

    smoothed = error()
    monkeypatch.setattr(quantize, "_SMOOTHING", 0.0)

    assert smoothed < error() / 2


def test_inputs_of_even_ranges_are_not_divided():
    linear = nn.Linear(4, 2)
    even, uneven = torch.tensor([1.0, 1.0, 2.0, 1.0]), torch.tensor([1.0, 1.0, 40.0, 1.0])

    assert Int8Linear(linear, -even, even, 8).smoothing is None
    assert Int8Linear(linear, -uneven, uneven, 8).smoothing is not None


def test_inputs_beyond_the_observed_range_saturate():
    linear = nn.Linear(4, 2)
    layer = Int8Linear(linear, torch.full((4,), -1.0), torch.full((4,), 1.0), 8)

    torch.testing.assert_close(layer(torch.full((1, 4), 50.0)), layer(torch.full((1, 4), 1.01)))


def test_only_linear_layers_can_be_in_integers(tiny):
    with pytest.raises(TypeError, match=r"embeddings is a BertEmbeddings, only linear layers have ranges"):
        quantize.quantized(checkpoint.load_network(tiny), {"embeddings": (torch.zeros(1), torch.ones(1))})


def test_onnx_runtime_computes_what_torch_says_the_integers_give(tiny, tmp_path):
    network = checkpoint.load_network(tiny)
    changed = quantize.quantized(network, quantize.observe(network, tiny, TEXTS))
    write_onnx(changed, tmp_path / "int8.onnx")
    ids = torch.tensor([[2, 5, 9, 3, 0], [2, 7, 8, 10, 3]])
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])

    session = onnxruntime.InferenceSession(tmp_path / "int8.onnx", providers=["CPUExecutionProvider"])
    (topic,) = session.run(["topic"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})

    wanted = changed(ids, mask)["topic"].numpy()
    np.testing.assert_allclose(topic, wanted, atol=0.02 * np.abs(wanted).max())
    assert not np.array_equal(wanted, network(ids, mask)["topic"].numpy())


def test_the_runtime_multiplies_integers_in_every_layer_that_has_ranges(tiny, tmp_path):
    network = checkpoint.load_network(tiny)
    ranges = quantize.observe(network, tiny, TEXTS)
    write_onnx(quantize.quantized(network, ranges), tmp_path / "int8.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "as_run.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(tmp_path / "int8.onnx", options, providers=["CPUExecutionProvider"])

    operations = [node.op_type for node in load(tmp_path / "as_run.onnx").graph.node]

    assert operations.count("MatMulIntegerToFloat") == len(ranges) == 12
    assert operations.count("MultiHeadAttention") == 2
    assert operations.count("Gelu") == 2
    # Besides biases there are to add a token's position and kind, and what goes around each half of a layer.
    assert operations.count("Add") <= 2 + 2 * 2 + 1


def test_ranges_come_back_from_the_checkpoint_and_change_its_name(tmp_path):
    encoder = tiny_model.write_encoder(tmp_path / "encoder")
    before = tiny_model.write_checkpoint(tmp_path / "model", tiny_model.network(encoder), encoder)
    saved = checkpoint.read(tmp_path / "model")
    assert checkpoint.has_ranges(saved) is False
    network = checkpoint.load_network(saved)
    ranges = quantize.observe(network, saved, TEXTS)

    after = checkpoint.add_ranges(saved, ranges)

    again = checkpoint.read(tmp_path / "model")
    assert checkpoint.has_ranges(again) is True
    assert after == again.info
    assert after.version != before.version
    found = checkpoint.read_ranges(again)
    assert found.keys() == ranges.keys()
    for layer, (low, high) in ranges.items():
        torch.testing.assert_close(found[layer], (low, high), atol=0.01, rtol=1e-3)
    for name, values in checkpoint.load_network(again).state_dict().items():
        assert torch.equal(values, network.state_dict()[name]), name
