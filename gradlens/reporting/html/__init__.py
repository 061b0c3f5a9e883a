"""The page of ``gradlens report``: sections, charts, wording, template."""
