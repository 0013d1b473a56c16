"""What of a module is public, by one rule: its classes and functions in `__all__`, which nbdev writes from the exported
names that begin with no underscore."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "spurious_rlvr"


def public_definitions(tree: ast.Module) -> list[ast.FunctionDef | ast.ClassDef]:
    "Classes and functions of a module that stand in its `__all__`."
    named = (n for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "__all__")
    public = {name for n in named for name in ast.literal_eval(n.value)}
    return [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name in public]


def public_names(module: str) -> list[str]:
    "Public classes and functions of a module by its name, in order; empty where there is no such module."
    place = PACKAGE / f"{module}.py"
    return [node.name for node in public_definitions(ast.parse(place.read_text()))] if place.is_file() else []
