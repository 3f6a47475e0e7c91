import math

import pytest
import torch
from torch.nn import functional

from monitor.model.network import MISSING
from pipelines.objective import Objective
from tests import tiny_model

IDS = torch.tensor([[2, 5, 9, 3], [2, 7, 8, 3]])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return tiny_model.write_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def objective(encoder):
    def build(weights=None, **kwargs) -> Objective:
        return Objective(tiny_model.network(encoder, lora=None), weights or {}, **kwargs)

    return build


def logits(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows)


def test_a_tasks_loss_is_its_cross_entropy_over_its_labelled_rows_by_log_of_its_classes(objective):
    given = {"a": logits([2.0, 0.0], [0.0, 1.0], [5.0, 5.0]), "b": logits(*[[1.0, 2.0, 3.0]] * 3)}
    labels = torch.tensor([[0, MISSING], [0, MISSING], [MISSING, 2]])

    losses = objective().losses(given, labels)

    a = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(1))) / 2 / math.log(2)
    b = math.log(1 + math.exp(-1) + math.exp(-2)) / math.log(3)
    assert losses.tolist() == pytest.approx([a, b], rel=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 20])
def test_a_uniform_guess_costs_one_whatever_the_number_of_classes(objective, classes):
    given = {"a": torch.zeros(5, classes), "b": torch.zeros(5, classes)}

    losses = objective().losses(given, torch.zeros(5, 2, dtype=torch.int64))

    assert losses.tolist() == pytest.approx([1.0, 1.0], rel=1e-6)


def test_a_task_weighs_alike_whether_few_or_many_rows_carry_its_label(objective):
    given = {"a": logits(*[[1.0, 0.0]] * 8), "b": logits(*[[0.0, 1.0]] * 8)}

    few = objective().losses(given, torch.tensor([[0, 0]] + [[0, MISSING]] * 7))
    many = objective().losses(given, torch.tensor([[0, 0]] * 8))

    torch.testing.assert_close(few, many)


def test_a_tasks_weight_multiplies_its_loss_alone(objective):
    labels = torch.zeros(2, 2, dtype=torch.int64)

    weighed = objective({"topic": 2.5}).weighed(torch.ones(2), labels)

    assert weighed.tolist() == [2.5, 1.0]


def test_a_task_without_any_label_in_a_batch_costs_and_teaches_exactly_nothing(objective):
    given = {"a": torch.randn(3, 2, requires_grad=True), "b": torch.randn(3, 4, requires_grad=True)}
    labels = torch.tensor([[0, MISSING], [1, MISSING], [1, MISSING]])

    losses = objective().losses(given, labels)
    losses.sum().backward()

    assert losses[1].item() == 0.0
    assert torch.equal(given["b"].grad, torch.zeros(3, 4))
    assert given["a"].grad.abs().sum() > 0


def test_label_smoothing_is_for_training_alone(objective):
    given, labels = {"a": logits([3.0, 0.0]), "b": logits([3.0, 0.0])}, torch.zeros(1, 2, dtype=torch.int64)
    smoothed = objective(label_smoothing=0.1)

    in_training = smoothed.losses(given, labels)[0].item()
    out_of_it = smoothed.eval().losses(given, labels)[0].item()

    wanted = functional.cross_entropy(given["a"], labels[:, 0], label_smoothing=0.1).item() / math.log(2)
    assert in_training == pytest.approx(wanted, rel=1e-6)
    assert out_of_it == pytest.approx(math.log(1 + math.exp(-3)) / math.log(2), rel=1e-6)


# -- weighting


def test_uncertainty_weighs_by_learned_variances_and_pays_for_them(objective):
    learned = objective(weighting="uncertainty")
    with torch.no_grad():
        learned.log_variances.copy_(torch.tensor([math.log(2.0), 0.0]))

    weighed = learned.weighed(torch.tensor([1.0, 1.0]), torch.zeros(2, 2, dtype=torch.int64))
    weighed.sum().backward()

    assert weighed.tolist() == pytest.approx([0.5 + math.log(2.0) / 2, 1.0])
    # d/ds (exp(-s) L + s/2) = 1/2 - exp(-s) L
    assert learned.log_variances.grad.tolist() == pytest.approx([0.0, -0.5])


def test_an_absent_task_moves_no_variance(objective):
    learned = objective(weighting="uncertainty")

    learned.weighed(torch.tensor([1.0, 0.0]), torch.tensor([[1, MISSING]])).sum().backward()

    assert learned.log_variances.grad[1].item() == 0.0


def test_dwa_gives_more_to_the_task_whose_loss_falls_more_slowly(objective):
    averaged = objective(weighting="dwa")
    labels = torch.zeros(1, 2, dtype=torch.int64)
    uniform = {"topic": torch.zeros(1, 3), "sentiment": torch.zeros(1, 3)}

    assert averaged.task_weights().tolist() == [1.0, 1.0]
    averaged.losses(uniform, labels)  # both cost 1
    averaged.end_epoch()
    assert averaged.task_weights().tolist() == [1.0, 1.0]  # one epoch says nothing of how a loss falls
    averaged.losses(uniform | {"sentiment": logits([1.0, 0.0, 0.0])}, labels)
    averaged.end_epoch()

    fallen = math.log(1 + 2 * math.exp(-1)) / math.log(3)
    shares = torch.softmax(torch.tensor([1.0, fallen]) / 2, 0)
    torch.testing.assert_close(averaged.task_weights(), 2 * shares)
    assert averaged.task_weights()[0] > 1 > averaged.task_weights()[1]


def test_dwa_counts_a_task_by_the_batches_that_had_it(objective):
    averaged = objective(weighting="dwa")
    uniform = {"topic": torch.zeros(1, 3), "sentiment": torch.zeros(1, 3)}

    averaged.losses(uniform, torch.tensor([[0, 0]]))
    averaged.losses(uniform, torch.tensor([[0, MISSING]]))
    averaged.end_epoch()

    assert averaged.epoch_losses[1].tolist() == pytest.approx([1.0, 1.0])


# -- teachers


def test_a_row_without_a_label_learns_what_the_teachers_say_and_counts_by_their_share(objective):
    given = {"a": logits([1.0, 0.0], [0.0, 2.0]), "b": torch.zeros(2, 2)}
    labels = torch.tensor([[0, 0], [MISSING, 0]])
    taught = torch.tensor([[0.5, 0.5, 1.0, 0.0], [0.2, 0.8, 1.0, 0.0]])

    loss = objective(teacher_share=0.5).losses(given, labels, taught)[0].item()

    labelled = functional.cross_entropy(given["a"][:1], torch.tensor([[0.75, 0.25]])).item()
    unlabelled = functional.cross_entropy(given["a"][1:], torch.tensor([[0.2, 0.8]])).item()
    assert loss == pytest.approx((labelled + 0.5 * unlabelled) / 1.5 / math.log(2), rel=1e-6)


def test_out_of_training_the_teachers_do_not_count(objective):
    given, labels = {"a": logits([1.0, 0.0]), "b": torch.zeros(1, 2)}, torch.tensor([[0, 0]])
    taught = torch.tensor([[0.0, 1.0, 1.0, 0.0]])
    student = objective(teacher_share=0.5).eval()

    assert torch.equal(student.losses(given, labels, taught), student.losses(given, labels))


# -- averaged weights


def test_out_of_training_the_averaged_weights_answer_and_they_are_what_is_kept(objective):
    averaged = objective(average_decay=0.5)
    bias = averaged.network.heads["topic"].bias
    before = bias.detach().clone()
    with torch.no_grad():
        bias += 100.0
    averaged.average(1)  # decay is the least of 0.5 and 2/11

    averaged.eval()
    answer = averaged(IDS, torch.ones_like(IDS), torch.zeros(2, 2, dtype=torch.int64))["topic"]
    current = averaged.network(IDS, torch.ones_like(IDS))["topic"]

    torch.testing.assert_close(current - answer, torch.full_like(answer, 100 * 2 / 11), atol=1e-3, rtol=0)
    kept = averaged.finish()
    torch.testing.assert_close(kept.heads["topic"].bias, before + 100 * 9 / 11)


def test_without_averages_the_network_itself_answers(objective):
    plain = objective().eval()

    answer = plain(IDS, torch.ones_like(IDS), torch.zeros(2, 2, dtype=torch.int64))

    torch.testing.assert_close(answer["topic"], plain.network(IDS, torch.ones_like(IDS))["topic"])
    assert answer["loss"] == plain.losses(answer_logits(answer), torch.zeros(2, 2, dtype=torch.int64)).sum()


def answer_logits(answer: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {task: values for task, values in answer.items() if task != "loss"}
