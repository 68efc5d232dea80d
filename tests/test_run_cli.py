"""ggq-run: what goes to stdout, what ends it and how, and what its flags mean."""

from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ggq.errors import UsageError
from ggq.runtime import cli
from ggq.runtime.flags import parser, sampling
from ggq.runtime.prompt import unescape
from ggq.runtime.sampler_params import SamplerParams
from tests.fake_model import FakeModel

ROOT = Path(__file__).resolve().parent.parent
REPLY = "Hello, wörld!"


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


class Run:
    """ggq-run inside this process with a fake model."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._patch, self._capture = monkeypatch, capfd
        self.model = FakeModel()

    def __call__(
        self, *args: str, stdin: bytes = b"", terminal: bool = False
    ) -> tuple[int, str, str]:
        kind = Terminal if terminal else io.TextIOWrapper
        self._patch.setattr(sys, "stdin", kind(io.BytesIO(stdin)))
        self._patch.setattr(sys, "argv", ["ggq-run", *args])
        self._patch.setattr(cli, "load_model", lambda args: self.model)
        try:
            code = cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *self._capture.readouterr()

    @property
    def read(self) -> str:
        """What the model was given, and said, in its only session."""
        (session,) = self.model.sessions
        return bytes(session.read).decode()

    @property
    def prompts(self) -> list[str]:
        """What it was given, turn by turn."""
        (session,) = self.model.sessions
        return [bytes(tokens).decode() for tokens in session.prefilled]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    return Run(monkeypatch, capfd)


# --- the prompt and the answer --------------------------------------------------------------------


def test_stdout_holds_the_new_text_and_a_newline(run: Run) -> None:
    code, out, err = run("m.gguf", "-p", "hi", "--temp", "0")
    assert (code, out) == (0, REPLY + "\n")
    assert run.prompts == ["<user>hi<assistant>"]
    assert "Traceback" not in err


def test_no_cnv_gives_the_prompt_as_it_is(run: Run) -> None:
    assert run("m.gguf", "-p", "hi", "-no-cnv")[1] == REPLY + "\n"
    assert run.prompts == ["hi"]


def test_a_model_without_template_gets_the_prompt_as_it_is(run: Run) -> None:
    run.model = FakeModel(chat=False)
    code, _, err = run("m.gguf", "-p", "hi", "-sys", "be brief")
    assert (code, run.prompts) == (0, ["hi"])
    assert "-sys is ignored" in err


def test_cnv_without_template_is_refused(run: Run) -> None:
    run.model = FakeModel(chat=False)
    code, out, err = run("m.gguf", "-p", "hi", "-cnv")
    assert code == 3
    assert "no chat template" in err
    assert out == ""


def test_the_system_message_comes_first(run: Run) -> None:
    run("m.gguf", "-p", "hi", "-sys", "be brief")
    assert run.prompts == ["<system>be brief<user>hi<assistant>"]


@pytest.mark.parametrize("args", [[], ["-p", "-"]])
def test_a_piped_prompt_is_answered_once(run: Run, args: list[str]) -> None:
    code, out, _ = run("m.gguf", *args, "-no-cnv", stdin="zwei\nZeilen ü\n".encode())
    assert (code, out, run.prompts) == (0, REPLY + "\n", ["zwei\nZeilen ü"])


def test_cnv_with_a_pipe_answers_once_too(run: Run) -> None:
    code, out, _ = run("m.gguf", "-cnv", stdin=b"hi")
    assert (code, out) == (0, REPLY + "\n")


def test_a_prompt_from_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("a\\nb\n\n")
    run("m.gguf", "-f", str(tmp_path / "prompt.txt"), "-no-cnv")
    assert run.prompts == ["a\\nb\n"]


def test_escapes_of_p_are_llama_cpps() -> None:
    assert unescape(r"a\nb\t\"\'\\n\q\x41\xc3\xbc\x") == "a\nb\t\"'\\n\\qAü\\x"
    with pytest.raises(UsageError, match="not UTF-8"):
        unescape(r"\xff")


def test_escapes_can_be_switched_off(run: Run) -> None:
    run("m.gguf", "-no-cnv", "--no-escape", "-p", r"a\nb")
    assert run.prompts == [r"a\nb"]


def test_a_prompt_on_a_terminal_is_answered_once(run: Run) -> None:
    code, out, _ = run("m.gguf", "-p", "one", stdin=b"two\n", terminal=True)
    assert (code, out, len(run.prompts)) == (0, REPLY + "\n", 1)


def test_cnv_on_a_terminal_goes_on_after_the_prompt(run: Run) -> None:
    code, out, _ = run("m.gguf", "-cnv", "-p", "one", stdin=b"two\n\nthree\n", terminal=True)
    assert (code, out) == (0, (REPLY + "\n") * 3)
    assert run.prompts[1:] == ["<user>two<assistant>", "<user>three<assistant>"]


def test_a_terminal_without_prompt_converses(run: Run) -> None:
    assert run("m.gguf", stdin=b"one\ntwo\n", terminal=True)[1] == (REPLY + "\n") * 2


def test_a_terminal_without_prompt_and_template_is_a_usage_error(run: Run) -> None:
    run.model = FakeModel(chat=False)
    code, out, err = run("m.gguf", terminal=True)
    assert (code, out) == (2, "")
    assert "give a prompt with -p" in err


@pytest.mark.parametrize("args", [["-st"], ["-st", "-p", "zero", "-cnv"]])
def test_a_single_turn_is_one_answer(run: Run, args: list[str]) -> None:
    assert run("m.gguf", *args, stdin=b"one\ntwo\n", terminal=True)[1] == REPLY + "\n"


def test_the_reply_may_hold_what_moves_a_cursor_but_a_terminal_does_not_see_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.model = FakeModel("a\x1b[2Jb\n")
    assert run("m.gguf", "-p", "x")[1] == "a\x1b[2Jb\n\n"
    monkeypatch.setattr(sys, "stdout", Terminal(io.BytesIO()))
    run("m.gguf", "-p", "x")
    written = sys.stdout.buffer.getvalue()  # type: ignore[attr-defined]
    assert written == b"a[2Jb\n\n"


# --- limits ---------------------------------------------------------------------------------------


def test_n_limits_the_tokens(run: Run) -> None:
    assert run("m.gguf", "-p", "x", "-n", "4")[1] == "Hell\n"


def test_a_full_context_stops_with_a_notice(run: Run) -> None:
    code, out, err = run("m.gguf", "-no-cnv", "-p", "12345", "-c", "8")
    assert (code, out) == (0, "Hell\n")
    assert "the context of 8 tokens is full" in err


def test_a_context_beyond_the_training_is_remarked(run: Run) -> None:
    code, out, err = run("m.gguf", "-p", "x", "-c", "8192")
    assert (code, out) == (0, REPLY + "\n")
    assert "trained for 4,096 tokens, not 8,192" in err


def test_a_prompt_too_long_is_an_error_with_both_numbers(run: Run) -> None:
    code, out, err = run("m.gguf", "-no-cnv", "-p", "123456789", "-c", "8")
    assert (code, out) == (1, "")
    assert "ggq-run: error: the prompt is too long: 9 tokens, but the context holds 8" in err
    assert "eval time" not in err


def test_ignore_eos_goes_on(run: Run) -> None:
    code, out, _ = run("m.gguf", "-p", "x", "-n", "40", "--ignore-eos", "--temp", "0")
    assert code == 0
    assert len(out.encode()) > len((REPLY + "\n").encode())


# --- flags ----------------------------------------------------------------------------------------


def test_the_defaults_are_llama_cpps() -> None:
    args = parser().parse_args(["m.gguf"])
    assert sampling(args) == SamplerParams(-1, 0.8, 40, 0.95, 0.05, 64, 1.0, 0.0, 0.0)
    assert (args.predict, args.ctx_size, args.threads) == (-1, 0, 0)


def test_every_flag_is_taken() -> None:
    line = (
        "-m x.gguf -f y -n 5 -c 512 -t 2 -s 7 --temp 0.5 --top-k 10 --top-p 0.9 --min-p 0.1"
        " --repeat-penalty 1.1 -sys z -cnv -st --no-mmap --ignore-eos --no-display-prompt -ngl 99"
    )
    args = parser().parse_args(line.split())
    assert sampling(args) == SamplerParams(7, 0.5, 10, 0.9, 0.1, 64, 1.1)
    assert (args.model, args.file, args.predict, args.ctx_size) == ("x.gguf", "y", 5, 512)
    assert args.chat is args.single_turn is args.no_mmap is args.ignore_eos is True


def test_llama_cpps_random_seed_is_random() -> None:
    assert sampling(parser().parse_args(["m", "-s", "4294967295"])).seed == -1


def test_ngl_is_ignored_with_a_note(run: Run) -> None:
    code, out, err = run("m.gguf", "-p", "x", "-ngl", "all")
    assert (code, out) == (0, REPLY + "\n")
    assert "-ngl is ignored" in err


def test_timings_have_llama_cpps_form(run: Run) -> None:
    err = run("m.gguf", "-p", "x", "-n", "3")[2]
    for form in (
        "prompt eval time = ",
        " tokens per second)",
        "       eval time = ",
        "     2 runs   (",
        "load time = ",
        "total time = ",
    ):
        assert form in err, form


def test_a_random_seed_is_told_so_that_the_text_can_be_had_again(run: Run) -> None:
    assert "sampler seed: " in run("m.gguf", "-p", "x")[2]
    assert "sampler seed: " not in run("m.gguf", "-p", "x", "-s", "1")[2]


@pytest.mark.parametrize(
    "args, says",
    [
        ([], "wanted one model"),
        (["a.gguf", "-m", "b.gguf"], "got 2"),
        (["m", "-p", "x", "-f", "y"], "not allowed with"),
        (["m", "-cnv", "-no-cnv"], "not allowed with"),
        (["m", "-p", "x", "-n", "few"], "invalid int"),
        (["m", "-p", "x", "-c", "-5"], "negative"),
        (["m", "-p", "x", "--temp", "nan"], "finite"),
        (["m", "-p", "x", "--repeat-penalty", "0"], "above 0"),
        (["m", "-p", "x", "--no-such-flag"], "--no-such-flag"),
        (["m", "-p", ""], "no prompt"),
        (["m"], "no prompt"),
        (["m", "-no-cnv"], "no prompt"),
        (["m", "-p", "\udcff"], "not UTF-8"),
    ],
)
def test_usage_errors_end_with_2(run: Run, args: list[str], says: str) -> None:
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert says in err
    assert "Traceback" not in err


def test_a_file_that_is_not_text_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"ab\xff")
    code, _, err = run("m", "-f", str(tmp_path / "x.bin"))
    assert code == 2
    assert "byte 0xff at 2" in err


@pytest.mark.parametrize("flag", ["missing.gguf", "-f"])
def test_missing_files_end_with_4(
    flag: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    args = ["missing.gguf", "-p", "x"] if flag == "missing.gguf" else ["m", "-f", "missing.txt"]
    monkeypatch.setattr(sys, "argv", ["ggq-run", *args])
    assert cli.main() == 4
    assert capfd.readouterr().err.startswith("ggq-run: error: missing.")


def test_version(run: Run) -> None:
    code, out, _ = run("--version")
    assert code == 0
    assert out.startswith("ggq-run ")


def test_help_and_version_import_neither_numpy_nor_numba() -> None:
    code = (
        "import sys; from ggq.runtime.cli import main; sys.argv = ['ggq-run', '--help']\n"
        "try: main()\nexcept SystemExit: print({'numpy', 'numba'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.endswith("set()\n"), done


# --- as a process ---------------------------------------------------------------------------------


def start(*args: str, stdin: int = subprocess.DEVNULL, **fake: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.fake_model", "m.gguf", *args]
    environment = os.environ | {f"FAKE_{key.upper()}": value for key, value in fake.items()}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=stdin,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def first_bytes(process: subprocess.Popen[Any], count: int = 1) -> bytes:
    assert process.stdout is not None
    return os.read(process.stdout.fileno(), count)


def test_text_comes_token_by_token() -> None:
    process = start("-p", "x", reply="ab" * 10000, delay="0.01")
    assert first_bytes(process) == b"a"
    assert process.poll() is None
    process.kill()
    process.communicate(timeout=30)


def test_ctrl_c_ends_with_130_and_the_timings() -> None:
    process = start("-p", "x", "--ignore-eos", delay="0.01")
    first_bytes(process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out.endswith(b"\n")
    assert b"eval time" in err
    assert b"Traceback" not in err


def test_a_closed_pipe_ends_quietly() -> None:
    process = start("-p", "x", "--ignore-eos", "-s", "1", delay="0.001")
    first_bytes(process)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=30) == 0
    assert b"Error" not in err
    assert b"error" not in err


def test_ctrl_c_ends_the_answer_but_not_a_conversation() -> None:
    terminal, stdin = pty.openpty()
    process = start(stdin=stdin, reply="ab" * 1000, delay="0.01")
    os.close(stdin)
    os.write(terminal, b"one\n")
    first_bytes(process)
    process.send_signal(signal.SIGINT)
    os.write(terminal, b"two\n")
    while b"\n" not in first_bytes(process, 4096):
        pass
    assert first_bytes(process).startswith((b"a", b"b"))
    process.send_signal(signal.SIGINT)
    os.write(terminal, b"\x04")
    _, err = process.communicate(timeout=30)
    os.close(terminal)
    assert process.returncode == 0, err
    assert b"Traceback" not in err


def test_a_locale_without_utf8_changes_nothing() -> None:
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", "tests.fake_model", "m.gguf", "-p", "wörld"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=60)
    assert done.stdout == (REPLY + "\n").encode()
