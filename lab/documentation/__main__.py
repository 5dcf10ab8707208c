"""Write the generated pages into docs/: the first step of `make docs`."""

from keyturn.lab.documentation.pages import write

if __name__ == "__main__":
    write()
