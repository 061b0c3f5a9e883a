"""``python cli.py …`` from a checkout is the same program as ``gradlens …``."""

from gradlens.cli.main import main

if __name__ == "__main__":
    main()
