//! Tests of the settings as people meet them.

use expect_test::{Expect, expect};

use super::*;

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
        (mqtt.max_connections, mqtt.limits.max_packet_size, mqtt.limits.keep_alive_max),
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
    assert_eq!((mqtt.max_connections, mqtt.limits.max_packet_size, mqtt.limits.keep_alive_max), (2, 3, 4));
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file() {
    let file = "mqtt: {port: 1, host: a, max_connections: 5}\n";
    let environment = ["MOCKFORGE_MQTT_PORT=2", "MOCKFORGE_MQTT_HOST=b"];
    let config = load(file, &environment, &[("--mqtt-port", "mqtt.port", "3")]).unwrap();
    assert_eq!((config.mqtt.port, config.mqtt.host.as_str(), config.mqtt.max_connections), (3, "b", 5));
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
        expect![[r#"mockforge.yaml:2:3: unknown key "zebra" in store; known are path, flush_interval_ms"#]],
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
    check_error(&deep, expect!["mockforge.yaml:1:67: too deeply nested or too large for settings"]);
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
fn what_is_for_later_is_refused_when_turned_on() {
    check_error(
        "mqtt:\n  tls:\n    enabled: true\n",
        expect!["mockforge.yaml:3:14: mqtt.tls.enabled is not supported by this version yet"],
    );
    check_error(
        "mqtt:\n  mocks:\n    - topic: a\n      response: {payload: b}\n",
        expect!["mockforge.yaml:3:5: mqtt.mocks is not supported by this version yet"],
    );
    check_error(
        "mqtt:\n  webhooks: [{topic: a, url: b}]\n",
        expect!["mockforge.yaml:2:13: mqtt.webhooks is not supported by this version yet"],
    );
    check_error(
        "mqtt:\n  chaos:\n    enabled: true\n",
        expect!["mockforge.yaml:3:14: mqtt.chaos.enabled is not supported by this version yet"],
    );
    check_error(
        "mqtt:\n  chaos:\n    slow_subscriber: {enabled: true, delay_ms: 5, affected_topics: [\"slow/#\"]}\n",
        expect![
            "mockforge.yaml:3:32: mqtt.chaos.slow_subscriber.enabled is not supported by this version yet"
        ],
    );
    check_variable_error(
        "MOCKFORGE_MQTT_TLS_ENABLED=true",
        expect!["MOCKFORGE_MQTT_TLS_ENABLED: mqtt.tls.enabled is not supported by this version yet"],
    );
    let error = load("", &[], &[("--mqtt-tls", "mqtt.tls.enabled", "true")]).unwrap_err();
    assert_eq!(error.to_string(), "--mqtt-tls: mqtt.tls.enabled is not supported by this version yet");
}

#[test]
fn what_is_for_later_passes_while_it_is_off() {
    load(
        "mqtt:\n  tls: {enabled: false, port: 8883, cert_path: ./a, key_path: b, ca_path: c, client_auth: true}\n  \
         mocks: []\n  webhooks: []\n  chaos: {enabled: false, packet_loss: 0.01, latency: {min_ms: 10, max_ms: 100}}\n",
        &["MOCKFORGE_MQTT_MOCKS=[]"],
        &[],
    )
    .unwrap();
}

#[test]
fn an_exposed_control_plane_needs_a_token_or_consent() {
    check_error(
        "http:\n  host: 0.0.0.0\n",
        expect![
            "mockforge.yaml:2:9: http.host 0.0.0.0 lets others reach the control plane; set a token (api_token, \
             MOCKFORGE_API_TOKEN) or allow it without one (--insecure-api)"
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
        expect!["mockforge.yaml:1:18: mqtt.upstream: expected mqtt://[user[:password]@]host[:port]"],
    );
    check_error(
        "mqtt: {upstream: \"mqtts://broker\"}\n",
        expect![
            "mockforge.yaml:1:18: mqtt.upstream: TLS is not supported by this version yet, only mqtt://host[:port]"
        ],
    );
}

#[test]
fn secrets_are_masked_where_settings_are_shown() {
    let config =
        load("api_token: s3cret\nmqtt: {upstream: \"mqtt://me:s3cret@broker:1\"}\n", &[], &[]).unwrap();
    let shown = format!("{:?}", config.in_force);
    assert!(!shown.contains("s3cret"), "{shown}");
    assert!(shown.contains("mqtt://me:********@broker:1"), "{shown}");
    assert_eq!(config.api_token.as_deref(), Some("s3cret"));
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
