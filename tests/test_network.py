from pathlib import Path

import pytest
import torch

from monitor.model.encoder import load_encoder
from monitor.model.network import GatedFusion, MultiTaskNetwork
from tests import tiny_model


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return tiny_model.network(tiny_model.write_encoder(tmp_path_factory.mktemp("encoder")), lora=None)


def test_each_task_gets_logits_for_its_labels_in_the_order_of_the_tasks(network):
    logits = network(torch.ones(4, 6, dtype=torch.int64), torch.ones(4, 6, dtype=torch.int64))

    assert {task: tuple(values.shape) for task, values in logits.items()} == {"topic": (4, 3), "sentiment": (4, 3)}
    assert list(logits) == list(tiny_model.TASKS)


def test_padding_does_not_change_an_answer(network):
    ids = torch.tensor([[2, 5, 9, 3]])
    padded = torch.tensor([[2, 5, 9, 3, 0, 0, 0], [2, 7, 8, 9, 10, 11, 3]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0], [1] * 7])

    alone, together = network(ids, torch.ones_like(ids)), network(padded, mask)

    for task in tiny_model.TASKS:
        torch.testing.assert_close(alone[task][0], together[task][0], atol=1e-5, rtol=0)


def test_a_row_without_any_token_gets_a_finite_answer(network):
    logits = network(torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, 3, dtype=torch.int64))

    assert all(torch.isfinite(values).all() for values in logits.values())


def test_the_encoders_own_pooler_is_dropped(network):
    assert not [name for name, _ in network.named_parameters() if "pooler" in name]


def test_a_pooler_free_encoder_is_taken_as_it_is(tmp_path: Path):
    encoder = load_encoder(tiny_model.write_encoder(tmp_path))
    encoder.pooler = None

    rebuilt = MultiTaskNetwork(encoder, {"only": ("no", "yes")})

    assert rebuilt(torch.ones(1, 2, dtype=torch.int64), torch.ones(1, 2, dtype=torch.int64))["only"].shape == (1, 2)


TASKS = {"topic": ("a", "b", "c"), "sentiment": ("x", "y"), "urgency": ("low", "high")}
IDS = torch.tensor([[2, 5, 9, 3], [2, 7, 8, 3]])


@pytest.mark.parametrize("sharing", ["shared", "fused"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_tasks_is_answered_in_either_way_of_sharing(tmp_path, sharing, count):
    tasks = dict(list(TASKS.items())[:count])
    network = MultiTaskNetwork(load_encoder(tiny_model.write_encoder(tmp_path)), tasks, sharing).eval()

    logits = network(IDS, torch.ones_like(IDS))

    assert {task: values.shape for task, values in logits.items()} == {
        task: (2, len(labels)) for task, labels in tasks.items()
    }
    assert not torch.equal(logits["topic"][0], logits["topic"][1])


def test_only_fused_tasks_see_each_others_features():
    torch.manual_seed(0)
    shared, fusion = torch.randn(4, 8), GatedFusion(8, ["a", "b"])
    before = {task: values.detach() for task, values in fusion(shared).items()}
    with torch.no_grad():
        fusion.features["b"].weight += 1

    after = fusion(shared)

    assert (after["a"] - before["a"]).abs().max() > 1e-3


def test_a_fused_feature_is_the_tasks_own_plus_the_gated_ones_of_the_others():
    torch.manual_seed(0)
    shared, fusion = torch.randn(4, 8), GatedFusion(8, ["a", "b", "c"])
    own = {task: torch.nn.functional.gelu(layer(shared)) for task, layer in fusion.features.items()}

    wanted = own["a"].clone()
    for other in ("b", "c"):
        wanted += torch.sigmoid(fusion.gates["a"](torch.cat((own["a"], own[other]), 1))) * own[other]

    torch.testing.assert_close(fusion(shared)["a"], wanted)


def test_the_gates_begin_nearly_shut():
    torch.manual_seed(0)
    fusion = GatedFusion(8, ["a", "b"])

    gates = torch.sigmoid(fusion.gates["a"](torch.zeros(1, 16)))

    assert torch.allclose(gates, torch.full((1, 8), 0.119), atol=1e-3)


def test_one_fused_task_has_no_gate():
    assert not GatedFusion(8, ["a"]).gates
