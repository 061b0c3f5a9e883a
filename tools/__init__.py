"""What writes files from the code: settings for the command line, pages of the documentation."""
