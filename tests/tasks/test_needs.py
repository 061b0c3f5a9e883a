"""What rules need of networks: `gradlens list tasks` prints what is lacking, and building the network refuses exactly that."""

import pytest
from torch import nn

from gradlens.cli.listing import LISTS
from gradlens.gradients.items import ROWS
from gradlens.gradients.needs import Need, require
from gradlens.methods import METHODS
from gradlens.models.zoo import INPUTS, MODELS, SHAPES
from gradlens.runtime.errors import InputError
from gradlens.tasks.registry import TASKS
from gradlens.training.build import check_model_and_method
from gradlens.training.config import make_config


def lines_of(task):
    """The lines that are printed of a task."""
    rows, name, found = LISTS["tasks"]()[1:], "", []
    for first, text in rows:
        name = first or name
        found += [text] * (name == task)
    return found


@pytest.mark.parametrize("task", ["graphs", "language"])
def test_what_is_listed_as_lacking_is_what_building_refuses(task):
    lines = [line for line in lines_of(task) if line.startswith("not ")]
    shape, refused = SHAPES[TASKS[task].reads], 0
    for method, rule in ((name, rule) for name, rule in METHODS.items() if not rule.images_only):
        for need in rule.needs:
            for model in (name for name, kind in INPUTS.items() if kind == TASKS[task].reads):
                options = {need.option: need.value} if need.option else {}
                config = make_config(task=task, model=model, method=method, options=options)
                who = f"{method} {need.typed()}".strip()
                mine = [line for line in lines if who in line.removeprefix("not ").partition(":")[0].partition(" with ")[0].split(", ")]
                listed = [line for line in mine if " with " not in line.partition(":")[0] or model in line.partition(":")[0]]
                if not listed:
                    check_model_and_method(config, shape, 3)
                    continue
                refused += 1
                with pytest.raises(InputError) as caught:
                    check_model_and_method(config, shape, 3)
                assert len(listed) == 1
                assert listed[0].partition(": ")[2] in str(caught.value)
                assert need.remedy in str(caught.value)
    # fa and its relatives on gat, and error=features; skip=exact, points=inside, embed_point, embedding=fixed. On text skip, edges, fixed
    assert refused == (5 + 4 * 4 + 1 if task == "graphs" else 3)
    assert len(MODELS) > len(INPUTS)


def test_a_need_of_an_option_counts_with_its_value_only():
    class Options:
        one = "a"

    need = Need(lambda blocks, items: f"wants {len(blocks)} more", "do this", "one", "b")
    blocks = {"block1": nn.Linear(1, 1)}
    require("rule", [need], Options, blocks, ROWS)
    Options.one = "b"
    with pytest.raises(InputError, match="^rule: one=b wants 1 more; do this$"):
        require("rule", [need], Options, blocks, ROWS)
    assert (need.typed(), need._replace(value=True).typed(), need._replace(option="").typed()) == ("one=b", "one=true", "")


def test_a_refusal_names_the_tasks_items():
    with pytest.raises(InputError, match="predsim .*--task language: it compares every item of a batch with every other, here all tokens$"):
        make_config(task="language", method="predsim")
    assert any(line.endswith("here all labelled nodes") for line in lines_of("graphs"))
