import pytest

from pipelines import options
from pipelines.options import Options, OptionsError


def test_a_file_changes_what_it_names_and_flags_come_over_it(tmp_path):
    file = tmp_path / "options.toml"
    file.write_text('sharing = "fused"\nepochs = 2\n[tasks.urgency]\nlabels = ["low", "high"]\nweight = 0.5\n')

    read = options.read(file, {"epochs": 7})

    assert (read.sharing, read.epochs, read.learning_rate) == ("fused", 7.0, Options().learning_rate)
    assert read.tasks["urgency"].labels == ("low", "high")
    assert read.weights() == {"urgency": 0.5}


def test_without_a_file_the_defaults_hold():
    assert options.read(None, {}) == Options()


def test_options_are_plain_enough_for_json_and_come_back():
    import json

    chosen = Options(sharing="fused", teachers=("default",), conflicts="upgrad")

    assert Options(**json.loads(json.dumps(chosen.plain()))) == chosen


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epoch = 3", r"options\.toml: epoch: .*; the options are encoder, start, tasks"),
        ("epochs = -1", r"options\.toml: epochs: Input should be greater than 0, found -1"),
        ('weighting = "best"', r"weighting: Input should be 'static', 'uncertainty' or 'dwa', found 'best'"),
        ('conflicts = "mgda"', r"conflicts: Input should be 'upgrad' or 'pcgrad'"),
        ("[tasks.topic]\nweight = 0", r"tasks\.topic\.weight: Input should be greater than 0"),
        ("epochs = ", r"options\.toml: not TOML: "),
        ("plain_share = 0.8", r"options\.toml: plain_share, varied_share and wired_share add up to 1\.1"),
    ],
)
def test_a_wrong_option_is_named_with_its_value(tmp_path, content, message):
    file = tmp_path / "options.toml"
    file.write_text(content)

    with pytest.raises(OptionsError, match=message):
        options.read(file, {})


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(OptionsError, match=r"none\.toml: cannot be read \(No such file"):
        options.read(tmp_path / "none.toml", {})
