import math
from pathlib import Path

import pytest
import torch

from monitor.model.network import MISSING, joint_loss
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


def test_joint_loss_is_each_tasks_cross_entropy_over_its_labelled_rows_by_log_of_its_classes():
    logits = {"a": torch.tensor([[2.0, 0.0], [0.0, 1.0], [5.0, 5.0]]), "b": torch.tensor([[1.0, 2.0, 3.0]] * 3)}
    labels = torch.tensor([[0, MISSING], [0, MISSING], [MISSING, 2]])

    a = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(1))) / 2 / math.log(2)
    b = math.log(1 + math.exp(-1) + math.exp(-2)) / math.log(3)
    assert joint_loss(logits, labels).item() == pytest.approx(a + b, rel=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 20])
def test_a_uniform_guess_costs_one_whatever_the_number_of_classes(classes):
    loss = joint_loss({"a": torch.zeros(5, classes)}, torch.zeros(5, 1, dtype=torch.int64))

    assert loss.item() == pytest.approx(1.0, rel=1e-6)


def test_a_task_weighs_alike_whether_few_or_many_rows_carry_its_label():
    logits = {"a": torch.tensor([[1.0, 0.0]]), "b": torch.tensor([[0.0, 1.0]])}
    few = joint_loss(
        {task: rows.repeat(8, 1) for task, rows in logits.items()}, torch.tensor([[0, 0]] + [[0, MISSING]] * 7)
    )
    many = joint_loss({task: rows.repeat(8, 1) for task, rows in logits.items()}, torch.tensor([[0, 0]] * 8))

    assert few.item() == pytest.approx(many.item())


def test_a_tasks_weight_multiplies_its_loss_alone():
    logits, labels = {"a": torch.zeros(2, 3), "b": torch.zeros(2, 5)}, torch.zeros(2, 2, dtype=torch.int64)

    assert joint_loss(logits, labels, {"a": 2.5}).item() == pytest.approx(3.5, rel=1e-6)


def test_a_batch_without_any_label_of_a_task_costs_exactly_nothing_for_it():
    logits = {"a": torch.randn(3, 2, requires_grad=True), "b": torch.randn(3, 4, requires_grad=True)}
    labels = torch.tensor([[0, MISSING], [1, MISSING], [1, MISSING]])

    loss = joint_loss(logits, labels)
    loss.backward()

    assert loss.item() == joint_loss({"a": logits["a"]}, labels[:, :1]).item()
    assert torch.equal(logits["b"].grad, torch.zeros(3, 4))
    assert logits["a"].grad.abs().sum() > 0


def test_a_batch_without_any_label_at_all_costs_nothing():
    assert joint_loss({"a": torch.randn(2, 3)}, torch.full((2, 1), MISSING)).item() == 0.0


def test_a_missing_label_teaches_its_head_nothing(network):
    ids = torch.tensor([[2, 5, 9, 3]])
    network.zero_grad()

    joint_loss(network(ids, torch.ones_like(ids)), torch.tensor([[1, MISSING]])).backward()

    assert network.heads["topic"].weight.grad.abs().sum() > 0
    assert network.heads["sentiment"].weight.grad.abs().sum() == 0


def test_a_pooler_free_encoder_is_taken_as_it_is(tmp_path: Path):
    encoder = tiny_model.checkpoint.load_encoder(tiny_model.write_encoder(tmp_path))
    encoder.pooler = None

    rebuilt = tiny_model.MultiTaskNetwork(encoder, {"only": ("no", "yes")})

    assert rebuilt(torch.ones(1, 2, dtype=torch.int64), torch.ones(1, 2, dtype=torch.int64))["only"].shape == (1, 2)
