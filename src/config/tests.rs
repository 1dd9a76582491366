//! Tests of the settings as people meet them.

use expect_test::{Expect, expect};

use super::*;
use crate::auth::Role;

/// Loads `file` (called `mockforge.yaml` in errors) under `environment` (`NAME=value` words) and
/// `flags`, given as `--name key=value`.
fn load(
    file: &str,
    environment: &[&str],
    flags: &[(&'static str, &'static str, &str)],
) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("mockforge.yaml"), file).unwrap();
    Config::load(Sources {
        file: ConfigFile::Search(folder.path().to_owned()),
        environment: environment
            .iter()
            .map(|word| word.split_once('=').unwrap())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        flags: flags
            .iter()
            .map(|(name, key, value)| Flag { key, name, value: (*value).to_owned() })
            .collect(),
    })
}

fn check_error(file: &str, expected: Expect) {
    expected.assert_eq(&load(file, &[], &[]).unwrap_err().to_string());
}

fn check_variable_error(word: &str, expected: Expect) {
    expected.assert_eq(&load("", &[word], &[]).unwrap_err().to_string());
}

#[test]
fn defaults_are_the_ones_the_guide_prints() {
    let mqtt = Config::default().mqtt;
    assert_eq!((mqtt.enabled, mqtt.host.as_str(), mqtt.port), (false, "0.0.0.0", 1883));
    assert_eq!(
        (mqtt.connections.total, mqtt.limits.max_packet_size, mqtt.limits.keep_alive_max),
        (1000, 65_536, 60)
    );
}

#[test]
fn the_limits_defaults_are_the_brokers_but_for_the_guides_keep_alive() {
    let limits = Config::default().mqtt.limits;
    assert_eq!(limits, Limits { keep_alive_max: 60, ..Limits::default() });
}

#[test]
fn the_guides_file_loads_as_printed() {
    let config = load(
        "# mockforge.yaml\nmqtt:\n  enabled: true\n  port: 1883\n  host: \"0.0.0.0\"\n  max_connections: 1000\n  \
         max_packet_size: 65536\n  keep_alive_secs: 60\n",
        &[],
        &[],
    )
    .unwrap();
    assert!(config.mqtt.enabled);
    assert_eq!(
        config.in_force.iter().find(|setting| setting.key == "mqtt.port").unwrap().origin.to_string(),
        "mockforge.yaml:4"
    );
}

#[test]
fn each_variable_of_the_guide_is_taken() {
    let mqtt = load(
        "",
        &[
            "MOCKFORGE_MQTT_ENABLED=true",
            "MOCKFORGE_MQTT_PORT=1",
            "MOCKFORGE_MQTT_HOST=::1",
            "MOCKFORGE_MQTT_MAX_CONNECTIONS=2",
            "MOCKFORGE_MQTT_MAX_PACKET_SIZE=3",
            "MOCKFORGE_MQTT_KEEP_ALIVE_SECS=4",
            "MOCKFORGE_MQTT_TLS_ENABLED=false",
            "MOCKFORGE_MQTT_TLS_PORT=8883",
            "MOCKFORGE_MQTT_TLS_CERT_PATH=a",
            "MOCKFORGE_MQTT_TLS_KEY_PATH=b",
            "MOCKFORGE_MQTT_TLS_CA_PATH=c",
            "MOCKFORGE_MQTT_TLS_CLIENT_AUTH=false",
        ],
        &[],
    )
    .unwrap()
    .mqtt;
    assert!(mqtt.enabled);
    assert_eq!(mqtt.address(), "[::1]:1");
    assert_eq!((mqtt.connections.total, mqtt.limits.max_packet_size, mqtt.limits.keep_alive_max), (2, 3, 4));
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file() {
    let file = "mqtt: {port: 1, host: a, max_connections: 5}\n";
    let environment = ["MOCKFORGE_MQTT_PORT=2", "MOCKFORGE_MQTT_HOST=b"];
    let config = load(file, &environment, &[("--mqtt-port", "mqtt.port", "3")]).unwrap();
    assert_eq!((config.mqtt.port, config.mqtt.host.as_str(), config.mqtt.connections.total), (3, "b", 5));
    let origins: Vec<String> =
        config.in_force[1..5].iter().map(|setting| format!("{} {}", setting.key, setting.origin)).collect();
    assert_eq!(
        origins,
        [
            "mqtt.host MOCKFORGE_MQTT_HOST",
            "mqtt.port --mqtt-port",
            "mqtt.max_connections mockforge.yaml:1",
            "mqtt.max_packet_size default"
        ]
    );
}

#[test]
fn an_unknown_key_is_named_with_place_and_nearest() {
    check_error(
        "mqtt:\n  enabled: true\n  prot: 1884\n",
        expect![[r#"mockforge.yaml:3:3: unknown key "prot" in mqtt; did you mean "port"?"#]],
    );
}

#[test]
fn an_unknown_section_is_named_with_place_and_nearest() {
    check_error(
        "mqqt:\n  port: 1\n",
        expect![[r#"mockforge.yaml:1:1: unknown key "mqqt"; did you mean "mqtt"?"#]],
    );
}

#[test]
fn an_unknown_key_like_none_lists_the_known() {
    check_error(
        "store:\n  zebra: 1\n",
        expect![[
            r#"mockforge.yaml:2:3: unknown key "zebra" in store; known are path, flush_interval_ms, max_bytes, max_age_secs"#
        ]],
    );
}

#[test]
fn an_unknown_key_is_found_inside_a_section_for_later() {
    check_error(
        "mqtt:\n  tls: {enabled: false, prot: 8883}\n",
        expect![[r#"mockforge.yaml:2:25: unknown key "prot" in mqtt.tls; did you mean "port"?"#]],
    );
}

#[test]
fn a_text_for_a_number_is_refused_with_its_place() {
    check_error(
        "mqtt:\n  port: many\n",
        expect![[
            r#"mockforge.yaml:2:9: mqtt.port: expected a whole number from 0 to 65535, found the text "many""#
        ]],
    );
}

#[test]
fn a_number_out_of_range_is_refused_with_its_place() {
    check_error(
        "mqtt:\n  max_packet_size: 268435461\n",
        expect![
            "mockforge.yaml:2:20: mqtt.max_packet_size: expected a whole number from 2 to 268435460, found 268435461"
        ],
    );
    check_error(
        "mqtt: {port: -1}\n",
        expect!["mockforge.yaml:1:14: mqtt.port: expected a whole number from 0 to 65535, found -1"],
    );
}

#[test]
fn a_number_for_a_switch_is_refused() {
    check_error(
        "mqtt:\n  enabled: 3\n",
        expect!["mockforge.yaml:2:12: mqtt.enabled: expected true or false, found the number 3"],
    );
}

#[test]
fn a_section_for_a_value_and_a_value_for_a_section_are_refused() {
    check_error(
        "mqtt:\n  port:\n    a: 1\n",
        expect![
            "mockforge.yaml:3:5: mqtt.port: expected a whole number from 0 to 65535, found a section with keys"
        ],
    );
    check_error("mqtt: 5\n", expect!["mockforge.yaml:1:7: mqtt: expected keys with values"]);
    check_error("just text\n", expect!["mockforge.yaml:1:1: the file: expected keys with values"]);
}

#[test]
fn a_key_given_twice_is_refused() {
    check_error("mqtt:\n  port: 1\n  port: 2\n", expect!["mockforge.yaml:3:3: duplicate mapping key: port"]);
}

#[test]
fn broken_yaml_is_refused_with_its_place() {
    check_error("mqtt:\n  port: [1\n", expect!["mockforge.yaml:2:9: unclosed bracket '['"]);
}

#[test]
fn an_empty_file_and_empty_values_say_nothing() {
    for file in ["", "# nothing\n", "mqtt:\n", "mqtt:\n  port:\n", "---\n"] {
        assert_eq!(load(file, &[], &[]).unwrap().mqtt, Config::default().mqtt, "{file:?}");
    }
}

#[test]
fn an_unknown_variable_in_a_section_of_ours_names_the_nearest() {
    check_variable_error(
        "MOCKFORGE_MQTT_PROT=1",
        expect!["unknown variable MOCKFORGE_MQTT_PROT; did you mean MOCKFORGE_MQTT_PORT?"],
    );
    check_variable_error(
        "MOCKFORGE_HTTP_PROT=1",
        expect!["unknown variable MOCKFORGE_HTTP_PROT; did you mean MOCKFORGE_HTTP_PORT?"],
    );
}

#[test]
fn an_unknown_variable_of_no_section_is_refused_as_well() {
    check_variable_error(
        "MOCKFORGE_API_TOKE=x",
        expect!["unknown variable MOCKFORGE_API_TOKE; did you mean MOCKFORGE_API_TOKEN?"],
    );
    let error = load("", &["MOCKFORGE_FOO=1"], &[]).unwrap_err().to_string();
    assert!(error.starts_with("unknown variable MOCKFORGE_FOO; did you mean MOCKFORGE_"), "{error}");
    load("", &["HOME=/"], &[]).unwrap();
}

#[test]
fn tls_settings_without_the_switch_are_a_warning() {
    let config = load("mqtt: {tls: {port: 1}}\n", &["MOCKFORGE_MQTT_TLS_CLIENT_AUTH=true"], &[]).unwrap();
    assert_eq!(
        config.warnings,
        [
            "mockforge.yaml:1: mqtt.tls.port has no effect, because mqtt.tls.enabled is off",
            "MOCKFORGE_MQTT_TLS_CLIENT_AUTH: mqtt.tls.client_auth has no effect, because mqtt.tls.enabled is off",
        ]
    );
    let prepared = load("mqtt: {tls: {enabled: false, port: 1}}\n", &[], &[]).unwrap();
    assert!(prepared.warnings.is_empty(), "{:?}", prepared.warnings);
}

#[test]
fn what_the_parser_calls_things_is_not_shown() {
    check_error(
        "mqtt: {port: 1}\n---\nmqtt: {port: 2}\n",
        expect!["mockforge.yaml:3:1: a second document begins here; settings are one document"],
    );
    let deep = format!("mqtt: {}1{}\n", "{a: ".repeat(100), "}".repeat(100));
    check_error(&deep, expect!["mockforge.yaml:1:131: too deeply nested or too large for settings"]);
}

#[test]
fn a_wrong_variable_or_flag_is_named() {
    check_variable_error(
        "MOCKFORGE_MQTT_PORT=x",
        expect![[r#"MOCKFORGE_MQTT_PORT: mqtt.port: expected a whole number from 0 to 65535, found "x""#]],
    );
    let error = load("", &[], &[("--mqtt-port", "mqtt.port", "70000")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "--mqtt-port: mqtt.port: expected a whole number from 0 to 65535, found 70000"
    );
}

#[test]
fn tls_is_as_the_guide_has_it() {
    let file = "mqtt:\n  enabled: true\n  port: 1883\n  tls:\n    enabled: true\n    port: 8883\n    \
                cert_path: \"./certs/server.crt\"\n    key_path: \"./certs/server.key\"\n    \
                ca_path: \"./certs/ca.crt\"  # For client certificate verification\n    \
                client_auth: false          # Set to true for mTLS\n";
    let Config { mqtt, folder, .. } = load(file, &[], &[]).unwrap();
    let tls = mqtt.tls.unwrap();
    let files = CertifiedFiles {
        cert_path: folder.join("certs/server.crt"),
        key_path: folder.join("certs/server.key"),
    };
    assert_eq!((tls.port, tls.certificate, tls.client_auth), (8883, TlsCertificate::Files(files), false));
    assert_eq!(tls.ca_path, Some(folder.join("certs/ca.crt")));
    assert_eq!(
        (tls.min_version, tls.username_from, tls.mint),
        (MinVersion::Tls12, UsernameFrom::Nothing, false)
    );

    let variables = [
        "MOCKFORGE_MQTT_TLS_ENABLED=true",
        "MOCKFORGE_MQTT_TLS_PORT=8884",
        "MOCKFORGE_MQTT_TLS_CERT_PATH=a",
        "MOCKFORGE_MQTT_TLS_KEY_PATH=b",
        "MOCKFORGE_MQTT_TLS_CA_PATH=c",
        "MOCKFORGE_MQTT_TLS_CLIENT_AUTH=true",
        "MOCKFORGE_MQTT_TLS_USERNAME_FROM=cn",
        "MOCKFORGE_MQTT_TLS_MIN_VERSION=1.3",
    ];
    let tls = load("", &variables, &[]).unwrap().mqtt.tls.unwrap();
    let files = CertifiedFiles { cert_path: "a".into(), key_path: "b".into() };
    assert_eq!((tls.port, tls.certificate, tls.client_auth), (8884, TlsCertificate::Files(files), true));
    assert_eq!((tls.min_version, tls.username_from), (MinVersion::Tls13, UsernameFrom::CommonName));

    let Config { mqtt, folder, .. } = load("", &[], &[("--mqtt-tls", "mqtt.tls.enabled", "true")]).unwrap();
    let tls = mqtt.tls.unwrap();
    assert_eq!((tls.certificate, tls.development), (TlsCertificate::Development, folder.join("certs")));
    assert_eq!(load("mqtt: {tls: {enabled: false, cert_path: a}}\n", &[], &[]).unwrap().mqtt.tls, None);
}

#[test]
fn tls_settings_that_need_others_say_so() {
    check_error(
        "mqtt: {tls: {enabled: true, cert_path: a}}\n",
        expect!["mockforge.yaml:1:40: mqtt.tls.cert_path: needs mqtt.tls.key_path, too"],
    );
    check_error(
        "mqtt: {tls: {enabled: true, mint_ca_key_path: a}}\n",
        expect!["mockforge.yaml:1:47: mqtt.tls.mint_ca_key_path: needs mqtt.tls.mint_ca_path, too"],
    );
    check_error(
        "mqtt: {tls: {enabled: true, cert_path: a, key_path: b, client_auth: true}}\n",
        expect![
            "mockforge.yaml:1:69: mqtt.tls.client_auth: needs mqtt.tls.ca_path, the authorities of clients' certificates"
        ],
    );
    check_error(
        "mqtt: {tls: {enabled: true, cert_path: a, key_path: b, username_from: subject}}\n",
        expect![
            "mockforge.yaml:1:71: mqtt.tls.username_from: needs mqtt.tls.ca_path, the authorities of clients' certificates"
        ],
    );
    check_error(
        "mqtt: {tls: {min_version: \"1.1\"}}\n",
        expect![[r#"mockforge.yaml:1:27: mqtt.tls.min_version: expected 1.2 or 1.3, found "1.1""#]],
    );
    check_variable_error(
        "MOCKFORGE_MQTT_TLS_USERNAME_FROM=name",
        expect![[
            r#"MOCKFORGE_MQTT_TLS_USERNAME_FROM: mqtt.tls.username_from: expected none, cn or subject, found "name""#
        ]],
    );
    load("mqtt: {tls: {enabled: true, client_auth: true, username_from: cn}}\n", &[], &[]).unwrap();
}

#[test]
fn an_exposed_control_plane_needs_a_token_or_consent() {
    check_error(
        "http:\n  host: 0.0.0.0\n",
        expect![
            "mockforge.yaml:2:9: http.host 0.0.0.0 lets others reach the control plane; set a token (api_token, \
             MOCKFORGE_API_TOKEN), require certificates (tls.client_auth), or allow it without (--insecure-api)"
        ],
    );
    load("grpc: {host: 0.0.0.0}\n", &["MOCKFORGE_API_TOKEN=s3cret"], &[]).unwrap();
    load("grpc: {host: 0.0.0.0}\n", &[], &[("--insecure-api", "insecure_api", "true")]).unwrap();
    load("grpc: {host: 0.0.0.0, enabled: false}\n", &[], &[]).unwrap();
    for loopback in ["localhost", "127.0.0.2", "\"::1\""] {
        load(&format!("http: {{host: {loopback}}}\n"), &[], &[]).unwrap();
    }
}

#[test]
fn an_upstream_that_is_no_mqtt_url_is_refused() {
    check_error(
        "mqtt: {upstream: \"http://broker\"}\n",
        expect![
            "mockforge.yaml:1:18: mqtt.upstream: expected mqtt://[user[:password]@]host[:port], or mqtts://, ws:// or wss://"
        ],
    );
    load("mqtt: {upstream: \"mqtts://broker\"}\n", &[], &[]).unwrap();
}

#[test]
fn secrets_are_masked_where_settings_are_shown() {
    let file = "api_token: s3cret\napi_tokens: [{name: ci, role: read, token: xs3cretx}]\n\
                mqtt: {upstream: \"mqtt://me:s3cret@broker:1\"}\n";
    let config = load(file, &[], &[]).unwrap();
    let whole = format!("{config:?} {:?} {:?}", config.client_token, config.api);
    assert!(!whole.contains("s3cret"), "{whole}");
    let shown = format!("{:?}", config.in_force);
    assert!(!shown.contains("s3cret"), "{shown}");
    assert!(shown.contains("mqtt://me:********@broker:1"), "{shown}");
    assert_eq!(config.client_token.as_deref(), Some("s3cret"));
}

#[test]
fn a_file_of_a_parent_folder_is_found_and_five_up_is_the_limit() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("mockforge.yaml"), "mqtt: {port: 7}\n").unwrap();
    let five = root.path().join("1/2/3/4/5");
    std::fs::create_dir_all(five.join("6")).unwrap();
    let port = |folder: &Path| {
        let file = ConfigFile::Search(folder.to_owned());
        Config::load(Sources { file, ..Sources::default() }).unwrap().mqtt.port
    };
    assert_eq!(port(&five), 7);
    assert_eq!(port(&five.join("6")), 1883);
}

#[test]
fn a_file_that_is_asked_for_and_missing_is_an_error() {
    let file = ConfigFile::At("/nowhere/mockforge.yaml".into());
    let error = Config::load(Sources { file, ..Sources::default() }).unwrap_err();
    assert!(error.to_string().starts_with("/nowhere/mockforge.yaml: "), "{error}");
    let shown = format!("{:#}", anyhow::Error::from(error));
    assert_eq!(shown.matches("No such file").count(), 1, "{shown}");
}

#[test]
fn every_setting_has_a_variable_of_its_own() {
    let mut names: Vec<String> = SETTINGS.iter().map(Setting::variable).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), SETTINGS.len());
}

#[test]
fn a_wrong_mock_is_told_with_the_place_of_what_is_wrong() {
    check_error(
        "mqtt:\n  mocks:\n    - topic: a\n      response:\n        payload: x\n        dealy_ms: 5\n",
        expect![[
            r#"mockforge.yaml:6:19: mqtt.mocks[0].response.dealy_ms: unknown key "dealy_ms"; did you mean "delay_ms"?"#
        ]],
    );
    check_error(
        "mqtt:\n  mocks:\n    - topic: a\n      mode: randm\n",
        expect![[
            r#"mockforge.yaml:4:13: mqtt.mocks[0].mode: unknown value "randm"; did you mean "random"?"#
        ]],
    );
    check_error(
        "mqtt:\n  mocks:\n    - topic: a\n      response: {delay_ms: soon}\n",
        expect![
            "mockforge.yaml:4:28: mqtt.mocks[0].response.delay_ms: expected a number, or one of {min, max}, {mean, sd} and {median, sigma}"
        ],
    );
    check_error(
        "mqtt:\n  mocks:\n    topic: a\n",
        expect!["mockforge.yaml:3:5: mqtt.mocks: expected a list, found a section with keys"],
    );
    check_error(
        "mqtt:\n  mocks:\n    - topic: a\n      response:\n        payload: |\n          {\n            \"v\": {{random_itn 1 2}}\n          }\n",
        expect![[
            r#"mockforge.yaml:5:9: mqtt.mocks[0].response.payload: line 2, column 8: unknown helper "random_itn"; did you mean "random_int"?"#
        ]],
    );
    check_error(
        "mqtt:\n  mocks:\n    - topic: a\n    - topic: 'b/#/c'\n      when:\n        payload:\n          $.a[: 1\n",
        expect![[r#"
            mockforge.yaml:4:14: mqtt.mocks[1].topic: level 1: '#' stands alone and last
            mockforge.yaml:7:17: mqtt.mocks[1].when.payload.$.a[: "$.a[" is no JSONPath: it cannot be read from column 4 on"#]],
    );
    check_error(
        "mqtt:\n  mocks:\n    - {id: x, topic: a}\n    - {id: x, topic: b}\n",
        expect![[r#"mockforge.yaml:4:12: mqtt.mocks[1].id: a mock "x" exists already"#]],
    );
    check_variable_error(
        "MOCKFORGE_MQTT_MOCKS=[{topic: a, qos: 7}]",
        expect!["MOCKFORGE_MQTT_MOCKS: mqtt.mocks[0].qos: QoS 7 is none of 0, 1 and 2"],
    );
}

#[test]
fn mocks_come_from_a_variable_too() {
    let config = load(
        "",
        &["MOCKFORGE_MQTT_MOCKS=[{topic: a, response: {payload: b}}]", "MOCKFORGE_MQTT_SEED=7"],
        &[],
    );
    let mqtt = config.expect("good settings").mqtt;
    assert_eq!((mqtt.mocks.len(), mqtt.mocks[0].topic.as_str(), mqtt.seed), (1, "a", Some(7)));
}

#[test]
fn the_guides_webhook_loads_as_printed() {
    let config = load(
        "mqtt:\n  webhooks:\n    - topic: \"orders/+/created\"\n      url: \"http://localhost:8080/webhook/order\"\n      \
         method: POST\n      headers:\n        X-Source: \"mqtt\"\n",
        &[],
        &[],
    )
    .unwrap();
    let [webhook] = &config.mqtt.webhooks[..] else { panic!("{:?}", config.mqtt.webhooks) };
    assert_eq!(
        (&*webhook.topic, &*webhook.url, &*webhook.method, &*webhook.headers["X-Source"]),
        ("orders/+/created", "http://localhost:8080/webhook/order", "POST", "mqtt")
    );
}

#[test]
fn a_wrong_webhook_is_told_with_the_place_of_what_is_wrong() {
    let file = "mqtt:\n  webhooks:\n    - topic: a/{{device}}\n      url: ftp://h\n      retires: 1\n";
    check_error(
        file,
        expect![[
            r#"mockforge.yaml:5:16: mqtt.webhooks[0].retires: unknown key "retires"; did you mean "retries"?"#
        ]],
    );
    check_error(
        "mqtt:\n  webhooks:\n    - topic: a/{{device}}\n      url: ftp://h\n      timeout_ms: 0\n      headers:\n        \
         X-A: '{{devise}}'\n      body:\n        text: '{{payload_row}}'\n      when: {qos: 3}\n",
        expect![[r#"
            mockforge.yaml:4:12: mqtt.webhooks[0].url: "ftp://h" does not begin with http:// or https://
            mockforge.yaml:5:19: mqtt.webhooks[0].timeout_ms: is 1 to 600000 ms, not 0
            mockforge.yaml:7:14: mqtt.webhooks[0].headers.X-A: unknown value "devise"; did you mean "device"?
            mockforge.yaml:8:7: mqtt.webhooks[0].body: unknown value "payload_row"; did you mean "payload_raw"?
            mockforge.yaml:10:19: mqtt.webhooks[0].when.qos: QoS 3 is none of 0, 1 and 2"#]],
    );
    check_error(
        "mqtt:\n  webhooks:\n    - {id: x, topic: a, url: http://h}\n    - {id: x, topic: b, url: http://h}\n",
        expect![[r#"mockforge.yaml:4:12: mqtt.webhooks[1].id: "x" is the id of another webhook"#]],
    );
    check_error(
        "mqtt:\n  webhooks:\n    - {topic: a, url: http://h, secret: 12345}\n",
        expect![
            "mockforge.yaml:3:41: mqtt.webhooks[0].secret: expected text (in quotes, if it looks like a number)"
        ],
    );
    check_variable_error(
        "MOCKFORGE_MQTT_WEBHOOKS=[{topic: a}]",
        expect!["MOCKFORGE_MQTT_WEBHOOKS: mqtt.webhooks[0].url: is required"],
    );
}

#[test]
fn a_file_of_authorities_is_looked_for_in_the_folder_of_the_settings() {
    let error = load("mqtt: {webhooks: [{topic: a, url: https://h, ca_file: ca/ca.pem}]}\n", &[], &[]);
    let error = error.unwrap_err().to_string();
    assert!(error.starts_with("mockforge.yaml:1:55: mqtt.webhooks[0].ca_file: /"), "{error}");
    assert!(error.contains("/ca/ca.pem: No such file"), "{error}");
}

#[test]
fn secrets_of_webhooks_are_masked_where_settings_are_shown() {
    let file = "mqtt:\n  webhooks:\n    - topic: a\n      url: http://h/?a=1&token=s3cret\n      secret: s3cret\n      headers: \
                {X-Api-Key: Bearer s3cret, X-A: b}\n";
    let config = load(file, &[], &[]).unwrap();
    let shown = format!("{:?}", config.in_force);
    assert!(!shown.contains("s3cret") && !format!("{config:?}").contains("\"s3cret"), "{shown}");
    let setting = config.in_force.iter().find(|setting| setting.key == "mqtt.webhooks").unwrap();
    let Value::List(list) = &setting.value else { panic!("{setting:?}") };
    let entry = &list.to_json()[0];
    assert_eq!((&entry["secret"], &entry["headers"]["X-A"]), (&"********".into(), &"b".into()));
    assert_eq!(entry["url"], "http://h/?a=1&token=********");
    assert_eq!(config.mqtt.webhooks[0].secret.as_ref().unwrap().0, "s3cret");
}

#[test]
fn files_are_regular_and_for_callers_below_the_folder_wherever_links_lead() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("x"), "x").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::create_dir(folder.join("sub")).unwrap();
    std::fs::write(folder.join("sub/x"), "y").unwrap();
    assert_eq!(read_file_below(folder, "sub/x").unwrap(), "y");
    for path in ["../x", "/etc/hostname", "./x"] {
        let error = read_file_below(folder, path).unwrap_err();
        assert!(error.ends_with("is not a path below the settings file's folder"), "{error}");
    }
    assert!(read_file_below(folder, "sub").unwrap_err().ends_with("is no regular file"));
    assert!(read_file(folder, "/dev/null").unwrap_err().ends_with("is no regular file"));
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("sub/x", folder.join("inside")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("x"), folder.join("out")).unwrap();
        assert_eq!(read_file_below(folder, "inside").unwrap(), "y");
        let error = read_file_below(folder, "out").unwrap_err();
        assert!(error.ends_with("is not a path below the settings file's folder"), "{error}");
        assert_eq!(read_file(folder, "out").unwrap(), "x");
    }
}

/// The rules that settings come to, by id, with what they are.
fn rules(file: &str, environment: &[&str]) -> Vec<(String, serde_json::Value)> {
    let config = load(file, environment, &[]).expect("good settings");
    let rules = settings_rules(&config.mqtt.chaos).expect("checked before");
    rules
        .iter()
        .map(|rule| {
            let mut rule = serde_json::to_value(rule.spec()).expect("JSON");
            let id = rule.as_object_mut().and_then(|rule| rule.remove("id")).expect("an id");
            (id.as_str().expect("text").to_owned(), rule)
        })
        .collect()
}

#[test]
fn the_guides_chaos_loads_as_printed() {
    let disruption = "mqtt:\n  chaos:\n    enabled: true\n    disconnect_probability: 0.05  # 5% chance of random disconnect\n    \
                      packet_loss: 0.01             # 1% packet loss\n    latency:\n      min_ms: 10\n      max_ms: 100\n";
    let shown = rules(disruption, &[]).into_iter().map(|(id, rule)| format!("{id} {rule}"));
    expect![[r#"
        packet_loss {"actions":["drop"],"match":{"types":"PUBLISH"},"when":{"probability":0.01}}
        latency {"actions":[{"latency":{"max_ms":100.0,"min_ms":10.0}}],"match":{"direction":"s2c","types":"PUBLISH"}}
        disconnect_probability {"actions":["disconnect"],"match":{"types":"PUBLISH"},"when":{"probability":0.05}}"#]].assert_eq(&shown.collect::<Vec<_>>().join("\n"));
    let slow = "mqtt:\n  chaos:\n    slow_subscriber:\n      enabled: true\n      delay_ms: 5000          # Simulate slow consumer\n      \
                affected_topics:\n        - \"slow/#\"\n";
    let shown = rules(slow, &[]).into_iter().map(|(id, rule)| format!("{id} {rule}"));
    expect![[r#"slow_subscriber {"actions":[{"slow_subscriber":{"delay_ms":5000.0}}],"match":{"direction":"s2c","topic":"slow/#","types":"PUBLISH"}}"#]].assert_eq(&shown.collect::<Vec<_>>().join("\n"));
    assert!(load(slow, &[], &[]).unwrap().mqtt.chaos.enabled);
}

#[test]
fn rules_and_keys_of_chaos_come_in_their_order_from_file_and_variables() {
    let ids = |file: &str, environment: &[&str]| -> Vec<String> {
        rules(file, environment).into_iter().map(|(id, _)| id).collect()
    };
    let file = "mqtt:\n  chaos:\n    profile: 3g\n    packet_loss: 0.1\n    rules:\n      - actions: [drop]\n      \
                - {id: mine, match: {client: dev-*, qos: 1}, when: {every_nth: 2}, actions: [latency: 5, drop: ]}\n";
    assert_eq!(ids(file, &[]), ["packet_loss", "3g-latency", "3g-down", "3g-up", "rule-1", "mine"]);
    let environment = [
        "MOCKFORGE_MQTT_CHAOS_RULES=[{id: x, actions: [{disconnect: {mode: fin}}]}]",
        "MOCKFORGE_MQTT_CHAOS_LATENCY_MAX_MS=5",
        "MOCKFORGE_MQTT_CHAOS_PROFILE=",
    ];
    assert_eq!(ids(file, &environment), ["packet_loss", "latency", "3g-latency", "3g-down", "3g-up", "x"]);
    let config = load("mqtt: {chaos: {enabled: false, packet_loss: 1}}", &[], &[]).unwrap();
    assert!(!config.mqtt.chaos.enabled);
    assert_eq!(config.mqtt.chaos_bytes, 4 << 20);
}

#[test]
fn wrong_chaos_is_told_with_the_place_of_what_is_wrong() {
    check_error(
        "mqtt:\n  chaos:\n    packet_loss: 1.5\n",
        expect!["mockforge.yaml:3:18: mqtt.chaos.packet_loss: expected a number from 0 to 1, found 1.5"],
    );
    check_error(
        "mqtt:\n  chaos:\n    latency: {min_ms: 10, max_ms: 5}\n",
        expect!["mockforge.yaml:3:23: mqtt.chaos.latency.min_ms: is 10, more than max_ms, which is 5"],
    );
    check_error(
        "mqtt:\n  chaos:\n    latency: {min_ms: 10}\n",
        expect!["mockforge.yaml:3:23: mqtt.chaos.latency.min_ms: is 10, more than max_ms, which is 0"],
    );
    check_error(
        "mqtt:\n  chaos:\n    profile: 4g\n",
        expect![[r#"mockforge.yaml:3:14: mqtt.chaos.profile: unknown profile "4g"; did you mean "3g"?"#]],
    );
    check_error(
        "mqtt:\n  chaos:\n    slow_subscriber:\n      delay_ms: 5\n      affected_topics:\n        - a\n        - a/#/b\n",
        expect![
            "mockforge.yaml:7:11: mqtt.chaos.slow_subscriber.affected_topics[1]: level 1: '#' stands alone and last"
        ],
    );
    check_error(
        "mqtt:\n  chaos:\n    slow_subscriber:\n      delay_ms: 5\n      affected_topics: [5]\n",
        expect![
            "mockforge.yaml:5:25: mqtt.chaos.slow_subscriber.affected_topics[0]: expected text (in quotes, if it looks like a number)"
        ],
    );
    check_error(
        "mqtt:\n  chaos:\n    rules:\n      - id: packet_loss\n        actions: [drop]\n",
        expect![[
            r#"mockforge.yaml:4:13: mqtt.chaos.rules[0].id: "packet_loss" is the rule that the key packet_loss makes"#
        ]],
    );
    check_error(
        "mqtt:\n  chaos:\n    rules:\n      - actions: [explode]\n",
        expect![[
            r#"mockforge.yaml:4:19: mqtt.chaos.rules[0].actions[0]: unknown value "explode"; known are latency, drop, duplicate, reorder, corrupt, truncate, withhold_ack, delay_ack, duplicate_ack, reason_code, disconnect, refuse_connect, blackhole, bandwidth, slice, lose_session, takeover, capabilities, slow_subscriber"#
        ]],
    );
    check_error(
        "mqtt:\n  chaos:\n    rules:\n      - actions:\n          - latency: {min: 5}\n",
        expect![
            "mockforge.yaml:5:22: mqtt.chaos.rules[0].actions[0].latency: expected a number, or one of {ms}, {min_ms, max_ms}, {mean_ms, sd_ms} and {median_ms, sigma}"
        ],
    );
    check_error(
        "mqtt:\n  chaos:\n    rules:\n      - id: a\n        match:\n          direction: s2c\n          types: [PUBLISH, CONECT]\n        when: \
         {probability: 2}\n        actions:\n          - latency: {min_ms: 5, max_ms: 1}\n          - reason_code: quota_exceded\n",
        expect![[r#"
            mockforge.yaml:7:28: mqtt.chaos.rules[0].match.types[1]: unknown packet type "CONECT"; did you mean "CONNECT"?
            mockforge.yaml:8:29: mqtt.chaos.rules[0].when.probability: is 0 to 1, not 2
            mockforge.yaml:10:31: mqtt.chaos.rules[0].actions[0].latency.min_ms: is 5, more than max_ms, which is 1
            mockforge.yaml:11:26: mqtt.chaos.rules[0].actions[1].reason_code: unknown Reason Code "quota_exceded"; did you mean "quota_exceeded"?"#]],
    );
    check_error(
        "mqtt:\n  chaos:\n    rules:\n      - match: {direction: s2c}\n        actions: [refuse_connect]\n",
        expect![
            "mockforge.yaml:4:28: mqtt.chaos.rules[0].match.direction: nothing that refuse_connect acts on goes s2c"
        ],
    );
    check_variable_error(
        "MOCKFORGE_MQTT_CHAOS_RULES=[{id: x}]",
        expect![
            "MOCKFORGE_MQTT_CHAOS_RULES: mqtt.chaos.rules[0].actions: has no entry: there is nothing that the rule would do"
        ],
    );
}

#[test]
fn a_slow_subscriber_without_a_delay_is_a_warning() {
    let config = load("mqtt: {chaos: {slow_subscriber: {affected_topics: [a]}}}\n", &[], &[]).unwrap();
    assert_eq!(
        config.warnings,
        [
            "mockforge.yaml:1: mqtt.chaos.slow_subscriber.affected_topics has no effect, because mqtt.chaos.slow_subscriber.delay_ms is 0"
        ]
    );
}

#[test]
fn tokens_and_their_roles_are_settings() {
    let file = "api_token: everything\napi_tokens:\n- {name: ci, role: control, token: c-token}\n- {name: eyes, role: read, \
                token_sha256: ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad}\n";
    let tokens = load(file, &[], &[]).unwrap().api.tokens;
    for (token, role) in [("everything", Role::Admin), ("c-token", Role::Control), ("abc", Role::Read)] {
        assert_eq!(tokens.of_token(token).map(|token| token.role()), Some(role), "{token}");
    }
    let variable = r#"MOCKFORGE_API_TOKENS=[{"name": "v", "role": "read", "token": "v-token"}]"#;
    let tokens = load(file, &[variable], &[]).unwrap().api.tokens;
    assert!(tokens.of_token("v-token").is_some() && tokens.of_token("c-token").is_none());
    check_error(
        "api_tokens:\n- name: ci\n  role: root\n  token: x\n",
        expect![
            "mockforge.yaml:3:9: api_tokens[0].role: unknown value \"root\"; known are read, control, admin"
        ],
    );
    check_error(
        "api_tokens:\n- {name: ci, role: read}\n",
        expect!["mockforge.yaml:2:3: api_tokens[0]: expected one of token, token_sha256 and certificate"],
    );
    check_error(
        "api_token: t\napi_tokens:\n- {name: ci, role: read, token: t}\n",
        expect![
            "mockforge.yaml:3:3: api_tokens: api_token, which may do everything, is among them; a token that commands send to a server is client.token (--token, MOCKFORGE_CLIENT_TOKEN)"
        ],
    );
}

#[test]
fn what_is_wrong_with_a_secret_is_said_without_it() {
    for (file, variable) in [
        ("api_token: 735718\n", ""),
        ("api_token: [\"s735718\"]\n", ""),
        ("api_token: \"735718 735718\"\n", ""),
        ("api_tokens: s735718\n", ""),
        ("api_tokens: [s735718]\n", ""),
        ("api_tokens: [{name: a, role: read, token: 735718}]\n", ""),
        ("api_tokens: [{name: a, role: read, token: [735718]}]\n", ""),
        ("api_tokens: [{name: a, role: read, token_sha256: s735718}]\n", ""),
        ("api_tokens: [{name: a, role: read, token: \"735718 \"}]\n", ""),
        ("", "MOCKFORGE_API_TOKENS=s735718"),
        ("", "MOCKFORGE_API_TOKENS={name: a, role: read, token: s735718}"),
        ("mqtt: {scram_users: 735718}\n", ""),
        ("mqtt: {scram_users: \"735718\"}\n", ""),
    ] {
        let environment: &[&str] = if variable.is_empty() { &[] } else { &[variable] };
        let error = load(file, environment, &[]).unwrap_err().to_string();
        assert!(!error.contains("735718"), "{file}{variable}: {error}");
    }
}

#[test]
fn an_exposed_port_is_safe_with_tokens_or_certificates() {
    let tls = "tls: {enabled: true, cert_path: a, key_path: b, ca_path: c, client_auth: true}";
    load(&format!("http: {{host: 0.0.0.0, {tls}}}\n"), &[], &[]).unwrap();
    load("http: {host: 0.0.0.0}\napi_tokens: [{name: a, role: read, token: x}]\n", &[], &[]).unwrap();
    check_error(
        &format!("http: {{host: 127.0.0.1, {tls}}}\ngrpc: {{host: 0.0.0.0}}\n"),
        expect![
            "mockforge.yaml:2:14: grpc.host 0.0.0.0 lets others reach the control plane; set a token (api_token, \
             MOCKFORGE_API_TOKEN), require certificates (tls.client_auth), or allow it without (--insecure-api)"
        ],
    );
}

#[test]
fn certificates_are_asked_for_over_tls_alone() {
    for port in ["http", "grpc"] {
        for (enabled, client_auth, expected) in [
            (true, true, None),
            (true, false, Some("lets others reach")),
            (false, false, Some("lets others reach")),
            (false, true, Some("")),
        ] {
            let file = format!(
                "{port}: {{host: 0.0.0.0, tls: {{enabled: {enabled}, cert_path: a, key_path: b, ca_path: c, client_auth: \
                 {client_auth}}}}}\n"
            );
            match (load(&file, &[], &[]), expected) {
                (Ok(_), None) => {}
                (Err(error), Some(text)) => assert!(error.to_string().contains(text), "{file}: {error}"),
                (loaded, _) => panic!("{file}: {loaded:?}"),
            }
        }
        let what = if port == "http" {
            expect![
                "mockforge.yaml:1:27: http.tls.client_auth: asks for certificates, but http.tls.enabled is off"
            ]
        } else {
            expect![
                "mockforge.yaml:1:27: grpc.tls.client_auth: asks for certificates, but grpc.tls.enabled is off"
            ]
        };
        check_error(&format!("{port}: {{tls: {{client_auth: true}}}}\n"), what);
    }
}

#[test]
fn ports_that_are_more_open_than_they_look_are_warned_of() {
    let tls = "tls: {enabled: true, cert_path: a, key_path: b, ca_path: c, client_auth: true}";
    let ops = "api_tokens: [{name: ops, role: admin, certificate: ops}]\n";
    let warnings = |file: &str| load(file, &[], &[]).unwrap().warnings;
    assert_eq!(
        warnings(&format!("http: {{{tls}}}\n")),
        [
            "mockforge.yaml:1: the http port wants certificates (http.tls.client_auth), and the grpc port lets in \
             whoever reaches it, to do everything"
        ]
    );
    assert_eq!(warnings(&format!("http: {{{tls}}}\ngrpc: {{enabled: false}}\n")), [""; 0]);
    assert_eq!(warnings(&format!("http: {{{tls}}}\ngrpc: {{{tls}}}\n")), [""; 0]);
    assert_eq!(warnings(&format!("{ops}http: {{{tls}}}\n")), [""; 0]);
    assert_eq!(
        warnings(ops),
        [
            "mockforge.yaml:1: api_tokens has a certificate, but no port asks for any: http.tls and grpc.tls have no \
             ca_path in force"
        ]
    );
    assert_eq!(
        warnings("api_token: s3cret\nhttp: {host: 0.0.0.0}\n"),
        [
            "mockforge.yaml:2: tokens are sent to the http port in clear, for others to read on the way, because \
             http.tls.enabled is off"
        ]
    );
}

#[test]
fn what_commands_send_makes_nobody_an_admin() {
    let file = "api_tokens: [{name: ci, role: control, token: c1}]\n";
    for (environment, flags) in [
        (&["MOCKFORGE_CLIENT_TOKEN=c1"][..], &[][..]),
        (&[], &[("--token", "client.token", "c1")]),
        (&["MOCKFORGE_CLIENT_TOKEN=other"], &[("--token", "client.token", "c1")]),
    ] {
        let config = load(file, environment, flags).unwrap();
        assert_eq!(config.client_token.as_deref(), Some("c1"));
        assert!(!config.api.tokens.has_role(Role::Admin));
    }
    let both = load("", &["MOCKFORGE_API_TOKEN=a1", "MOCKFORGE_CLIENT_TOKEN=c1"], &[]).unwrap();
    assert_eq!(both.client_token.as_deref(), Some("c1"));
    assert!(both.api.tokens.of_token("c1").is_none() && both.api.tokens.of_token("a1").is_some());
    let one = load("", &["MOCKFORGE_API_TOKEN=a1"], &[]).unwrap();
    assert_eq!(one.client_token.as_deref(), Some("a1"));
}

#[test]
fn tls_of_the_control_plane_needs_its_files() {
    check_error(
        "grpc: {tls: {enabled: true, cert_path: a}}\n",
        expect!["mockforge.yaml:1:23: grpc.tls.key_path: is required where TLS is on"],
    );
    check_error(
        "http: {tls: {enabled: true, cert_path: a, key_path: b, client_auth: true}}\n",
        expect!["mockforge.yaml:1:23: http.tls.ca_path: is required where callers need a certificate"],
    );
    check_error(
        "client: {tls: {cert_path: a}}\n",
        expect!["mockforge.yaml:1:27: client.tls.key_path: is required with client.tls.cert_path"],
    );
    let config = load("http: {tls: {cert_path: a}}\n", &[], &[]).unwrap();
    assert_eq!(
        config.warnings,
        ["mockforge.yaml:1: http.tls.cert_path has no effect, because http.tls.enabled is off"]
    );
}

#[test]
fn hosts_are_names() {
    let hosts = load("http: {allowed_hosts: [ci.example, \"*.example\", \"*\"]}\n", &[], &[])
        .unwrap()
        .api
        .allowed_hosts;
    assert_eq!(hosts, ["ci.example", "*.example", "*"]);
    for host in ["http://a", "a:3000", "*a", "a*", ""] {
        let error =
            load(&format!("http: {{allowed_hosts: [\"{host}\"]}}\n"), &[], &[]).unwrap_err().to_string();
        assert!(error.contains("http.allowed_hosts[0]: expected a name"), "{error}");
    }
}

#[test]
fn limits_of_the_control_plane_have_their_defaults() {
    expect![[r#"
        ApiLimits {
            connections: 256,
            requests: 1024,
            streaming_requests: 1024,
            body_bytes: 16777216,
            import_bytes: 4294967296,
            header_bytes: 32768,
            headers: 100,
            head_timeout: 10s,
            body_timeout: 60s,
            idle_timeout: 120s,
            message_bytes: 16777216,
            streams: 1000,
        }
    "#]]
    .assert_debug_eq(&load("", &[], &[]).unwrap().api.limits);
}

#[test]
fn limits_of_scenarios_are_settings() {
    let file = "scenarios: {runs: 2, inbox_bytes: 1048576}";
    let limits = load(file, &["MOCKFORGE_SCENARIOS_CLIENTS=7"], &[]).unwrap();
    assert_eq!(limits.scenarios, ScenarioLimits { runs: 2, clients: 7, inbox_bytes: 1 << 20 });
    assert!(load("scenarios: {clients: 10001}", &[], &[]).is_err());
}

const WHO: &str = r##"
mqtt:
  allow_anonymous: false
  users:
    - username: alice
      password_hash: $argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4
      groups: [ops]
    - {username: bob, groups: [dev, ops]}
  acl:
    - {deny: publish, topics: [a/secret], users: [bob]}
    - {allow: [publish, subscribe], topics: ['a/%u/#', '%c'], clients: ['dev-*']}
    - allow: all
      topics: [b]
      anonymous: true
"##;

#[test]
fn users_and_rules_are_read_and_hashes_not_shown() {
    let config = load(WHO, &[], &[]).unwrap();
    let access = &config.mqtt.access;
    assert!(!access.allow_anonymous && access.accounts.is_in_force() && !access.acl.is_empty());
    assert_eq!(access.accounts.groups("bob"), ["dev".into(), "ops".into()]);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let shown = format!("{:?} {config:?}", config.in_force);
    assert!(shown.contains("alice") && !shown.contains("nf65EOgLrQ"), "{shown}");
    assert_eq!(Config::default().mqtt.access, Access::default());
}

#[test]
fn a_password_file_is_looked_for_in_the_folder_of_the_settings() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mockforge.yaml");
    std::fs::write(&file, "mqtt: {password_file: passwd}").unwrap();
    let sources = || Sources { file: ConfigFile::At(file.clone()), ..Sources::default() };
    let error = |text: &str| {
        std::fs::write(folder.path().join("passwd"), text).unwrap();
        let text = Config::load(sources()).unwrap_err().to_string();
        text.replace(&folder.path().display().to_string(), "…")
    };
    expect!["…/mockforge.yaml:1:23: mqtt.password_file: passwd:2: user \"alice\": expected the hash of a password, which `mockforge passwd --hash` makes"]
        .assert_eq(&error("# ours\nalice:hunter2\n"));
    std::fs::remove_file(folder.path().join("passwd")).unwrap();
    let missing = Config::load(sources()).unwrap_err().to_string();
    assert!(
        missing.contains("mqtt.password_file: ") && missing.contains("passwd: No such file"),
        "{missing}"
    );
    std::fs::write(folder.path().join("passwd"), "# nobody\n").unwrap();
    assert!(Config::load(sources()).unwrap().mqtt.access.accounts.is_in_force());
}

#[test]
fn wrong_users_and_rules_are_told_with_the_place_of_what_is_wrong() {
    check_error(
        "mqtt:\n  users:\n    - username: alice\n      password_hash: hunter2\n",
        expect![
            "mockforge.yaml:4:22: mqtt.users[0].password_hash: expected the hash of a password, which `mockforge passwd --hash` makes"
        ],
    );
    check_error(
        "mqtt:\n  users:\n    - username: alice\n      password_hash: 1234\n",
        expect![
            "mockforge.yaml:4:22: mqtt.users[0].password_hash: expected the hash of a password, which `mockforge passwd --hash` makes"
        ],
    );
    check_error(
        "mqtt:\n  users:\n    - {username: a}\n    - {username: a}\n",
        expect![[r#"mockforge.yaml:4:18: mqtt.users[1].username: "a" is there twice"#]],
    );
    check_error(
        "mqtt:\n  acl:\n    - {allow: all, topics: [a]}\n    - {allow: all, topics: ['a#']}\n",
        expect!["mockforge.yaml:4:29: mqtt.acl[1].topics[0]: level 0: '#' stands alone and last"],
    );
    check_error(
        "mqtt:\n  acl:\n    - {allow: 1, topics: [a]}\n",
        expect!["mockforge.yaml:3:15: mqtt.acl[0].allow: expected publish, subscribe, all or a list of them"],
    );
    check_error(
        "mqtt:\n  acl:\n    - {allow: all, topic: [a]}\n",
        expect![[r#"mockforge.yaml:3:27: mqtt.acl[0].topic: unknown key "topic"; did you mean "topics"?"#]],
    );
}

#[test]
fn rules_for_users_of_whom_there_are_none_are_a_warning() {
    for rule in ["users: [alice], topics: [a]", "groups: [ops], topics: [a]", "topics: ['home/%u/#']"] {
        let file = |users: &str| format!("mqtt:\n  acl:\n    - {{allow: all, {rule}}}\n{users}");
        let warnings = |users: &str| load(&file(users), &[], &[]).unwrap().warnings;
        let expected = "mockforge.yaml:3: mqtt.acl is about users, but nobody can prove to be one: mqtt.users, \
                        mqtt.password_file and mqtt.scram_users say none";
        assert_eq!(warnings(""), [expected], "{rule}");
        assert_eq!(warnings("  scram_users: alice:secret\n"), [""; 0], "{rule}");
        assert_eq!(warnings("  users: [{username: alice}]\n"), [""; 0], "{rule}");
    }
    let anybody = "mqtt: {acl: [{allow: all, topics: ['%c/#'], anonymous: true}]}";
    assert_eq!(load(anybody, &[], &[]).unwrap().warnings, [""; 0]);
}

#[test]
fn who_may_do_what_is_for_the_broker_behind_a_proxy_to_say() {
    let file = "mqtt: {upstream: 'mqtt://h', allow_anonymous: false, acl: [{allow: all, topics: [a]}]}";
    let why = "has no effect, because mqtt.upstream is set: the broker behind the proxy says who may do what";
    assert_eq!(
        load(file, &[], &[]).unwrap().warnings,
        [
            format!("mockforge.yaml:1: mqtt.allow_anonymous {why}"),
            format!("mockforge.yaml:1: mqtt.acl {why}")
        ]
    );
}

#[test]
fn everything_that_is_wrong_is_told_in_the_order_of_the_file() {
    check_error(
        "mqtt:\n  prot: 1\n  port: many\n  mocks:\n    - {topic: a, qos: 7}\n    - {topic: b}\n    - {topic: 'c/#/d'}\n  \
         webhooks:\n    - {topic: a, uri: x}\n    - {topic: [a]}\nstore: 5\nlogs: {}\n",
        expect![[r#"
            mockforge.yaml:2:3: unknown key "prot" in mqtt; did you mean "port"?
            mockforge.yaml:3:9: mqtt.port: expected a whole number from 0 to 65535, found the text "many"
            mockforge.yaml:5:23: mqtt.mocks[0].qos: QoS 7 is none of 0, 1 and 2
            mockforge.yaml:7:15: mqtt.mocks[2].topic: level 1: '#' stands alone and last
            mockforge.yaml:9:23: mqtt.webhooks[0].uri: unknown key "uri"; did you mean "url"?
            mockforge.yaml:10:15: mqtt.webhooks[1].topic: invalid type: sequence, expected a string
            mockforge.yaml:11:8: store: expected keys with values
            mockforge.yaml:12:1: unknown key "logs"; did you mean "log"?"#]],
    );
    let error = load("mqtt: {port: x}\n", &["MOCKFORGE_PROT=1", "MOCKFORGE_HTTP_PORT=x"], &[]).unwrap_err();
    assert_eq!(
        error.problems().iter().map(|problem| &*problem.path).collect::<Vec<_>>(),
        ["mqtt.port", "", "http.port"]
    );
}

#[test]
fn an_entry_that_cannot_be_read_hides_nothing_of_the_others() {
    check_error(
        "mqtt:
  mocks:
    - {topic: a, qos: 7}
    - {topic: e, responce: x}
    - {topic: 'c/#/d'}
  chaos:
    rules:
      - {id: a, actions: [bogus]}
      - {id: b, actions: [drop]}
      - {id: b, actions: [drop]}
      - {id: c, when: {probability: 7}, actions: [drop]}
",
        expect![[r#"
            mockforge.yaml:3:23: mqtt.mocks[0].qos: QoS 7 is none of 0, 1 and 2
            mockforge.yaml:4:28: mqtt.mocks[1].responce: unknown key "responce"; did you mean "response"?
            mockforge.yaml:5:15: mqtt.mocks[2].topic: level 1: '#' stands alone and last
            mockforge.yaml:8:27: mqtt.chaos.rules[0].actions[0]: unknown value "bogus"; known are latency, drop, duplicate, reorder, corrupt, truncate, withhold_ack, delay_ack, duplicate_ack, reason_code, disconnect, refuse_connect, blackhole, bandwidth, slice, lose_session, takeover, capabilities, slow_subscriber
            mockforge.yaml:10:14: mqtt.chaos.rules[2].id: "b" is the id of another rule
            mockforge.yaml:11:37: mqtt.chaos.rules[3].when.probability: is 0 to 1, not 7"#]],
    );
}

#[test]
fn what_makes_others_wrong_is_told_alone() {
    // Without the token the port would be open to everybody.
    check_error(
        "api_token: [x]\nhttp: {host: 0.0.0.0}\n",
        expect![
            "mockforge.yaml:1:12: api_token: expected text (in quotes, if it looks like a number), found a list"
        ],
    );
}

#[test]
fn each_choice_is_one_of_the_room_that_it_belongs_to() {
    for setting in SETTINGS {
        let Kind::Choice(names) = setting.kind else { continue };
        for name in names {
            let is_known = match setting.key {
                "mqtt.durability" => Durability::from_name(name).is_some(),
                "mqtt.tls.username_from" => UsernameFrom::from_name(name).is_some(),
                "mqtt.tls.min_version" => MinVersion::from_name(name).is_some(),
                "recorder.on_overload" => OnOverload::from_name(name).is_some(),
                "log.format" => LogFormat::from_name(name).is_some(),
                other => panic!("say here what reads {other}"),
            };
            assert!(is_known, "{}: {name}", setting.key);
        }
    }
}

#[test]
fn what_goes_into_the_log_and_how_is_checked() {
    let config = load("log: {level: 'warn,mockforge::net=debug', format: json}\n", &[], &[]).unwrap();
    assert_eq!(
        (config.log.level.as_str(), config.log.format),
        ("warn,mockforge::net=debug", LogFormat::Json)
    );
    let flags = [("--log-format", "log.format", "text")];
    let config = load("log: {format: json}\n", &["MOCKFORGE_LOG_FORMAT=json"], &flags).unwrap();
    assert_eq!(config.log.format, LogFormat::Text);
    let problem = |file| load(file, &[], &[]).unwrap_err().to_string();
    for (file, expected) in [
        ("log:\n  level: inof\n", "\"inof\" is no log level and no filter: did you mean \"info\"?"),
        ("log:\n  format: xml\n", "expected text or json, found \"xml\""),
    ] {
        let problem = problem(file);
        assert!(problem.starts_with("mockforge.yaml:2:") && problem.contains(expected), "{problem}");
    }
}

#[test]
fn a_text_in_the_files_place_is_below_variables_and_flags() {
    let config = load("mqtt: {port: 1, host: a}\n", &["MOCKFORGE_MQTT_SEED=7"], &[]).unwrap();
    let sent = config.with_text("sent", "mqtt: {port: 2, seed: 8}\n").unwrap();
    assert_eq!((sent.mqtt.port, &*sent.mqtt.host, sent.mqtt.seed), (2, "0.0.0.0", Some(7)));
    let origin =
        |key: &str| sent.in_force.iter().find(|setting| setting.key == key).unwrap().origin.to_string();
    assert_eq!((&*origin("mqtt.port"), &*origin("mqtt.seed")), ("sent:1", "MOCKFORGE_MQTT_SEED"));
    let error = config.with_text("sent", "\n mqtt: {prot: 2}").unwrap_err().to_string();
    assert_eq!(error, r#"sent:2:9: unknown key "prot" in mqtt; did you mean "port"?"#);
}

#[test]
fn files_that_a_text_names_are_below_the_folder_and_no_secrets() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("below");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("mockforge.yaml"), "mqtt: {password_file: passwd}\n").unwrap();
    for path in [folder.join("passwd"), folder.join("good.bin"), root.path().join("above")] {
        std::fs::write(path, "").unwrap();
    }
    let file = ConfigFile::At(folder.join("mockforge.yaml"));
    let config = Config::load(Sources { file, ..Sources::default() }).unwrap();
    let error = |text: &str| match config.with_text("sent", text) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    };
    let mock = |file: &str| format!("mqtt: {{mocks: [{{topic: a, response: {{payload_file: {file}}}}}]}}\n");
    assert_eq!(error(&mock("good.bin")), "");
    for file in ["../above", "/etc/hostname"] {
        assert!(
            error(&mock(file)).contains("is not a path below the settings file's folder"),
            "{}",
            error(&mock(file))
        );
        let users = format!("mqtt: {{password_file: {file}}}\n");
        assert!(error(&users).contains("is not a path below"), "{}", error(&users));
    }
    for file in ["passwd", "mockforge.yaml"] {
        assert!(error(&mock(file)).contains("is not for messages"), "{file}: {}", error(&mock(file)));
    }
}

#[test]
fn the_variables_of_opentelemetry_are_read_and_what_is_wrong_with_them_is_a_warning() {
    let environment = ["OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4317", "OTEL_TRACES_SAMPLER=sometimes"];
    let config = load("", &environment, &[]).unwrap();
    assert!(config.telemetry.traces.is_some() && config.telemetry.metrics.is_some());
    assert!(config.warnings.iter().any(|warning| warning.contains("OTEL_TRACES_SAMPLER is ignored")));
    assert_eq!(load("", &[], &[]).unwrap().telemetry, TelemetryConfig::default());
}
