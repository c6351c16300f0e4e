"""llama.cpp itself runs the GGUF files and says what stock transformers says of the folders they were made from.

llama-cpp-python is an optional extra, compiled on this machine: `make test-gguf` installs it and runs this file.
TOLERANCE was chosen before any run, from the formats' rounding.
"""

import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from tests.support.models import FAMILIES
from transformers import AutoTokenizer

from llama_nas.core.shape import ModelShape
from llama_nas.core.space import SearchSpace
from llama_nas.exports.export import export
from llama_nas.exports.forms.gguf import write_gguf
from llama_nas.models.folder import load_model

if find_spec("llama_cpp") is None:
    pytest.skip("SKIPPED FOR LACK OF llama.cpp: run `make test-gguf`", allow_module_level=True)

KINDS = ("uniform", "mixed")
STEPS = 12
# Logits relative to the largest one. f16: weights and attention in FP16. q8_0: activations are rounded to 8 bits, too.
TOLERANCE = {"f16": 5e-3, "q8_0": 5e-2}

RUN = """
import sys
sys.modules["llama_nas"] = sys.modules["transformers"] = None
import numpy as np
from llama_cpp import Llama
output, tokens_file, *files = sys.argv[1:]
sequences, texts = [np.load(tokens_file)[f"s{i}"] for i in range(3)], [str(t) for t in np.load(tokens_file)["texts"]]
found = {}
for i, file in enumerate(files):
    model = Llama(file, n_ctx=64, logits_all=True, n_threads=1, verbose=False)
    for j, (sequence, text) in enumerate(zip(sequences, texts)):
        found[f"{i}.tokens.{j}"] = np.array(model.tokenize(text.encode(), add_bos=True, special=False))
        model.reset()
        model.eval(sequence.tolist())
        found[f"{i}.logits.{j}"] = np.array(model.scores[: len(sequence)])
    greedy = list(sequences[0][:8])
    model.reset()
    model.eval([int(t) for t in greedy])
    for _ in range(STEPS):
        greedy.append(int(np.argmax(model.scores[model.n_tokens - 1])))
        model.eval(greedy[-1:])
    found[f"{i}.greedy"] = np.array(greedy)
np.savez(output, **found)
"""


@pytest.fixture(scope="module")
def world(gguf_exports, texts):
    """Every file, and what llama.cpp computes from it in a process that has neither this package nor transformers."""
    root = gguf_exports
    cases = [(family, kind, file_type) for family in FAMILIES for kind in KINDS for file_type in TOLERANCE]
    files = []
    for family, kind, file_type in cases:
        files.append(root / f"{family}-{kind}-{file_type}.gguf")
        write_gguf(files[-1], model=root / family / kind, type=file_type)
    tokenizer = AutoTokenizer.from_pretrained(root / "llama/uniform")
    sequences = [np.array(tokenizer(text)["input_ids"][:60]) for text in texts]
    np.savez(root / "in.npz", texts=np.array(texts), **{f"s{i}": s for i, s in enumerate(sequences)})
    command = [sys.executable, "-c", RUN.replace("STEPS", str(STEPS)), root / "out.npz", root / "in.npz", *files]
    result = subprocess.run(command, cwd=root, env=os.environ, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    out = np.load(root / "out.npz")
    found = {
        case: {k.split(".", 1)[1]: out[k] for k in out if k.split(".")[0] == str(i)} for i, case in enumerate(cases)
    }
    return root, sequences, found


@pytest.mark.parametrize("file_type", TOLERANCE)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_log_likelihoods_and_greedy_tokens_are_those_of_transformers(world, family, kind, file_type):
    root, sequences, found = world
    model, ran = load_model(root / family / kind, "fp32"), found[family, kind, file_type]
    tolerance = TOLERANCE[file_type]
    for j, sequence in enumerate(sequences):
        with torch.inference_mode():
            logits = model(torch.from_numpy(sequence)[None]).logits[0].numpy()
        assert np.abs(ran[f"logits.{j}"] - logits).max() <= tolerance * np.abs(logits).max()
        ours, theirs = log_likelihood(logits, sequence), log_likelihood(ran[f"logits.{j}"], sequence)
        assert abs(ours - theirs) / (len(sequence) - 1) < 2 * tolerance * np.abs(logits).max()
    if file_type == "f16":
        prompt = torch.from_numpy(sequences[0][:8])[None]
        wanted = model.generate(prompt, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False, eos_token_id=None)
        assert ran["greedy"].tolist() == wanted[0].tolist()


def log_likelihood(logits: np.ndarray, sequence: np.ndarray) -> float:
    """Sum over the tokens after the first, in nats."""
    logprobs = torch.from_numpy(np.ascontiguousarray(logits)).double().log_softmax(-1)
    return float(logprobs[:-1].gather(1, torch.from_numpy(sequence[1:])[:, None]).sum())


@pytest.mark.parametrize("file_type", TOLERANCE)
def test_llama_cpp_cuts_text_into_the_same_tokens(world, texts, file_type):
    root, _, found = world
    tokenizer = AutoTokenizer.from_pretrained(root / "llama/uniform")
    for j, text in enumerate(texts):
        assert found["llama", "mixed", file_type][f"tokens.{j}"].tolist() == tokenizer(text)["input_ids"]


def test_the_real_small_llama_with_its_sentencepiece_tokenizer(hub, tmp_path):
    source = hub / "karpathy/stories260K"
    space = tmp_path / "space.json"
    SearchSpace.declare(ModelShape.from_folder(source), [5], [172, 86]).write(space)
    export(tmp_path / "01x10", supernet=source, space=space, subnet="01x10")
    write_gguf(tmp_path / "m.gguf", model=tmp_path / "01x10", type="f16")
    tokenizer, model = AutoTokenizer.from_pretrained(source), load_model(tmp_path / "01x10", "fp32")
    texts = ["Once upon a time, there was a little girl named Lily.", "She said: 'Ünïcödé!'", "Tom ran. He was happy"]
    sequences = [np.array(tokenizer(text)["input_ids"][:60]) for text in texts]
    np.savez(tmp_path / "in.npz", texts=np.array(texts), **{f"s{i}": s for i, s in enumerate(sequences)})
    command = [sys.executable, "-c", RUN.replace("STEPS", "3"), tmp_path / "out.npz", tmp_path / "in.npz"]
    subprocess.run([*command, tmp_path / "m.gguf"], check=True, cwd=tmp_path)
    out = np.load(tmp_path / "out.npz")
    for j, sequence in enumerate(sequences):
        assert out[f"0.tokens.{j}"].tolist() == sequence.tolist()
        with torch.inference_mode():
            logits = model(torch.from_numpy(sequence)[None]).logits[0].numpy()
        assert np.abs(out[f"0.logits.{j}"] - logits).max() <= TOLERANCE["f16"] * np.abs(logits).max()
