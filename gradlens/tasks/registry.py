"""List the tasks, one per file: what an example, a target, an item and a score are. A new task is a file and a line here."""

from __future__ import annotations

from gradlens.tasks.clicks import Clicks
from gradlens.tasks.graphs import Graphs
from gradlens.tasks.images import Images
from gradlens.tasks.language import Language
from gradlens.tasks.links import Links
from gradlens.tasks.pictures import Pictures
from gradlens.tasks.task import Task
from gradlens.tasks.views import Views

TASKS: dict[str, Task] = {
    "images": Images(),
    "graphs": Graphs(),
    "links": Links(),
    "language": Language(),
    "clicks": Clicks(),
    "views": Views(),
    "pictures": Pictures(),
}
DEFAULT = "images"
