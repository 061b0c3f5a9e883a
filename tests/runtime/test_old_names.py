"""Names of version 0.1.0 in a rule are answered by one sentence with the new name."""

import pytest

from gradlens.gradients.method import Method, Signal
from gradlens.methods import METHODS
from gradlens.methods.custom import stand_in
from gradlens.runtime import old_names
from gradlens.runtime.errors import InputError


@pytest.mark.parametrize("name", sorted(set(old_names.METHOD) - {"top", "depth", "readable"}))
def test_a_rule_that_overrides_an_old_name_is_refused(name):
    with pytest.raises(InputError, match=f"`{name}` of Half is called `{old_names.METHOD[name]}` since version"):
        type("Half", (Method,), {name: lambda self: None})


def test_old_words_are_reported_with_the_old_attribute():
    with pytest.raises(InputError, match="is called `depends_on` since version .*, and above, below in it backward_message, input$"):
        type("Half", (Method,), {"reads": frozenset({"above", "below"})})


@pytest.mark.parametrize("name", ["top", "depth", "readable"])
def test_old_numbers_are_neither_read_nor_set(name):
    rule = object.__new__(METHODS["bp"])
    super(Method, rule).__init__()
    for use in (lambda: getattr(rule, name), lambda: setattr(rule, name, 2)):
        with pytest.raises(AttributeError, match=f"`{name}` of Backprop is called `{old_names.METHOD[name]}`"):
            use()


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda: Signal(None, own={}), " (`own` of a Signal is called `aux_grads` since version 0.2.0)"),
        (lambda: Signal(None)._replace(send=()), " (`send` of a Signal is called `messages_below` since version 0.2.0)"),
        (lambda: Signal(None).kept, " (`kept` of a Signal is called `saved` since version 0.2.0)"),
        (lambda: Signal(None).nothing, ""),
    ],
)
def test_errors_from_old_fields_have_a_hint(use, words):
    with pytest.raises(Exception) as caught:
        use()
    said = old_names.hint(caught.value)
    assert words in said
    assert bool(said) == bool(words)


@pytest.mark.parametrize("module", ["method", "passes", "lens", "plan", "experiments"])
def test_a_module_of_old_is_answered_by_one_sentence(module):
    with pytest.raises(
        ModuleNotFoundError, match=rf"gradlens\.{module} was a module of version 0\.1\.0: .*from gradlens import Method"
    ) as caught:
        __import__(f"gradlens.{module}")
    assert old_names.hint(caught.value) == ""
    with pytest.raises(ModuleNotFoundError, match="No module named 'gradlens.nothing'"):
        __import__("gradlens.nothing")


def test_no_room_has_the_name_of_an_old_module():
    assert not old_names.MODULES & {"analysis", "cli", "data", "gradients", "methods", "models", "reporting", "runtime", "training"}


def test_runs_of_old_rules_keep_what_they_say_of_them():
    rule = stand_in("half", {"file": "half.py", "reads": ["above", "below"], "own_quantities": {"size": "of it"}})
    assert rule.depends_on == {"backward_message", "input"}
    assert rule.method_quantities == {"size": "of it"}
