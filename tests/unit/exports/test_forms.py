"""The registry of forms: every form answers the protocol, and rules, paths, config and registry know the same forms."""

import json
import re
from pathlib import Path

import pytest
from tests.support.models import IDS, write_space, write_supernet

from llama_nas.cli import main
from llama_nas.core.errors import UserError
from llama_nas.core.precisions import QUANTIZED
from llama_nas.core.shape import Block, ModelShape, Subnet
from llama_nas.exports.export import describe, export
from llama_nas.exports.forms import FOLDERS, FORMS, GGUF_TYPES, network_path
from llama_nas.exports.forms.gguf import FILE_TYPES

REPOSITORY = Path(__file__).resolve().parents[3]
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "vocab_size": 64,
    "rope_theta": 10000.0,
}
SHAPE = ModelShape.from_config(CONFIG)
UNIFORM = Subnet((Block(mlp_width=512), None, Block(mlp_width=512), Block(mlp_width=512)))
MIXED = Subnet((Block(mlp_width=768), None, Block(mlp_width=300), Block(mlp_width=512)))


@pytest.mark.parametrize("name", FOLDERS)
def test_a_form_has_every_function_of_the_protocol(name):
    assert all(callable(getattr(FOLDERS[name], part)) for part in ("stored", "config", "files", "requires", "loading"))


@pytest.mark.parametrize("network", [UNIFORM, MIXED, SHAPE.full], ids=["uniform", "mixed", "full"])
@pytest.mark.parametrize("name", FOLDERS)
def test_what_is_stored_keeps_the_layers_and_cuts_none(name, network):
    stored = FOLDERS[name].stored(network)
    assert stored.kept == network.kept
    assert all(held >= width for held, width in zip(stored.widths, network.widths, strict=True))
    assert FOLDERS[name].stored(stored) == stored


@pytest.mark.parametrize("network", [UNIFORM, MIXED, SHAPE.full], ids=["uniform", "mixed", "full"])
@pytest.mark.parametrize("name", FOLDERS)
def test_config_files_needs_and_card_of_a_form_fit_each_other(name, network):
    form, given = FOLDERS[name], dict(CONFIG)
    stored = form.stored(network)
    config = form.config(given, stored, SHAPE)
    assert given == CONFIG and json.loads(json.dumps(config)) == config
    assert config["num_hidden_layers"] == 3 + (network == SHAPE.full)
    code = {path.stem: path.read_text() for path in form.files(config)}
    named = {target.partition(".")[::2] for target in config.get("auto_map", {}).values()}
    assert {module for module, _ in named} == set(code)
    assert all(re.search(rf"^class {name}\b", code[module], re.M) for module, name in named)
    record = describe("00", network, SHAPE, [], name)
    assert record["form"] == name and record["requires"] == form.requires(stored)
    assert ("trust_remote_code" in record["requires"]) == any(key != "AutoConfig" for key in config.get("auto_map", {}))
    lines = form.loading(record)
    assert lines and all(isinstance(line, str) and "\n" not in line for line in lines)
    assert ("trust_remote_code=True" in "\n".join(lines)) == bool(record["requires"])


def test_only_hf_needs_code_and_only_for_mixed_widths():
    needs = {name: bool(form.requires(form.stored(MIXED))) for name, form in FOLDERS.items()}
    assert needs == {"hf": True, "padded": False, "deci": False}
    assert not any(form.requires(form.stored(UNIFORM)) for form in FOLDERS.values())


def patterns() -> dict[str, re.Pattern]:
    """By rule, the paths of networks that it writes: its output with its own constraint for the last wildcard."""
    rules = (REPOSITORY / "workflow/rules/networks.smk").read_text().split("\nrule ")
    names = {"FOLDERS": FOLDERS, "GGUF_TYPES": GGUF_TYPES, "QUANTIZED": QUANTIZED}
    found = {}
    for rule in rules[1:]:
        output = re.search(r'output:\s*(?:directory\()?"(results/networks/\S+?)"', rule)
        if output is None:
            continue
        constraint = re.search(r"wildcard_constraints:\s*(\w+)=(.+),", rule)
        path = re.sub(r"\{(subnet|network)\}", "[^/]+", re.escape(output[1]).replace(r"\{", "{").replace(r"\}", "}"))
        path = path.replace(f"{{{constraint[1]}}}", f"({eval(constraint[2], names)})")
        assert "{" not in path
        found[rule.partition(":")[0]] = re.compile(path)
    return found


@pytest.mark.parametrize("name", [*FORMS, *QUANTIZED])
def test_one_rule_writes_every_form_where_its_path_says(name):
    path = f"results/{network_path('00000000-0xxx', name)}"
    matching = [rule for rule, pattern in patterns().items() if pattern.fullmatch(path)]
    assert matching == ["export" if name in FOLDERS else "quantize" if name in QUANTIZED else "write_gguf"]


def test_the_config_the_registry_and_the_writer_of_gguf_know_the_same_forms():
    schema = json.loads((REPOSITORY / "workflow/schemas/config.schema.json").read_text())
    formats = schema["properties"]["export"]["properties"]["formats"]
    assert tuple(formats["items"]["enum"]) == FORMS == (*FOLDERS, *(f"gguf-{kind}" for kind in FILE_TYPES))
    assert set(formats["default"]) <= set(FORMS) and not set(FORMS) & set(QUANTIZED)


@pytest.mark.parametrize("name", ["onnx", "gguf-f16", "int8"])
def test_a_form_that_is_no_folder_is_refused_in_one_line(tmp_path, capsys, name):
    supernet = write_supernet(tmp_path / "super")
    space = write_space(supernet)
    with pytest.raises(UserError, match=f"--form '{name}' is not known; known: hf, padded, deci") as error:
        export(tmp_path / "out", supernet=supernet, space=space, subnet=IDS["mixed"], form=name)
    assert "\n" not in str(error.value)
    capsys.readouterr()
    words = ["--supernet", supernet, "--space", space, "--subnet", IDS["mixed"], "--form", name]
    assert main(["export", *map(str, words), "--output", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"llama-nas export: error: {error.value}"
    assert not (tmp_path / "out").exists()


def test_a_form_added_to_the_registry_is_exported_and_has_a_path(tmp_path, monkeypatch):
    """An entry is all it takes: no other code knows the forms by name."""
    monkeypatch.setitem(FOLDERS, "wide", FOLDERS["padded"])
    supernet = write_supernet(tmp_path / "super")
    path = tmp_path / network_path(IDS["mixed"], "wide")
    export(path, supernet=supernet, space=write_space(supernet), subnet=IDS["mixed"], form="wide")
    assert path == tmp_path / "networks" / IDS["mixed"] / "wide"
    assert json.loads((path / "subnet.json").read_text())["form"] == "wide" and (path / "model.safetensors").is_file()


def test_an_unknown_type_of_gguf_is_refused_in_one_line(tmp_path, capsys):
    words = ["--type", "q4", "--model", str(tmp_path), "--output", str(tmp_path / "x.gguf")]
    assert main(["write-gguf", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "llama-nas write-gguf: error: --type 'q4' is not known; known: f16, q8_0"
