"""``python -m genesis_sft`` is the command line."""

from genesis_sft.cli import main

if __name__ == "__main__":
    main()
