"""Schematics of learning rules: blocks, auxiliary modules, losses, and arrows up and down. Pure functions of its structure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Patch

from gradlens.analysis.rule_structure import BlockSignal, RuleModule, RuleStructure
from gradlens.reporting.style import LOOK


class Link(NamedTuple):
    """One arrow of a schematic."""

    rule: str
    source: str
    target: str
    carries: str  # activation, synthetic input, error signal, learning target, labels, image, teacher's logits
    through: str  # transposed weights, feedback matrix, "" where neither


class Theme(NamedTuple):
    """Colours of a schematic."""

    page: str
    ink: str
    faint: str
    block: str
    module: str
    loss: str
    chip: str
    signal: str


THEMES = {
    "light": Theme("#ffffff", "#1f2933", "#9aa5b1", "#dbe9f6", "#fdebd0", "#fbd9d3", "#eef1f4", "#c0392b"),
    "dark": Theme("#14181d", "#e4e7eb", "#7b8794", "#21415f", "#5a421c", "#5e2a24", "#2c333b", "#ff8a75"),
}
STEP = 1.75  # from one block to the next
WIDTH, HEIGHT = 1.7, 0.72  # of a block
SIDE, CIRCLE = 2.55, 4.25  # where auxiliary modules stand, and their losses
BESIDE = 1.75  # where a local loss without a module stands
PAIR = 0.22  # distance of an arrow from the middle of its pair
INCH = 0.56  # of one unit of length
LEGEND_WIDTH = 2.6  # inches that an entry of the legend takes


# ------------------------------------------------------------------------------------------------------------------- rows


def links(s: RuleStructure) -> Iterator[Link]:
    """Yield all arrows of a rule, bottom first: what the figure shows, as a table."""
    loss_of = {k: f"loss of {b.name}" for k, b in enumerate(s.blocks) if b.loss}
    for k, block in enumerate(s.blocks):
        if block.reads:
            source = s.blocks[k - 1].name if block.reads == "block below" else block.reads
            made = next((m.name for m in s.modules if m.gives == "input" and m.block == k - 1), source)
            yield Link(s.rule, made, block.name, "synthetic input" if block.reads == "module" else "activation", "")
        yield from _signals(s, k, loss_of)
    for module in s.modules:
        name = s.blocks[module.block].name
        for what in module.reads:
            yield Link(s.rule, name if what == "output" else what, module.name, "activation" if what == "output" else what, "")
        if module.gives == "loss":
            yield Link(s.rule, module.name, loss_of[module.block], "activation", "")
        if module.target:
            source = s.blocks[module.block + 1].name if module.target == "message" else name
            yield Link(s.rule, source, module.name, "learning target", "")
    for k, loss in loss_of.items():
        for what in s.blocks[k].loss_reads:
            yield Link(s.rule, what, loss, what, "")


def _signals(s: RuleStructure, k: int, loss_of: dict[int, str]) -> Iterator[Link]:
    """Yield what block k's error signal is made of."""
    block = s.blocks[k]
    for what in block.error_signal:
        if what == "message":
            above = s.blocks[k + 1]
            yield Link(s.rule, above.name, block.name, "error signal", "feedback matrix" if above.feedback else "transposed weights")
        elif what == "output error":
            yield Link(s.rule, loss_of[max(loss_of)], block.name, "error signal", "feedback matrix")
        elif what == "module":
            source = next(m.name for m in s.modules if m.block == k and m.gives == "error signal")
            yield Link(s.rule, source, block.name, "error signal", "")
        else:
            yield Link(s.rule, loss_of[k], block.name, "error signal", "")


def described(s: RuleStructure) -> str:
    """Describe a schematic in words, as its text alternative."""
    sent = [f"{link.source} to {link.target} ({link.carries})" for link in links(s) if link.carries in ("error signal", "learning target")]
    return f"Schematic of {s.rule}: {'; '.join(sent)}."


# ---------------------------------------------------------------------------------------------------------------- drawing


@style.context(LOOK)
def schematic(structures: Sequence[RuleStructure], theme: str = "light", columns: int = 4) -> Figure:
    """Draw rules side by side: activations go up, error signals come down.

    Args:
        structures: one panel each.
        theme: a key of THEMES.
        columns: panels in a row.

    """
    colours = THEMES[theme]
    panels = [_Panel(s, colours) for s in structures]
    columns = min(columns, len(panels))
    rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    heights = [max(p.height for p in row) for row in rows]
    widths = [max(p.right - p.left for p in panels[i::columns]) for i in range(columns)]
    widths[-1] += max(0.0, LEGEND_WIDTH / INCH - sum(widths))
    figure = Figure(figsize=(INCH * sum(widths), INCH * sum(heights)), facecolor=colours.page)
    grid = figure.add_gridspec(len(rows), columns, width_ratios=widths, height_ratios=heights, left=0, right=1, top=1, wspace=0, hspace=0)
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            ax = figure.add_subplot(grid[i, j])
            middle = (panel.left + panel.right) / 2
            ax.set_xlim(middle - widths[j] / 2, middle + widths[j] / 2)
            ax.set_ylim(panel.bottom, panel.bottom + heights[i])
            ax.set_axis_off()
            panel.draw(ax, panel.bottom + heights[i] - 0.45)
    handles = _handles(panels, colours)
    across = min(len(handles), int(figure.get_figwidth() / LEGEND_WIDTH))
    height = 0.2 * -(-len(handles) // across) + 0.25  # inches
    figure.set_figheight(figure.get_figheight() + height)
    grid.update(bottom=height / figure.get_figheight())
    figure.legend(
        handles=handles, loc="lower center", ncols=across, fontsize=8, labelcolor=colours.ink, handlelength=2.2, columnspacing=1.4
    )
    return figure


class _Panel:
    """One rule; lengths in units of INCH inches, the first block's middle at (0, 0)."""

    def __init__(self, s: RuleStructure, colours: Theme) -> None:
        self.s, self.c = s, colours
        self.used: set[str] = set()  # what the legend must explain
        inputs = any(m.gives == "input" for m in s.modules)
        sides = any(m.gives != "input" for m in s.modules)
        direct = any("output error" in b.error_signal for b in s.blocks)
        labels = any(b.loss_reads for b in s.blocks)
        self.left = -5.0 if inputs else min(-1.3 - 0.55 * len(s.windows), -1.9 if direct else 0)
        local = any(m.gives == "loss" for m in s.modules)
        chips = any(s.blocks[m.block].loss_reads for m in s.modules if m.gives == "loss")
        read = any(set(m.reads) - {"output"} for m in s.modules if m.gives != "input")
        self.right = (6.5 if chips else 4.9) if local else (5.2 if read else 3.8) if sides else 3.4 if direct else 2.2 if labels else 1.5
        if any(b.loss and not self._module(k) for k, b in enumerate(s.blocks[:-1])):
            self.right = max(self.right, BESIDE + 2.3)
        self.direct = direct
        top = s.blocks[-1]
        self.bottom = -1.75
        self.height = STEP * (len(s.blocks) - 1) - self.bottom + (2.35 if top.loss and not self._module(len(s.blocks) - 1) else 1.3)

    def _module(self, k: int) -> RuleModule | None:
        """Return the auxiliary module that reads block k's output."""
        return next((m for m in self.s.modules if m.block == k and m.gives != "input"), None)

    def draw(self, ax: Axes, title: float) -> None:
        """Draw everything into the axes; the title at a height that panels of a row share."""
        self.ax = ax
        s = self.s
        stage = f" · stage {s.stage[0]} of {s.stage[1]}" if s.stage else ""
        ax.text((self.left + self.right) / 2, title, s.rule + stage, fontsize=11, weight="bold", ha="center", color=self.c.ink)
        self._chip(0, -1.25, "image")
        for k, block in enumerate(s.blocks):
            self._block(k, block)
            self._input(k, block)
            self._error_signal(k, block)
        for module in s.modules:
            (self._input_synthesiser if module.gives == "input" else self._auxiliary)(module)
        self._windows()

    # ------------------------------------------------------------------------------------------------------------- parts

    def _block(self, k: int, block: BlockSignal) -> None:
        unused, y = not block.reads, STEP * k
        look = {"linestyle": (0, (4, 2))} if unused else {}
        face = self.c.block if block.trained else self.c.page
        if not block.trained:
            self.used.add("frozen")
        self._box(0, y, WIDTH, HEIGHT, face, edge=self.c.ink if block.trained else self.c.faint, **look)
        self.ax.text(0, y, block.name, ha="center", va="center", fontsize=9, color=self.c.ink if block.trained else self.c.faint)

    def _input(self, k: int, block: BlockSignal) -> None:
        """Draw the arrow from below."""
        if block.reads in ("", "module"):
            return
        y = STEP * k - HEIGHT / 2
        below = STEP * (k - 1) + HEIGHT / 2 if k else -1.02
        sent = k > 0 and bool(block.sends) and "message" in self.s.blocks[k - 1].error_signal
        x = -PAIR if sent else 0.0
        self._arrow((x, below), (x, y), "forward")
        middle = (below + y) / 2
        if block.reads == "replay buffer":
            self._box(x, middle, 1.15, 0.36, self.c.chip, edge=self.c.ink)
            self.ax.text(x, middle, "buffer", ha="center", va="center", fontsize=7.5, color=self.c.ink)
        elif k and not sent:
            self._cut(x, middle)

    def _error_signal(self, k: int, block: BlockSignal) -> None:
        """Draw the arrows of block k's error signal, but for those that come through an auxiliary module."""
        y = STEP * k + HEIGHT / 2
        if "message" in block.error_signal:
            self._arrow((PAIR, STEP * (k + 1) - HEIGHT / 2), (PAIR, y), "signal")
            if self.s.blocks[k + 1].feedback:
                self._matrix(PAIR, y + (STEP - HEIGHT) / 2)
        if "output error" in block.error_signal:
            self._broadcast(k)
        if block.loss and not self._module(k):
            (self._loss_above if k == len(self.s.blocks) - 1 else self._loss_beside)(k, block)

    def _loss_above(self, k: int, block: BlockSignal) -> None:
        """Draw the loss of the output block."""
        y = STEP * k + HEIGHT / 2
        above = y + 0.72
        self._arrow((-PAIR, y), (-PAIR, above - 0.18), "forward")
        self._arrow((PAIR, above - 0.18), (PAIR, y), "signal")
        self._loss(0, above + 0.12, block)

    def _loss_beside(self, k: int, block: BlockSignal) -> None:
        """Draw a local loss that reads an earlier block's output without a module between."""
        y, edge = STEP * k, WIDTH / 2
        self._arrow((edge, y + 0.13), (BESIDE - 0.34, y + 0.13), "forward")
        self._arrow((BESIDE - 0.34, y - 0.13), (edge, y - 0.13), "signal")
        self._loss(BESIDE, y, block)

    def _broadcast(self, k: int) -> None:
        """Draw the output error, through a matrix straight to block k."""
        top = STEP * (len(self.s.blocks) - 1) + HEIGHT / 2 + 0.84
        bus, y = 2.75, STEP * k
        if k == 0 or not any("output error" in b.error_signal for b in self.s.blocks[:k]):
            self.ax.plot([0.34, bus, bus], [top, top, y], color=self.c.signal, linewidth=1.4, solid_joinstyle="round")
        self._arrow((bus, y), (WIDTH / 2, y), "signal")
        self._matrix((bus + WIDTH / 2) / 2 + 0.12, y)

    def _auxiliary(self, module: RuleModule) -> None:
        """Draw a head with its loss, or a synthesiser, at the right of its block."""
        k, block = module.block, self.s.blocks[module.block]
        y = STEP * k + (0.62 if module.gives != "loss" else 0.3)
        self._box(SIDE, y, 1.75, 0.62, self.c.module)
        self.ax.text(SIDE, y, module.label.replace(" ", "\n", 1) if len(module.label) > 11 else module.label, ha="center", va="center",
                     fontsize=8, color=self.c.ink, linespacing=0.95)  # fmt: skip
        self.used.add("module")
        left, edge = SIDE - 0.875, WIDTH / 2
        if "output" in module.reads:
            self._arrow((edge, min(y + 0.13, STEP * k + 0.3)), (left, y + 0.13), "forward")
        if module.gives:
            self._arrow((left, y - 0.13), (edge, min(y - 0.13, STEP * k + 0.05)), "signal")
        if module.gives == "loss":
            right = SIDE + 0.875
            self._arrow((right, y + 0.13), (CIRCLE - 0.34, y + 0.13), "forward")
            self._arrow((CIRCLE - 0.34, y - 0.13), (right, y - 0.13), "signal")
            self._loss(CIRCLE, y, block)
        if module.target == "message":
            self._arrow((edge, STEP * (k + 1) - 0.12), (SIDE, y + 0.31), "target", bend=-0.25)
        for i, what in enumerate(w for w in module.reads if w != "output"):
            self._chip(SIDE + 1.75, y - 0.45 * i, what, to=SIDE + 0.875)

    def _input_synthesiser(self, module: RuleModule) -> None:
        """Draw a module at the left that makes the input of block k+1."""
        y = STEP * module.block + STEP / 2
        self._box(-SIDE, y, 1.75, 0.62, self.c.module)
        self.ax.text(-SIDE, y, module.label.replace(" ", "\n", 1), ha="center", va="center", fontsize=8, color=self.c.ink, linespacing=0.95)
        self.used.add("module")
        self._arrow((-SIDE + 0.5, y + 0.31), (-WIDTH / 2, y + STEP / 2 - 0.05), "forward", bend=-0.2)
        if module.target:
            self._arrow((-WIDTH / 2, y - STEP / 2 + 0.05), (-SIDE + 0.5, y - 0.31), "target", bend=-0.2)
        for i, what in enumerate(module.reads):
            self._chip(-SIDE - 1.85, y - 0.45 * i, what, to=-SIDE - 0.875)

    def _windows(self) -> None:
        """Draw a bracket over the blocks that each loss trains."""
        for i, (first, last) in enumerate(self.s.windows):
            x, low, high = -1.15 - 0.5 * i, STEP * first - HEIGHT / 2, STEP * last + HEIGHT / 2
            self.ax.plot([x + 0.14, x, x, x + 0.14], [low, low, high, high], color=self.c.faint, linewidth=1.6)
            self.used.add("window")

    # ------------------------------------------------------------------------------------------------------------ shapes

    def _box(self, x: float, y: float, width: float, height: float, face: str, edge: str | None = None, **look: Any) -> None:
        shape = f"round,pad=0,rounding_size={0.12}"
        box = FancyBboxPatch((x - width / 2, y - height / 2), width, height, shape, facecolor=face, edgecolor=edge or self.c.ink, **look)
        box.set_linewidth(1.0)
        box.set_zorder(3)
        self.ax.add_patch(box)

    def _chip(self, x: float, y: float, text: str, to: float | None = None) -> None:
        """Draw an external input: the image, the labels, a teacher's logits; ``to``: the edge that it enters."""
        width = 0.28 + 0.155 * len(text)
        if to is not None:
            self._arrow((x, y), (to, y), "forward")
        self._box(x, y, width, 0.4, self.c.chip, edge=self.c.faint)
        self.ax.text(x, y, text, ha="center", va="center", fontsize=7.5, color=self.c.ink, zorder=4)

    def _loss(self, x: float, y: float, block: BlockSignal) -> None:
        self.ax.add_patch(Circle((x, y), 0.34, facecolor=self.c.loss, edgecolor=self.c.ink, linewidth=1.0, zorder=3))
        self.ax.text(x, y, "loss", ha="center", va="center", fontsize=7.5, color=self.c.ink, zorder=4)
        side = -1 if self.direct else 1  # the output's error leaves at the right
        for i, what in enumerate(block.loss_reads):
            place = y + 0.46 * ((len(block.loss_reads) - 1) / 2 - i)
            self._chip(x + side * 1.12, place, what, to=x + side * 0.33)

    def _matrix(self, x: float, y: float) -> None:
        self._box(x, y, 0.42, 0.36, self.c.page, edge=self.c.signal)
        self.ax.text(x, y, "B", ha="center", va="center", fontsize=8, color=self.c.signal, zorder=4, style="italic")
        self.used.add("matrix")

    def _cut(self, x: float, y: float) -> None:
        """Draw two bars across an arrow: no gradient is propagated here."""
        for dy in (-0.06, 0.06):
            self.ax.plot([x - 0.2, x + 0.2], [y + dy - 0.05, y + dy + 0.05], color=self.c.ink, linewidth=1.3, zorder=4)
        self.used.add("cut")

    def _arrow(self, start: tuple[float, float], end: tuple[float, float], kind: str, bend: float = 0.0) -> None:
        self.used.add(kind)
        self.ax.add_patch(
            FancyArrowPatch(
                start, end, arrowstyle="-|>", mutation_scale=9, shrinkA=0, shrinkB=0, connectionstyle=f"arc3,rad={bend}",
                color=self.c.ink if kind == "forward" else self.c.signal, linewidth=1.4, zorder=2,
                linestyle=(0, (3, 2)) if kind == "target" else "-",
            )
        )  # fmt: skip


def _handles(panels: Sequence[_Panel], c: Theme) -> list[Any]:
    """Return the legend, of what these panels show."""
    used = set().union(*(p.used for p in panels))
    known = {
        "forward": Line2D([], [], color=c.ink, linewidth=1.4, marker=">", markevery=[1], markersize=5, label="activations"),
        "signal": Line2D([], [], color=c.signal, linewidth=1.4, marker="<", markevery=[0], markersize=5, label="error signals (gradients)"),
        "target": Line2D([], [], color=c.signal, linewidth=1.4, linestyle=(0, (3, 2)), label="what a module learns to predict"),
        "cut": Line2D([], [], color=c.ink, marker="$/\\!\\!/$", markersize=9, linewidth=1.2, label="no gradient passes"),
        "matrix": Line2D(
            [], [], color=c.signal, marker="s", markerfacecolor=c.page, markersize=8, linestyle="", label="B: feedback matrix, not Wᵀ"
        ),
        "module": Patch(facecolor=c.module, edgecolor=c.ink, label="the rule's own module"),
        "frozen": Patch(facecolor=c.page, edgecolor=c.faint, label="not trained"),
        "window": Line2D([], [], color=c.faint, linewidth=1.6, label="blocks that a loss trains"),
    }
    return [handle for name, handle in known.items() if name in used]
