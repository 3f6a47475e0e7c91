import dataclasses
import hashlib
import json
import shutil
from datetime import date
from pathlib import Path

import pytest
import safetensors.torch
import torch

from monitor.model import checkpoint
from monitor.model.checkpoint import CheckpointError
from monitor.model.encoder import Lora, add_adapters, find_encoder, load_encoder
from monitor.model.network import MultiTaskNetwork
from monitor.records import SENTIMENTS
from tests import tiny_model

IDS = torch.tensor([[2, 5, 9, 3], [2, 7, 8, 3]])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return tiny_model.write_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def built(encoder):
    return tiny_model.network(encoder)


@pytest.fixture
def folder(tmp_path: Path, encoder, built) -> Path:
    tiny_model.write_checkpoint(tmp_path / "model", built, encoder)
    return tmp_path / "model"


def rewrite(folder: Path, change) -> None:
    """Change the weights, and the hash in the description with them."""
    file = folder / "weights.safetensors"
    weights = safetensors.torch.load_file(file)
    change(weights)
    safetensors.torch.save_file(weights, file)
    redescribe(folder, weights_sha256=hashlib.sha256(file.read_bytes()).hexdigest())


def redescribe(folder: Path, **changes) -> None:
    file = folder / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_adapters_and_heads_come_back_merged_and_compute_the_same(folder, built):
    loaded = checkpoint.load_network(checkpoint.read(folder))

    wanted, found = built(IDS, torch.ones_like(IDS)), loaded(IDS, torch.ones_like(IDS))
    for task in tiny_model.TASKS:
        torch.testing.assert_close(found[task], wanted[task], atol=2e-2, rtol=0)  # they are stored in half precision
    assert not [name for name in loaded.state_dict() if "lora" in name]
    assert not loaded.training
    assert not any(values.requires_grad for values in loaded.parameters())


def test_adapters_that_were_trained_make_a_difference(folder, encoder):
    loaded = checkpoint.load_network(checkpoint.read(folder))
    rewrite(folder, lambda weights: [weights[name].zero_() for name in weights if "lora_B" in name])
    without = checkpoint.load_network(checkpoint.read(folder))

    topic = [network(IDS, torch.ones_like(IDS))["topic"] for network in (loaded, without)]
    assert (topic[0] - topic[1]).abs().max() > 0.1


def test_only_adapters_and_heads_are_stored(folder):
    names = safetensors.torch.load_file(folder / "weights.safetensors")

    assert {"heads.topic.weight", "heads.sentiment.bias"} <= names.keys()
    assert "encoder.encoder.layer.0.attention.self.query.lora_A.weight" in names
    assert all(".lora_" in name or name.startswith("heads.") for name in names)
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "weights.safetensors"]


def test_a_wholly_trained_network_comes_back_to_half_precision(tmp_path, encoder):
    built = tiny_model.network(encoder, lora=None)
    with torch.no_grad():
        built.encoder.embeddings.word_embeddings.weight += 1
    tiny_model.write_checkpoint(tmp_path, built, encoder, lora=None)

    loaded = checkpoint.load_network(checkpoint.read(tmp_path))

    assert loaded.state_dict().keys() == built.state_dict().keys()
    for name, values in loaded.state_dict().items():
        assert torch.equal(values, built.state_dict()[name].half().float()), name


def test_frozen_parts_are_not_stored_and_come_back_from_the_encoder(tmp_path, encoder):
    built = tiny_model.network(encoder, lora=None)
    tiny_model.write_checkpoint(tmp_path, built, encoder, lora=None, frozen=("embeddings",))

    loaded = checkpoint.load_network(checkpoint.read(tmp_path))

    stored = safetensors.torch.load_file(tmp_path / "weights.safetensors")
    assert not [name for name in stored if ".embeddings." in name]
    name = "encoder.embeddings.word_embeddings.weight"
    assert torch.equal(loaded.state_dict()[name], built.state_dict()[name])


def test_fused_sharing_comes_back(tmp_path, encoder):
    built = MultiTaskNetwork(load_encoder(encoder), tiny_model.TASKS, "fused").eval()
    info = tiny_model.write_checkpoint(tmp_path, built, encoder, lora=None)

    loaded = checkpoint.load_network(checkpoint.read(tmp_path))

    assert info.sharing == "fused"
    wanted, found = built(IDS, torch.ones_like(IDS)), loaded(IDS, torch.ones_like(IDS))
    torch.testing.assert_close(found["topic"], wanted["topic"], atol=2e-2, rtol=0)


def test_the_description_comes_back_as_it_was_written(folder):
    info = dataclasses.replace(checkpoint.read(folder).info, metrics={"validation_topic": {"accuracy": 0.5}})
    checkpoint.write_info(folder, info)

    assert checkpoint.read(folder).info == info
    assert list(info.tasks) == ["topic", "sentiment"]
    assert info.tasks["topic"] == ("Earnings", "Energy", "Financials")
    assert info.trained_on == date(2026, 11, 23)
    assert (
        info.libraries["torch"] == torch.__version__.partition("+")[0] or info.libraries["torch"] == torch.__version__
    )


def test_a_models_name_tells_its_encoder_its_day_and_its_weights(tmp_path, encoder, built):
    first = tiny_model.write_checkpoint(tmp_path / "a", built, encoder)
    again = tiny_model.write_checkpoint(tmp_path / "b", built, encoder)
    other = tiny_model.write_checkpoint(tmp_path / "c", tiny_model.network(encoder, seed=2), encoder)

    assert first.version.endswith(f"-2026-11-23-{first.weights_sha256[:8]}")
    assert first.version == again.version != other.version


def test_checkpoints_that_compute_the_same_share_a_fingerprint_and_no_others_do(tmp_path, encoder, built):
    for name in ("a", "b", "relabelled", "alpha"):
        tiny_model.write_checkpoint(tmp_path / name, built, encoder)
    redescribe(tmp_path / "b", trained_on="2027-01-01", metrics={"new": 1})
    redescribe(tmp_path / "relabelled", tasks={"topic": ["x", "y", "z"], "sentiment": list(SENTIMENTS)})
    redescribe(tmp_path / "alpha", lora={"rank": 4, "alpha": 8, "targets": ["query"]})
    a, b, relabelled, alpha = (
        checkpoint.read(tmp_path / name).fingerprint for name in ("a", "b", "relabelled", "alpha")
    )

    assert a == b
    assert len({a, relabelled, alpha}) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("heads.topic.bias"), r"lacks heads\.topic\.bias, which model\.json"),
        (lambda weights: weights.update(extra=torch.ones(1)), r"has extra, which model\.json beside it does not"),
        (
            lambda weights: weights.update({"heads.topic.bias": torch.ones(4)}),
            r"heads\.topic\.bias is \(4,\), expected \(3,\)",
        ),
    ],
)
def test_weights_must_be_exactly_those_that_the_description_calls_for(folder, change, message):
    rewrite(folder, change)

    with pytest.raises(CheckpointError, match=message):
        checkpoint.load_network(checkpoint.read(folder))


def test_one_changed_byte_of_the_weights_is_refused(folder):
    file = folder / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)

    with pytest.raises(CheckpointError, match=r"weights\.safetensors: SHA-256 is .* the model was saved with"):
        checkpoint.load_network(checkpoint.read(folder))


def test_a_file_that_is_no_safetensors_is_refused(folder):
    (folder / "weights.safetensors").write_bytes(b"nonsense")
    redescribe(folder, weights_sha256=hashlib.sha256(b"nonsense").hexdigest())

    with pytest.raises(CheckpointError, match="not a safetensors file"):
        checkpoint.load_network(checkpoint.read(folder))


def test_an_encoder_with_other_weights_is_refused(tmp_path, built):
    encoder = tiny_model.write_encoder(tmp_path / "encoder")
    tiny_model.write_checkpoint(tmp_path / "model", built, encoder)
    tiny_model.write_encoder(encoder, seed=7)

    with pytest.raises(CheckpointError, match=r"encoder: SHA-256 is .*; install what it was trained on"):
        checkpoint.load_network(checkpoint.read(tmp_path / "model"))


def test_an_encoder_with_another_tokenizer_is_refused_before_any_weights_are_read(tmp_path, built):
    encoder = tiny_model.write_encoder(tmp_path / "encoder")
    tiny_model.write_checkpoint(tmp_path / "model", built, encoder)
    with (encoder / "tokenizer.json").open("a") as file:
        file.write("\n")

    with pytest.raises(CheckpointError, match=r"tokenizer\.json: SHA-256 is"):
        checkpoint.read(tmp_path / "model")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 1}, r"model\.json: format 1, expected 2; use the release"),
        ({"cleaning": 99}, "cleaned by version 99"),
        ({"tasks": {"topic": ["only"]}}, r"tasks\.topic: .*at least 2 items"),
        ({"tasks": {"To pic": ["a", "b"]}}, r"tasks\.To pic.*: String should match pattern"),
        ({"max_tokens": "many"}, r"max_tokens: .*valid integer.*'many'"),
        ({"weights_sha256": "abc"}, "weights_sha256: String should match pattern"),
        ({"temperatures": {"topic": 0}}, r"temperatures\.topic: Input should be greater than 0"),
        ({"sharing": "none"}, "sharing: Input should be 'shared' or 'fused'"),
        ({"surprise": 1}, "surprise: Unexpected keyword argument"),
        ({"encoder": "/nowhere/at all"}, "encoder '/nowhere/at all': neither a folder nor"),
    ],
)
def test_a_wrong_description_is_refused_by_the_key_at_fault(folder, changes, message):
    redescribe(folder, **changes)

    with pytest.raises(CheckpointError, match=message):
        checkpoint.read(folder)


def test_a_description_that_is_not_an_object_is_refused(folder):
    (folder / "model.json").write_text("[]")
    with pytest.raises(CheckpointError, match="format None, expected 2"):
        checkpoint.read(folder)

    (folder / "model.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"model\.json: not JSON"):
        checkpoint.read(folder)


def test_a_folder_without_a_checkpoint_is_named_with_what_was_expected(tmp_path):
    with pytest.raises(CheckpointError, match=r"model\.json: cannot be read .* expected `default` or the folder"):
        checkpoint.read(tmp_path / "absent")


def test_lost_weights_are_named(folder):
    (folder / "weights.safetensors").unlink()

    with pytest.raises(CheckpointError, match=r"weights\.safetensors: cannot be read \(No such file"):
        checkpoint.load_network(checkpoint.read(folder))


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_an_encoder_must_be_there_whole_and_without_pickle(tmp_path, encoder, file):
    shutil.copytree(encoder, tmp_path / "part")
    (tmp_path / "part" / file).unlink()
    (tmp_path / "part" / "pytorch_model.bin").touch()

    with pytest.raises(CheckpointError, match=r"has no (config|tokenizer|\*)\.(json|safetensors)"):
        find_encoder(str(tmp_path / "part"))


def test_adapters_on_layers_that_the_encoder_does_not_have_are_refused(encoder):
    network = tiny_model.network(encoder, lora=None)

    with pytest.raises(CheckpointError, match="adapters on no_such_layer: "):
        add_adapters(network, Lora(4, 4, ("no_such_layer",)))


def test_the_shipped_model_is_small_and_says_what_it_is():
    shipped = checkpoint.read("default")
    files = {path.name: path.stat().st_size for path in checkpoint.DEFAULT.iterdir()}

    assert files.keys() == {"README.md", "model.json", "weights.safetensors"}
    assert sum(files.values()) <= 30_000_000
    assert checkpoint.has_ranges(shipped)
    assert shipped.info.temperatures.keys() == shipped.info.tasks.keys()
    assert list(shipped.info.tasks) == ["topic", "sentiment"]
    assert len(shipped.info.tasks["topic"]) == 20
    assert shipped.info.tasks["sentiment"] == SENTIMENTS
    assert shipped.info.encoder == "minilm"
    assert {"topic_train.csv", "sent_train.csv", "set"} <= shipped.info.training["data_sha256"].keys()
    assert shipped.info.metrics["validation_topic"]["accuracy"] >= 0.88
    assert shipped.info.metrics["validation_sentiment"]["accuracy"] >= 0.88
