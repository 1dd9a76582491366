"""MQTT over TLS: openssl, paho, mosquitto and MQTT.js, with certificates as the guide makes them and as we do."""

import os
import re
import ssl
import subprocess
import threading
import queue
from pathlib import Path

import paho.mqtt.client as paho
import pytest

from peers import DEADLINE, Mockforge, Mosquitto, Process, accepts, binary, free_port, needs, run, wait_until
from test_mqttjs import node  # noqa: F401 (a fixture)

GUIDE = """
# Generate CA
openssl genrsa -out ca.key 4096
openssl req -new -x509 -days 365 -key ca.key -out ca.crt -subj "/CN=MockForge CA"

# Generate server certificate
openssl genrsa -out server.key 2048
openssl req -new -key server.key -out server.csr -subj "/CN=localhost"
openssl x509 -req -days 365 -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out server.crt
"""

# But for the ports, which others may have.
SETTINGS = """
mqtt:
  enabled: true
  port: 0
  tls:
    enabled: true
    port: 0
    cert_path: "./certs/server.crt"
    key_path: "./certs/server.key"
    ca_path: "./certs/ca.crt"  # For client certificate verification
    client_auth: {client_auth}          # Set to true for mTLS
"""


def shell(commands, cwd):
    done = subprocess.run(
        ["sh", "-ec", commands], cwd=cwd, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr


def sign(folder, name, subject, ca="ca", validity="-days 365"):
    """A certificate as the guide makes them: of X.509 version 1."""
    shell(
        f"openssl req -new -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj '{subject}'\n"
        f"openssl x509 -req {validity} -in {name}.csr -CA {ca}.crt -CAkey {ca}.key -CAcreateserial -out {name}.crt",
        folder,
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with mockforge.yaml, and certs/ with what the guide's commands make and more."""
    needs("openssl")
    folder = tmp_path_factory.mktemp("project")
    certs = folder / "certs"
    certs.mkdir()
    shell(GUIDE, certs)
    sign(certs, "device", "/CN=device-1/O=Example")
    sign(certs, "expired", "/CN=device-1", validity="-days -1")
    other = "openssl req -new -x509 -newkey rsa:2048 -nodes -days 9 -keyout other.key -out other.crt -subj /CN=Other"
    shell(other, certs)
    sign(certs, "stranger", "/CN=device-1", ca="other")
    for name, client_auth in [("mockforge", "false"), ("mutual", "true")]:
        (folder / f"{name}.yaml").write_text(SETTINGS.format(client_auth=client_auth))
    return folder


@pytest.fixture(scope="module")
def broker(project):
    with Mockforge("--config", project / "mockforge.yaml", "--mqtt-ws", "--mqtt-ws-port", 0, **WSS) as started:
        yield started


@pytest.fixture(scope="module")
def mutual(project):
    with Mockforge("--config", project / "mutual.yaml") as started:
        yield started


WSS = {"MOCKFORGE_MQTT_WEBSOCKET_TLS_PORT": "0"}


def port_of(server, scheme="mqtts"):
    return int(server.wait_for(rf"(?m)^{scheme}\s+{scheme}://127\.0\.0\.1:(\d+)")[1])


def s_client(port, *arguments):
    """What `openssl s_client` says of a server."""
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"localhost:{port}", *map(str, arguments)],
        input="",
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("version,flag", [("TLSv1.2", "-tls1_2"), ("TLSv1.3", "-tls1_3")])
def test_openssl_verifies_the_guides_certificate(broker, project, version, flag):
    said = s_client(port_of(broker), flag, "-CAfile", project / "certs/ca.crt", "-verify_return_error")
    assert f"New, {version}, Cipher is " in said, said
    assert "Verify return code: 0 (ok)" in said, said


@pytest.mark.parametrize("flag", ["-tls1", "-tls1_1"])
def test_older_versions_are_refused(broker, flag):
    refused = broker.output.count("the peer knows no version of TLS that is allowed")
    said = s_client(port_of(broker), flag, "-cipher", "DEFAULT@SECLEVEL=0")
    assert "Cipher is (NONE)" in said, said
    wait_until(
        lambda: broker.output.count("the peer knows no version of TLS that is allowed") > refused, "a line in the log"
    )


def test_a_minimum_version(project):
    variables = {"MOCKFORGE_MQTT_TLS_MIN_VERSION": "1.3"}
    with Mockforge("--config", project / "mockforge.yaml", **variables) as server:
        assert "Cipher is (NONE)" in s_client(port_of(server), "-tls1_2")
        assert "New, TLSv1.3" in s_client(port_of(server), "-tls1_3")


def test_a_session_is_resumed(broker, project, tmp_path):
    port, ca = port_of(broker), project / "certs/ca.crt"
    for flag in ["-tls1_2", "-tls1_3"]:
        # A session of 1.3 comes behind the handshake, so something has to be read.
        command = ["openssl", "s_client", "-connect", f"localhost:{port}", flag, "-CAfile", str(ca)]
        session = tmp_path / flag
        with subprocess.Popen(
            [*command, "-sess_out", str(session)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as first:
            wait_until(lambda: session.exists() and session.stat().st_size > 0, "a session")
            first.stdin.close()
        said = s_client(port, flag, "-CAfile", ca, "-sess_in", session)
        assert re.search(r"^Reused, ", said, re.M), said


def test_a_client_that_offers_other_protocols_is_taken(broker, project):
    said = s_client(port_of(broker), "-alpn", "x-amzn-mqtt-ca,h2", "-CAfile", project / "certs/ca.crt")
    assert "Verify return code: 0 (ok)" in said and "No ALPN negotiated" in said, said


class Client:
    """paho over TLS; `error` is why it did not connect."""

    def __init__(self, port, ca, certificate=None, version=paho.MQTTv5, host="localhost", name="", **tls):
        self.heard = queue.Queue()
        self.connected = threading.Event()
        self.error = None
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, name, protocol=version)
        cert, key = [certificate.with_suffix(end) for end in (".crt", ".key")] if certificate else (None, None)
        self.client.tls_set(ca_certs=str(ca), certfile=cert, keyfile=key, **tls)
        self.client.on_connect = lambda *_: self.connected.set()
        self.client.on_message = lambda _client, _user, message: self.heard.put(message.payload)
        try:
            self.client.connect(host, port)
            self.client.loop_start()
        except (ssl.SSLError, OSError) as error:
            self.error = error

    def __enter__(self):
        assert self.error is None, self.error
        assert self.connected.wait(DEADLINE)
        return self

    def hears_itself(self):
        subscribed = threading.Event()
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.subscribe("tls/echo", 1)
        assert subscribed.wait(DEADLINE)
        payload = os.urandom(20_000)
        self.client.publish("tls/echo", payload, qos=1)
        return self.heard.get(timeout=DEADLINE) == payload

    def __exit__(self, *_):
        self.client.disconnect()
        self.client.loop_stop()


@pytest.mark.parametrize("version", [paho.MQTTv311, paho.MQTTv5])
@pytest.mark.parametrize("tls", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_paho_with_and_without_a_certificate(broker, project, version, tls):
    certs = project / "certs"
    for certificate in [None, certs / "device"]:
        context = ssl.create_default_context(cafile=certs / "ca.crt")
        context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
        context.maximum_version = tls
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=version)
        if certificate:
            context.load_cert_chain(certificate.with_suffix(".crt"), certificate.with_suffix(".key"))
        client.tls_set_context(context)
        connected = threading.Event()
        client.on_connect = lambda *_: connected.set()
        client.connect("localhost", port_of(broker))
        client.loop_start()
        assert connected.wait(DEADLINE)
        client.disconnect()
        client.loop_stop()


@pytest.mark.parametrize("way", ["broker", "mutual"])
def test_paho_with_a_certificate_hears_itself(way, project, request):
    server = request.getfixturevalue(way)
    with Client(port_of(server), project / "certs/ca.crt", project / "certs/device") as client:
        assert client.hears_itself()


def refusal(server, *flags):
    """Why mosquitto_pub could not publish, and what is in the log by then."""
    lines = len(server.lines)
    way = ["-h", "localhost", "-p", port_of(server), "-t", "a", "-m", "b", "-q", "1", *flags]
    command = [needs("mosquitto_pub"), *map(str, way)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, stdin=subprocess.DEVNULL)
    assert done.returncode != 0, "it was let in"
    wait_until(lambda: any("handshake failed" in line for line in server.lines[lines:]), "a line in the log")
    return done.stderr, "\n".join(server.lines[lines:])


@pytest.mark.parametrize("version", ["tlsv1.2", "tlsv1.3"])
@pytest.mark.parametrize(
    "way,certificate,why",
    [
        ("mutual", None, "the client has no certificate"),
        ("mutual", "expired", "the certificate has expired"),
        ("broker", "expired", "the certificate has expired"),
        ("mutual", "stranger", "the certificate is of an authority that is not trusted"),
        ("broker", "stranger", "the certificate is of an authority that is not trusted"),
    ],
)
def test_clients_are_refused_for_their_certificate(way, certificate, why, version, project, request):
    server, certs = request.getfixturevalue(way), project / "certs"
    shown = ["--cert", certs / f"{certificate}.crt", "--key", certs / f"{certificate}.key"] if certificate else []
    _, log = refusal(server, "--tls-version", version, "--cafile", certs / "ca.crt", *shown)
    assert f"error={why}" in log, log


def test_a_client_that_does_not_trust_us_says_so(broker, project):
    _, log = refusal(broker, "--cafile", project / "certs/other.crt")
    assert "error=the peer does not trust our certificate's authority" in log, log


def test_what_is_not_tls_is_refused(broker):
    said, log = refusal(broker)
    assert "error=what came is not TLS" in log, (said, log)


@pytest.mark.parametrize("version", ["tlsv1.2", "tlsv1.3"])
def test_mosquittos_clients(mutual, project, version):
    certs = project / "certs"
    way = ["-h", "localhost", "-p", port_of(mutual), "--tls-version", version, "--cafile", certs / "ca.crt"]
    way += ["--cert", certs / "device.crt", "--key", certs / "device.key"]
    topic = f"mosquitto/{version}"
    with Process(needs("mosquitto_sub"), *way, "-t", topic, "-C", 1) as subscriber:
        mutual.wait_for_subscription(topic)
        subprocess.run(
            [needs("mosquitto_pub"), *map(str, way), "-t", topic, "-m", "hello"], check=True, timeout=DEADLINE
        )
        assert subscriber.wait() == 0
        assert subscriber.lines == ["hello"]


@pytest.mark.parametrize("scheme", ["mqtts", "wss"])
@pytest.mark.parametrize("version", [4, 5])
def test_mqttjs(broker, project, node, scheme, version):  # noqa: F811
    script = Path(__file__).with_name("mqttjs_features.js")
    ca = project / "certs/ca.crt"
    for scenario in ["thousands", "will", "retained"]:
        command = [node, script, port_of(broker, scheme), version, scenario, scheme, ca]
        done = subprocess.run(
            list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("source,name", [("cn", "device-1"), ("subject", "O=Example,CN=device-1")])
def test_the_user_name_is_the_certificates(project, source, name):
    certs = project / "certs"
    spelled = subprocess.run(
        ["openssl", "x509", "-in", certs / "device.crt", "-noout", "-subject", "-nameopt", "RFC2253"],
        capture_output=True,
        text=True,
    ).stdout.strip()
    assert spelled == "subject=O=Example,CN=device-1"
    variables = {"MOCKFORGE_MQTT_TLS_USERNAME_FROM": source, "MOCKFORGE_MQTT_ALLOW_ANONYMOUS": "false"}
    with Mockforge("--config", project / "mutual.yaml", **variables) as server:
        # Whatever CONNECT says.
        way = ["-h", "localhost", "-p", port_of(server), "--cafile", certs / "ca.crt", "-i", "one", "-u", "admin"]
        way += ["--cert", certs / "device.crt", "--key", certs / "device.key"]
        with Process(needs("mosquitto_sub"), *way, "-t", "a"):
            server.wait_for_subscription("a")
            clients = server.rest("/mqtt/clients")["clients"]
            assert [client.get("username") for client in clients] == [name], clients
        # Whoever has no certificate has no name, either.
        publish = [needs("mosquitto_pub"), "-h", "127.0.0.1", "-p", str(server.port), "-t", "a", "-m", "b", "-i", "two"]
        assert subprocess.run(publish, capture_output=True, timeout=DEADLINE).returncode != 0


def test_certificates_are_read_again_on_sighup(project, tmp_path):
    certs = tmp_path / "certs"
    certs.mkdir()
    for name in ["ca.crt", "ca.key", "server.crt", "server.key"]:
        (certs / name).write_bytes((project / "certs" / name).read_bytes())
    (tmp_path / "mockforge.yaml").write_text(SETTINGS.format(client_auth="false"))
    with Mockforge("--config", tmp_path / "mockforge.yaml") as server:
        port = port_of(server)

        def serial():
            said = subprocess.run(
                ["openssl", "s_client", "-connect", f"localhost:{port}"],
                input="",
                capture_output=True,
                text=True,
                timeout=DEADLINE,
            ).stdout
            shown = subprocess.run(["openssl", "x509", "-noout", "-serial"], input=said, capture_output=True, text=True)
            return shown.stdout

        with Client(port, certs / "ca.crt", name="all the time") as client:
            before = serial()
            sign(certs, "next", "/CN=localhost")
            (certs / "server.crt").write_bytes((certs / "next.crt").read_bytes())
            server.child.send_signal(1)
            server.wait_for(r"ERROR .*server\.key: the key is not that of the certificate in \S+/certs/server\.crt")
            assert serial() == before
            (certs / "server.key").write_bytes((certs / "next.key").read_bytes())
            server.child.send_signal(1)
            server.wait_for("the certificates were read again endpoints=1")
            assert serial() != before
            assert client.hears_itself()


def test_development_certificates(tmp_path):
    """In an empty folder `serve --mqtt --mqtt-tls` works at once, and what `certs` prints works as printed."""
    ways = ["--mqtt-host", "127.0.0.1", "--mqtt-port", 0, "--mqtt-tls-port", 0, "--http-port", 0, "--grpc-port", 0]
    with Process(binary(), "serve", "--mqtt", "--mqtt-tls", *ways, cwd=tmp_path) as server:
        port = port_of(server)
        assert re.search(r"WARN .*made certificates for development.* ca=certs/ca\.crt", server.output), server.output
        code, out, err = run("certs", cwd=tmp_path)
        assert code == 0, err
        assert out.count("kept certs/") == 3, out
        lines = [line.strip().replace("-p 8883", f"-p {port}") for line in out.splitlines() if "mosquitto_sub" in line]
        assert len(lines) == 2
        needs("mosquitto_sub")
        for line in lines:
            # To end with SUBACK.
            shell(f"{line} -E", tmp_path)
        for name in ["ca", "server", "client"]:
            assert (tmp_path / f"certs/{name}.key").stat().st_mode & 0o777 == 0o600
        shell("openssl verify -x509_strict -CAfile certs/ca.crt certs/server.crt certs/client.crt", tmp_path)


def test_out_of_date_development_certificates_say_what_to_do(project, tmp_path):
    certs = tmp_path / "certs"
    certs.mkdir()
    for name, there in [("ca", "ca"), ("server", "expired")]:
        for end in ["crt", "key"]:
            (certs / f"{name}.{end}").write_bytes((project / f"certs/{there}.{end}").read_bytes())
    ways = ["--mqtt-port", 0, "--http-port", 0, "--grpc-port", 0]
    code, _, err = run("serve", "--mqtt", "--mqtt-tls", *ways, cwd=tmp_path)
    assert code == 2 and "certs/server.crt: is good from " in err and "mockforge certs --dir certs --force" in err, err
    code, out, err = run("certs", "--dir", "certs", "--force", cwd=tmp_path)
    assert code == 0 and "kept certs/ca.crt" in out and "made certs/server.crt" in out, (out, err)
    # The authority is openssl's, of RSA.
    shell("openssl verify -CAfile certs/ca.crt certs/server.crt", tmp_path)


class TlsMosquitto(Process):
    """mosquitto with the guide's certificate; it wants one of its clients."""

    def __init__(self, certs):
        self.port = free_port()
        config = certs / f"mosquitto-{self.port}.conf"
        config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\ncafile {certs}/ca.crt\n"
            f"certfile {certs}/server.crt\nkeyfile {certs}/server.key\n"
            "require_certificate true\nuse_identity_as_username true\n"
        )
        # Started as root it would be nobody, who may not read keys.
        user = Path(config).owner()
        config.write_text(config.read_text() + f"user {user}\n")
        super().__init__(needs("mosquitto"), "-c", config)
        wait_until(lambda: accepts(self.port), "mosquitto to listen")


@pytest.fixture(scope="module")
def upstream(project):
    with TlsMosquitto(project / "certs") as started:
        yield started


def test_an_upstream_with_tls_and_a_client_certificate(upstream, project):
    certs = project / "certs"
    trust = ["--cafile", certs / "ca.crt", "--cert", certs / "device.crt", "--key", certs / "device.key"]
    with Mockforge("--upstream", f"mqtts://localhost:{upstream.port}", *trust) as proxy:
        publish = ["-h", "127.0.0.1", "-p", str(proxy.port), "-t", "up", "-m", "through", "-q", "1", "-r"]
        subprocess.run([needs("mosquitto_pub"), *publish], check=True, timeout=DEADLINE)
    way = ["-h", "localhost", "-p", upstream.port, *trust]
    with Process(needs("mosquitto_sub"), *way, "-t", "up", "-C", 1) as subscriber:
        assert subscriber.wait() == 0
        assert subscriber.lines == ["through"]


@pytest.mark.parametrize(
    "host,ca,why",
    [
        ("127.0.0.1", "ca", "the certificate is for another name"),
        ("localhost", "other", "the certificate is of an authority that is not trusted"),
        ("localhost", None, "the certificate is of an authority that is not trusted"),
    ],
)
def test_our_client_refuses_a_server(broker, project, host, ca, why):
    trust = ["--cafile", project / f"certs/{ca}.crt"] if ca else []
    url = f"mqtts://{host}:{port_of(broker)}"
    with Mockforge("--upstream", url, *trust) as proxy:
        subprocess.run(
            [needs("mosquitto_pub"), "-h", "127.0.0.1", "-p", str(proxy.port), "-t", "a", "-m", "b"],
            capture_output=True,
            timeout=DEADLINE,
        )
        proxy.wait_for(re.escape(why))


def test_our_client_refuses_an_expired_server(project):
    certs = project / "certs"
    sign(certs, "old", "/CN=localhost", validity="-days -1")
    paths = {"CERT_PATH": certs / "old.crt", "KEY_PATH": certs / "old.key", "PORT": "0", "ENABLED": "true"}
    variables = {f"MOCKFORGE_MQTT_TLS_{name}": str(value) for name, value in paths.items()}
    with Mockforge(**variables) as server:
        url = f"mqtts://localhost:{port_of(server)}"
        with Mockforge("--upstream", url, "--cafile", certs / "ca.crt") as proxy:
            publish = [needs("mosquitto_pub"), "-h", "127.0.0.1", "-p", str(proxy.port), "-t", "a", "-m", "b"]
            subprocess.run(publish, capture_output=True, timeout=DEADLINE)
            proxy.wait_for("the certificate has expired")
        with Mockforge("--upstream", url, "--insecure") as proxy:
            proxy.wait_for("WARN .*certificates are not verified")
            publish[4] = str(proxy.port)
            subprocess.run([*publish, "-q", "1"], check=True, timeout=DEADLINE)


def test_a_proxy_has_a_certificate_for_each_name_that_is_asked_for(tmp_path):
    with Mosquitto() as broker:
        flags = ["--upstream", broker.url, "--mqtt-tls", "--mqtt-tls-port", 0, "--mqtt-host", "127.0.0.1"]
        ways = ["--mqtt-port", 0, "--http-port", 0, "--grpc-port", 0]
        with Process(binary(), "serve", "--mqtt", *flags, *ways, cwd=tmp_path) as proxy:
            port, ca = port_of(proxy), tmp_path / "certs/ca.crt"
            for name in ["broker.example.com", "iot.eu-west-1.amazonaws.com", "localhost"]:
                for version in ["-tls1_2", "-tls1_3"]:
                    asked = ["-servername", name, "-verify_hostname", name, "-CAfile", ca, "-verify_return_error"]
                    said = s_client(port, version, *asked)
                    assert "Verify return code: 0 (ok)" in said, said
            said = s_client(port, "-noservername", "-verify_hostname", "localhost", "-CAfile", ca)
            assert "Verify return code: 0 (ok)" in said, said
            # And the broker is behind it.
            publish = ["-h", "localhost", "-p", str(port), "--cafile", str(ca), "-t", "a", "-m", "b", "-q", "1"]
            subprocess.run([needs("mosquitto_pub"), *publish], check=True, timeout=DEADLINE)


def test_names_are_made_by_another_authority_where_one_is_named(project):
    """RSA 4096, of the guide."""
    certs = project / "certs"
    variables = {
        "MOCKFORGE_MQTT_TLS_MINT": "true",
        "MOCKFORGE_MQTT_TLS_MINT_CA_PATH": str(certs / "ca.crt"),
        "MOCKFORGE_MQTT_TLS_MINT_CA_KEY_PATH": str(certs / "ca.key"),
    }
    with Mockforge("--config", project / "mockforge.yaml", **variables) as server:
        name = "broker.example.com"
        asked = ["-servername", name, "-verify_hostname", name, "-CAfile", certs / "ca.crt"]
        said = s_client(port_of(server), *asked)
        assert "Verify return code: 0 (ok)" in said, said


@pytest.mark.parametrize("format", ["pkcs1", "sec1"])
def test_keys_in_openssls_older_formats(project, tmp_path, format):
    certs = tmp_path / "certs"
    certs.mkdir()
    for name in ["ca.crt", "ca.key"]:
        (certs / name).write_bytes((project / "certs" / name).read_bytes())
    make = {
        "pkcs1": "openssl genrsa -traditional -out server.key 2048",
        "sec1": "openssl ecparam -name prime256v1 -genkey -out server.key",
    }[format]
    shell(
        f"{make}\nopenssl req -new -key server.key -out server.csr -subj /CN=localhost\n"
        "openssl x509 -req -days 9 -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out server.crt",
        certs,
    )
    (tmp_path / "mockforge.yaml").write_text(SETTINGS.format(client_auth="false"))
    with Mockforge("--config", tmp_path / "mockforge.yaml") as server:
        said = s_client(port_of(server), "-CAfile", certs / "ca.crt")
        assert "Verify return code: 0 (ok)" in said, said


def test_an_encrypted_key_is_refused_with_the_command_to_decrypt_it(project, tmp_path):
    key = tmp_path / "server.key"
    shell(f"openssl genrsa -aes128 -passout pass:secret -out {key} 2048", tmp_path)
    paths = {"CERT_PATH": project / "certs/server.crt", "KEY_PATH": key, "PORT": "0", "ENABLED": "true"}
    variables = {f"MOCKFORGE_MQTT_TLS_{name}": str(value) for name, value in paths.items()}
    ways = ["--mqtt-port", 0, "--http-port", 0, "--grpc-port", 0]
    code, _, err = run("serve", "--mqtt", *ways, env=variables, cwd=tmp_path)
    assert code == 2, err
    assert f"{key}: encrypted keys are not supported; without password: openssl pkey -in {key} -out FILE" in err, err
