"""The documents: links lead somewhere, snippets run, commands exist, figures are those that their comments compute.

The tables of docs/alexnet.md, docs/kernels.md, docs/pooling.md and docs/training.md are computed here; those of
docs/tables by the tests of what they are about. What was timed is a record, and stays as it was.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import alexkern
from alexkern import accuracy, cli, functional
from alexkern.models import MODELS
from alexkern.ops.registry import OPERATORS
from alexkern.ranges import RANGES
from support import figures
from support.optional import need

ROOT = Path(__file__).resolve().parent.parent
LADDER = ROOT / "examples" / "ladder" / "README.md"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", LADDER, *sorted((ROOT / "docs").rglob("*.md"))]
ALEXNET, KERNELS = ROOT / "docs" / "alexnet.md", ROOT / "docs" / "kernels.md"
SOURCES = {".py", ".cpp", ".cu", ".cuh", ".h", ".txt"}

# What a fenced block may be called. `python` runs everywhere, `python gpu` where there is a GPU, the others are read.
LANGUAGES = {"python", "python gpu", "sh", "text", "c++", "json"}
SNIPPETS = {"python", "python gpu"} if torch.cuda.is_available() else {"python"}
# Paths that documents name before anything lies there: what a GPU's owner records or tunes.
MADE_LATER = ("bench/results", "alexkern/tuned")

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a document: what stands behind the fence, the line of its first line, its text."""

    language: str
    line: int
    text: str


def blocks(text: str) -> Iterator[Block]:
    for match in re.finditer(r"^```(.*)\n((?:.*\n)*?)```$", text, re.MULTILINE):
        yield Block(match[1].strip(), text.count("\n", 0, match.start()) + 2, match[2])


def prose(document: Path) -> str:
    """A document without its fenced blocks."""
    return re.sub(r"^```.*\n(?:.*\n)*?```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE)


def slugs(document: Path) -> set[str]:
    """The anchors of a document's headings, by GitHub's rule."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.*?) *$", prose(document), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = 0
        while (name := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(name)
    return found


def cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|")))


def table(document: Path, *header: str) -> list[tuple[str, ...]]:
    """The rows of the one table whose header begins with these cells."""
    lines = prose(document).splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("|") and cells(line)[: len(header)] == header]
    assert len(starts) == 1, f"{document.name} has {len(starts)} tables that begin with {header}"
    rows = []
    for line in lines[starts[0] + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(cells(line))
    return rows


@every_document
def test_links_lead_somewhere(document: Path) -> None:
    text = prose(document)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[[^\]]+\]: *(\S+)", text, re.MULTILINE)
    wrong = []
    for target in targets:
        if re.match(r"https?://|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        if not path.exists() or not path.is_relative_to(ROOT):
            wrong.append(target)
        elif anchor and (path.suffix != ".md" or anchor not in slugs(path)):
            wrong.append(f"{target} (no such heading)")
    assert not wrong, f"{document.name}: {wrong}"


@every_document
def test_paths_in_the_text_exist(document: Path) -> None:
    """`alexkern/nn.py` is checked wherever it is named; alexkern/ops/NAME.py stands for many, and has capitals."""
    rooms = r"`((?:alexkern|kernels|csrc|bench|tests|docs|examples)/[a-z0-9_./-]*)`"
    named = set(re.findall(rooms, prose(document)))
    missing = sorted(name for name in named if not name.startswith(MADE_LATER) and not (ROOT / name).exists())
    assert not missing, f"{document.name}: {missing}"


@every_document
def test_python_runs(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A document's snippets are one session, from its top to its end."""
    text = document.read_text(encoding="utf-8")
    found = list(blocks(text))
    assert text.count("\n```") == 2 * len(found), f"{document.name}: a fence that is not closed"
    unknown = {block.language for block in found} - LANGUAGES
    assert not unknown, f"{document.name}: fences called {unknown}; wanted one of {LANGUAGES}"
    monkeypatch.chdir(tmp_path)
    backend = alexkern.current_backend()
    session: dict[str, object] = {"__name__": "__main__"}
    with torch.random.fork_rng():
        for block in found:
            if block.language in SNIPPETS:
                code = "\n" * (block.line - 1) + block.text  # so that a traceback names the document's own line
                exec(compile(code, str(document), "exec"), session)
    assert alexkern.current_backend() == backend, "a snippet left another backend behind"


@every_document
def test_figures_are_what_is_counted(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    if "alexkern.kernels" in text:
        need("triton")
    assert text.count("<!-- counted") == len(figures.COMMENT.findall(text)), f"{document.name}: a comment is not closed"
    assert not figures.wrong(text)


def test_a_wrong_figure_is_found() -> None:
    text = "# A\n\n7 days\n\n## B\n\nA tile has 1,024 values, 2.5 KiB.\n<!-- counted\nside = 32\n{}\n-->\n"
    for right in ('f"{side**2:,}"', 'f"{side * 80 / 1024} KiB"', '"A tile"', "side == 32"):
        assert not figures.wrong(text.format(right))
    for slip in ('f"{side * 33:,}"', '"24"', '"5 KiB"', '"2"', '"7 days"', '"a tile"', "side == 33"):
        assert len(figures.wrong(text.format(slip))) == 1, slip


def commands(document: Path) -> Iterator[list[str]]:
    """The commands of a document's sh blocks, word by word; `a && b` are two."""
    for block in blocks(document.read_text(encoding="utf-8")):
        if block.language == "sh":
            for line in block.text.splitlines():
                words = shlex.split(line, comments=True)
                while words:
                    end = words.index("&&") if "&&" in words else len(words)
                    yield [word for word in words[:end] if not re.fullmatch(r"[A-Z_]+=.*", word)]
                    words = words[end + 1 :]


@every_document
def test_commands_exist(document: Path) -> None:
    """make targets, subcommands and their options, pytest's files: as the documents type them."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    parser = cli._parser()
    for program, *arguments in commands(document):
        if program == "make":
            assert set(arguments) <= targets, f"{document.name}: make {arguments}"
        elif program == "alexkern":
            _, unknown = parser.parse_known_args(arguments)  # what it refuses ends in SystemExit
            assert not unknown or arguments[0] == "bench", f"{document.name}: alexkern {arguments}"
        elif program in ("pytest", "python"):
            files = [word for word in arguments if "/" in word and not word.startswith("-")]
            assert all((ROOT / name).exists() for name in files), f"{document.name}: {program} {arguments}"


def test_readme_installs_as_ci_does() -> None:
    """It reads them here: lines of their own, the first and the second command."""
    read = re.search(r"grep -E '(.*)' README.md", (ROOT / ".ci" / "run").read_text())
    assert read is not None
    assert re.findall(f"{read[1]}.*$", (ROOT / "README.md").read_text(), re.M) == [
        "pip install -e . && pytest bench/",
        "pip install -c constraints.txt -e '.[dev]' && pytest -n auto --maxprocesses 4",
    ]


def test_readme_leads_to_the_kernels_page_and_that_along_the_path() -> None:
    (section,) = re.findall(r"^## Learn from it\n(.*?)^## ", (ROOT / "README.md").read_text(), re.M | re.S)
    assert re.findall(r"\]\((.*?)\)", section)[:2] == ["docs/kernels.md", "examples/ladder/README.md"]
    (path,) = re.findall(r"^## A reading path\n(.*?)^## ", KERNELS.read_text(), re.M | re.S)
    wanted = ["../examples/ladder/", "../kernels/", "../csrc/cuda/", "../csrc/cuda/sm90/", "../csrc/emulator/"]
    for number, folder in enumerate(wanted, 1):
        assert re.search(rf"^{number}\. \*\*[^(]*\]\({folder}", path, re.M), folder
    for program in ("gemm.cu", "pipeline.cu"):
        assert f"](../csrc/emulator/tests/{program})" in path


def test_readme_names_every_command() -> None:
    used = {words[1] for words in commands(ROOT / "README.md") if words[0] == "alexkern"}
    assert used == set(cli.COMMANDS)


def test_readme_lists_the_operators_as_they_are() -> None:
    rows = table(ROOT / "README.md", "operator", "arguments")
    for name, row in zip(OPERATORS, rows, strict=True):
        signature = inspect.signature(getattr(functional, name))
        plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
        wanted = str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))
        assert row[:2] == (f"`{name}`", f"`{wanted[1:-1]}`")


def test_contributing_lists_the_files_that_name_an_operator() -> None:
    """Word for word, by the operator that it gives as the example."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (listed,) = re.findall(r"No other file names it\.[^`]*```text\n(.*?)```", text, re.S)
    (name,) = re.findall(r"\[(\w+)\]\S+ is the example that has everything", text)
    folders = ("alexkern", "bench", "csrc", "kernels", "tests")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in SOURCES]
    naming = [path.relative_to(ROOT) for path in files if re.search(rf"\b{name}\b", path.read_text(encoding="utf-8"))]
    patterns = {re.sub("/NAME/.*", "/NAME/", path.as_posix().replace(name, "NAME")) for path in naming}
    assert patterns == set(listed.split())
    in_tests = [path for path in naming if path.parts[0] == "tests"]
    assert len(naming) - len(in_tests) <= 14 and len(in_tests) <= 8, naming


def test_contributing_quotes_the_accuracy_rule() -> None:
    assert accuracy.__doc__ is not None
    rule = " ".join(accuracy.__doc__.split("\n\n", 1)[1].split())
    quoted = " ".join((ROOT / "CONTRIBUTING.md").read_text().replace("\n> ", "\n").split())
    assert rule in quoted


# docs/alexnet.md and docs/kernels.md: picture and tables, computed from the models.

BATCH = 128
BYTES = 2  # a number of a 16-bit dtype
FLOPS_PER_US, BYTES_PER_US = 989e6, 4.8e6  # the H200 by its data sheet: dense bfloat16, memory


@dataclasses.dataclass(frozen=True)
class Layer:
    """One module of a network, as one image of 224 x 224 passes through it. gemm is (P * Q, K, C * R * S) or None."""

    name: str
    inputs: int
    output: tuple[int, ...]
    parameters: int
    gemm: tuple[int, int, int] | None

    @property
    def outputs(self) -> int:
        return torch.Size(self.output).numel()

    @property
    def macs(self) -> int:
        return self.outputs * self.gemm[2] if self.gemm else 0

    def flops(self, batch: int) -> int:
        return 2 * self.macs * batch

    def bytes(self, batch: int, written: int | None = None) -> int:
        """Input and parameters read once, and the output written once, or `written` numbers an image in its place."""
        return BYTES * (batch * (self.inputs + (written or self.outputs)) + self.parameters)

    def floor(self, batch: int, written: int | None = None) -> float:
        """In microseconds."""
        return max(self.flops(batch) / FLOPS_PER_US, self.bytes(batch, written) / BYTES_PER_US)


def layers(model: str) -> list[Layer]:
    """A network's modules in the order they run, named as the document names them."""
    with torch.device("meta"):
        network = MODELS[model]().eval()
    found: list[Layer] = []
    counts = {"conv": 0, "fc": 5}

    def note(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        name = {nn.AdaptiveAvgPool2d: "avgpool", nn.Dropout: "dropout"}.get(type(module), type(module).__name__)
        gemm = None
        if isinstance(module, nn.Conv2d | nn.Linear):
            kind = "conv" if isinstance(module, nn.Conv2d) else "fc"
            counts[kind] += 1
            name = f"{kind}{counts[kind]}"
            K = module.weight.shape[0]
            gemm = (output.numel() // K, K // getattr(module, "groups", 1), module.weight[0].numel())
        elif isinstance(module, nn.MaxPool2d):
            name = f"pool{counts['conv']}"
        parameters = sum(parameter.numel() for parameter in module.parameters())
        found.append(Layer(name, args[0].numel(), tuple(output.shape[1:]), parameters, gemm))

    for module in network.modules():
        if not list(module.children()):
            module.register_forward_hook(note)
    network(torch.empty(1, 3, 224, 224, device="meta"))
    return found


def picture() -> list[tuple[str, str, list[str]]]:
    """Of each line: the module, its output's shape, and the operators that are named behind it."""
    (block,) = (block for block in blocks(ALEXNET.read_text()) if block.language == "text")
    lines = []
    for line in block.text.splitlines():
        match = re.fullmatch(r"(\w+) .*? {2,}(\d+(?: x \d+ x \d+)?)(?: {2,}(.*))?", line)
        assert match is not None, line
        operators = [word for word in re.findall(r"\w+", match[3] or "") if word in OPERATORS]
        lines.append((match[1], match[2], operators))
    return lines


def test_the_picture_has_the_networks_shapes() -> None:
    wanted = [("image", "3 x 224 x 224")]
    wanted += [(layer.name, " x ".join(map(str, layer.output))) for layer in layers("alexnet")]
    assert [line[:2] for line in picture()] == wanted


def test_the_picture_has_the_operators(operators: list[str]) -> None:
    with torch.device("meta"):
        network = alexkern.models.alexnet()
    network(torch.empty(1, 3, 224, 224, device="meta"))
    assert [operator for line in picture() for operator in line[2]] == operators


def test_parameters_and_macs() -> None:
    networks = [[layer for layer in layers(model) if layer.gemm] for model in MODELS]
    wanted = []
    for same in zip(*networks, strict=True):
        wanted.append((same[0].name, *(f"{number:,}" for layer in same for number in (layer.parameters, layer.macs))))
    totals: list[int] = []
    for network in networks:
        totals += [sum(layer.parameters for layer in network), sum(layer.macs for layer in network)]
    wanted.append(("total", *(f"{number:,}" for number in totals)))
    header = [f"`{model}` {what}" for model in MODELS for what in ("parameters", "MACs")]
    assert table(ALEXNET, "layer", *header) == wanted


def test_floors_of_the_layers() -> None:
    wanted = []
    for layer in layers("alexnet"):
        if layer.gemm is None and not layer.name.startswith("pool"):
            continue
        gemm = tuple(f"{size:,}" for size in (BATCH * layer.gemm[0], *layer.gemm[1:])) if layer.gemm else ("", "", "")
        intensity = layer.flops(BATCH) / layer.bytes(BATCH)
        floor = layer.floor(BATCH)
        bound = "arithmetic" if floor > layer.bytes(BATCH) / BYTES_PER_US else "memory"
        one_pass = 2 * BYTES * BATCH * layer.outputs / BYTES_PER_US
        wanted.append((layer.name, *gemm, f"{intensity:,.0f}", f"{floor:.1f}", bound, f"{one_pass:.1f}"))
    assert table(ALEXNET, "layer", "GEMM_M") == wanted


def test_floors_of_the_network() -> None:
    found = layers("alexnet")
    products = [layer for layer in found if layer.gemm]
    pools = {f"conv{layer.name[-1]}": layer for layer in found if layer.name.startswith("pool")}
    apart = sum(layer.floor(BATCH) for layer in (*products, *pools.values()))
    together = sum(layer.floor(BATCH, pools[layer.name].outputs if layer.name in pools else None) for layer in products)
    passed = sum(layer.outputs for layer in products) + sum(layer.outputs for layer in products[:-1])  # bias, ReLU
    indices = sum(pool.outputs for pool in pools.values())
    unfused = apart + BATCH * (2 * BYTES * passed + 8 * indices) / BYTES_PER_US
    single = sum(layer.floor(1) for layer in (*products, *pools.values()))
    classifier = sum(BYTES * layer.parameters for layer in products if layer.name.startswith("fc")) / BYTES_PER_US
    numbers = (apart, together, unfused, single, classifier)
    assert [row[1] for row in table(ALEXNET, "what is computed")] == [f"{number:.0f}" for number in numbers]


def test_what_poolings_keep_and_move() -> None:
    found = {layer.name: layer for layer in layers("alexnet")}
    kept, moved = {}, []
    for index in (1, 2, 5):
        conv, pool = found[f"conv{index}"], found[f"pool{index}"]
        images, indices, pooled, offsets = (
            BATCH * size / 1e6 for size in (BYTES * conv.outputs, 8 * pool.outputs, BYTES * pool.outputs, pool.outputs)
        )
        kept[f"conv{index}, pool{index}"] = (images, indices, pooled, offsets)
        cells = [f"{size:.1f} MB" for size in (images, pooled, offsets, *[images + pooled + offsets] * 2)]
        moved.append((f"pool{index}, {' x '.join(map(str, conv.output))}", *cells))
    kept["sum"] = tuple(map(sum, zip(*kept.values(), strict=True)))
    wanted = [(name, *(f"{number:.1f}" for number in row)) for name, row in kept.items()]
    assert table(KERNELS, "", "convolution's output") == wanted
    assert table(ROOT / "docs" / "pooling.md", "layer", "input") == moved


def test_the_ranges_of_options() -> None:
    wanted: dict[str, list[str]] = {}
    for name, limits in sorted(RANGES.items()):
        wanted.setdefault(str(limits), []).append("augment's `--size`" if name == "thumbnail" else f"`--{name}`")
    rows = {limits: options for options, limits in table(ROOT / "docs" / "training.md", "options", "wanted")}
    assert rows == {limits: ", ".join(options) for limits, options in wanted.items()}
