"""A replay that is steered by keys on a terminal, which is afterwards as it was."""

import fcntl
import json
import os
import pty
import re
import signal
import subprocess
import termios
import threading

import pytest

from peers import DEADLINE, Mosquitto, binary, run, wait_until


@pytest.fixture(scope="module")
def mosquitto():
    with Mosquitto() as started:
        yield started


class OnTerminal:
    """`mqtt replay --paused` of 20 messages, a minute apart, in the foreground of a terminal of its own."""

    def __init__(self, mosquitto, folder, *flags):
        session = {"version": 1, "messages": [{"t_ms": 60_000 * n, "topic": "t", "payload": str(n)} for n in range(20)]}
        file = folder / "slow.json"
        file.write_text(json.dumps(session))
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.receipt = folder / "receipt.json"
        command = ["mqtt", "replay", "--input", file, "--target", mosquitto.url, "--receipt", self.receipt, *flags]
        self.child = subprocess.Popen(
            [binary(), *map(str, command)],
            stdin=self.slave,
            stderr=self.slave,
            stdout=self.slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.seen = ""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        while True:
            try:
                self.seen += os.read(self.master, 4096).decode(errors="replace")
            except OSError:
                return

    def press(self, keys):
        os.write(self.master, keys.encode())

    def shows(self, pattern):
        """Waits for what is drawn from now on."""
        wait_until(lambda: re.search(pattern, self.seen), f"{pattern} on the terminal: {self.seen[-500:]}")
        self.seen = ""

    def ends(self):
        return self.child.wait(timeout=DEADLINE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.kill()
        self.child.wait()
        os.close(self.master)
        os.close(self.slave)

    def is_as_before(self):
        return termios.tcgetattr(self.slave) == self.before


def test_keys_step_burst_seek_and_change_the_speed(mosquitto, tmp_path):
    with OnTerminal(mosquitto, tmp_path, "--paused") as replay:
        replay.shows("keys: space pauses")
        assert not replay.is_as_before()
        replay.shows("0 messages sent.*paused")
        replay.press("n")
        replay.shows("1 message sent.*paused")
        replay.press("b")
        replay.shows("11 messages sent.*paused")
        replay.press("+")
        replay.shows("at 2x, paused")
        replay.press("--")
        replay.shows("at 0.5x, paused")
        replay.press("?")
        replay.shows("keys: space pauses")
        # Nine minutes of the recording are left; back to the one before, and once more.
        replay.press("\x1b[D")
        replay.press("n")
        replay.shows("12 messages sent")
        replay.press("m")
        replay.shows("without waiting, paused")
        replay.press(" ")
        assert replay.ends() == 0, replay.seen
        assert json.loads(replay.receipt.read_text())["sent"] == 21
        assert replay.is_as_before()


@pytest.mark.parametrize("how", ["q", "\x03", signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_the_terminal_is_as_it_was_however_it_ends(mosquitto, tmp_path, how):
    with OnTerminal(mosquitto, tmp_path, "--paused") as replay:
        replay.shows("messages sent")
        assert not replay.is_as_before()
        if isinstance(how, str):
            replay.press(how)
        else:
            replay.child.send_signal(how)
        code = replay.ends()
        # By hand and SIGTERM it is cancelled in order.
        assert code == (128 + how if how in (signal.SIGHUP, signal.SIGQUIT) else 130)
        assert replay.is_as_before()


def test_a_terminal_that_a_shell_has_made_its_own_is_taken_over_again(mosquitto, tmp_path):
    with OnTerminal(mosquitto, tmp_path, "--paused") as replay:
        replay.shows("messages sent")
        replay.child.send_signal(signal.SIGSTOP)
        termios.tcsetattr(replay.slave, termios.TCSANOW, replay.before)
        replay.child.send_signal(signal.SIGCONT)
        wait_until(lambda: not replay.is_as_before(), "the terminal to be taken over")
        replay.press("q")
        assert replay.ends() == 130
        assert replay.is_as_before()


def test_without_a_terminal_there_are_no_keys(mosquitto, tmp_path):
    file = tmp_path / "one.json"
    file.write_text(json.dumps({"version": 1, "messages": [{"t_ms": 0, "topic": "t", "payload": "x"}]}))
    command = ["mqtt", "replay", "--input", file, "--target", mosquitto.url]
    code, _, errors = run(*command)
    assert code == 0 and "keys:" not in errors
    code, _, errors = run(*command, "--paused")
    assert code == 2 and "no terminal" in errors


def test_a_terminal_that_is_shared_with_a_pager_is_left_to_it(mosquitto, tmp_path):
    file = tmp_path / "one.json"
    file.write_text(json.dumps({"version": 1, "messages": [{"t_ms": 0, "topic": "t", "payload": "x"}]}))
    master, slave = pty.openpty()
    command = [binary(), "mqtt", "replay", "--input", str(file), "--target", mosquitto.url, "--paused"]
    ended = subprocess.run(
        command,
        stdin=slave,
        stderr=slave,
        stdout=subprocess.PIPE,
        timeout=DEADLINE,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    assert ended.returncode == 2 and b"no terminal" in os.read(master, 4096)
    os.close(master)
    os.close(slave)
