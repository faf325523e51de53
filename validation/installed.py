"""Use an installed qkov as somebody would who has nothing but the wheel; run as a file, from an empty folder.

``PYTHON -I validation/installed.py``: the option keeps the repository, PYTHONPATH and the current folder off the path, and
this file imports nothing of the repository. What README.md shows first is taken from the description inside the package.
"""

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

# Programs run longest where PyTorch is read for the first time.
SECONDS = 300


def check_place():
    """The package in use is the one installed beside this Python, and knows the version that was asked for."""
    import qkov

    home = Path(qkov.__file__).resolve()
    assert home.is_relative_to(Path(sys.prefix).resolve()), f"qkov comes from {home}, not from {sys.prefix}"
    assert qkov.__version__ == metadata.version("qkov"), (qkov.__version__, metadata.version("qkov"))
    assert (home.parent / "py.typed").exists()
    return f"qkov {qkov.__version__}"


def check_light():
    """Importing the package brings none of what takes seconds."""
    code = "import json, sys, qkov; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    loaded = set(json.loads(run(sys.executable, "-I", "-c", code)))
    heavy = loaded & {"torch", "transformers", "numpy", "pandas", "xarray", "scipy", "statsmodels", "matplotlib"}
    assert not heavy, f"import qkov imports {sorted(heavy)}"
    return "import qkov is light"


def check_readme():
    """The first example of the description runs as printed."""
    code = re.search(r"```python\n(.*?)```", metadata.metadata("qkov").get_payload(), flags=re.DOTALL).group(1)
    Path("example.py").write_text(code, encoding="utf-8")
    assert "sample_i" in run(sys.executable, "-I", "example.py")
    assert Path("heatmap.png").stat().st_size > 1000
    return "the first example of README.md runs"


def save_model(folder):
    """Save a Llama of two layers with random weights, as `from_pretrained` wants it."""
    import transformers

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(vocab_size=64, num_hidden_layers=2, max_position_embeddings=64, **sizes)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


def check_commands():
    """`qkov` and `python -m qkov` answer, and look into a folder of weights."""
    program = str(Path(sys.executable).with_name("qkov"))
    shown = run(program, "--help")
    assert shown == run(sys.executable, "-I", "-m", "qkov", "--help").replace("python -m qkov", "qkov"), shown
    assert "inspect" in shown
    assert "4 query heads, 2 kv heads" in run(program, "inspect", "model")
    assert "passed" in run(program, "check", "model")
    return "qkov --help, qkov inspect, qkov check"


def run(*command):
    """Standard output of a program; its errors are shown and end this one."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def main():
    """Try everything in the current folder, which must be empty."""
    if list(Path().iterdir()):
        raise SystemExit(
            f"{Path().resolve()} is not empty; run this from an empty folder, so that nothing is found by chance"
        )
    if not sys.flags.isolated:
        raise SystemExit("expected `python -I`: without it Python looks for modules beside this file")
    print(check_place(), check_light(), sep="\n")
    save_model(Path("model"))
    print(check_commands(), check_readme(), sep="\n")


if __name__ == "__main__":
    main()
