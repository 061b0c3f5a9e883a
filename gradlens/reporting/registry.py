"""The reports of the analyses, by the name of the json file that an analysis stores, in the order of the page's sections.

``online`` is stored by a training with ``--online-probe``, ``doctor`` by its own command; all others have an analysis of their name in
``analysis/of_runs/registry.py``.
"""

from __future__ import annotations

from gradlens.reporting import filters, inpainting, memorization, online_probe, probes, rendering, representations
from gradlens.reporting.analysis_report import AnalysisReport
from gradlens.reporting.html import doctor as doctor_section
from gradlens.reporting.html import filters as filters_section
from gradlens.reporting.html import memorization as memorization_section
from gradlens.reporting.html import online_probe as online_section
from gradlens.reporting.html import probes as probes_section
from gradlens.reporting.html import rendering as rendering_section
from gradlens.reporting.html import representations as representations_section

REPORTS: dict[str, AnalysisReport] = {
    "probe": AnalysisReport(probes.tables, probes.figures, probes_section.section),
    "memorization": AnalysisReport(memorization.tables, memorization.figures, memorization_section.section),
    "filters": AnalysisReport(filters.tables, filters.figures, filters_section.section),
    "representations": AnalysisReport(representations.tables, representations.figures, representations_section.section),
    "online": AnalysisReport(figures=online_probe.figures, section=online_section.section),
    "inpainting": AnalysisReport(inpainting.tables, inpainting.figures),
    "rendering": AnalysisReport(rendering.tables, rendering.figures, rendering_section.section),
    "doctor": AnalysisReport(section=doctor_section.section),
}
