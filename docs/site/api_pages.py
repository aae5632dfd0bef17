"""A hook of mkdocs: a reference page for each package, with all that its ``__all__`` names."""

import ast
from pathlib import Path

from mkdocs.structure.files import File

PACKAGES = (
    "ops",
    "models",
    "training",
    "inference",
    "evaluation",
    "data",
    "deployment",
    "analysis",
)
MODULES = ("numpy", "memory")


def on_files(files, config):
    package = Path(config.docs_dir).parent / "fastrpn"
    files.append(File.generated(config, "api/fastrpn.md", content=_top_page(package)))
    for name in PACKAGES:
        tree = ast.parse((package / name / "__init__.py").read_text())
        homes = [f"{module}.{public}" for public, module in sorted(_public(tree).items())]
        files.append(File.generated(config, f"api/{name}.md", content=_page(name, tree, homes)))
    for name in MODULES:
        tree = ast.parse((package / f"{name}.py").read_text())
        homes = [f"fastrpn.{name}.{public}" for public in sorted(_names(tree))]
        files.append(File.generated(config, f"api/{name}.md", content=_page(name, tree, homes)))
    return files


def _top_page(package):
    """What `import fastrpn` alone gives, with links to the pages that describe it."""
    tree = ast.parse((package / "__init__.py").read_text())
    rows = ["| name | described in |", "|---|---|"]
    for name, home in sorted(_literal(tree, "_NAMES").items()):
        page = home.removeprefix("fastrpn.")
        module = _public(ast.parse((package / page / "__init__.py").read_text()))[name]
        rows.append(f"| `fastrpn.{name}` | [`{home}`]({page}.md#{module}.{name}) |")
    return "\n\n".join(("# fastrpn", ast.get_docstring(tree), "\n".join(rows))) + "\n"


def _page(name, tree, homes):
    entries = "\n".join(f"::: {home}" for home in homes)
    return f"# fastrpn.{name}\n\n{ast.get_docstring(tree)}\n\n{entries}\n"


def _public(tree):
    """Public name -> the module that defines it. Constants have no docstring, and no entry."""
    imported = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    homes = {alias.name: node.module for node in imported for alias in node.names}
    return {name: homes[name] for name in _names(tree) if not name.isupper()}


def _names(tree):
    return _literal(tree, "__all__")


def _literal(tree, variable):
    (value,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == variable
    )
    return ast.literal_eval(value)
