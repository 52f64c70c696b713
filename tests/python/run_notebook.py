"""Runs the cells of a notebook one after the other, as Jupyter would, and prints what
the last line of each is: `python run_notebook.py FILE`."""

import ast
import json
import sys
import types


def run(path):
    with open(path, encoding="utf-8") as file:
        notebook = json.load(file)
    # What is pickled from it is taken for a script's.
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    shown = []
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] != "code":
            continue
        tree = ast.parse("".join(cell["source"]), f"cell {number}")
        last = None
        if tree.body and isinstance(tree.body[-1], ast.Expr):
            last = ast.Expression(tree.body.pop().value)
        exec(compile(tree, f"cell {number}", "exec"), module.__dict__)
        if last is not None:
            value = eval(compile(last, f"cell {number}", "eval"), module.__dict__)
            shown.append(value)
            print(f"[{number}] {value!r}", flush=True)
    return shown


if __name__ == "__main__":
    run(sys.argv[1])
