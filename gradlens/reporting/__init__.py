"""From stored results to rows, console tables, figures and the HTML page. Imports ``analysis`` and the rooms below it."""
