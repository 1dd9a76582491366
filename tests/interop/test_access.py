"""Users, passwords and access rules, seen by the clients that people have."""

import os
import re
import signal
import stat
import subprocess

import paho.mqtt.client as paho
import pytest

from pahoclient import V5, V31, V311, Client
from peers import DEADLINE, Mockforge, Process, binary, needs, run, wait_until

RULES = """
mqtt:
  allow_anonymous: {anonymous}
  password_file: passwd
  users:
    - {{username: bob, groups: [operators]}}
  acl:
    - {{deny: publish, topics: [plant/+/firmware], groups: [devices]}}
    - {{allow: all, topics: ['home/%u/#', 'clients/%c/#', 'firmware/+']}}
    - {{allow: subscribe, topics: ['plant/#', '$SYS/#'], groups: [operators]}}
    - {{allow: publish, topics: [plant/1/state], users: [alice]}}
    - {{allow: publish, topics: [hello], clients: ['probe-*'], anonymous: true}}
"""


def mosquitto_passwd(file, *users):
    """A password file as mosquitto's own command makes it."""
    for number, (name, password) in enumerate(users):
        create = ["-c"] if number == 0 else []
        command = [needs("mosquitto_passwd"), "-b", *create, file, name, password]
        subprocess.run(list(map(str, command)), check=True, capture_output=True, timeout=DEADLINE)


def passwd(file, name, password, *flags):
    """The same with ours."""
    done = subprocess.run(
        [binary(), "passwd", *flags, "--stdin", str(file), name],
        input=f"{password}\n",
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stderr


def settings(folder, anonymous="false"):
    (folder / "mockforge.yaml").write_text(RULES.format(anonymous=anonymous))
    return str(folder / "mockforge.yaml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("access")
    mosquitto_passwd(folder / "passwd", ("alice", "secret"), ("bob", "b"))
    passwd(folder / "passwd", "carol", "c")
    return folder


@pytest.fixture(scope="module")
def broker(folder):
    with Mockforge("--config", settings(folder), MOCKFORGE_LOG_LEVEL="debug") as started:
        yield started


def login(broker, version, name, password, client_id="", **asked):
    client = Client(broker, version, client_id, **asked)
    if name is not None:
        client.paho.username_pw_set(name, password)
    return client


def mosquitto(command, broker, *arguments):
    done = subprocess.run(
        [needs(command), "-h", "127.0.0.1", "-p", str(broker.port), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    return done.returncode, done.stdout + done.stderr


def test_files_of_passwords_are_private_and_keep_what_is_in_them(tmp_path):
    file = tmp_path / "passwd"
    passwd(file, "alice", "one", "-c")
    file.write_text("# ours\n" + file.read_text())
    passwd(file, "bob", "two")
    passwd(file, "alice", "three")
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    lines = file.read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == ["# ours", "alice", "bob"]
    assert all(line.split(":")[1].startswith("$argon2id$v=19$") for line in lines[1:])
    os.chmod(file, 0o640)
    passwd(file, "bob", "four")
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o640
    code, _, error = run("passwd", "--stdin", "-c", file, "eve")
    assert code == 2 and "with --force it is replaced" in error
    assert len(file.read_text().splitlines()) == 3
    passwd(file, "eve", "five", "-c", "--force")
    assert [line.split(":")[0] for line in file.read_text().splitlines()] == ["eve"]
    assert sorted(os.listdir(tmp_path)) == ["passwd"]


def test_what_passwd_cannot_do_is_said(tmp_path):
    code, _, error = run("passwd", "--stdin", tmp_path / "none", "alice")
    assert code == 2 and "there is no such file; -c makes it" in error
    code, _, error = run("passwd", "--stdin", "-c", tmp_path / "none", "al:ice")
    assert code == 2 and "no colon" in error
    code, _, error = run("passwd", "--stdin", "-c", tmp_path / "none", "alice")
    assert code == 1 and "the password is empty" in error
    code, _, error = run("passwd", "-c", tmp_path / "none", "alice")
    assert code == 1 and "--stdin" in error
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("typed,code,says", [(b"s\ns\n", 0, b""), (b"s\nt\n", 1, b"the passwords differ")])
def test_passwords_are_asked_for_twice_and_not_shown(tmp_path, typed, code, says):
    pid, terminal = os.forkpty()
    if pid == 0:
        os.execv(binary(), ["mockforge", "passwd", "-c", str(tmp_path / "passwd"), "alice"])
    output = b""
    for line in typed.splitlines(keepends=True):
        while not output.endswith(b": "):
            output += os.read(terminal, 1024)
        os.write(terminal, line)
        output += b"\n"
    try:
        while part := os.read(terminal, 1024):
            output += part
    except OSError:
        pass
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == code, output
    assert says in output and b"s\r" not in output
    assert (tmp_path / "passwd").exists() == (code == 0)


def test_an_interrupted_question_leaves_the_terminal_as_it_was(tmp_path):
    import termios

    pid, terminal = os.forkpty()
    if pid == 0:
        os.execv(binary(), ["mockforge", "passwd", "-c", str(tmp_path / "passwd"), "alice"])
    output = b""
    while not output.endswith(b": "):
        output += os.read(terminal, 1024)
    assert not termios.tcgetattr(terminal)[3] & termios.ECHO
    os.kill(pid, signal.SIGINT)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 130
    assert termios.tcgetattr(terminal)[3] & termios.ECHO
    os.close(terminal)


@pytest.mark.parametrize("version", [V31, V311, V5])
@pytest.mark.parametrize("name,password", [("alice", "secret"), ("bob", "b"), ("carol", "c")])
def test_the_right_password_lets_in(broker, version, name, password):
    with login(broker, version, name, password, f"{name}-{version}") as client:
        assert client.connect().reason == 0


@pytest.mark.parametrize("version", [V31, V311, V5])
@pytest.mark.parametrize("name,password", [("alice", "Secret"), ("alice", ""), ("alice", None), ("mallory", "secret")])
def test_a_wrong_one_does_not(broker, version, name, password):
    with login(broker, version, name, password, "wrong") as client:
        # paho names the old return code 4 by the new reason code.
        assert client.connect().reason == 0x86


@pytest.mark.parametrize("version", [V31, V311, V5])
def test_who_says_no_name_is_not_let_in_unless_anonymous_clients_are(broker, folder, version):
    with login(broker, version, None, None, "nobody") as client:
        assert client.connect().reason == 0x87
    with Mockforge("--config", settings(folder, "true")) as open_broker:
        with login(open_broker, version, None, None, "probe-1") as client:
            assert client.connect().reason == 0
            if version == V5:
                assert client.publish("hello") in (0, 0x10)
                assert client.publish("home/alice/x") == 0x87
        with login(open_broker, version, "alice", "wrong", "nobody") as client:
            assert client.connect().reason == 0x86
    settings(folder)


def test_mosquitto_clients_are_told(broker):
    alice = ["-u", "alice", "-P", "secret"]
    assert mosquitto("mosquitto_pub", broker, *alice, "-t", "home/alice/x", "-m", "m", "-q", 1)[0] == 0
    code, said = mosquitto("mosquitto_pub", broker, "-u", "alice", "-P", "x", "-t", "home/alice/x", "-m", "m")
    assert code == 4 and "bad user name or password" in said
    code, said = mosquitto("mosquitto_pub", broker, "-V", 5, "-u", "alice", "-P", "x", "-t", "home/alice/x", "-m", "m")
    assert code == 134 and "bad user name or password" in said.lower()
    code, said = mosquitto("mosquitto_pub", broker, "-t", "home/alice/x", "-m", "m")
    assert code == 5 and "not authori" in said
    code, said = mosquitto("mosquitto_pub", broker, "-V", 5, *alice, "-t", "other", "-m", "m", "-q", 1)
    assert "Not authorized" in said
    code, said = mosquitto("mosquitto_sub", broker, *alice, "-t", "other", "-W", 5)
    assert "denied" in said.lower()


def test_rules_are_by_user_group_and_client(broker):
    with login(broker, V5, "bob", "b", "one") as bob, login(broker, V5, "alice", "secret", "two") as alice:
        bob.connect()
        alice.connect()
        assert bob.subscribe("plant/#") == [2]
        assert bob.subscribe("$SYS/broker/version") == [2]
        assert bob.hear().topic == "$SYS/broker/version"
        assert bob.subscribe("#") == [0x87]
        assert bob.subscribe("clients/one/#") == [2]
        assert bob.subscribe("clients/+/x") == [0x87]
        assert alice.subscribe("plant/#") == [0x87]
        assert alice.subscribe("home/alice/#") == [2]
        assert alice.subscribe("home/bob/#") == [0x87]
        assert alice.publish("plant/1/state", "on") == 0
        assert alice.publish("plant/2/state", "on") == 0x87
        assert alice.publish("plant/1/state", "qos 2", qos=2) == 0
        # paho goes on with PUBREL after a PUBREC that refuses, and tells what that came to.
        assert alice.publish("plant/2/state", "qos 2", qos=2) in (0x87, 0x92)
        alice.send("plant/2/state", "dropped", qos=0)
        assert alice.publish("plant/1/state", "last") == 0
        told = [bob.hear().payload.decode() for _ in range(3)]
        assert told == ["on", "qos 2", "last"]
        assert alice.publish("clients/one/x") == 0x87
        assert alice.publish("clients/two/x") in (0, 0x10)


def test_before_mqtt_5_a_message_that_is_not_allowed_is_acknowledged_and_goes_nowhere(broker):
    with login(broker, V311, "bob", "b", "three") as bob, login(broker, V311, "alice", "secret", "four") as alice:
        bob.connect()
        alice.connect()
        assert bob.subscribe("plant/#") == [2]
        assert bob.subscribe("#") == [0x80]
        for qos in (0, 1, 2):
            alice.publish("plant/2/state", "no", qos=qos)
        alice.publish("plant/1/state", "yes")
        assert bob.hear().payload == b"yes"


@pytest.mark.parametrize("client_id", ["+", "#", "a/b", "+/#"])
def test_client_identifiers_with_wildcards_get_nothing(broker, client_id):
    with login(broker, V5, "alice", "secret", client_id) as client:
        client.connect()
        for topic_filter in ["clients/#", "clients/+/#", "clients/one/#", "clients/a/b"]:
            assert client.subscribe(topic_filter) == [0x87]


@pytest.mark.parametrize("version,reason", [(V311, 0x87), (V5, 0x87)])
def test_a_will_that_is_not_allowed_is_no_way_in(broker, version, reason):
    with login(broker, version, "alice", "secret", "five").will("plant/2/gone", "x") as client:
        assert client.connect().reason == reason
    with login(broker, version, "alice", "secret", "five").will("home/alice/gone", "x") as client:
        assert client.connect().reason == 0


def test_refusals_are_counted_and_logged_without_the_password(broker):
    def count(name):
        found = re.search(rf"(?m)^{re.escape(name)} (\d+)", broker.metrics())
        return int(found[1]) if found else 0

    names = [
        'mqtt_messages_dropped_total{reason="not_authorized"}',
        "mqtt_subscriptions_refused_total",
        'mqtt_logins_refused_total{reason="bad_user_name_or_password"}',
    ]
    before = [count(name) for name in names]
    with login(broker, V5, "alice", "secret", "six") as client:
        client.connect()
        assert client.publish("plant/9/secret-place") == 0x87
        assert client.subscribe("plant/9/#") == [0x87]
    with login(broker, V5, "alice", "hunter2", "six") as client:
        assert client.connect().reason == 0x86
    assert [count(name) for name in names] == [one + 1 for one in before]
    wait_until(lambda: "plant/9/secret-place" in broker.output, "the refusal in the log")
    lines = [line for line in broker.output.splitlines() if "plant/9/secret-place" in line]
    assert any("not authorized" in line and "six" in line and "alice" in line for line in lines), lines
    assert "hunter2" not in broker.output
    assert "not authorized" in broker.ask("mqtt", "stats")[1]


def test_the_api_is_not_bound_by_the_rules(broker):
    with login(broker, V5, "bob", "b", "seven") as bob:
        bob.connect()
        assert bob.subscribe("plant/#") == [2]
        assert broker.ask("mqtt", "publish", "plant/7/firmware", "by the API")[0] == 0
        assert bob.hear().payload == b"by the API"
    assert broker.ask("mqtt", "publish", "any/topic", "heard", "--retain")[0] == 0
    with Process(binary(), "mqtt", "subscribe", "any/#", "-n", 1, "--server", f"127.0.0.1:{broker.grpc}") as listener:
        assert listener.wait() == 0
    assert broker.ask("mqtt", "retained", "rm", "any/topic")[0] == 0


def test_a_session_is_its_users(broker):
    with login(broker, V5, "bob", "b", "eight", session=True) as bob:
        assert not bob.connect().session_present
        assert bob.subscribe("plant/#") == [2]
        with login(broker, V5, "alice", "secret", "eight") as alice:
            assert alice.connect().reason == 0x87
        bob.drop()
    # While it waits for bob, too, and for whoever is nobody.
    for name, password in [("alice", "secret"), (None, None)]:
        with login(broker, V5, name, password, "eight", session=True) as other:
            assert other.connect().reason == 0x87
    with login(broker, V5, "bob", "b", "eight", session=True) as bob:
        assert bob.connect().session_present
    with login(broker, V5, "bob", "b", "eight") as bob:
        bob.connect()

    def begins_anew():
        with login(broker, V5, "alice", "secret", "eight", session=True) as alice:
            connack = alice.connect()
            return (connack.reason, connack.session_present) == (0, False)

    wait_until(begins_anew, "the session to end")


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP")
def test_users_and_rules_are_read_again(tmp_path):
    passwd(tmp_path / "passwd", "alice", "old", "-c")
    passwd(tmp_path / "passwd", "bob", "b")
    with Mockforge("--config", settings(tmp_path)) as broker:
        with login(broker, V5, "bob", "b", "one") as bob, login(broker, V5, "alice", "old", "two") as alice:
            bob.connect()
            alice.connect()
            assert bob.subscribe("plant/#") == [2]
            assert bob.subscribe("home/bob/#") == [2]
            passwd(tmp_path / "passwd", "alice", "new")
            text = (tmp_path / "mockforge.yaml").read_text()
            (tmp_path / "mockforge.yaml").write_text(text.replace("groups: [operators]}", "groups: [devices]}", 1))
            broker.child.send_signal(signal.SIGHUP)
            wait_until(lambda: "the settings were read again" in broker.output, "the settings to be read again")
            listed = lambda: [entry["filter"] for entry in broker.rest("/mqtt/subscriptions").get("subscriptions", [])]
            wait_until(lambda: listed() == ["home/bob/#"], "the subscription to end")
            # Who is there stays, and has the new rules.
            assert bob.publish("home/bob/x") == 0
            assert bob.publish("plant/1/firmware") == 0x87
            assert alice.publish("home/alice/x") in (0, 0x10)
        with login(broker, V5, "alice", "old", "three") as client:
            assert client.connect().reason == 0x86
        with login(broker, V5, "alice", "new", "three") as client:
            assert client.connect().reason == 0


def test_a_flood_of_wrong_passwords_keeps_nobody_out(broker):
    """Ours is let in at once while 50 guesses wait, for its password is remembered; and its messages pass."""
    with login(broker, V5, "carol", "c", "nine") as carol:
        carol.connect()
        guessing = [paho.Client(paho.CallbackAPIVersion.VERSION2, f"guess-{number}") for number in range(50)]
        for number, client in enumerate(guessing):
            client.username_pw_set("carol", f"guess {number}")
            client.connect_async("127.0.0.1", broker.port)
            client.connect("127.0.0.1", broker.port)
        with login(broker, V5, "carol", "c", "ten") as again:
            assert again.connect().reason == 0
        assert carol.publish("home/carol/x") in (0, 0x10)
        for client in guessing:
            client.socket().close()
