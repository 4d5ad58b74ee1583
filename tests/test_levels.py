"""The house has levels: a module imports only from levels below its own (or from its own package)."""

import ast
from pathlib import Path

import tubelet

LEVELS = [
    {"types"},
    {"video", "nn", "track", "viz", "pickles"},
    {"data", "loss"},
    {"models"},
    {"run", "weights", "metrics"},
    {"train"},
    {"recipes"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
ROOT = Path(tubelet.__file__).parent


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write `from tubelet...`"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name.split(".")[1] for name in found if name.startswith("tubelet.")]


def test_every_module_imports_only_from_below():
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        home = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if home in ("__init__", "__main__"):
            continue
        assert home in LEVEL, f"{path.name} has no level; add it to LEVELS"
        for target in imports(path):
            if target in LEVEL and target != home and LEVEL[target] >= LEVEL[home]:
                wrong.append(f"{path.relative_to(ROOT)} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_nothing_heavy_at_import():
    import subprocess
    import sys

    code = "import sys, tubelet; print(sorted({'torch', 'cv2', 'timm', 'av'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"
