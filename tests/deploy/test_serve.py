"""`hftrain check-serve` against `transformers serve` and servers that err; `hftrain chat`."""

import importlib.util
import io
import json
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from hftrain.cli import main
from hftrain.deploy.export import VECTORS, export
from hftrain.deploy.serving import Answer, ask, judge, read_vectors
from tests.programs import free_port
from tests.tiny import adapter_folder, chat_folder

PROMPTS = ("some words", "1 2 3 and a few words")


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    adapter = adapter_folder(chat_folder(folder / "base", scale=0.6), folder / "out")
    export(adapter, folder / "export", prompts=PROMPTS, max_new_tokens=8)
    return folder / "export"


@pytest.fixture
def server(exported):
    """A server of a few lines with vLLM's endpoints, that gives what the export gives, or what `changes` say."""
    vectors = {vector.messages[0]["content"]: vector for vector in read_vectors(exported)}
    changes: dict = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply({"data": [{"id": name} for name in changes.get("models", ["export"])]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            vector = vectors[body["messages"][-1]["content"]]
            if self.path == "/tokenize" and changes.get("tokenize", True):
                self.reply({"tokens": changes.get("tokens", vector.prompt_ids)})
            elif self.path == "/v1/chat/completions" and body["temperature"] == 0:
                message = {"role": "assistant", "content": changes.get("output", vector.output)}
                count = len(vector.prompt_ids) + changes.get("more", 0)
                self.reply({"choices": [{"message": message}], "usage": {"prompt_tokens": count}})
            else:
                self.send_error(404)

        def reply(self, value):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(value).encode())

        def log_message(self, *_):
            return

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}", changes
    running.shutdown()


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({}, 0, "2 of 2 answers equal the export's; prompts compared: 2 by tokens"),
        ({"tokenize": False}, 0, "prompts compared: 2 by number"),
        ({"tokens": [1, 2, 3]}, 1, "the prompt's tokens differ from token 0 on: [1, 2, 3] instead of"),
        ({"tokenize": False, "more": 1}, 1, "tokens on the server"),
        (
            {"output": "something else"},
            1,
            "NOT THE SAME: the answers differ from token 0 on: 'something else' instead of",
        ),
        ({"models": ["a", "b"]}, 2, "serves a, b: choose it with --model"),
    ],
)
def test_what_a_server_gives_is_compared(exported, server, capsys, changes, code, said):
    url, current = server
    current.update(changes)
    assert main(["check-serve", f"{url}/v1", str(exported)]) == code
    captured = capsys.readouterr()
    assert said in captured.out + captured.err


def test_no_server(exported, capsys):
    port = free_port()
    assert main(["check-serve", f"http://127.0.0.1:{port}", str(exported)]) == 2
    assert "cannot be reached" in capsys.readouterr().err


def test_rounding_decides_near_ties(exported):
    """Answers may part where two tokens are as likely; before that, and where one leads, they may not."""
    vector, tokenizer = read_vectors(exported)[0], AutoTokenizer.from_pretrained(exported)
    kept = tokenizer.decode(vector.output_ids[:3])
    other = Answer(None, None, kept + " other")
    clear, near = ([1.0] * 8 for _ in range(2))
    near[3] = 0.01
    assert judge(replace(vector, margins=clear), other, tokenizer, 0.05).problems
    verdict = judge(replace(vector, margins=near), other, tokenizer, 0.05)
    assert not verdict.problems and "a near tie" in verdict.notes[0] and "differ from token 3" in verdict.notes[0]


@pytest.mark.slow
def test_transformers_serve_gives_the_same(exported, capsys):
    """The real server, on loopback: tokens by their number and greedy answers as exported; another model's are not."""
    if missing := [name for name in ("fastapi", "uvicorn", "openai") if importlib.util.find_spec(name) is None]:
        pytest.skip(f"transformers serve needs {', '.join(missing)}")
    port = free_port()
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(exported), "--port", port]
    serving = subprocess.Popen([*command, "--device", "cpu", "--host", "127.0.0.1"])
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                ask(f"{url}/health", None, 5)
                break
            except ValueError:
                assert serving.poll() is None, "transformers serve did not start"
                time.sleep(0.2)
        assert main(["check-serve", url, str(exported), "--model", str(exported)]) == 0
        assert "2 of 2 answers equal the export's; prompts compared: 2 by number" in capsys.readouterr().out
        vectors = json.loads((exported / VECTORS).read_text())
        for vector in vectors["vectors"]:
            vector["output"] = "other words"
        (other := exported.parent / "other").mkdir()
        (other / VECTORS).write_text(json.dumps(vectors))
        AutoTokenizer.from_pretrained(exported).save_pretrained(other)
        assert main(["check-serve", url, str(other), "--model", str(exported)]) == 1
    finally:
        serving.terminate()
        serving.wait(30)


# ---- hftrain chat ----


def talk(monkeypatch, capsys, arguments: list[str], lines: list[str]) -> list[str]:
    """What the command says to `lines` on standard input."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines) + "\n"))
    assert main(["chat", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_chat_answers_as_the_export_does(exported, monkeypatch, capsys):
    """The first answer is the test vector's; /new begins again, /exit ends; the second turn sees the first."""
    vector = read_vectors(exported)[0]
    arguments = [str(exported), "--max_new_tokens", "8"]
    lines = ["some words", "some words", "/new", "some words", "/exit", "not read"]
    first, second, third = talk(monkeypatch, capsys, arguments, lines)
    assert first == third == vector.output and second != first


def test_chat_with_an_adapter_and_a_system_message(exported, monkeypatch, capsys):
    adapter = exported.parent / "out"
    arguments = [str(adapter), "--max_new_tokens", "8"]
    plain = talk(monkeypatch, capsys, arguments, ["some words"])
    assert talk(monkeypatch, capsys, [*arguments, "--system", "numbers"], ["some words"]) != plain
    sampled = [*arguments, "--temperature", "5", "--seed"]
    one, again, two = (talk(monkeypatch, capsys, [*sampled, seed], ["some words"]) for seed in ("1", "1", "2"))
    assert one == again != two


def test_chat_forgets_the_oldest_turns(tmp_path, monkeypatch, capsys):
    base = chat_folder(tmp_path / "base", max_position_embeddings=48)
    monkeypatch.setattr(sys, "stdin", io.StringIO("some words\n" * 4))
    assert main(["chat", str(base), "--max_new_tokens", "8"]) == 0
    assert "the oldest turn is dropped: the model reads only 48 tokens" in capsys.readouterr().err


def test_chat_without_a_template(tmp_path, monkeypatch, capsys):
    base = chat_folder(tmp_path / "base")
    (base / "chat_template.jinja").unlink()
    assert talk(monkeypatch, capsys, [str(base), "--max_new_tokens", "4"], ["some"]) != []
    assert main(["chat", str(base), "--system", "x"]) == 2


def test_chat_with_our_own_decoder(tmp_path, monkeypatch, capsys):
    from hftrain.models import TransformerConfig, TransformerForCausalLM
    from tests.tiny import chat_tokenizer

    tokenizer = chat_tokenizer()
    shape = {"hidden_size": 32, "num_decoder_layers": 2, "num_encoder_layers": 0, "is_encoder_decoder": False}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    TransformerForCausalLM(TransformerConfig(vocab_size=len(tokenizer), **shape, **ids)).save_pretrained(
        tmp_path / "own"
    )
    tokenizer.save_pretrained(tmp_path / "own")
    assert len(talk(monkeypatch, capsys, [str(tmp_path / "own"), "--max_new_tokens", "4"], ["some", "words"])) >= 1
