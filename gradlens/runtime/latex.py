r"""Escape text for LaTeX, also pdflatex: special characters are escaped, those missing in its fonts are written as formulae."""

from __future__ import annotations

SIGNS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': r"\textquotedbl{}", "[": "{[}", "]": "{]}",  # a row that begins with a bracket would be an option of the row before
    "−": "$-$", "±": r"$\pm$", "×": r"$\times$", "·": r"$\cdot$", "–": "--", "—": "---", "…": r"\ldots{}", "≤": r"$\leq$",
    "≥": r"$\geq$", "≈": r"$\approx$", "°": r"$^\circ$", "²": "$^2$", "→": r"$\to$", "√": r"$\surd$", "★": r"$\star$",
    "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "δ": r"$\delta$", "λ": r"$\lambda$", "μ": r"$\mu$", "µ": r"$\mu$",
    "σ": r"$\sigma$", "τ": r"$\tau$", "‖": r"$\|$", "ᵀ": r"$^{\mathsf{T}}$", "∞": r"$\infty$", "\n": " ",
}  # fmt: skip


def latex_text(text: str) -> str:
    r"""Escape text so that LaTeX sets it unchanged.

    >>> print(latex_text("my_rule −0.50 ± 0.10 (100 %)"))
    my\_rule $-$0.50 $\pm$ 0.10 (100 \%)
    """
    return "".join(SIGNS.get(sign, sign) for sign in text)
