"""`python -m fossilray`: the command line of the interpreter that is asked, whatever the PATH holds."""

from fossilray.cli.main import main

if __name__ == "__main__":
    main()
