"""`python -m fossilray`: the command line, run by this interpreter whatever is on the PATH."""

from fossilray.cli.main import main

if __name__ == "__main__":
    main()
