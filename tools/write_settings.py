"""Write ``gradlens/cli/settings.py``: what ``Config`` and the registries say, where the command line reads it without importing torch.

``python tools/write_settings.py`` after a change of a setting, or of the names of rules, networks or data sets.
"""

from __future__ import annotations

from gradlens._version import PACKAGE
from gradlens.data.datasets import DATASETS
from gradlens.training.config import Config
from gradlens.training.config_fields import Setting, settings_of
from gradlens.training.user_references import SHIPPED

WRITTEN = PACKAGE / "cli" / "settings.py"
HEAD = '''"""Settings as flags, and known names. Written by tools/write_settings.py from what ``Config`` and the registries say."""

from __future__ import annotations

from gradlens.cli.flags import Flag

'''


def flag(setting: Setting) -> str:
    """The line of a setting."""
    choices = (*SHIPPED.get(setting.name, (*setting.choices, *setting.names)), *setting.typed)
    said = setting.text.replace("{choices}", ", ".join(choices))
    if setting.default not in (None, ""):
        default = {True: "on", False: "off"}.get(setting.default) if setting.type is bool else setting.default
        said += f" (default {default:g})" if isinstance(default, float) else f" (default {default})"
    more = [f"choices={choices!r}"] if choices else []
    more += ["paired=True"] if setting.type is bool else []
    more += [f"synonyms={tuple(setting.synonyms)!r}"] if setting.synonyms else []
    words = [repr(setting.name.replace("_", "-")), setting.type.__name__, repr(said), repr(setting.panel), *more]
    return f"    Flag({', '.join(words)}),\n"


def text(config: type[Config] = Config) -> str:
    """The module, as it should be."""
    flags = "".join(flag(setting) for setting in settings_of(config).values() if setting.text)
    names = {"METHODS": SHIPPED["method"], "MODELS": SHIPPED["model"], "DATASETS": tuple(DATASETS)}
    lists = "".join(f"{name} = {known!r}\n" for name, known in names.items())
    return f"{HEAD}{lists}\nSETTINGS = (\n{flags})\n"


if __name__ == "__main__":
    WRITTEN.write_text(text())
    print(f"wrote {WRITTEN}")
