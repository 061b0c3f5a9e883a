"""Write the pages of the documentation that are made from code: rules with their schematics, commands, settings, quantities, the API."""
